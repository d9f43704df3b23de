//! A server's data directory: whose it is, that only one process uses it, and files that survive power cuts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coppice_schema::ids::{Epoch, GridId, ServerId};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::introduction::Introduction;

/// The newest form of a data directory that this version reads and the one it writes.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "format";
const FOUNDING: &str = "founding";
const SUSPECT: &str = "suspect";
const LOCK: &str = "lock";
const LOG: &str = "log";
const MARK: &str = "log.mark";
const SNAPSHOTS: &str = "snapshots";

/// Whose a data directory is. The file `format` in it, CBOR, written last when a grid is founded: a directory
/// without it holds nothing that anybody was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Format {
    /// Form of the directory.
    pub version: u32,
    /// The grid.
    pub grid: GridId,
    /// This server's number in raft.
    pub raft_id: u64,
    /// Which member it is; 0 where an earlier version founded the grid, which then has one server.
    #[serde(default = "unknown")]
    pub server: ServerId,
    /// What it was told when it joined; absent where the grid was founded here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduction: Option<Introduction>,
    /// The newest life of the grid that this server began, or was told of: none before it counts any more.
    #[serde(default)]
    pub epoch: Epoch,
}

fn unknown() -> ServerId {
    ServerId(0)
}

/// Which grid the directory at `path` belongs to.
///
/// # Errors
/// When it belongs to none, or cannot be read.
pub fn whose(path: &Path) -> Result<GridId, DirectoryError> {
    let format = read_format(&path.join(FORMAT))?;
    let format = format.ok_or_else(|| DirectoryError::NoGrid(path.to_owned()))?;
    Ok(format.grid)
}

/// Why a data directory cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No grid was founded here.
    #[error("{} holds no grid: found one there first, or name the directory of one", .0.display())]
    NoGrid(PathBuf),
    /// A grid was founded here before.
    #[error("{} already holds grid {grid}: open it, or name an empty directory", .dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        grid: GridId,
    },
    /// Another grid's.
    #[error("{} belongs to grid {found}, not to grid {expected}: name the directory of that grid", .dir.display())]
    OtherGrid {
        /// The directory.
        dir: PathBuf,
        /// Whose was expected.
        expected: GridId,
        /// Whose it is.
        found: GridId,
    },
    /// A newer version wrote it.
    #[error("{} was written by a newer version (its format is {found}, this version reads up to {FORMAT_VERSION}): \
             start the newer version; nothing was changed", .dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file that says whose it is cannot be read.
    #[error("{} is damaged ({why}): put it back from a backup of this server", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A log, but not whose.
    #[error("{} holds a log but no file `format` that says whose: name an empty directory, or put that file back", .0.display())]
    Unclaimed(PathBuf),
    /// Another process uses it.
    #[error("{} is in use by another process: only one server may run on it; stop that one first", .0.display())]
    InUse(PathBuf),
    /// An earlier run's disk failed.
    #[error("the disk under {} failed before ({why}): what was written then may be readable now and gone later. \
             Replace the disk, and if other servers hold the grid, let this one join them again (coppice server rejoin \
             ADDRESS TOKEN); if it was the only one, coppice restore FILE; or, to accept the loss of what it acknowledged \
             last, delete {}", .dir.display(), .file.display())]
    Suspect {
        /// The directory.
        dir: PathBuf,
        /// The note that says so.
        file: PathBuf,
        /// What failed.
        why: String,
    },
    /// The file system refused.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A data directory, locked for this process as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    // Held, never read: closing it gives the lock back.
    _lock: File,
}

