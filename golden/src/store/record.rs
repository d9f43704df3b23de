//! The small files of a store, and the names of all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use coppice_schema::Digest;
use serde::{Deserialize, Serialize};

use super::{FORMAT, StoreError};
use crate::disk::{Dir, TEMPORARY};
use crate::format::Format;
use crate::manifest::encode;

/// The file that makes a directory a store. Also what is locked.
pub(crate) const HEAD: &str = "store";

pub(crate) fn raw_name(root: Digest) -> String {
    format!("{root}.raw")
}

pub(crate) fn manifest_name(root: Digest) -> String {
    format!("{root}.manifest")
}

pub(crate) fn record_name(root: Digest) -> String {
    format!("{root}.record")
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
}

/// Reads what the directory is; makes an empty one a store.
pub(super) fn check_or_write_head(root: &Dir) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged {
        path: root.join(HEAD),
        what,
    };
    if let Some(bytes) = root.load(HEAD)? {
        let head: Head =
            ciborium::from_reader(bytes.as_slice()).map_err(|e| damaged(e.to_string()))?;
        return if head.format > FORMAT {
            Err(StoreError::Newer {
                path: root.path().to_owned(),
                found: head.format,
            })
        } else {
            Ok(())
        };
    }
    let temporary = format!("{TEMPORARY}{HEAD}");
    let foreign = |name: &std::ffi::OsString| name != "lost+found" && *name != *temporary;
    if root.names()?.iter().any(foreign) {
        return Err(StoreError::NotAStore(root.path().to_owned()));
    }
    root.save(HEAD, &encode(&Head { format: FORMAT }))?;
    Ok(root.sync()?)
}

/// What a glance compares. A hint, never a proof: who can write an image can set its time as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hint {
    size: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Hint {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            size: meta.size(),
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
        })
    }
}

/// Where an image came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    /// Digests of all sources that gave this image, with their formats.
    pub(crate) sources: BTreeMap<Digest, Format>,
    /// The raw file when it was made.
    pub(crate) hint: Hint,
    /// When all of it was last read back, in seconds since 1970; 0: nobody knows.
    #[serde(default)]
    pub(crate) read: u64,
}

impl Record {
    pub(crate) fn new(sources: BTreeMap<Digest, Format>, hint: Hint) -> Self {
        Self {
            format: FORMAT,
            sources,
            hint,
            read: 0,
        }
    }

    /// The same, of an image that has these sources.
    pub(crate) fn with(self, sources: BTreeMap<Digest, Format>) -> Self {
        Self { sources, ..self }
    }

    /// The same, of an image that was just read back.
    pub(crate) fn read_now(self) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let read = now.map_or(0, |now| now.as_secs());
        Self { read, ..self }
    }

    /// `None` where there is none that can be read: it only saves work, and is written again by the next import.
    pub(crate) fn load(images: &Dir, root: Digest) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = images.load(record_name(root))? else {
            return Ok(None);
        };
        let record: Option<Self> = ciborium::from_reader(bytes.as_slice()).ok();
        Ok(record.filter(|record| record.format <= FORMAT))
    }

    pub(crate) fn save(&self, images: &Dir, root: Digest) -> Result<(), StoreError> {
        images.save(&record_name(root), &encode(self))?;
        Ok(images.sync()?)
    }
}
