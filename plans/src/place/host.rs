//! One server as a place for desktops.

use std::collections::BTreeSet;

use coppice_schema::desired::{Display, Firmware, ServerRule};
use coppice_schema::ids::ServerId;
use coppice_schema::known::{CopyState, DiskLevel, Feature, Hardware, KnownServer, ServerState};
use coppice_schema::units::Size;
use coppice_schema::{Digest, Known};

use super::{Need, growth};
use crate::placement::{Lack, Shares};

/// Guests that may boot at once, per processor. A boot keeps about one processor busy; twice that keeps the queue
/// filled while disks are waited for, and leaves people's desktops responsive.
const POWER_ONS_PER_CPU: u32 = 2;

/// People that a processor serves well: somebody at work keeps less than half of one busy. It weighs where guests serve
/// many at once; of a desktop for one person the processors that it has are the larger share.
const PEOPLE_PER_CPU: u64 = 2;

/// Parts in which shares are counted.
pub(crate) const WHOLE: u64 = 1_000_000;

/// What a desktop takes of a server, or what all of them do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Use {
    pub(crate) cpus: u64,
    /// In bytes.
    pub(crate) memory: u64,
    /// Bytes that images take, and that desktops may come to take.
    pub(crate) disk: u64,
}

impl Use {
    /// What a new desktop takes.
    pub(crate) fn of(hardware: &Hardware) -> Self {
        Self {
            cpus: u64::from(hardware.cpus),
            memory: hardware.memory.0,
            disk: growth::of(hardware).0,
        }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.cpus = self.cpus.saturating_add(more.cpus);
        self.memory = self.memory.saturating_add(more.memory);
        self.disk = self.disk.saturating_add(more.disk);
    }

    pub(crate) fn less(&mut self, gone: Self) {
        self.cpus = self.cpus.saturating_sub(gone.cpus);
        self.memory = self.memory.saturating_sub(gone.memory);
        self.disk = self.disk.saturating_sub(gone.disk);
    }

    /// The larger of both, in each part.
    pub(crate) fn larger(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.max(other.cpus),
            memory: self.memory.max(other.memory),
            disk: self.disk.max(other.disk),
        }
    }

    /// How often `one` goes into it.
    pub(crate) fn times(&self, one: Self) -> u64 {
        let into = |all: u64, one: u64| all.checked_div(one).unwrap_or(u64::MAX);
        let limits = into(self.memory, one.memory).min(into(self.disk, one.disk));
        limits.min(into(self.cpus, one.cpus))
    }

    /// The largest of its parts of `all`; what there is nothing of, or of unknown size, is no part.
    pub(crate) fn largest_part(&self, all: &Self) -> u64 {
        let of = |part, whole| if whole == 0 { 0 } else { share(part, whole) };
        let limits = of(self.memory, all.memory).max(of(self.disk, all.disk));
        limits.max(of(self.cpus, all.cpus))
    }
}

/// `part` of `whole` in parts of a million. Sizes are compared by the KiB, so that no division needs 128 bits below 16 PiB.
fn share(part: u64, whole: u64) -> u64 {
    match part.checked_mul(WHOLE) {
        Some(millions) => millions / whole.max(1),
        None => (part >> 10).saturating_mul(WHOLE) / (whole >> 10).max(1),
    }
}

/// How much of a server with `all` is taken by `load`, `more` and so many people.
pub(crate) fn shares(all: Use, mut load: Use, more: Use, people: u64) -> Shares {
    load.add(more);
    let cpus = all.cpus.max(1);
    Shares {
        cpus: share(load.cpus, cpus),
        memory: share(load.memory, all.memory),
        disk: match all.disk {
            0 => 0,
            all => share(load.disk, all),
        },
        sessions: share(people, cpus * PEOPLE_PER_CPU),
    }
}

/// A server, what it carries, and what this plan adds.
#[derive(Clone)]
pub(crate) struct Host<'a> {
    pub(crate) id: ServerId,
    pub(crate) server: &'a KnownServer,
    pub(crate) rule: ServerRule,
    pub(crate) load: Use,
    pub(crate) people: u64,
    pub(crate) desktops: u32,
    pub(super) power_ons: u32,
    power_ons_max: u32,
    /// Images that it was told to drop.
    pub(super) dropping: BTreeSet<Digest>,
}

impl<'a> Host<'a> {
    /// A server without desktops.
    pub(super) fn new(
        id: ServerId,
        server: &'a KnownServer,
        rule: ServerRule,
        known: &Known,
    ) -> Self {
        let cpus = server.capacity.cpus;
        Self {
            id,
            server,
            rule,
            load: Use {
                disk: growth::stored(known, server).0,
                ..Use::default()
            },
            people: 0,
            desktops: 0,
            power_ons: 0,
            dropping: BTreeSet::new(),
            power_ons_max: cpus
                .saturating_mul(POWER_ONS_PER_CPU)
                .max(POWER_ONS_PER_CPU),
        }
    }

