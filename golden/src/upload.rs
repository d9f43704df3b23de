//! Receiving an image file piece by piece, resumable by offset.
//!
//! What has arrived is kept over restarts of the daemon and breaks of the connection: [`Upload::begin`] with the
//! same id says how much there is. The digest is computed as pieces arrive, and again from the file after a
//! restart, so it is always that of the bytes on disk.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str::FromStr;

use coppice_schema::Digest;
use coppice_schema::units::Size;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::disk::{Dir, DiskError, is_full};
use crate::manifest::encode;
use crate::progress::{Cancel, Phase, Progress, Reporter};
use crate::source::peek;
use crate::sparse::Stopped;
use crate::store::{Store, StoreError};

const FORMAT: u32 = 1;
const PREFIX: &str = "upload-";
const PART: &str = ".part";
const PLAN: &str = ".plan";

/// Names an upload: chosen by the sender, so that it finds its own again. 1 to 64 lower-case letters, digits and
/// '-'; a source's digest is a good choice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UploadId(String);

impl FromStr for UploadId {
    type Err = UploadError;

    fn from_str(text: &str) -> Result<Self, UploadError> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=64).contains(&text.len()) && text.chars().all(fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(UploadError::Id(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is to arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// Bytes in all.
    pub size: Size,
    /// Their BLAKE3, where the sender knows it.
    pub digest: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
struct Plan {
    format: u32,
    expected: Expected,
}

/// An upload that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// The file, to be imported and then removed by [`Store::discard_upload`].
    pub path: PathBuf,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its size.
    pub size: Size,
}

/// An upload that does not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The id cannot be one.
    #[error("{0:?} is not an upload's id: 1 to 64 lower-case letters, digits and '-'")]
    Id(String),
    /// Another connection is sending it.
    #[error("upload {0} is being received already")]
    Busy(UploadId),
    /// An upload of that id, of something else, was begun before. Discard it, or take another id.
    #[error("upload {id} was begun with {} bytes, not {}", before.size.0, now.size.0)]
    Other {
        /// The upload.
        id: UploadId,
        /// What it was begun with.
        before: Expected,
        /// What is asked for now.
        now: Expected,
    },
    /// The bytes do not continue what is here.
    #[error("upload {id} continues at offset {right}, not at {given}")]
    Offset {
        /// The upload.
        id: UploadId,
        /// Where the bytes were said to belong.
        given: u64,
        /// Where it continues.
        right: u64,
    },
    /// There are more bytes than were announced.
    #[error("upload {id} has {size} bytes, these would end at {end}")]
    TooLong {
        /// The upload.
        id: UploadId,
        /// What was announced.
        size: u64,
        /// Where they would end.
        end: u64,
    },
    /// Not all has arrived.
    #[error("upload {id} is not complete: {here} of {size} bytes")]
    Incomplete {
        /// The upload.
        id: UploadId,
        /// What is here.
        here: u64,
        /// What was announced.
        size: u64,
    },
    /// The bytes are not those that were announced. They were removed, so the next begin starts at 0.
    #[error("upload {id} has the digest {found}, expected {expected}")]
    Digest {
        /// The upload.
        id: UploadId,
        /// What arrived.
        found: Digest,
        /// What was announced.
        expected: Digest,
    },
    /// The disk is full. What has arrived is kept.
    #[error("not enough space for upload {id}: {} needed, {} free", needed.rounded(), free.rounded())]
    NoSpace {
        /// The upload.
        id: UploadId,
        /// What is still to come.
        needed: Size,
        /// What is free.
        free: Size,
    },
    /// It was cancelled.
    #[error("resuming the upload was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for UploadError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}

/// An upload being received. Dropping it keeps what has arrived.
#[derive(Debug)]
pub struct Upload {
    id: UploadId,
    dir: Dir,
    file: File,
    expected: Expected,
    hash: blake3::Hasher,
    offset: u64,
}

impl Upload {
    /// Begins the upload `id`, or continues it where it stopped: [`Upload::offset`] says where. Reads what is here
    /// to know its digest, with `progress`.
    ///
    /// # Errors
    /// [`UploadError::Busy`], [`UploadError::Other`], [`UploadError::NoSpace`], [`UploadError::Cancelled`], or the
    /// disk's.
    pub fn begin(
        store: &Store,
        id: &UploadId,
        expected: Expected,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<Self, UploadError> {
        let dir = store.incoming.try_clone()?;
        let (part, plan) = (part_name(id), plan_name(id));
        {
            // Two connections may begin the same upload at the same time.
            let _names = store.lock_names();
            if !dir.has(&part)? {
                dir.save(
                    &plan,
                    &encode(&Plan {
                        format: FORMAT,
                        expected,
                    }),
                )?;
                dir.create(&part)?;
                dir.sync()?;
            }
        }
        let file = dir.reopen(&part)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(UploadError::Busy(id.clone())),
            Err(e) => return Err(DiskError::new("lock", dir.join(&part), e).into()),
        }
        let before = load_plan(&dir, id)?;
        if before != expected {
            return Err(UploadError::Other {
                id: id.clone(),
                before,
                now: expected,
            });
        }
        let fail = |operation, e: io::Error| DiskError::new(operation, dir.join(&part), e);
        let here = file
            .metadata()
            .map_err(|e| fail("look at", e))?
            .len()
            .min(expected.size.0);
        let needed = Size(expected.size.0 - here);
        let free = store.space()?.free;
        if needed > free {
            return Err(UploadError::NoSpace {
                id: id.clone(),
                needed,
                free,
            });
        }
        let mut report = Reporter::begin(progress, Phase::Hashing, here);
        let hash = match hash_of(&file, here, &mut report, cancel) {
            Ok(hash) => hash,
            Err(Stopped::Cancelled) => return Err(UploadError::Cancelled),
            Err(Stopped::Failed(e)) => return Err(fail("read", e).into()),
        };
        report.finish();
        Ok(Self {
            id: id.clone(),
            dir,
            file,
            expected,
            hash,
            offset: here,
        })
    }

    /// How many bytes are here: where the next ones belong.
    #[must_use]
    pub fn offset(&self) -> Size {
        Size(self.offset)
    }

    /// Adds `bytes`, which belong at `offset`. All of them are kept, or none.
    ///
    /// # Errors
    /// [`UploadError::Offset`], which says the right one; [`UploadError::TooLong`]; [`UploadError::NoSpace`], after
    /// which the same bytes can be sent again; the disk's.
    pub fn append(&mut self, offset: Size, bytes: &[u8]) -> Result<(), UploadError> {
        if offset.0 != self.offset {
            return Err(UploadError::Offset {
                id: self.id.clone(),
                given: offset.0,
                right: self.offset,
            });
        }
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.expected.size.0 {
            return Err(UploadError::TooLong {
                id: self.id.clone(),
                size: self.expected.size.0,
                end,
            });
        }
        if let Err(e) = self.file.write_all_at(bytes, self.offset) {
            // The hash covers whole pieces only; what was written of this one is taken back.
            self.file
                .set_len(self.offset)
                .map_err(|e| self.fail("shorten", e))?;
            if is_full(&e) {
                let free = crate::space::Space::of(&self.dir).map_or(Size(0), |space| space.free);
                let needed = Size(self.expected.size.0 - self.offset);
                return Err(UploadError::NoSpace {
                    id: self.id.clone(),
                    needed,
                    free,
                });
            }
            return Err(self.fail("write", e).into());
        }
        self.hash.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Ends the upload: everything has arrived, is what was announced, and is synced.
    ///
    /// # Errors
    /// [`UploadError::Incomplete`], [`UploadError::Digest`], the disk's.
    pub fn finish(self) -> Result<Received, UploadError> {
        if self.offset != self.expected.size.0 {
            let (here, size) = (self.offset, self.expected.size.0);
            return Err(UploadError::Incomplete {
                id: self.id,
                here,
                size,
            });
        }
        let found = Digest(*self.hash.finalize().as_bytes());
        if let Some(expected) = self.expected.digest
            && expected != found
        {
            discard(&self.dir, &self.id)?;
            return Err(UploadError::Digest {
                id: self.id,
                found,
                expected,
            });
        }
        self.file.sync_all().map_err(|e| self.fail("sync", e))?;
        self.dir.sync()?;
        Ok(Received {
            path: self.dir.join(part_name(&self.id)),
            digest: found,
            size: self.expected.size,
        })
    }

    fn fail(&self, operation: &'static str, e: io::Error) -> DiskError {
        DiskError::new(operation, self.dir.join(part_name(&self.id)), e)
    }
}

impl Store {
    /// Uploads that were begun and not discarded, with what they are to become and how many bytes are here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn uploads(&self) -> Result<Vec<(UploadId, Expected, Size)>, StoreError> {
        let mut found = Vec::new();
        for name in self.incoming.names()? {
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(PART)?.parse().ok());
            if let Some(id) = id
                && let Ok(Some(file)) = self.incoming.read(&name)
                && let Ok(expected) = load_plan(&self.incoming, &id)
            {
                let meta = file
                    .metadata()
                    .map_err(|e| DiskError::new("look at", self.incoming.join(&name), e))?;
                found.push((id, expected, Size(meta.len())));
            }
        }
        Ok(found)
    }

    /// Removes what has arrived of the upload `id`; says whether there was anything.
    ///
    /// # Errors
    /// The disk's.
    pub fn discard_upload(&self, id: &UploadId) -> Result<bool, StoreError> {
        let _names = self.lock_names();
        discard(&self.incoming, id)
    }
}

fn discard(dir: &Dir, id: &UploadId) -> Result<bool, StoreError> {
    let any = dir.remove(part_name(id))?;
    dir.remove(plan_name(id))?;
    dir.sync()?;
    Ok(any)
}

fn part_name(id: &UploadId) -> String {
    format!("{PREFIX}{id}{PART}")
}

fn plan_name(id: &UploadId) -> String {
    format!("{PREFIX}{id}{PLAN}")
}

fn load_plan(dir: &Dir, id: &UploadId) -> Result<Expected, StoreError> {
    let path = dir.join(plan_name(id));
    let damaged = |what: String| StoreError::Damaged {
        path: path.clone(),
        what,
    };
    let bytes = dir
        .load(plan_name(id))?
        .ok_or_else(|| damaged("it is missing".to_owned()))?;
    let plan: Plan = ciborium::from_reader(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
    if plan.format > FORMAT {
        return Err(damaged(format!(
            "it has format {}, this version reads up to {FORMAT}",
            plan.format
        )));
    }
    Ok(plan.expected)
}

fn hash_of(
    file: &File,
    len: u64,
    report: &mut Reporter<'_>,
    cancel: &Cancel,
) -> Result<blake3::Hasher, Stopped> {
    let mut hash = blake3::Hasher::new();
    let mut at = 0;
    while at < len {
        let room = usize::try_from((len - at).min(1 << 20)).map_err(io::Error::other)?;
        let bytes = peek(file, at, room)?;
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter").into());
        }
        hash.update(&bytes);
        at += bytes.len() as u64;
        report.add(bytes.len() as u64);
        if cancel.is_cancelled() {
            return Err(Stopped::Cancelled);
        }
    }
    Ok(hash)
}
