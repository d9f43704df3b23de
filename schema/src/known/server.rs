//! What is known of a server.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Look;
use crate::desired::NetworkTarget;
use crate::ids::{NetworkName, ServerName};
use crate::units::{Size, Span, Timestamp};

/// A member of the grid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownServer {
    /// Its name.
    pub name: ServerName,
    /// Labels from its own file.
    pub labels: BTreeSet<String>,
    /// What it can carry.
    pub capacity: Capacity,
    /// Whether it takes part.
    pub state: ServerState,
    /// Since when it has that part.
    #[serde(default)]
    pub since: Timestamp,
    /// While it is being emptied: when people there are no longer waited for; `None`: they always are.
    #[serde(default)]
    pub force_at: Option<Timestamp>,
    /// Its clock is wrong, beside the others'.
    #[serde(default)]
    pub skew: Option<Skew>,
    /// What it saw last; `None` before its first complete look.
    pub look: Option<Look>,
    /// Whether that look is whole and of this term, and the server not lost since. If not, what it does not show may
    /// still exist.
    pub current: bool,
    /// The grid began another life without it: it comes back by joining again only.
    #[serde(default)]
    pub parted: bool,
    /// Personal desktops of which there are copies end there by themselves when it has not heard from the grid for that
    /// long; `None`: they do not.
    #[serde(default)]
    pub lease: Option<Span>,
    /// It is lost, and for longer than that: no such desktop runs there any more.
    #[serde(default)]
    pub fenced: bool,
}

/// What a server can carry, as it says itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Size,
    /// Size of the file system that holds overlays.
    pub disk: Size,
    /// What its hypervisor is, in words: "qemu 7.2 (emulated)".
    pub hypervisor: String,
    /// What its hypervisor cannot do.
    pub missing: BTreeSet<Feature>,
    /// Networks that its own file maps otherwise.
    pub networks: BTreeMap<NetworkName, NetworkTarget>,
    /// How running desktops leave and come, if they can: between servers that say the same.
    pub moves: Option<String>,
}

/// What a template may need of a hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// UEFI firmware.
    Uefi,
    /// UEFI with secure boot.
    SecureBoot,
    /// SPICE displays.
    Spice,
    /// Guests that can be asked.
    Agent,
    /// Disks that hold what is written.
    Disks,
}

/// A server's part in the grid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Being added.
    Joining,
    /// Takes part.
    Ready,
    /// Keeps what it has.
    Cordoned,
    /// Being emptied.
    Draining,
    /// Silent for a moment. Never agreed on: only whoever leads sees it, and shows it.
    Suspect,
    /// Not heard for `grid.lost_after`, by agreement. What it holds may still exist, and keeps its slots.
    Lost,
    /// Back, and what is too much there now is being put away. Then it is what it was before.
    Reconciling,
    /// No longer a member.
    Removed,
}

impl ServerState {
    /// It does its part now: one that has joined and was never started does not yet, one that is lost or was removed does
    /// not any more.
    #[must_use]
    pub fn takes_part(self) -> bool {
        match self {
            Self::Ready | Self::Cordoned | Self::Draining | Self::Suspect | Self::Reconciling => {
                true
            }
            Self::Joining | Self::Lost | Self::Removed => false,
        }
    }
}

/// Where a clock is that is not where it should be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Skew {
    /// Ahead of the others.
    Ahead,
    /// Behind them.
    Behind,
}
