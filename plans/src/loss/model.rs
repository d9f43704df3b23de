//! The grid as a plan leaves it, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{DesktopId, PoolName};
use coppice_schema::known::{KnownDesktop, Phase, ServerState, Task};

use super::play::{place_all, scarce};
use super::{Scarce, Shortfall};
use crate::copies::Awaited;
use crate::place::{self, Host, Ledger, Need, Use};
use crate::plan::{Action, Kind as Deed};
use crate::pool::Yard;

/// Virtual processors that one processor carries before people notice. What is placed is not held to it, for a desktop that
/// is slow is better than none; what is promised is.
const CPUS_PER_CPU: u64 = 10;

/// Desktops that are alike.
pub(super) struct Alike {
    pub(super) pool: PoolName,
    pub(super) takes: Use,
    wanted: u32,
    /// Slots beside those that the wanted desktops have.
    pub(super) slots: u32,
}

impl Alike {
    pub(super) fn short(&self, lost: BTreeSet<String>, desktops: u32, scarce: Scarce) -> Shortfall {
        Shortfall {
            lost,
            pool: self.pool.clone(),
            desktops,
            scarce,
        }
    }
}

/// A server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    capacity: Use,
    load: Use,
    people: u64,
    pub(super) room: Use,
    /// What is put on it that it does not have.
    over: Option<Scarce>,
    /// It may be lost: it holds something, or could.
    pub(super) member: bool,
    /// What it can carry, by kind.
    pub(super) fits: Vec<bool>,
    /// It would, if only it had the image.
    pub(super) lacks_image: Vec<bool>,
    /// What it holds and others would have to carry, by kind.
    pub(super) holds: Vec<u32>,
}

pub(super) struct Model {
    /// The largest first.
    pub(super) kinds: Vec<Alike>,
    pub(super) spots: Vec<Spot>,
    /// What each of them is called.
    pub(super) names: Vec<String>,
}

impl Model {
    /// The grid once `actions` are done, and copies have come where they are awaited; `Err`: what has no place even while all servers are there.
    pub(super) fn new(
        desired: &Desired,
        known: &Known,
        actions: &[Action],
        coming: Option<&Awaited>,
    ) -> Result<Self, Shortfall> {
        let mut ledger = Ledger::new(desired, known);
        for action in actions {
            if let (Some(server), Some(Task::DropImage { root })) =
                (action.server, action.step.as_ref().map(|step| &step.task))
            {
                ledger.drops(server, *root);
            }
        }
        let forms = crate::pool::kept_forms(desired, known);
        let kept = forms
            .iter()
            .filter_map(|(name, form)| Some((form, name, form.pools.get(name)?)));
        let own = place::largest_first(desired, known).into_iter();
        let own = own.filter(|(name, _)| !crate::pool::is_kept(desired, known, name));
        let yards = own.map(|(name, pool)| (desired, name, pool)).chain(kept);
        let yards = yards.filter_map(|(desired, name, pool)| {
            let yard = Yard::new(desired, known, name, pool)?;
            // What waits for its image is not grown, here or elsewhere.
            let image = yard.published().ok()?;
            Some((yard, yard.need(image), image.record.data.0))
        });
        let yards: Vec<(Yard<'_>, Need<'_>, u64)> = yards.collect();
        let gone: BTreeSet<&DesktopId> = actions
            .iter()
            .filter(|action| action.kind == Deed::Delete)
            .filter_map(|action| action.object.desktop())
            .collect();
        let index: BTreeMap<&PoolName, usize> = yards
            .iter()
            .enumerate()
            .map(|(k, (yard, ..))| (yard.name, k))
            .collect();
        let mut holds: BTreeMap<(usize, u64), u32> = BTreeMap::new();
        let mut staying = vec![0_u32; yards.len()];
        for (id, desktop) in &known.desktops {
            let kind = index.get(&id.pool).copied();
            // Where its server is being emptied, another is grown in its place.
            let server = known
                .servers
                .get(&desktop.server)
                .map(|server| server.state);
            let emptied = server == Some(ServerState::Draining) && !desktop.personal;
            let deleted = matches!(desktop.phase, Phase::Deleting { .. }) || gone.contains(id);
            let leaves = emptied || deleted;
            let out_of_reach = is_lost(known, desktop);
            if leaves && !out_of_reach {
                ledger.leave(known, desktop);
                continue;
            }
            let Some((kind, (yard, need, _))) = kind.and_then(|k| Some((k, yards.get(k)?))) else {
                continue;
            };
            if out_of_reach {
                // Another is wanted in place of a pooled one; a personal one comes back with its server.
                if let (true, Some(staying)) = (desktop.personal, staying.get_mut(kind)) {
                    *staying += 1;
                }
                continue;
            }
            if let Some(staying) = staying.get_mut(kind) {
                *staying += 1;
            }
            ledger.becomes(known, desktop, need.takes);
            if !desktop.personal || yard.pool.copies > 0 {
                *holds.entry((kind, desktop.server.0)).or_default() += 1;
            }
        }
        let mut model = Self::empty(&ledger, &yards, coming);
        let hosts = ledger.hosts();
        for ((kind, server), count) in holds {
            let place = hosts.iter().position(|host| host.id.0 == server);
            let spot = place.and_then(|place| model.spots.get_mut(place));
            if let Some(held) = spot.and_then(|spot| spot.holds.get_mut(kind)) {
                *held += count;
            }
        }
        for spot in &model.spots {
            let mut held = model.kinds.iter().zip(&spot.holds);
            let first = held.find(|(_, held)| **held > 0);
            if let (Some((alike, _)), Some(scarce)) = (first, spot.over) {
                return Err(alike.short(BTreeSet::new(), 1, scarce));
            }
        }
        let Self { kinds, spots, .. } = &mut model;
        for (kind, alike) in kinds.iter().enumerate() {
            let there = staying.get(kind).copied().unwrap_or(0);
            let missing = alike.wanted.saturating_sub(there);
            let placed = place_all(spots, kind, alike.takes, missing, &BTreeSet::new());
            for place in placed.places {
                let held = spots
                    .get_mut(place)
                    .and_then(|spot| spot.holds.get_mut(kind));
                held.into_iter().for_each(|held| *held += 1);
            }
            if placed.left > 0 {
                let scarce = scarce(spots, &BTreeSet::new(), kind, alike.takes);
                return Err(alike.short(BTreeSet::new(), placed.left, scarce));
            }
        }
        Ok(model)
    }

