//! What is known of a grid: what its servers saw last, and what the grid remembers.
//!
//! Outside tests only `State::known()` makes a [`Known`]. Unknown is not absent: a server whose look is not
//! complete in this term says nothing about what it does not hold.

mod desktop;
mod server;
mod task;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::{Cache, Desired, Display, Firmware, NetworkTarget, Os, Video};
use crate::digest::Digest;
use crate::ids::{
    Address, DesktopId, Epoch, Generation, GridId, ImageName, Member, PoolName, Revision,
    SecretName, ServerId, Stamp, VersionName,
};
use crate::review::KnownRun;
use crate::units::{Size, Timestamp};

pub use desktop::{
    BrokenReason, Failures, KnownDesktop, MoveStep, Phase, SlotMemory, Stayed, Wear,
};
pub use server::{Capacity, Feature, KnownServer, ServerState, Skew};
pub use task::{Ending, Order, Task};

/// Everything a plan may look at beside the configuration and the time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// The grid.
    pub grid: GridId,
    /// Its life.
    pub epoch: Epoch,
    /// The committed revision.
    pub revision: Revision,
    /// What that revision asks for; the empty configuration at revision 0.
    pub committed: Desired,
    /// The generation of every address that has one.
    pub generations: BTreeMap<Address, Generation>,
    /// The members.
    pub servers: BTreeMap<ServerId, KnownServer>,
    /// The catalogue.
    pub images: BTreeMap<ImageName, BTreeMap<VersionName, ImageVersion>>,
    /// Desktops that the grid remembers.
    pub desktops: BTreeMap<DesktopId, KnownDesktop>,
    /// What is remembered of every slot that ever had a desktop.
    pub slots: BTreeMap<DesktopId, SlotMemory>,
    /// What people asked of single desktops, until it is ordered.
    pub requests: BTreeMap<DesktopId, Request>,
    /// When a desktop's domain was last written back after others had changed it; the last few, oldest first.
    pub repairs: BTreeMap<DesktopId, Vec<Timestamp>>,
    /// What servers were told and have not finished, by stamp.
    pub orders: BTreeMap<Stamp, Order>,
    /// Runs that are not finished, by the revision that began each.
    #[serde(default)]
    pub runs: BTreeMap<Revision, KnownRun>,
    /// Names of the secrets the grid holds, with their version.
    pub secrets: BTreeMap<SecretName, u64>,
    /// Objects that no one may act on until then; `None`: until resumed.
    pub pauses: BTreeMap<Address, Option<Timestamp>>,
    /// Objects that outlive their block until the protection is lifted.
    pub protections: BTreeSet<Address>,
    /// Of pools that protection alone keeps: the last form in which each wanted desktops, with what it refers to, where
    /// that is still remembered.
    #[serde(default)]
    pub kept: BTreeMap<PoolName, Desired>,
    /// Findings that carry memory: since when they have been seen.
    pub since: BTreeMap<String, Timestamp>,
}

impl Known {
    /// The disk of a desktop's present life, as its server saw it last; `None`: it was not seen.
    #[must_use]
    pub fn overlay(&self, desktop: &KnownDesktop) -> Option<&SeenOverlay> {
        let look = self.servers.get(&desktop.server)?.look.as_ref()?;
        look.members.get(&desktop.spec.member)?.overlay.as_ref()
    }
}

impl Known {
    /// Asks those desktops to move, and no others, as agreeing on it does.
    pub fn ask_to_move(&mut self, moves: &BTreeMap<Member, ServerId>) {
        self.requests
            .retain(|_, request| !matches!(request, Request::Move { .. }));
        for (member, to) in moves {
            let request = Request::Move {
                member: member.clone(),
                to: *to,
            };
            self.requests
                .entry(member.desktop.clone())
                .or_insert(request);
        }
    }
}

impl SeenOverlay {
    /// The most that it takes of the disk: at most twice what it does take.
    #[must_use]
    pub fn most(&self) -> Size {
        Size::mib(1u64 << self.bulk.min(40))
    }
}

