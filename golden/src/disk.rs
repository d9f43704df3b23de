//! Files and directories, held by descriptor, so that no symbolic link is ever followed below a store and every
//! failure says what was done to what.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

/// Most that is read of a small file (a mark, a record, a version): anything larger is not ours.
const SMALL: u64 = 1 << 20;

/// Prefix of names of files that are being written and get their real name when they are whole.
pub(crate) const TEMPORARY: &str = ".new-";

/// An operation of the file system that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {cause}", path.display())]
pub struct DiskError {
    /// What was tried: "open", "sync".
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub cause: io::Error,
}

impl DiskError {
    pub(crate) fn new(
        operation: &'static str,
        path: impl Into<PathBuf>,
        cause: impl Into<io::Error>,
    ) -> Self {
        Self {
            operation,
            path: path.into(),
            cause: cause.into(),
        }
    }

    /// Whether the disk, or a quota on it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.cause)
    }
}

pub(crate) fn is_full(cause: &io::Error) -> bool {
    let code = cause.raw_os_error();
    code == Some(rustix::io::Errno::NOSPC.raw_os_error())
        || code == Some(rustix::io::Errno::DQUOT.raw_os_error())
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens `path`, which must be a directory and no symbolic link.
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| DiskError::new("open", path, e))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens the directory `name` in this one; makes it where there is none.
    pub(crate) fn open_or_make(&self, name: &str) -> Result<Self, DiskError> {
        let path = self.path.join(name);
        let made = rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755));
        if made == Err(rustix::io::Errno::EXIST) {
            return Self::open(&path);
        }
        made.map_err(|e| DiskError::new("make", &path, e))?;
        self.sync()?;
        Self::open(&path)
    }

    /// The same directory, to be held for longer.
    pub(crate) fn try_clone(&self) -> Result<Self, DiskError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|e| DiskError::new("open", &self.path, e))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    fn openat(
        &self,
        op: &'static str,
        name: &OsStr,
        flags: OFlags,
        mode: u32,
    ) -> Result<File, DiskError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .map_err(|e| DiskError::new(op, self.join(name), e))
    }

    /// A new file, for reading and writing; an existing one is an error.
    pub(crate) fn create(&self, name: &str) -> Result<File, DiskError> {
        self.openat(
            "create",
            name.as_ref(),
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            0o600,
        )
    }

    /// An existing file, for reading and writing.
    pub(crate) fn reopen(&self, name: &str) -> Result<File, DiskError> {
        self.openat("open", name.as_ref(), OFlags::RDWR | OFlags::NONBLOCK, 0)
    }

    /// An existing regular file, for reading; `None` where there is nothing of that name. Never waits, whatever
    /// the name leads to.
    pub(crate) fn read(&self, name: impl AsRef<OsStr>) -> Result<Option<File>, DiskError> {
        self.read_with(name.as_ref(), OFlags::empty())
    }

    /// The same past the page cache, where the file system can: what is read is what is at rest.
    pub(crate) fn read_direct(&self, name: &str) -> Result<Option<File>, DiskError> {
        match self.read_with(name.as_ref(), OFlags::DIRECT) {
            Err(e) if e.cause.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                self.read(name)
            }
            other => other,
        }
    }

    fn read_with(&self, name: &OsStr, flags: OFlags) -> Result<Option<File>, DiskError> {
        let file = match self.openat("open", name, OFlags::RDONLY | OFlags::NONBLOCK | flags, 0) {
            Ok(file) => file,
            Err(e) if e.cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file
            .metadata()
            .map_err(|e| DiskError::new("look at", self.join(name), e))?;
        if !meta.is_file() {
            return Err(DiskError::new(
                "open",
                self.join(name),
                io::Error::other("not a regular file"),
            ));
        }
        Ok(Some(file))
    }

    /// All bytes of a small file; `None` where there is nothing of that name.
    pub(crate) fn load(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>, DiskError> {
        let name = name.as_ref();
        let Some(file) = self.read(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let fail = |e| DiskError::new("read", self.join(name), e);
        file.take(SMALL + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > SMALL {
            return Err(fail(io::Error::other("larger than any file of this kind")));
        }
        Ok(Some(bytes))
    }

    /// Gives `name` the content `bytes`, whole or not at all. Durable after [`Dir::sync`].
    pub(crate) fn save(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let temporary = format!("{TEMPORARY}{name}");
        self.remove(&temporary)?;
        let written = self.create(&temporary).and_then(|mut file| {
            let write = file.write_all(bytes).and_then(|()| file.sync_all());
            write.map_err(|e| DiskError::new("write", self.join(&temporary), e))
        });
        let renamed = written.and_then(|()| self.rename(&temporary, self, name));
        if renamed.is_err() {
            // The first failure is the one to tell; what cannot be removed now is removed at the next start.
            self.remove(&temporary).ok();
        }
        renamed
    }

    /// Moves `from` here to `to` in `target`, replacing what is there. Durable after [`Dir::sync`] on `target`.
    pub(crate) fn rename(&self, from: &str, target: &Self, to: &str) -> Result<(), DiskError> {
        rustix::fs::renameat(&self.fd, from, &target.fd, to)
            .map_err(|e| DiskError::new("rename", self.join(from), e))
    }

    /// Removes the name; says whether there was one. Durable after [`Dir::sync`].
    pub(crate) fn remove(&self, name: impl AsRef<OsStr>) -> Result<bool, DiskError> {
        let name = name.as_ref();
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(DiskError::new("remove", self.join(name), e)),
        }
    }

    /// Whether anything has that name, a symbolic link included.
    pub(crate) fn has(&self, name: &str) -> Result<bool, DiskError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(DiskError::new("look at", self.join(name), e)),
        }
    }

    /// Makes names in it durable.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        rustix::fs::fsync(&self.fd).map_err(|e| DiskError::new("sync", &self.path, e))
    }

    /// Makes everything on its file system durable.
    pub(crate) fn sync_file_system(&self) -> Result<(), DiskError> {
        rustix::fs::syncfs(&self.fd)
            .map_err(|e| DiskError::new("sync the file system of", &self.path, e))
    }

    /// The names in it, sorted.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, DiskError> {
        let fail = |e: rustix::io::Errno| DiskError::new("list", &self.path, e);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
