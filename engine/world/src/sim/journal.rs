//! What was done to a simulated server: what a test judges a program by.

use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::units::Timestamp;
use uuid::Uuid;

use crate::hypervisor::Mark;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Hand,
    /// What.
    pub deed: Deed,
}

/// Who did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hand {
    /// Whoever uses the ports.
    Ours,
    /// Somebody else, or chance.
    Other,
    /// The watchdog.
    Watchdog,
}

/// Kinds of change. The mark is the object's, `None` when it is not ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A domain was written.
    Defined {
        /// Which.
        uuid: Uuid,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// A domain was started.
    Started {
        /// Which.
        uuid: Uuid,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// A domain was switched off, or ended.
    Ended {
        /// Which.
        uuid: Uuid,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// A domain was forgotten.
    Undefined {
        /// Which.
        uuid: Uuid,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// An overlay was made.
    OverlayMade {
        /// Its file.
        path: PathBuf,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// An overlay was removed.
    OverlayRemoved {
        /// Its file.
        path: PathBuf,
        /// Its mark.
        mark: Option<Mark>,
    },
    /// An image was taken in.
    ImageMade(Digest),
    /// An image was removed, or spoilt.
    ImageGone(Digest),
}
