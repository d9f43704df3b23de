//! Files that only their owner may read.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::directory::replace;

/// Why a private file cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others may read or write it.
    #[error("{} may be read by others than its owner (its mode is {mode:04o}): if nobody did, run `chmod 600 {}`; if \
             somebody may have, replace the key in it", .file.display(), .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is not there.
    #[error("{} is missing: put it back from a backup of this server", .0.display())]
    Missing(PathBuf),
    /// It is there, and must not be.
    #[error("{} exists already; it is not overwritten", .0.display())]
    Exists(PathBuf),
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

/// Reads a file that holds a key.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, PrivateFileError> {
    let refused = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            PrivateFileError::Missing(file.to_owned())
        } else {
            failed("read", file, source)
        }
    };
    let mut opened = fs::File::open(file).map_err(refused)?;
    let mode = opened.metadata().map_err(refused)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Open {
            file: file.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    opened.read_to_end(&mut bytes).map_err(refused)?;
    Ok(bytes)
}

/// Writes a new file that holds a key.
pub(crate) fn create(file: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    // Also a link that leads nowhere counts as there.
    if fs::symlink_metadata(file).is_ok() {
        return Err(PrivateFileError::Exists(file.to_owned()));
    }
    replace(file, bytes).map_err(|e| failed("write", file, e))
}

pub(crate) fn failed(operation: &'static str, path: &Path, source: io::Error) -> PrivateFileError {
    PrivateFileError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