    pub(crate) fn add(&mut self, takes: Use) {
        self.load.add(takes);
        self.desktops += 1;
    }

    pub(crate) fn less(&mut self, gone: Use) {
        self.load.less(gone);
        self.desktops = self.desktops.saturating_sub(1);
    }

    pub(super) fn power_on(&mut self) -> bool {
        let left = self.power_ons < self.power_ons_max;
        self.power_ons += u32::from(left);
        left
    }

    /// How much of it is taken with `more` there, and `people` more of its people.
    pub(crate) fn shares(&self, more: Use, people: u64) -> Shares {
        let capacity = &self.server.capacity;
        let all = Use {
            cpus: u64::from(capacity.cpus),
            memory: capacity.memory.0,
            disk: capacity.disk.0,
        };
        shares(all, self.load, more, self.people.saturating_add(people))
    }

    /// What servers are compared by: the largest share with one more desktop there, and somebody at it.
    pub(crate) fn weight(&self, takes: Use) -> u64 {
        self.shares(takes, 1).dominant()
    }

    /// The first filter that it does not pass for such a desktop, the image's copy last.
    pub(crate) fn lacks(&self, need: &Need<'_>) -> Option<Lack> {
        self.unfit(need)
            .or_else(|| self.full(need.takes))
            .or_else(|| (!self.holds(need)).then_some(Lack::Image))
    }

    /// Whether it has a verified copy of the image, and keeps it.
    pub(crate) fn holds(&self, need: &Need<'_>) -> bool {
        let look = self.server.look.as_ref();
        let copy = look.and_then(|look| look.images.get(&need.image));
        copy == Some(&CopyState::Verified) && !self.dropping.contains(&need.image)
    }

    /// What keeps such desktops from it however few it carries.
    pub(crate) fn unfit(&self, need: &Need<'_>) -> Option<Lack> {
        let server = self.server;
        if server.state != ServerState::Ready {
            return Some(Lack::Part {
                state: server.state,
            });
        }
        if self.rule.cordon {
            return Some(Lack::Cordoned);
        }
        let Some(look) = server.look.as_ref().filter(|_| server.current) else {
            return Some(Lack::NotSeen);
        };
        let has =
            |label: &String| server.labels.contains(label) || self.rule.labels.contains(label);
        if !need.labels.iter().all(has) {
            let missing: BTreeSet<String> = need
                .labels
                .iter()
                .filter(|label| !has(label))
                .cloned()
                .collect();
            return Some(Lack::Labels { missing });
        }
        let missing = |feature: &Feature| server.capacity.missing.contains(feature);
        if let Some(feature) = needed(need).into_iter().flatten().find(missing) {
            return Some(Lack::Feature { feature });
        }
        (look.disk != DiskLevel::Fine).then_some(Lack::DiskFilling)
    }

    /// What there is too little of, beside what it carries and what is kept free. Where the size of the disk is not
    /// known, only how full it is counts.
    pub(crate) fn full(&self, takes: Use) -> Option<Lack> {
        let room = self.room();
        if takes.disk > room.disk {
            return Some(Lack::Disk {
                left: Size(room.disk),
                needed: Size(takes.disk),
                kept: self.rule.keep_free_disk,
            });
        }
        (takes.memory > room.memory).then_some(Lack::Memory {
            left: Size(room.memory),
            needed: Size(takes.memory),
            kept: self.rule.keep_free_memory,
        })
    }

    /// What is left of memory and disk.
    fn room(&self) -> Use {
        let mut room = self.limit(u64::MAX);
        room.less(self.load);
        room
    }

    /// What all desktops together, and images, may take, with so many virtual processors on each. Of a disk whose size
    /// is not known, any part.
    pub(crate) fn limit(&self, cpus_per_cpu: u64) -> Use {
        let capacity = &self.server.capacity;
        let rule = &self.rule;
        Use {
            cpus: u64::from(capacity.cpus).saturating_mul(cpus_per_cpu),
            memory: capacity.memory.0.saturating_sub(rule.keep_free_memory.0),
            disk: match capacity.disk.0 {
                0 => u64::MAX,
                all => all.saturating_sub(rule.keep_free_disk.0),
            },
        }
    }
}

/// What the hypervisor must be able to do.
fn needed(need: &Need<'_>) -> [Option<Feature>; 2] {
    let firmware = match need.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(Feature::Uefi),
        Firmware::UefiSecure => Some(Feature::SecureBoot),
    };
    let spice = need.displays.contains(&Display::Spice);
    [firmware, spice.then_some(Feature::Spice)]
}
