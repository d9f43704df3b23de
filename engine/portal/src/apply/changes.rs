//! Which addresses a configuration gives another intent.

use std::collections::BTreeMap;

use coppice_schema::Desired;
use coppice_schema::ids::{Address, ServerName};
use coppice_state::entry::Intent;

/// What becomes of each address that differs between two configurations. What no address stands for, such as a rule
/// for servers that match a pattern, is the grid's.
pub(super) fn between(before: &Desired, after: &Desired) -> BTreeMap<Address, Intent> {
    let mut changes = BTreeMap::new();
    if before.grid != after.grid || before.moved != after.moved {
        changes.insert(Address::Grid, Intent::Set);
    }
    compare(&mut changes, &before.windows, &after.windows, |n| {
        Address::Window(n.clone())
    });
    compare(&mut changes, &before.networks, &after.networks, |n| {
        Address::Network(n.clone())
    });
    compare(&mut changes, &before.directories, &after.directories, |n| {
        Address::Directory(n.clone())
    });
    compare(&mut changes, &before.locations, &after.locations, |n| {
        Address::Location(n.clone())
    });
    compare(&mut changes, &before.images, &after.images, |n| {
        Address::Image(n.clone())
    });
    compare(&mut changes, &before.templates, &after.templates, |n| {
        Address::Template(n.clone())
    });
    compare(&mut changes, &before.policies, &after.policies, |n| {
        Address::Policy(n.clone())
    });
    compare(&mut changes, &before.pools, &after.pools, |n| {
        Address::Pool(n.clone())
    });
    servers(&mut changes, before, after);
    changes
}

fn compare<K: Ord, V: PartialEq>(
    changes: &mut BTreeMap<Address, Intent>,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    address: impl Fn(&K) -> Address,
) {
    for (name, block) in after {
        if before.get(name) != Some(block) {
            changes.insert(address(name), Intent::Set);
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(name)) {
        changes.insert(address(name), Intent::Removed);
    }
}

/// Server blocks are rules for servers that may exist without them: a rule that goes is another intent, not the end
/// of a server.
fn servers(changes: &mut BTreeMap<Address, Intent>, before: &Desired, after: &Desired) {
    let patterns = before.servers.keys().chain(after.servers.keys());
    for pattern in patterns.filter(|p| before.servers.get(*p) != after.servers.get(*p)) {
        let named: Result<ServerName, _> = pattern.parse();
        let address = named.map_or(Address::Grid, Address::Server);
        changes.insert(address, Intent::Set);
    }
}
