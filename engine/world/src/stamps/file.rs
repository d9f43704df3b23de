//! Stamps in a file that is replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coppice_schema::ids::{DesktopId, Stamp};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{StampError, Stamps};

/// Stamps in one CBOR file. Every change writes a new file beside it, syncs it and renames it into place, so that a
/// crash leaves the old or the new one. 400 slots take some 20 KB.
pub struct StampFile {
    path: PathBuf,
    held: Arc<Mutex<BTreeMap<DesktopId, Stamp>>>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    format: u32,
    stamps: BTreeMap<DesktopId, Stamp>,
}

/// Raised when older programs would misread the file.
const FORMAT: u32 = 1;

impl StampFile {
    /// Opens the file at `path`, or begins one.
    ///
    /// # Errors
    /// When it cannot be read, or is not such a file.
    pub fn open(path: PathBuf) -> Result<Self, StampError> {
        let held = match fs::read(&path) {
            Ok(bytes) => decode(&path, &bytes)?,
            Err(e) if e.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(failed("read", &path, &e)),
        };
        let held = Arc::new(Mutex::new(held));
        Ok(Self { path, held })
    }
}

impl Stamps for StampFile {
    fn all(&self) -> BoxFuture<'_, Result<BTreeMap<DesktopId, Stamp>, StampError>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = held.clone();
        Box::pin(async move { Ok(all) })
    }

    fn remember(&self, stamps: Vec<(DesktopId, Stamp)>) -> BoxFuture<'_, Result<(), StampError>> {
        let (path, held) = (self.path.clone(), Arc::clone(&self.held));
        let work = move || remember(&path, &held, stamps);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|e| {
                Err(StampError::Io {
                    what: "write",
                    path: self.path.display().to_string(),
                    cause: e.to_string(),
                })
            })
        })
    }
}

fn remember(
    path: &Path,
    held: &Mutex<BTreeMap<DesktopId, Stamp>>,
    stamps: Vec<(DesktopId, Stamp)>,
) -> Result<(), StampError> {
    // Held while writing: two writers would put an older file over a newer one.
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    let mut next = held.clone();
    for (slot, stamp) in stamps {
        let last = next.entry(slot).or_default();
        *last = stamp.max(*last);
    }
    if next == *held {
        return Ok(());
    }
    write(path, &next)?;
    *held = next;
    Ok(())
}

fn write(path: &Path, stamps: &BTreeMap<DesktopId, Stamp>) -> Result<(), StampError> {
    let content = Content {
        format: FORMAT,
        stamps: stamps.clone(),
    };
    let mut bytes = Vec::new();
    ciborium::into_writer(&content, &mut bytes).map_err(|e| StampError::Io {
        what: "encode",
        path: path.display().to_string(),
        cause: e.to_string(),
    })?;
    let new = path.with_extension("new");
    let mut file = File::create(&new).map_err(|e| failed("create", &new, &e))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(|e| failed("write", &new, &e))?;
    fs::rename(&new, path).map_err(|e| failed("replace", path, &e))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|d| d.sync_all())
        .map_err(|e| failed("sync the folder of", path, &e))
}

fn decode(path: &Path, bytes: &[u8]) -> Result<BTreeMap<DesktopId, Stamp>, StampError> {
    let unreadable = |cause: String| StampError::Unreadable {
        path: path.display().to_string(),
        cause,
    };
    let content: Content = ciborium::from_reader(bytes).map_err(|e| unreadable(e.to_string()))?;
    if content.format != FORMAT {
        return Err(unreadable(format!(
            "it has format {}, this version reads {FORMAT}",
            content.format
        )));
    }
    Ok(content.stamps)
}

fn failed(what: &'static str, path: &Path, error: &std::io::Error) -> StampError {
    StampError::Io {
        what,
        path: path.display().to_string(),
        cause: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(index: u64) -> Stamp {
        Stamp {
            epoch: 1,
            term: 1,
            index,
            ordinal: 0,
        }
    }

    #[test]
    fn stamps_outlive_the_process_and_only_grow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stamps");
        let slot: DesktopId = "lab-001".parse().unwrap();
        let other: DesktopId = "lab-002".parse().unwrap();
        let file = StampFile::open(path.clone()).unwrap();
        let held = &file.held;
        remember(
            &path,
            held,
            vec![(slot.clone(), stamp(7)), (other.clone(), stamp(1))],
        )
        .unwrap();
        remember(&path, held, vec![(slot.clone(), stamp(3))]).unwrap();
        drop(file);
        let again = StampFile::open(path).unwrap();
        let all = futures::executor::block_on(again.all()).unwrap();
        assert_eq!(all, BTreeMap::from([(slot, stamp(7)), (other, stamp(1))]));
    }

    #[test]
    fn a_spoilt_file_is_refused_not_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stamps");
        fs::write(&path, b"no stamps").unwrap();
        let refused = StampFile::open(path.clone()).err();
        assert!(matches!(refused, Some(StampError::Unreadable { .. })));
        let newer = Content {
            format: FORMAT + 1,
            stamps: BTreeMap::new(),
        };
        ciborium::into_writer(&newer, File::create(&path).unwrap()).unwrap();
        let refused = StampFile::open(path).err().unwrap().to_string();
        assert!(refused.contains("it has format 2"), "{refused}");
    }
}