/// What one server saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Look {
    /// Which start of its daemon.
    pub boot: u64,
    /// Which change since, counted from 1.
    pub sequence: u64,
    /// When the look that last changed anything was taken, by the entry's time.
    pub at: Timestamp,
    /// Desktops that carry our grid's mark.
    pub members: BTreeMap<Member, Seen>,
    /// Images on its disk, by root.
    pub images: BTreeMap<Digest, CopyState>,
    /// How full the disk of its overlays is.
    pub disk: DiskLevel,
    /// Domains that are not ours: listed, never touched.
    pub foreign: BTreeMap<String, Foreign>,
    /// Lives that carry our grid's mark from a former life of it, or from one that began apart, and that the grid does
    /// not remember: their slots are taken, and they are removed by a person's word only.
    #[serde(default)]
    pub quarantine: BTreeMap<Member, Quarantined>,
    /// Copies of personal desktops of other servers that are on its disk, whole.
    #[serde(default)]
    pub replicas: BTreeMap<Member, SeenReplica>,
    /// Whether its hypervisor answered. If not, `members` are the last ones known and mean nothing now.
    pub hypervisor: Health,
}

impl Look {
    /// Whether a life ends there by itself when the server is lost: it did not run when it was seen last, and is started
    /// only under the watchdog, or that held it.
    #[must_use]
    pub fn ends_itself(&self, member: &Member) -> bool {
        let seen = self.members.get(member);
        seen.and_then(|seen| seen.domain.as_ref())
            .is_none_or(|domain| {
                domain.guarded || matches!(domain.power, PowerState::Off | PowerState::Crashed)
            })
    }

    /// Whether a disk that is there is a clone of that image, or may be one: of what is in quarantine that is not known.
    #[must_use]
    pub fn needs_image(&self, root: Digest) -> bool {
        let disks = self
            .members
            .values()
            .filter_map(|seen| seen.overlay.as_ref());
        let mut disks = disks.map(|disk| disk.image);
        let mut replicas = self.replicas.values().map(|replica| replica.image);
        let mut apart = self.quarantine.values();
        disks.any(|image| image == root)
            || replicas.any(|image| image == root)
            || apart.any(|apart| apart.disk)
    }

    /// Whether another life of that desktop is there that makes no way for it: one in quarantine, a younger one, or one
    /// that runs.
    #[must_use]
    pub fn keeps_out(&self, member: &Member) -> bool {
        let mut others = self.members.iter().filter(|(other, seen)| {
            other.desktop == member.desktop && **other != *member && seen.domain.is_some()
        });
        let mut apart = self.quarantine.keys();
        apart.any(|other| other.desktop == member.desktop)
            || others.any(|(other, seen)| {
                let off = seen.domain.as_ref().is_some_and(|domain| {
                    matches!(domain.power, PowerState::Off | PowerState::Crashed)
                });
                other.incarnation > member.incarnation || !off
            })
    }

    /// Whether it shows a life that goes by a person's word only: one in quarantine, or a former one of a personal desktop.
    #[must_use]
    pub fn holds_apart(&self, member: &Member, present: Option<&KnownDesktop>) -> bool {
        let former = present
            .is_some_and(|desktop| desktop.personal && desktop.incarnation > member.incarnation);
        self.quarantine.contains_key(member) || former && self.members.contains_key(member)
    }
}

/// Whether a part answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does.
    Well,
    /// It does not; the reason in words.
    Away(String),
}

/// What was seen of one life of a desktop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// The hypervisor's object.
    pub domain: Option<SeenDomain>,
    /// The disk.
    pub overlay: Option<SeenOverlay>,
}

/// What was seen of a domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenDomain {
    /// Its UUID.
    pub uuid: uuid::Uuid,
    /// The order that last wrote it, from its mark.
    pub stamp: Stamp,
    /// Whether it runs.
    pub power: PowerState,
    /// The fields that we write, as they are.
    pub spec: DesktopSpec,
    /// The guest's answer.
    pub guest: GuestState,
    /// How many clients have one of its displays open; `None`: the hypervisor cannot tell.
    #[serde(default)]
    pub viewers: Option<u32>,
    /// It runs with older hardware than it is defined with.
    pub stale_until_reboot: bool,
    /// The server's watchdog ends it when the server may have been given up.
    #[serde(default)]
    pub guarded: bool,
}

/// What was seen of a copy of a personal desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenReplica {
    /// Root of the image that it is a clone of.
    pub image: Digest,
    /// What it holds is what the desktop's disk held then.
    pub taken: Timestamp,
    /// log2 of its size on the medium in MiB, rounded up.
    pub bulk: u8,
}

/// What was seen of an overlay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenOverlay {
    /// Root of the image it is a clone of.
    pub image: Digest,
    /// Whether it can be used.
    pub sound: bool,
    /// The order that made it, from the mark beside it.
    pub stamp: Stamp,
    /// Its size is beyond the template's `disk_limit`.
    pub over_limit: bool,
    /// log2 of its size on the medium in MiB, rounded up: enough to find the largest by, too coarse to be telemetry.
    pub bulk: u8,
}

