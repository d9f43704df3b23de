//! Where a desktop goes: hard filters first, then the lowest dominant share after placing, ties by id.
//!
//! Every server is weighed, none is sampled. Desktops that are alike are placed as a batch: the servers are weighed once and
//! kept in a heap, which gives the same answers as weighing all of them for every desktop (a test holds it to that).
//! Pools are served the one with the largest desktops first, so that what is hard to place finds the most room.

mod batch;
mod even;
mod growth;
mod host;
mod session;
mod trace;

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::{Desired, Display, Firmware, Pool, ServerRule};
use coppice_schema::digest::Digest;
use coppice_schema::ids::{PoolName, ServerId};
use coppice_schema::known::{Hardware, KnownDesktop, KnownServer, Phase, Task};

pub(crate) use batch::Batch;
pub(crate) use even::survey as uneven;
pub use even::{WORTH, rebalance};
pub(crate) use growth::{of as growth, stored};
pub(crate) use host::{Host, Use, shares};
pub use session::{NoDesktop, ServerLoad, place_session};
pub use trace::placement;

/// What a desktop needs of a server.
pub(crate) struct Need<'a> {
    pub(crate) image: Digest,
    pub(crate) labels: &'a BTreeSet<String>,
    pub(crate) takes: Use,
    pub(crate) firmware: Firmware,
    pub(crate) displays: &'a BTreeSet<Display>,
}

/// What the servers carry, with what this plan adds.
#[derive(Clone)]
pub(crate) struct Ledger<'a> {
    /// In the order of their ids.
    hosts: Vec<Host<'a>>,
}

impl<'a> Ledger<'a> {
    /// What is there now: desktops that exist, and guests that are booting.
    pub(crate) fn new(desired: &Desired, known: &'a Known) -> Self {
        let servers = known.servers.iter();
        let hosts =
            servers.map(|(id, server)| Host::new(*id, server, rule(desired, server), known));
        let mut ledger = Self {
            hosts: hosts.collect(),
        };
        let starting: BTreeSet<_> = known
            .orders
            .values()
            .filter_map(|order| match &order.task {
                Task::Create { spec, start: true } | Task::Restore { spec, .. } => {
                    Some(&spec.member)
                }
                Task::Start { member } | Task::Restart { member, .. } => Some(member),
                Task::Create { .. }
                | Task::Redefine { .. }
                | Task::Stop { .. }
                | Task::Remove { .. }
                | Task::Receive { .. }
                | Task::Send { .. }
                | Task::Enter { .. }
                | Task::Stay { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. }
                | Task::CopyImage { .. } => None,
            })
            .collect();
        for order in known.orders.values() {
            if let Task::DropImage { root } = order.task {
                ledger.drops(order.server, root);
            }
        }
        for (id, desktop) in &known.desktops {
            // On its way it takes room at both ends.
            if let Phase::Migrating { from, to, spec, .. } = &desktop.phase {
                let other = if *to == desktop.server { *from } else { *to };
                ledger.take(other, &spec.hardware);
            }
            let Some(host) = ledger.host_mut(desktop.server) else {
                continue;
            };
            host.add(carried(known, desktop));
            host.people += u64::from(desktop.people());
            let member = id.member(desktop.incarnation);
            if starting.contains(&member) || matches!(desktop.phase, Phase::Provisioning { .. }) {
                host.power_ons += 1;
            }
        }
        ledger
    }

    pub(crate) fn hosts(&self) -> &[Host<'a>] {
        &self.hosts
    }

    pub(crate) fn host(&self, server: ServerId) -> Option<&Host<'a>> {
        let place = self.hosts.binary_search_by_key(&server, |host| host.id);
        self.hosts.get(place.ok()?)
    }

    fn host_mut(&mut self, server: ServerId) -> Option<&mut Host<'a>> {
        let place = self.hosts.binary_search_by_key(&server, |host| host.id);
        self.hosts.get_mut(place.ok()?)
    }

    /// A server's copy of an image goes: no desktop is put there that would need it.
    pub(crate) fn drops(&mut self, server: ServerId, root: Digest) {
        if let Some(host) = self.host_mut(server) {
            host.dropping.insert(root);
        }
    }

    /// Counts a desktop that this plan places.
    pub(crate) fn take(&mut self, server: ServerId, hardware: &Hardware) {
        if let Some(host) = self.host_mut(server) {
            host.add(Use::of(hardware));
        }
    }

    /// No longer counts a desktop that is there.
    pub(crate) fn leave(&mut self, known: &Known, desktop: &KnownDesktop) {
        if let Some(host) = self.host_mut(desktop.server) {
            host.less(carried(known, desktop));
            host.people = host.people.saturating_sub(u64::from(desktop.people()));
        }
    }

    /// Counts a desktop that is there as what it is to be.
    pub(crate) fn becomes(&mut self, known: &Known, desktop: &KnownDesktop, takes: Use) {
        if let Some(host) = self.host_mut(desktop.server) {
            let present = carried(known, desktop);
            host.less(present);
            host.add(Use {
                disk: present.disk.max(takes.disk),
                ..takes
            });
        }
    }

    /// Takes one of the server's power-ons, if there is one left.
    pub(crate) fn power_on(&mut self, server: ServerId) -> bool {
        self.host_mut(server).is_some_and(Host::power_on)
    }

    /// The most desktops that one server carries.
    pub(crate) fn most(&self) -> u32 {
        let each = self.hosts.iter().map(|host| host.desktops);
        each.max().unwrap_or(0)
    }
}

/// What a desktop that is there takes of its server.
pub(crate) fn carried(known: &Known, desktop: &KnownDesktop) -> Use {
    Use {
        disk: growth::of_desktop(known, desktop).0,
        ..Use::of(&desktop.spec.hardware)
    }
}

/// The pools, those with the largest desktops first: by the largest part of the whole grid that one of them takes. Ties
/// by name.
pub(crate) fn largest_first<'a>(
    desired: &'a Desired,
    known: &Known,
) -> Vec<(&'a PoolName, &'a Pool)> {
    let mut all = Use::default();
    for server in known.servers.values() {
        all.add(Use {
            cpus: u64::from(server.capacity.cpus),
            memory: server.capacity.memory.0,
            disk: server.capacity.disk.0,
        });
    }
    let size = |pool: &Pool| {
        let template = desired.templates.get(&pool.template);
        template.map_or(0, |template| {
            let disk = template.disk.unwrap_or_default().0;
            let takes = Use {
                cpus: u64::from(template.cpus),
                memory: template.memory.0,
                disk: template.disk_limit.map_or(disk, |limit| limit.0),
            };
            takes.largest_part(&all)
        })
    };
    let mut pools: Vec<_> = desired.pools.iter().collect();
    pools.sort_by_key(|(_, pool)| std::cmp::Reverse(size(pool)));
    pools
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
