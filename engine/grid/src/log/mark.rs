//! The high-water mark: how far the log was known to be durable, in a file of its own.
//!
//! The log's journal cannot tell a record that was torn by a power cut, and never acknowledged, from one that was
//! acknowledged and damaged since: it drops either, with all that follows (fjall issue 311; a flipped bit in a
//! record's frame did so in 37 of 120 places). The mark, written at most once a second and synced, tells them
//! apart for everything older than that second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coppice_schema::Digest;
use serde::{Deserialize, Serialize};

use crate::directory::replace;

/// How far the log was durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Index of the last entry, or of the last one purged; `None` before any.
    pub(super) last: Option<u64>,
    /// Term of the vote; 0 before any.
    pub(super) term: u64,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    mark: Mark,
    digest: Digest,
}

/// Where the mark is kept.
#[derive(Debug)]
pub(super) struct MarkFile(PathBuf);

impl MarkFile {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The mark, or `None` where none was written.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged (`InvalidData`).
    pub(super) fn read(&self) -> io::Result<Option<Mark>> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let sealed: Sealed =
            ciborium::from_reader(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
        if sealed.digest != digest(&sealed.mark)? {
            return Err(damaged("its digest does not fit".to_owned()));
        }
        Ok(Some(sealed.mark))
    }

    /// Writes the mark; it is durable on return.
    pub(super) fn write(&self, mark: Mark) -> io::Result<()> {
        let digest = digest(&mark)?;
        replace(&self.0, &super::encode(&Sealed { mark, digest })?)
    }
}

fn digest(mark: &Mark) -> io::Result<Digest> {
    Ok(Digest::of(&super::encode(mark)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_changed_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = MarkFile::at(dir.path().join("mark"));
        assert_eq!(file.read().unwrap(), None);
        let mark = Mark {
            last: Some(70_000),
            term: 3,
        };
        file.write(mark).unwrap();
        assert_eq!(file.read().unwrap(), Some(mark));
        let whole = fs::read(file.path()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(file.path(), bytes).unwrap();
            // Only a flip that decodes to the same mark may pass.
            assert!(file.read().map_or(true, |m| m == Some(mark)), "byte {at}");
        }
    }
}
