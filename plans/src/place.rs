//! Where a desktop goes: hard filters first, then the lowest dominant share after placing, ties by id.
//!
//! Every server is looked at for every desktop: at 500 servers that costs microseconds, and an exact choice can be
//! explained.

mod growth;

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::{Desired, Display, Firmware, ServerRule};
use coppice_schema::digest::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::{
    CopyState, DiskLevel, Feature, Hardware, KnownServer, Phase, ServerState, Task,
};
use coppice_schema::units::Size;

pub(crate) use growth::{of as growth, stored};

/// Guests that may boot at once, per processor. A boot keeps about one processor busy; twice that keeps the queue
/// filled while disks are waited for, and leaves people's desktops responsive.
const POWER_ONS_PER_CPU: u32 = 2;

/// What a desktop needs of a server.
pub(crate) struct Need<'a> {
    pub(crate) image: Digest,
    pub(crate) labels: &'a BTreeSet<String>,
    /// The hardware as it would be on each server: networks may be mapped otherwise.
    pub(crate) cpus: u32,
    pub(crate) memory: Size,
    /// What it may grow to on the disk.
    pub(crate) disk: Size,
    pub(crate) firmware: Firmware,
    pub(crate) displays: &'a BTreeSet<Display>,
}

/// What the servers carry, with what this plan adds.
pub(crate) struct Ledger {
    loads: BTreeMap<ServerId, Load>,
}

#[derive(Clone, Default)]
struct Load {
    cpus: u64,
    memory: u64,
    /// Bytes that images take, and that desktops may come to take.
    disk: u64,
    desktops: u32,
    power_ons: u32,
    power_ons_max: u32,
}

/// Why a server cannot take a desktop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lacks {
    Image,
    Labels,
    Memory,
    /// Its disk is filling, whatever was promised of it.
    Disk,
    /// So much of its disk is not promised yet, where a desktop may come to take so much.
    Growth {
        left: Size,
        needed: Size,
        kept: Size,
    },
    Feature(Feature),
    Part,
}

impl Lacks {
    fn words(&self) -> String {
        match self {
            Self::Image => "has no verified copy of the image".to_owned(),
            Self::Labels => "has other labels".to_owned(),
            Self::Memory => "has too little free memory".to_owned(),
            Self::Disk => "has a disk that is more than 80 % full".to_owned(),
            Self::Growth { left, needed, kept } => {
                let kept = match kept.0 {
                    0 => String::new(),
                    _ => format!(" beside the {} that it keeps free", kept.rounded()),
                };
                format!(
                    "has {} of disk left{kept}, and a desktop may grow to {}",
                    left.rounded(),
                    needed.rounded()
                )
            }
            Self::Feature(feature) => format!("has no {feature:?}").to_lowercase(),
            Self::Part => "takes no new desktops".to_owned(),
        }
    }
}

impl Ledger {
    /// What is there now: desktops that exist, and guests that are booting.
    pub(crate) fn new(known: &Known) -> Self {
        let mut loads: BTreeMap<ServerId, Load> = BTreeMap::new();
        for (id, server) in &known.servers {
            let power_ons_max = (server.capacity.cpus * POWER_ONS_PER_CPU).max(POWER_ONS_PER_CPU);
            loads.insert(
                *id,
                Load {
                    power_ons_max,
                    disk: growth::stored(known, server).0,
                    ..Load::default()
                },
            );
        }
        let starting: BTreeSet<_> = known
            .orders
            .values()
            .filter_map(|order| match &order.task {
                Task::Create { spec, start: true } => Some(&spec.member),
                Task::Start { member } | Task::Restart { member, .. } => Some(member),
                Task::Create { .. }
                | Task::Redefine { .. }
                | Task::Stop { .. }
                | Task::Remove { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. }
                | Task::CopyImage { .. } => None,
            })
            .collect();
        for (id, desktop) in &known.desktops {
            let Some(load) = loads.get_mut(&desktop.server) else {
                continue;
            };
            load.add(&desktop.spec.hardware, growth::of_desktop(known, desktop));
            let member = id.member(desktop.incarnation);
            if starting.contains(&member) || matches!(desktop.phase, Phase::Provisioning { .. }) {
                load.power_ons += 1;
            }
        }
        Self { loads }
    }

    /// The best server, or what each of them lacks.
    pub(crate) fn place(
        &self,
        desired: &Desired,
        known: &Known,
        need: &Need<'_>,
    ) -> Result<ServerId, BTreeSet<String>> {
        let mut lacking = BTreeSet::new();
        let mut best: Option<(u64, ServerId)> = None;
        for (id, server) in &known.servers {
            let load = self.loads.get(id).cloned().unwrap_or_default();
            match lacks(desired, server, &load, need) {
                Some(lack) => {
                    lacking.insert(format!("{} {}", server.name, lack.words()));
                }
                None => {
                    let share = load.dominant_share(server, need);
                    if best.is_none_or(|(lowest, _)| share < lowest) {
                        best = Some((share, *id));
                    }
                }
            }
        }
        best.map(|(_, id)| id).ok_or(lacking)
    }

    /// Counts a desktop that this plan places.
    pub(crate) fn take(&mut self, server: ServerId, hardware: &Hardware) {
        if let Some(load) = self.loads.get_mut(&server) {
            load.add(hardware, growth::of(hardware));
        }
    }

