//! What an import is given, what it gives, and why it may not.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::units::Size;

use crate::confine::Confinement;
use crate::disk::DiskError;
use crate::format::{Format, Refusal};
use crate::store::StoreError;

/// What an import may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Largest virtual disk. The default is 16 TiB: more is a mistake or an attack.
    pub limit: Size,
    /// Longest that one run of the converting program may take. The default is six hours.
    pub deadline: Duration,
    /// Room that must stay free on the disk. The default is 1 GiB: running desktops write, too.
    pub keep_free: Size,
    /// What the source's digest must be, where it is known beforehand.
    pub expect: Option<Digest>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limit: Size::gib(16 << 10),
            deadline: Duration::from_secs(6 * 3600),
            keep_free: Size::gib(1),
            expect: None,
        }
    }
}

/// An image that is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// BLAKE3 of the source's bytes.
    pub source: Digest,
    /// The image's name: the root of its manifest.
    pub root: Digest,
    /// Size of its disk.
    pub size: Size,
    /// Bytes that are not zero, in whole chunks.
    pub data: Size,
    /// The source's format.
    pub format: Format,
    /// It was here before: nothing was stored.
    pub already: bool,
    /// How the converting program was confined; `None` if none was needed.
    pub confinement: Option<Confinement>,
}

/// Why there is no image. Nothing is left behind but what the next [`Store::open`](crate::Store::open) removes.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The source is no regular file with content.
    #[error("{} is {found}, not an image file", path.display())]
    NotAFile {
        /// The source.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// The source is not safe, not whole, or not an image.
    #[error("{} cannot be imported: {refusal}", path.display())]
    Refused {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The source has another digest than it should.
    #[error("{} has the digest {found}, expected {expected}", path.display())]
    Unexpected {
        /// The source.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// What was asked for.
        expected: Digest,
    },
    /// The source was written to in the meantime.
    #[error("{} changed while it was imported", .0.display())]
    Changed(PathBuf),
    /// The disk has not enough room.
    #[error("not enough space in {}: {} needed, {} free", path.display(), needed.rounded(), free.rounded())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// What the image takes, and what must stay free.
        needed: Size,
        /// What is free.
        free: Size,
    },
    /// qemu-img cannot be run.
    #[error("cannot run qemu-img: {0}")]
    NoTool(#[source] io::Error),
    /// qemu-img failed.
    #[error("cannot convert {}: {what}", path.display())]
    Failed {
        /// The source.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// qemu-img took longer than it may.
    #[error("converting {} took longer than {} s", path.display(), limit.as_secs())]
    Deadline {
        /// The source.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// It was cancelled.
    #[error("the import was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for ImportError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}
