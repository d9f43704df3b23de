//! Which actions must be done before which: desktops follow the blocks that ask for them.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, PoolName};

use crate::plan::Action;

/// Notes in each action which of the earlier ones it needs. A block needs the blocks that it refers to, and a desktop
/// its pool and everything that the pool refers to; those that the plan does not change are there already.
pub(crate) fn note(desired: &Desired, actions: &mut [Action]) {
    let mut blocks: BTreeMap<Address, usize> = BTreeMap::new();
    for (index, action) in actions.iter().enumerate() {
        if action.step.is_none() && action.object.desktop().is_none() {
            blocks.insert(action.object.clone(), index);
        }
    }
    if blocks.is_empty() {
        return;
    }
    let places = |addresses: BTreeSet<Address>| -> Vec<usize> {
        let mut places: Vec<usize> = addresses
            .iter()
            .filter_map(|address| blocks.get(address).copied())
            .collect();
        places.sort_unstable();
        places
    };
    let mut of_pools: BTreeMap<PoolName, Vec<usize>> = BTreeMap::new();
    for (index, action) in actions.iter_mut().enumerate() {
        let needs = match &action.object {
            Address::Desktop(id) => of_pools
                .entry(id.pool.clone())
                .or_insert_with(|| {
                    let pool = Address::Pool(id.pool.clone());
                    let mut all = desired.references(&pool);
                    all.insert(pool);
                    places(all)
                })
                .clone(),
            Address::Pool(_) | Address::Template(_) => places(desired.references(&action.object)),
            Address::Grid
            | Address::Window(_)
            | Address::Network(_)
            | Address::Directory(_)
            | Address::Location(_)
            | Address::Image(_)
            | Address::Policy(_)
            | Address::Server(_)
            | Address::Secret(_) => Vec::new(),
        };
        action.needs = needs.into_iter().filter(|need| *need < index).collect();
    }
}
