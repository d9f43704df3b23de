//! What a configuration changes of the committed one: objects, and attributes by their path in the language.

mod language;

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::Address;
use coppice_schema::table;
use coppice_schema::units::{Size, Span};
use serde::Serialize;
use serde_json::Value;

use crate::draft::Draft;
use crate::plan::{Action, Applies, Edit, Impact, Intent, Kind, Reason, Risk};
use crate::specs;

use language::Attribute;

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
    flatten(address, before, &mut Vec::new(), &mut old);
    flatten(address, after, &mut Vec::new(), &mut new);
    let whole = before.is_null() || after.is_null();
    let attributes: BTreeSet<&Attribute> = old.keys().chain(new.keys()).collect();
    attributes
        .into_iter()
        .filter(|attribute| old.get(*attribute) != new.get(*attribute))
        .map(|attribute| Edit {
            path: attribute.path.clone(),
            before: old.get(attribute).cloned(),
            after: new.get(attribute).cloned(),
            applies: match &attribute.said {
                Some(said) if !whole => specs::applies(said),
                // Of a block that comes or goes no desktop has taken anything on.
                Some(_) | None => Applies::Live,
            },
        })
        .collect()
}

fn flatten(
    address: &Address,
    value: &Value,
    path: &mut Vec<String>,
    into: &mut BTreeMap<Attribute, String>,
) {
    if let Value::Object(fields) = value
        && share(value).is_none()
    {
        for (name, value) in fields {
            path.push(name.clone());
            flatten(address, value, path, into);
            path.pop();
        }
        return;
    }
    if value.is_null() {
        return;
    }
    if let Some(attribute) = language::attribute(address, path) {
        let text = words(&attribute, value);
        into.insert(attribute, text);
    }
}

/// A part of a pool, as the language writes it.
fn share(value: &Value) -> Option<String> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let percent = fields.get("percent").map(|n| format!("{n}%"));
    percent.or_else(|| fields.get("count").map(Value::to_string))
}

/// A value as the language writes it.
fn words(attribute: &Attribute, value: &Value) -> String {
    if let Some(share) = share(value) {
        return share;
    }
    let said = attribute.said.as_deref();
    match value {
        // The one kind of network that has nothing to name.
        Value::String(_) if said == Some("network.user") => "true".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| words(attribute, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(number) => {
            let kind = said.and_then(table::find).map(|row| row.kind);
            match (number.as_u64(), kind) {
                (Some(bytes), Some(table::Kind::Size(..))) => Size(bytes).to_string(),
                (Some(milliseconds), Some(table::Kind::Duration(..))) => {
                    Span(milliseconds).to_string()
                }
                (Some(minutes), Some(table::Kind::Clock)) => {
                    format!("{:02}:{:02}", minutes / 60, minutes % 60)
                }
                (Some(days), Some(table::Kind::Days)) => language::days(days),
                (_, _) => number.to_string(),
            }
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
