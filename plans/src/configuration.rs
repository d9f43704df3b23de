//! What a configuration changes of the committed one: objects, and attributes by their path in the language.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::Address;
use coppice_schema::table::{self, TakesEffect};
use coppice_schema::units::{Size, Span};
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
    flatten(address, before, String::new(), &mut old);
    flatten(address, after, String::new(), &mut new);
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

fn flatten(address: &Address, value: &Value, path: String, into: &mut BTreeMap<String, String>) {
    if let Some(share) = share(value) {
        into.insert(path, share);
        return;
    }
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(address, value, path, into);
            }
        }
        Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            let path = attribute(&path);
            let text = words(address, &path, value);
            into.insert(path, text);
        }
    }
}

/// A part of a pool, as the language writes it.
fn share(value: &Value) -> Option<String> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let percent = fields.get("percent").map(|n| format!("{n}%"));
    percent.or_else(|| fields.get("count").map(Value::to_string))
}

/// The attribute as the language calls it, where the resolved form has another shape.
fn attribute(path: &str) -> String {
    match path {
        "displays" => "display".to_owned(),
        "networks" => "network".to_owned(),
        "origin.version" => "version".to_owned(),
        "origin.source.path" => "source".to_owned(),
        "origin.source.digest" => "digest of the source".to_owned(),
        other => other.strip_prefix("target.").unwrap_or(other).to_owned(),
    }
}

/// A value as the language writes it.
fn words(address: &Address, path: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| words(address, path, item))
                .collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(number) => match (number.as_u64(), kind(address, path)) {
            (Some(bytes), Some(table::Kind::Size(..))) => Size(bytes).to_string(),
            (Some(milliseconds), Some(table::Kind::Duration(..))) => Span(milliseconds).to_string(),
            (_, _) => number.to_string(),
        },
        Value::Null | Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

fn kind(address: &Address, path: &str) -> Option<table::Kind> {
    Some(table::find(&format!("{}.{path}", block(address)?))?.kind)
}

/// The block that an address is written as.
fn block(address: &Address) -> Option<&'static str> {
    Some(match address {
        Address::Grid => "grid",
        Address::Window(_) => "window",
        Address::Network(_) => "network",
        Address::Directory(_) => "directory",
        Address::Location(_) => "location",
        Address::Image(_) => "image",
        Address::Template(_) => "template",
        Address::Policy(_) => "policy",
        Address::Pool(_) => "pool",
        Address::Server(_) | Address::Desktop(_) | Address::Secret(_) => return None,
    })
}

/// When a change of an attribute reaches a desktop, by the language's own table.
fn applies(address: &Address, path: &str) -> Applies {
    let (Some(block), Address::Template(_)) = (block(address), address) else {
        return Applies::Live;
    };
    match table::takes_effect(&format!("{block}.{path}")) {
        TakesEffect::Live => Applies::Live,
        TakesEffect::NextBoot => Applies::NextBoot,
        TakesEffect::Regrow => Applies::Regrow,
    }
}