    fn empty(
        ledger: &Ledger<'_>,
        yards: &[(Yard<'_>, Need<'_>, u64)],
        coming: Option<&Awaited>,
    ) -> Self {
        let kinds = yards.iter().map(|(yard, need, _)| Alike {
            pool: yard.name.clone(),
            takes: need.takes,
            wanted: yard.pool.desktops,
            slots: yard
                .pool
                .slots
                .map_or(u32::MAX, |slots| slots.saturating_sub(yard.pool.desktops)),
        });
        let kinds: Vec<Alike> = kinds.collect();
        let spots = ledger.hosts().iter().map(|host| {
            let mut images: BTreeMap<coppice_schema::Digest, u64> = BTreeMap::new();
            let mut fits = |(_, need, data): &(Yard<'_>, Need<'_>, u64)| {
                let able = host.unfit(need).is_none();
                let comes = coming.is_some_and(|all| all.wait(need.image, host.id).is_some());
                if able && comes && !host.holds(need) {
                    images.insert(need.image, *data);
                }
                (
                    able && (comes || host.holds(need)),
                    able && !comes && !host.holds(need),
                )
            };
            let (fits, lacks_image) = yards.iter().map(&mut fits).unzip();
            let mut load = host.load;
            load.disk = images
                .values()
                .fold(load.disk, |sum, data| sum.saturating_add(*data));
            Spot::new(host, load, fits, lacks_image, kinds.len())
        });
        let spots = spots.collect();
        let names = ledger
            .hosts()
            .iter()
            .map(|host| host.server.name.to_string());
        Self {
            kinds,
            spots,
            names: names.collect(),
        }
    }
}

impl Spot {
    fn new(
        host: &Host<'_>,
        load: Use,
        fits: Vec<bool>,
        lacks_image: Vec<bool>,
        kinds: usize,
    ) -> Self {
        let capacity = &host.server.capacity;
        let limit = host.limit(CPUS_PER_CPU);
        let mut room = limit;
        room.less(load);
        let over = if load.memory > capacity.memory.0 {
            Some(Scarce::Memory)
        } else if capacity.disk.0 > 0 && load.disk > capacity.disk.0 {
            Some(Scarce::Disk)
        } else {
            (load.cpus > limit.cpus).then_some(Scarce::Processors)
        };
        Self {
            over,
            // Where there are fewer people than processors of desktops serve, they weigh nothing now or later.
            people: if host.people < 2 * load.cpus {
                0
            } else {
                host.people
            },
            capacity: Use {
                cpus: u64::from(capacity.cpus),
                memory: capacity.memory.0,
                disk: capacity.disk.0,
            },
            load,
            room,
            member: host.server.state.takes_part(),
            fits,
            lacks_image,
            holds: vec![0; kinds],
        }
    }

    pub(super) fn fit(&self, kind: usize) -> bool {
        self.fits.get(kind) == Some(&true)
    }

    pub(super) fn held(&self, kind: usize) -> u32 {
        self.holds.get(kind).copied().unwrap_or(0)
    }

    pub(super) fn can(&self, kind: usize, takes: Use) -> bool {
        let room = &self.room;
        self.fit(kind)
            && takes.cpus <= room.cpus
            && takes.memory <= room.memory
            && takes.disk <= room.disk
    }

    pub(super) fn take(&mut self, takes: Use) {
        self.load.add(takes);
        self.room.less(takes);
    }

    /// As placement weighs it.
    pub(super) fn weight(&self, takes: Use) -> u64 {
        place::shares(self.capacity, self.load, takes, self.people + 1).dominant()
    }
}

/// Its server is lost, or what it holds is not known any more.
fn is_lost(known: &Known, desktop: &KnownDesktop) -> bool {
    let server = known.servers.get(&desktop.server);
    let gone = server
        .is_none_or(|server| matches!(server.state, ServerState::Lost | ServerState::Removed));
    gone || matches!(desktop.phase, Phase::Unknown { .. })
}
