//! The file that an import reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::import::ImportError;

/// What must stay the same while a file is read several times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Opens `path` without following a symbolic link and without waiting for anybody; only a regular file that is
/// not empty will do.
pub(crate) fn open(path: &Path) -> Result<File, ImportError> {
    let fail = |cause: io::Error| ImportError::Source {
        path: path.to_owned(),
        cause,
    };
    let unfit = |found| ImportError::NotAFile {
        path: path.to_owned(),
        found,
    };
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) => return Err(unfit("a symbolic link")),
        Err(e) => return Err(fail(e.into())),
    };
    let meta = file.metadata().map_err(fail)?;
    if meta.is_dir() {
        return Err(unfit("a directory"));
    }
    if !meta.is_file() {
        return Err(unfit("a pipe, socket or device"));
    }
    if meta.len() == 0 {
        return Err(unfit("an empty file"));
    }
    Ok(file)
}

/// Up to `len` bytes at `offset`; fewer where the file ends.
pub(crate) fn peek(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut got = 0;
    while got < len {
        match file.read_at(&mut bytes[got..], offset.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}
