//! Snapshots as files.
//!
//! A file is `snapshot-TERM-INDEX`: eight bytes that say what it is, the BLAKE3 of all that follows, and then: form
//! (u32), feature level of the state (u32), length of the body (u64), body (CBOR: which entries, and the state).
//! Numbers are big-endian. It is written beside its name, synced, and renamed into place, so a name always stands
//! for a whole file; the digest finds what happened to it since. The one before the newest is kept: the log reaches
//! back to it ([`crate::types::KEEP_BEHIND_SNAPSHOT`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use coppice_schema::Digest;
use coppice_state::State;
use coppice_state::state::FEATURE_LEVEL;
use futures::future::BoxFuture;
use openraft::type_config::TypeConfigExt;
use serde::{Deserialize, Serialize};

use crate::directory::{Directory, replace, sync_parent};
use crate::machine::{Snapshot, Snapshots};
use crate::types::{LogId, Real, SnapshotMeta};

/// The newest form of a snapshot file that this version reads and the one it writes.
pub const SNAPSHOT_FORM: u32 = 1;

const MAGIC: &[u8; 8] = b"coppsnap";
const PREFIX: &str = "snapshot-";
const KEPT: usize = 2;

/// Why no snapshot can be used. Nothing was changed; every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The log begins after the newest sound snapshot.
    #[error("no sound snapshot in {} reaches to entry {needed}, where the log begins ({found}). If other servers \
             hold the grid, let this one join them again: coppice server rejoin ADDRESS TOKEN. If it was the only one: \
             coppice restore FILE", .dir.display())]
    Unconnected {
        /// Where snapshots are.
        dir: PathBuf,
        /// What is needed.
        needed: u64,
        /// What was found instead, in words.
        found: String,
    },
    /// A newer version wrote it.
    #[error("{} was written by a newer version (form {form}, feature level {level}; this version reads form \
             {SNAPSHOT_FORM} and level {FEATURE_LEVEL}): start that version", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its form.
        form: u32,
        /// Its state's level.
        level: u32,
    },
    /// The file system refused.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

#[derive(Serialize)]
struct BodyRef<'a> {
    meta: &'a SnapshotMeta,
    state: &'a State,
}

#[derive(Deserialize)]
struct Body {
    meta: SnapshotMeta,
    state: State,
}

/// What is wrong with one file.
enum Fault {
    /// Not as it was written.
    Damaged(String),
    /// Sound, but not for this version.
    Newer { form: u32, level: u32 },
}

/// Snapshots in a server's data directory.
#[derive(Debug)]
pub struct SnapshotFiles {
    dir: PathBuf,
    // Only what holds the directory may write to it. Not kept alive from here: openraft lets go of its machine some
    // time after it said that it stopped.
    directory: Weak<Directory>,
    // One writer at a time; holds what is newest.
    newest: Arc<Mutex<Option<LogId>>>,
}

impl SnapshotFiles {
    /// The snapshots of `directory`, and the newest sound one from which the log goes on, that is: one that covers
    /// all entries up to `purged`. Blocks.
    pub(crate) fn open(
        directory: &Arc<Directory>,
        purged: Option<LogId>,
    ) -> Result<(Self, Option<Snapshot>), SnapshotError> {
        let dir = directory.snapshots();
        let refused = |path: &Path, source| SnapshotError::Io {
            path: path.to_owned(),
            source,
        };
        let mut faults = Vec::new();
        let mut found = None;
        for file in list(&dir).map_err(|e| refused(&dir, e))? {
            let bytes = fs::read(&file).map_err(|e| refused(&file, e))?;
            match read(&bytes) {
                Ok(snapshot) => {
                    found = Some(snapshot);
                    break;
                }
                Err(Fault::Newer { form, level }) => {
                    return Err(SnapshotError::Newer { file, form, level });
                }
                Err(Fault::Damaged(why)) => {
                    tracing::warn!(file = %file.display(), why, "a snapshot is damaged; an older one is used");
                    faults.push(format!("{} is damaged: {why}", file.display()));
                }
            }
        }
        let reached = found.as_ref().and_then(|s| s.meta.last_log_id);
        if let Some(purged) = purged.filter(|p| reached < Some(*p)) {
            if let Some(reached) = reached {
                faults.push(format!(
                    "the newest sound one ends at entry {}",
                    reached.index()
                ));
            }
            if faults.is_empty() {
                faults.push("there is none".to_owned());
            }
            return Err(SnapshotError::Unconnected {
                dir,
                needed: purged.index(),
                found: faults.join("; "),
            });
        }
        let files = Self {
            dir,
            directory: Arc::downgrade(directory),
            newest: Arc::new(Mutex::new(reached)),
        };
        Ok((files, found))
    }
}