/// Whether a domain runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// It runs.
    Running {
        /// Which start of it, so that a restart is not mistaken for running on.
        since: Timestamp,
    },
    /// It is off.
    Off,
    /// It stands still; the reason in words, such as a full disk.
    Paused(String),
    /// It ended without being asked.
    Crashed,
}

/// What the guest said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// Nothing, or it was not asked.
    Silent,
    /// It answers.
    Answers {
        /// Its host name.
        hostname: String,
        /// How many people are signed in, where it can tell.
        users: Option<u32>,
    },
}

/// A domain that is not ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Foreign {
    /// Its UUID.
    pub uuid: uuid::Uuid,
    /// The grid whose mark it carries, if any.
    pub grid: Option<GridId>,
}

/// A life of a desktop that is from another life of the grid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantined {
    /// Which life of the grid its mark names.
    pub epoch: Epoch,
    /// Whether its domain runs; `None`: it has none, there is a disk alone.
    pub power: Option<PowerState>,
    /// Whether its disk is there.
    pub disk: bool,
}

/// A copy of an image on one server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyState {
    /// On its way.
    Copying,
    /// Whole when every chunk was read back, which an import does; nothing that a glance shows has changed since.
    Verified,
    /// Present, and not what it should be.
    Bad,
    /// A part of it is here, and nothing brings the rest.
    Partial,
}

/// How full a disk is. The marks are those of the design: no new clones from 80 %, regrowing from 90 %.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskLevel {
    /// Below 80 %.
    #[default]
    Fine,
    /// From 80 %: no new clones.
    High,
    /// From 90 %: idle pooled desktops are regrown, the largest overlay first.
    Critical,
}

/// A version of an image in the catalogue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageVersion {
    /// BLAKE3 of the source's bytes.
    pub source: Digest,
    /// Root of the stored form's manifest.
    pub root: Digest,
    /// Virtual size of the disk.
    pub size: Size,
    /// Bytes that are not holes.
    pub data: Size,
    /// When it was imported.
    pub imported: Timestamp,
}

/// Something a person asks of one desktop. About another life than the present one, it means nothing any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start it again.
    Restart(Member),
    /// Grow it anew.
    Regrow(Member),
    /// Remove what is left on one server of a life that is in quarantine, with everything on its disk.
    Discard {
        /// The life.
        member: Member,
        /// Where.
        server: ServerId,
    },
    /// Grow another on that server, and let it go then: the load is to be levelled.
    Move {
        /// The life.
        member: Member,
        /// Where the other is grown.
        to: ServerId,
    },
}

impl Request {
    /// The life it is about.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Restart(member)
            | Self::Regrow(member)
            | Self::Discard { member, .. }
            | Self::Move { member, .. } => member,
        }
    }
}

/// Everything that one server needs to make one desktop: it chooses nothing itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DesktopSpec {
    /// The life.
    pub member: Member,
    /// The domain's UUID.
    pub uuid: uuid::Uuid,
    /// The guest's host name.
    pub hostname: String,
    /// Root of the image that its overlay is a clone of.
    pub image: Digest,
    /// Its hardware.
    pub hardware: Hardware,
}

/// The hardware of a desktop: alike for all clones of a pool on a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Hardware {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: Size,
    /// Virtual size of the disk.
    pub disk: Size,
    /// Size to which the overlay may grow.
    pub disk_limit: Option<Size>,
    /// Firmware.
    pub firmware: Firmware,
    /// Network cards in order.
    pub networks: Vec<NetworkTarget>,
    /// Displays of the hypervisor.
    pub displays: BTreeSet<Display>,
    /// Video hardware.
    pub video: Video,
    /// Host caching.
    pub cache: Cache,
    /// What runs in it.
    pub os: Os,
    /// A channel for the guest agent.
    pub agent: bool,
    /// XML merged into the domain.
    pub libvirt_xml: Option<String>,
}

impl Hardware {
    /// Whether a guest that runs with `other` runs with this: how far its disk may grow is the host's affair, and
    /// takes effect without a boot.
    #[must_use]
    pub fn runs_as(&self, other: &Self) -> bool {
        let disk_limit = self.disk_limit;
        *self
            == Self {
                disk_limit,
                ..other.clone()
            }
    }
}
