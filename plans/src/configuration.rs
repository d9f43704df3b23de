//! What a configuration changes of the committed one: objects, and attributes by their path in the language.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::Address;
use serde::Serialize;
use serde_json::Value;

use crate::draft::Draft;
use crate::plan::{Action, Applies, Edit, Impact, Intent, Kind, Reason, Risk};

/// Every object of a configuration, as plain values. Sensitive attributes are only names of secrets, so nothing
/// secret can appear here.
fn objects(desired: &Desired) -> BTreeMap<Address, Value> {
    fn all<'a, K: Clone + 'a, V: Serialize + 'a>(
        into: &mut BTreeMap<Address, Value>,
        from: impl IntoIterator<Item = (&'a K, &'a V)>,
        address: impl Fn(K) -> Address,
    ) {
        for (name, value) in from {
            into.insert(
                address(name.clone()),
                serde_json::to_value(value).unwrap_or(Value::Null),
            );
        }
    }
    let mut objects = BTreeMap::new();
    all(&mut objects, &desired.windows, Address::Window);
    all(&mut objects, &desired.networks, Address::Network);
    all(&mut objects, &desired.directories, Address::Directory);
    all(&mut objects, &desired.locations, Address::Location);
    all(&mut objects, &desired.images, Address::Image);
    all(&mut objects, &desired.templates, Address::Template);
    all(&mut objects, &desired.policies, Address::Policy);
    all(&mut objects, &desired.pools, Address::Pool);
    let mut grid = serde_json::to_value(&desired.grid).unwrap_or(Value::Null);
    if let Value::Object(grid) = &mut grid {
        if !desired.servers.is_empty() {
            grid.insert(
                "server".to_owned(),
                serde_json::to_value(&desired.servers).unwrap_or(Value::Null),
            );
        }
        if !desired.moved.is_empty() {
            grid.insert(
                "moved".to_owned(),
                serde_json::to_value(&desired.moved).unwrap_or(Value::Null),
            );
        }
    }
    objects.insert(Address::Grid, grid);
    objects
}

/// Puts what changes into the plan, and returns it by address.
pub(crate) fn compare(
    desired: &Desired,
    known: &Known,
    draft: &mut Draft<'_>,
) -> BTreeMap<Address, Intent> {
    if *desired == known.committed {
        return BTreeMap::new();
    }
    let (before, after) = (objects(&known.committed), objects(desired));
    let mut changes = BTreeMap::new();
    for (address, value) in &after {
        let old = before.get(address);
        if old == Some(value) {
            continue;
        }
        changes.insert(address.clone(), Intent::Set);
        let kind = if old.is_some() {
            Kind::Update
        } else {
            Kind::Create
        };
        let reason = if old.is_some() {
            Reason::AttributesChanged
        } else {
            Reason::NotPresent
        };
        let edits = edits(address, old.unwrap_or(&Value::Null), value);
        draft
            .actions
            .push(action(address.clone(), kind, reason, edits));
    }
    for (address, value) in before
        .iter()
        .filter(|(address, _)| !after.contains_key(*address))
    {
        changes.insert(address.clone(), Intent::Removed);
        let edits = edits(address, value, &Value::Null);
        draft.actions.push(action(
            address.clone(),
            Kind::Delete,
            Reason::RemovedFromConfig,
            edits,
        ));
    }
    changes
}

fn action(object: Address, kind: Kind, reason: Reason, edits: Vec<Edit>) -> Action {
    Action {
        object,
        kind,
        server: None,
        needs: Vec::new(),
        wave: 0,
        reason,
        // What it means for desktops stands in the actions on them.
        risk: Risk::Safe,
        reversible: true,
        impact: Impact::default(),
        waits: Vec::new(),
        edits,
        step: None,
    }
}

fn edits(address: &Address, before: &Value, after: &Value) -> Vec<Edit> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    flatten(before, String::new(), &mut old);
    flatten(after, String::new(), &mut new);
    if matches!(address, Address::Pool(_)) {
        // The merged policy repeats what the policies' own actions say.
        old.retain(|path, _| !path.starts_with("policy."));
        new.retain(|path, _| !path.starts_with("policy."));
    }
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .map(|path| Edit {
            path: path.clone(),
            before: old.get(path).cloned(),
            after: new.get(path).cloned(),
            applies: applies(address, path),
        })
        .collect()
}

fn flatten(value: &Value, path: String, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(value, path, into);
            }
        }
        Value::String(text) => {
            into.insert(path, text.clone());
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            into.insert(path, format!("[{}]", items.join(", ")));
        }
        Value::Bool(_) | Value::Number(_) => {
            into.insert(path, value.to_string());
        }
    }
}

fn plain(value: &Value) -> String {
    if let Value::String(text) = value {
        text.clone()
    } else {
        value.to_string()
    }
}

/// When a change of an attribute reaches a desktop. The language's table says so for what an admin writes.
fn applies(address: &Address, path: &str) -> Applies {
    if !matches!(address, Address::Template(_)) {
        return Applies::Live;
    }
    match path.split('.').next().unwrap_or_default() {
        "cpus" | "memory" | "displays" | "video" | "cache" | "libvirt_xml" => Applies::NextBoot,
        "image" | "disk" | "firmware" | "tpm" | "networks" | "guest" => Applies::Regrow,
        _ => Applies::Live,
    }
}