    /// Takes one of the server's power-ons, if there is one left.
    pub(crate) fn power_on(&mut self, server: ServerId) -> bool {
        let Some(load) = self.loads.get_mut(&server) else {
            return false;
        };
        if load.power_ons >= load.power_ons_max {
            return false;
        }
        load.power_ons += 1;
        true
    }

    /// The most desktops that one server carries.
    pub(crate) fn most(&self) -> u32 {
        self.loads
            .values()
            .map(|load| load.desktops)
            .max()
            .unwrap_or(0)
    }
}

impl Load {
    fn add(&mut self, hardware: &Hardware, disk: Size) {
        self.cpus += u64::from(hardware.cpus);
        self.memory += hardware.memory.0;
        self.disk = self.disk.saturating_add(disk.0);
        self.desktops += 1;
    }

    /// The largest of the shares of processors, memory and disk, in parts of a million, with `need` added. Processors
    /// are shared, so more than all of them is only a high share; memory and disk are limits. A disk of unknown size
    /// has no share.
    fn dominant_share(&self, server: &KnownServer, need: &Need<'_>) -> u64 {
        let part = |used: u64, all: u64| {
            let millions = u128::from(used) * 1_000_000 / u128::from(all.max(1));
            u64::try_from(millions).unwrap_or(u64::MAX)
        };
        let cpus = part(
            self.cpus + u64::from(need.cpus),
            u64::from(server.capacity.cpus),
        );
        let memory = part(self.memory + need.memory.0, server.capacity.memory.0);
        let disk = match server.capacity.disk.0 {
            0 => 0,
            all => part(self.disk.saturating_add(need.disk.0), all),
        };
        cpus.max(memory).max(disk)
    }
}

fn lacks(desired: &Desired, server: &KnownServer, load: &Load, need: &Need<'_>) -> Option<Lacks> {
    let rule = rule(desired, server);
    if server.state != ServerState::Ready || !server.current || rule.cordon {
        return Some(Lacks::Part);
    }
    if !need
        .labels
        .iter()
        .all(|label| server.labels.contains(label) || rule.labels.contains(label))
    {
        return Some(Lacks::Labels);
    }
    let missing = |feature| server.capacity.missing.contains(&feature);
    let feature = match need.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(Feature::Uefi),
        Firmware::UefiSecure => Some(Feature::SecureBoot),
    };
    let spice = need
        .displays
        .contains(&Display::Spice)
        .then_some(Feature::Spice);
    if let Some(feature) = feature
        .into_iter()
        .chain(spice)
        .find(|feature| missing(*feature))
    {
        return Some(Lacks::Feature(feature));
    }
    let look = server.look.as_ref()?;
    if look.disk != DiskLevel::Fine {
        return Some(Lacks::Disk);
    }
    if let Some(lack) = lacks_growth(server, &rule, load, need) {
        return Some(lack);
    }
    let allowed = server
        .capacity
        .memory
        .0
        .saturating_sub(rule.keep_free_memory.0);
    if load.memory.saturating_add(need.memory.0) > allowed {
        return Some(Lacks::Memory);
    }
    (look.images.get(&need.image) != Some(&CopyState::Verified)).then_some(Lacks::Image)
}

/// Whether what the desktop may grow to fits beside what the disk is promised for, with `keep_free_disk` left. Where
/// the size of the disk is not known, only how full it is counts.
fn lacks_growth(
    server: &KnownServer,
    rule: &ServerRule,
    load: &Load,
    need: &Need<'_>,
) -> Option<Lacks> {
    let all = server.capacity.disk.0;
    let left = all
        .saturating_sub(rule.keep_free_disk.0)
        .saturating_sub(load.disk);
    (all > 0 && need.disk.0 > left).then_some(Lacks::Growth {
        left: Size(left),
        needed: need.disk,
        kept: rule.keep_free_disk,
    })
}

/// The rules of all `server` blocks whose pattern matches, taken together: the strictest of each.
pub(crate) fn rule(desired: &Desired, server: &KnownServer) -> ServerRule {
    let mut all = ServerRule::default();
    for rule in desired
        .servers
        .iter()
        .filter(|(pattern, _)| matches(pattern, server.name.as_str()))
        .map(|(_, r)| r)
    {
        all.labels.extend(rule.labels.iter().cloned());
        all.keep_free_memory = all.keep_free_memory.max(rule.keep_free_memory);
        all.keep_free_disk = all.keep_free_disk.max(rule.keep_free_disk);
        all.cordon |= rule.cordon;
    }
    all
}

/// Whether `name` matches `pattern`, in which `*` stands for any text and `?` for any one character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go back to: the last star, and how much of the name it has taken.
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                back = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == name.get(n) => (p, n) = (p + 1, n + 1),
            Some(_) | None => match back {
                Some((star, taken)) => {
                    (p, n) = (star + 1, taken + 1);
                    back = Some((star, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("s1", "s1", true),
            ("s1", "s11", false),
            ("s*", "s11", true),
            ("*", "anything", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "a-b-c", true),
            ("*-lab", "s1-lab", true),
            ("s?", "s1", true),
            ("s?", "s", false),
            ("*a?c*", "xxabcxx", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