impl Directory {
    /// Locks an empty or new directory for a grid to be founded in. What a founding that was cut short left
    /// behind is removed: nobody was told that it was there.
    pub(crate) fn claim(path: &Path) -> Result<Self, DirectoryError> {
        create_private(path)?;
        let directory = Self::lock(path)?;
        if let Some(format) = directory.format()? {
            return Err(DirectoryError::Occupied {
                dir: path.to_owned(),
                grid: format.grid,
            });
        }
        let founding = path.join(FOUNDING);
        if founding.exists() {
            for part in [directory.log(), directory.snapshots(), directory.mark()] {
                let removed = if part.is_dir() {
                    fs::remove_dir_all(&part)
                } else {
                    fs::remove_file(&part)
                };
                match removed {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(failed("remove", &part, e));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        } else if directory.log().exists() || directory.snapshots().exists() {
            return Err(DirectoryError::Unclaimed(path.to_owned()));
        }
        replace(&founding, b"a grid is being founded here\n")
            .map_err(|e| failed("write", &founding, e))?;
        directory.prepare()?;
        Ok(directory)
    }

    /// Says whose the directory is from now on: the grid is founded.
    pub(crate) fn complete(&self, format: &Format) -> Result<(), DirectoryError> {
        self.rewrite(format)?;
        let founding = self.path.join(FOUNDING);
        fs::remove_file(&founding).map_err(|e| failed("remove", &founding, e))
    }

    /// Says something else of a directory that is a grid's.
    pub(crate) fn rewrite(&self, format: &Format) -> Result<(), DirectoryError> {
        let file = self.path.join(FORMAT);
        let mut bytes = Vec::new();
        ciborium::into_writer(format, &mut bytes)
            .map_err(|e| failed("encode", &file, io::Error::other(e.to_string())))?;
        replace(&file, &bytes).map_err(|e| failed("write", &file, e))
    }

    /// Locks the directory of a grid. With `expected`, of that grid only.
    pub(crate) fn open(
        path: &Path,
        expected: Option<GridId>,
    ) -> Result<(Self, Format), DirectoryError> {
        if !path.join(FORMAT).exists() {
            let log = path.join(LOG);
            return Err(if log.exists() && !path.join(FOUNDING).exists() {
                DirectoryError::Unclaimed(path.to_owned())
            } else {
                DirectoryError::NoGrid(path.to_owned())
            });
        }
        let directory = Self::lock(path)?;
        let format = directory
            .format()?
            .ok_or_else(|| DirectoryError::NoGrid(path.to_owned()))?;
        if let Some(expected) = expected.filter(|e| *e != format.grid) {
            return Err(DirectoryError::OtherGrid {
                dir: path.to_owned(),
                expected,
                found: format.grid,
            });
        }
        let suspect = path.join(SUSPECT);
        match fs::read(&suspect) {
            Ok(why) => {
                return Err(DirectoryError::Suspect {
                    dir: path.to_owned(),
                    file: suspect,
                    why: String::from_utf8_lossy(&why).trim().to_owned(),
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("read", &suspect, e)),
        }
        directory.prepare()?;
        Ok((directory, format))
    }

    /// Where the log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where it says how far the log is durable.
    pub(crate) fn mark(&self) -> PathBuf {
        self.path.join(MARK)
    }

    /// Where the snapshots are.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Notes that the disk failed while `what` was written, so that no later start trusts what may be in memory only.
    /// A disk that was only full is trusted. Best effort: the disk failed, after all.
    pub(crate) fn failed_to_write(&self, what: &str, error: &io::Error) {
        if is_full(error) {
            return;
        }
        let file = self.path.join(SUSPECT);
        let why = format!("writing {what}: {}", describe(error));
        // In place and not given up when a sync fails: half a note is as good as a whole one.
        let noted = fs::write(&file, why).and_then(|()| File::open(&file)?.sync_all());
        if let Err(e) = noted {
            tracing::error!(file = %file.display(), error = %e, "cannot note that the disk failed");
        }
    }

    fn prepare(&self) -> Result<(), DirectoryError> {
        create_private(&self.log())?;
        create_private(&self.snapshots())
    }

    fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let name = path.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&name)
            .map_err(|e| failed("open", &name, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: file,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse(path.to_owned())),
            Err(e) => Err(failed("lock", &name, e.into())),
        }
    }

    fn format(&self) -> Result<Option<Format>, DirectoryError> {
        read_format(&self.path.join(FORMAT))
    }
}

fn read_format(file: &Path) -> Result<Option<Format>, DirectoryError> {
    // Another version may say more or other things; its number is what it must say in every version.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", file, e)),
    };
    let damaged = |why: String| DirectoryError::Damaged {
        file: file.to_owned(),
        why,
    };
    let Version { version } =
        ciborium::from_reader(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
    if version > FORMAT_VERSION {
        return Err(DirectoryError::Newer {
            dir: file.parent().unwrap_or(file).to_owned(),
            found: version,
        });
    }
    ciborium::from_reader(bytes.as_slice())
        .map(Some)
        .map_err(|e| damaged(e.to_string()))
}

pub(crate) fn failed(operation: &'static str, path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

/// Makes `path` a directory that only its owner enters.
pub(crate) fn create_private(path: &Path) -> Result<(), DirectoryError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| failed("create", path, e))
}

/// Puts `bytes` at `path` so that, whenever the power goes, either the old or the new content is there, whole.
/// Readable by its owner only.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let written = (|| {
        // Removed first: a leftover's permissions would stay.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    })();
    if written.is_err() {
        // On a full disk, half a file must not keep the space that the next attempt needs.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes names that were given or taken in `path`'s directory last.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The error and what caused it, in one line.
pub(crate) fn describe(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// Whether space was lacking: the one failure of a write that says nothing about the disk. What was written before
/// is there; what was not is known not to be (and is written again at the next start, see `open`).
pub(crate) fn is_full(error: &io::Error) -> bool {
    let full = |e: &io::Error| {
        matches!(
            e.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(full) {
            return true;
        }
        // What the database reports for later writes, or when its background work failed; our own failed write is
        // always reported with its cause.
        if let Some(fjall::Error::Poisoned) = inner.downcast_ref() {
            return true;
        }
        cause = inner.source().or_else(|| {
            let io = inner.downcast_ref::<io::Error>()?;
            io.get_ref()
                .map(|e| e as &(dyn std::error::Error + 'static))
        });
    }
    false
}