impl Snapshots for SnapshotFiles {
    fn save(&self, snapshot: Snapshot) -> BoxFuture<'static, io::Result<()>> {
        let dir = self.dir.clone();
        let newest = Arc::clone(&self.newest);
        let directory = self.directory.upgrade();
        Box::pin(async move {
            Real::spawn_blocking(move || {
                let held = directory.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::BrokenPipe, "the directory is closed")
                })?;
                let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
                let id = snapshot.meta.last_log_id;
                if *newest >= id && newest.is_some() {
                    return Ok(());
                }
                let (term, index) = id.map_or((0, 0), |id| (id.leader_id.term, id.index()));
                let file = dir.join(format!("{PREFIX}{term:020}-{index:020}"));
                let bytes = write(&snapshot)?;
                let written = replace(&file, &bytes).and_then(|()| {
                    *newest = id;
                    for old in list(&dir)?.into_iter().skip(KEPT) {
                        fs::remove_file(&old)?;
                    }
                    sync_parent(&file)
                });
                // A start after this would find the file, and cut the log behind it, though it may not last.
                written.inspect_err(|e| held.failed_to_write("a snapshot", e))
            })
            .await?
        })
    }
}

/// The snapshot files, newest first. Leftovers of a write that was cut short are not among them.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if name.starts_with(PREFIX) && !name.ends_with(".tmp") {
            files.push(path);
        }
    }
    // Terms and indexes are padded: names sort as entries do.
    files.sort();
    files.reverse();
    Ok(files)
}

fn write(snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let content = BodyRef {
        meta: &snapshot.meta,
        state: &snapshot.state,
    };
    ciborium::into_writer(&content, &mut body).map_err(|e| io::Error::other(e.to_string()))?;
    let length = u64::try_from(body.len()).map_err(io::Error::other)?;
    let mut rest = Vec::with_capacity(body.len() + 16);
    rest.extend(SNAPSHOT_FORM.to_be_bytes());
    rest.extend(snapshot.state.feature_level.to_be_bytes());
    rest.extend(length.to_be_bytes());
    rest.extend(body);
    let mut file = MAGIC.to_vec();
    file.extend(Digest::of(&rest).0);
    file.extend(rest);
    Ok(file)
}

fn read(bytes: &[u8]) -> Result<Snapshot, Fault> {
    let damaged = |why: &str| Fault::Damaged(why.to_owned());
    let short = || damaged("it is too short");
    let (magic, bytes) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    if magic != MAGIC {
        return Err(damaged("it is not a snapshot"));
    }
    // Where the digest stands is the same in every form, so that damage and a newer version are told apart.
    let (digest, rest) = bytes.split_first_chunk::<32>().ok_or_else(short)?;
    if Digest::of(rest) != Digest(*digest) {
        return Err(damaged("its digest does not fit"));
    }
    let (form, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (level, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (form, level) = (u32::from_be_bytes(*form), u32::from_be_bytes(*level));
    if form > SNAPSHOT_FORM || level > FEATURE_LEVEL {
        return Err(Fault::Newer { form, level });
    }
    let (length, body) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    if u64::try_from(body.len()).ok() != Some(u64::from_be_bytes(*length)) {
        return Err(damaged("its length does not fit"));
    }
    let body: Body = ciborium::from_reader(body).map_err(|e| Fault::Damaged(e.to_string()))?;
    Ok(Snapshot {
        meta: body.meta,
        state: Arc::new(body.state),
    })
}
