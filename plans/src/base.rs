//! What a plan read, so that a change of it makes the plan stale, and of nothing else.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, PoolName};
use coppice_schema::known::Task;

use crate::plan::{Action, Base, Intent, Kind, Risk};

/// A person's plan reads what it changes, the pools that it disrupts, and what those refer to; of desktops only those
/// whose data it destroys, for others come and go by themselves. A round's plan reads each desktop that it gives an
/// order for, and its pool.
pub(crate) fn read(
    desired: &Desired,
    known: &Known,
    changes: &BTreeMap<Address, Intent>,
    actions: &[Action],
) -> Base {
    let mut read: BTreeSet<Address> = BTreeSet::new();
    for address in changes.keys() {
        read.insert(address.clone());
        read.extend(desired.references(address));
    }
    let round = changes.is_empty();
    let mut pools: BTreeSet<&PoolName> = BTreeSet::new();
    let mut disrupted = false;
    let mut placed = false;
    for (action, step) in actions.iter().filter_map(|a| Some((a, a.step.as_ref()?))) {
        if let Task::DropImage { root } = &step.task
            && round
        {
            let named = known.images.iter().filter(|(_, versions)| {
                let mut versions = versions.values();
                versions.any(|version| version.root == *root)
            });
            read.extend(named.map(|(name, _)| Address::Image(name.clone())));
        }
        let disruptive = action.risk >= Risk::Disruptive;
        if let Address::Desktop(id) = &action.object {
            if round || disruptive {
                pools.insert(&id.pool);
            }
            disrupted |= disruptive;
            placed |= action.kind == Kind::Create;
        }
        if round || action.risk == Risk::DataLoss {
            read.insert(action.object.clone());
        }
    }
    for pool in pools {
        let address = Address::Pool(pool.clone());
        read.extend(desired.references(&address));
        read.insert(address);
    }
    if disrupted {
        // They say whether it is refused.
        let freezes = desired.windows.iter().filter(|(_, window)| window.deny);
        read.extend(freezes.map(|(name, _)| Address::Window(name.clone())));
    }
    // What hours mean is said by the grid's time zone, and where desktops are put by the rules for servers.
    let hours = read
        .iter()
        .any(|address| matches!(address, Address::Window(_)));
    if hours || placed && !desired.servers.is_empty() {
        read.insert(Address::Grid);
    }
    let generation = |address: Address| {
        let generation = known.generations.get(&address).copied();
        (address, generation.unwrap_or_default())
    };
    Base {
        revision: known.revision,
        objects: read.into_iter().map(generation).collect(),
    }
}
