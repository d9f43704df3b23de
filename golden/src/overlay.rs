//! Linked clones: qcow2 files that hold what one desktop wrote over its image.
//!
//! They are written directly, not by qemu-img: 12 KiB, and durable in batches with one sync for all. An overlay
//! gets its name only after it and the mark beside it are on the disk, so whatever has the name is whole and
//! somebody's.

mod batch;
pub(crate) mod header;
mod list;
mod mark;

use coppice_schema::ids::Member;
use coppice_schema::units::Size;

pub(crate) use batch::check_size;
pub use batch::{OverlaySpec, Written};
pub use header::SIZE_MAX;
pub use list::{Fault, Foreign, LinkedClone, Listing, Reason};
pub use mark::{FORMAT, Mark};

use crate::disk::DiskError;
use crate::store::StoreError;

/// Ends the name of an overlay.
pub(crate) const OVERLAY: &str = ".qcow2";

/// Ends the name of a mark.
pub(crate) const MARK: &str = ".mark";

/// The overlay's file name: `lab-007@2.qcow2`.
#[must_use]
pub fn file_name(member: &Member) -> String {
    format!("{member}{OVERLAY}")
}

pub(crate) fn mark_name(member: &Member) -> String {
    format!("{member}{MARK}")
}

/// An overlay that could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The image it should be based on is not in the store.
    #[error("cannot write the overlay of {member}: there is no image {}", image.short())]
    NoImage {
        /// The desktop.
        member: Member,
        /// The image.
        image: coppice_schema::Digest,
    },
    /// Its size does not do.
    #[error("cannot write the overlay of {member}: its disk of {size} {what}")]
    Size {
        /// The desktop.
        member: Member,
        /// The size asked for.
        size: Size,
        /// What is wrong with it.
        what: String,
    },
    /// There is an overlay of that name already, for something else, or nobody's. It was not touched.
    #[error("cannot write the overlay of {member}: there is one already, {what}")]
    Taken {
        /// The desktop.
        member: Member,
        /// Whose it is, in words.
        what: String,
    },
    /// The overlay is not this grid's. It was not touched.
    #[error("will not remove the overlay of {member}: {what}")]
    NotOurs {
        /// The desktop.
        member: Member,
        /// Whose it is, in words.
        what: String,
    },
    /// The disk is full.
    #[error("cannot write the overlay of {member}: no space is left ({cause})")]
    NoSpace {
        /// The desktop.
        member: Member,
        /// What failed.
        cause: DiskError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for OverlayError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}
