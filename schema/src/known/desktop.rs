//! What the grid remembers of a desktop and of its slot.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::DesktopSpec;
use crate::digest::Digest;
use crate::ids::{Incarnation, Member, ServerId};
use crate::units::Timestamp;

/// A desktop as the grid remembers it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownDesktop {
    /// Its present life.
    pub incarnation: Incarnation,
    /// Where it is.
    pub server: ServerId,
    /// What was last agreed to write.
    pub spec: DesktopSpec,
    /// Its state.
    pub phase: Phase,
    /// Whether its disk is to be kept.
    pub personal: bool,
    /// Failures in a row, and when the last was; decays with time healthy.
    pub failures: Failures,
    /// When the present incarnation was agreed.
    pub grown: Timestamp,
    /// What it has been through since.
    #[serde(default)]
    pub wear: Wear,
    /// Moves that came to nothing.
    #[serde(default)]
    pub stayed: Stayed,
    /// The former life of whose copy it is made, until it was ready for a person.
    #[serde(default)]
    pub restored_from: Option<Member>,
}

/// Moves of a desktop that came to nothing, since the last that did not.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stayed {
    /// How many in a row, and when the last did.
    pub failures: Failures,
    /// Where it was to go.
    pub to: Option<ServerId>,
    /// Why it did not get there, in words.
    pub why: String,
}

/// What a desktop has been through since it was grown. Each only comes to be, but for `occupied` and
/// `replaced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wear {
    /// When it was first ready for a person.
    pub ready: Option<Timestamp>,
    /// People were seen signed in, and were not seen to have left: a guest that does not answer keeps its people.
    pub occupied: bool,
    /// When the last of its people was first seen to have left.
    pub left: Option<Timestamp>,
    /// Its server was lost since the grid was last what was asked for: another may have been grown in its place.
    pub replaced: bool,
}

/// What outlives a desktop in its slot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotMemory {
    /// The highest life that it had.
    pub incarnation: Incarnation,
    /// Failures in a row of the desktops it had.
    pub failures: Failures,
    /// Root of the image whose clone was ready there last.
    pub well: Option<Digest>,
    /// Roots of images whose clones did not become ready there, until one does, a person resumes the pool, or its
    /// template or image is another.
    pub failed: BTreeSet<Digest>,
}

/// The state of a desktop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Ordered, and not yet ready.
    Provisioning {
        /// Since when.
        since: Timestamp,
    },
    /// Ready for a person.
    Available {
        /// Since when.
        since: Timestamp,
    },
    /// Whole, and switched off by policy.
    Off {
        /// Since when.
        since: Timestamp,
    },
    /// Somebody is signed in, or has one of its displays open.
    InUse {
        /// Since when.
        since: Timestamp,
        /// How many people are signed in.
        users: u32,
        /// How many clients have one of its displays open.
        #[serde(default)]
        viewers: u32,
    },
    /// Something is wrong with it.
    Broken {
        /// Since when.
        since: Timestamp,
        /// What.
        reason: BrokenReason,
    },
    /// Its server is lost.
    Unknown {
        /// Since when.
        since: Timestamp,
    },
    /// On its way to another server, running.
    Migrating {
        /// Since when.
        since: Timestamp,
        /// From which server.
        from: ServerId,
        /// To which.
        to: ServerId,
        /// What it is to be there.
        spec: Box<DesktopSpec>,
        /// How far it is.
        step: MoveStep,
    },
    /// Ordered away. Its slot is free when its server said that the order is done and no longer reports it.
    Deleting {
        /// Since when.
        since: Timestamp,
        /// The server said that it is done.
        done: bool,
    },
}

/// How far a desktop is on its way. Each step is ordered when the one before is said to be done; a person at it notices
/// nothing but a second's pause before [`Switched`](Self::Switched).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStep {
    /// The other server was told to make room.
    Preparing,
    /// It has.
    Prepared,
    /// Its server was told to send it; it runs there until the last moment.
    Copying,
    /// All of it is on both servers, and it stands still on both.
    Copied,
    /// It was agreed that it goes on at the other server. From here there is no way back.
    Switched,
    /// It was agreed that it stays. It goes on where it was, if it stands still.
    Returning,
}

/// What can be wrong with a desktop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokenReason {
    /// Its domain is gone.
    DomainMissing,
    /// Its overlay is gone.
    OverlayMissing,
    /// Its overlay cannot be used.
    OverlayBad,
    /// It ended without being asked.
    Crashed,
    /// It stands still; in words.
    Paused(String),
    /// It did not become ready in time.
    NotReady,
    /// An order for it failed for good; in words.
    Refused(String),
}

/// Failures in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last was.
    pub last: Timestamp,
}

impl KnownDesktop {
    /// How many people may be at it. A guest that has fallen silent may still have those that it had.
    #[must_use]
    pub fn people(&self) -> u32 {
        match self.phase {
            Phase::InUse { users, viewers, .. } => users.max(viewers),
            Phase::Provisioning { .. } | Phase::Migrating { .. } => u32::from(self.wear.occupied),
            Phase::Available { .. }
            | Phase::Off { .. }
            | Phase::Broken { .. }
            | Phase::Unknown { .. }
            | Phase::Deleting { .. } => 0,
        }
    }
}

impl Phase {
    /// Since when it has been so.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Provisioning { since }
            | Self::Available { since }
            | Self::Off { since }
            | Self::InUse { since, .. }
            | Self::Broken { since, .. }
            | Self::Unknown { since }
            | Self::Migrating { since, .. }
            | Self::Deleting { since, .. } => *since,
        }
    }

    /// One word, stable in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Provisioning { .. } => "provisioning",
            Self::Available { .. } => "available",
            Self::Off { .. } => "off",
            Self::InUse { .. } => "in_use",
            Self::Broken { .. } => "broken",
            Self::Unknown { .. } => "unknown",
            Self::Migrating { .. } => "migrating",
            Self::Deleting { .. } => "deleting",
        }
    }
}
