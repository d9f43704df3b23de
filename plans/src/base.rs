//! What a plan read, so that a change of it makes the plan stale, and of nothing else.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, PoolName, TemplateName};
use coppice_schema::known::Task;

use crate::plan::{Action, Base, Intent, Risk};

/// A person's plan reads what it changes and what that refers to; of desktops only those whose data it destroys, for
/// others come and go by themselves. A round's plan reads each desktop that it gives an order for.
pub(crate) fn read(
    desired: &Desired,
    known: &Known,
    changes: &BTreeMap<Address, Intent>,
    actions: &[Action],
) -> Base {
    let mut base = Base {
        revision: known.revision,
        objects: BTreeMap::new(),
    };
    let mut note = |address: Address| {
        let generation = known.generations.get(&address).copied().unwrap_or_default();
        base.objects.insert(address, generation);
    };
    for address in changes.keys() {
        note(address.clone());
        if let Address::Pool(pool) = address {
            references(desired, pool).into_iter().for_each(&mut note);
        }
    }
    for (action, step) in actions.iter().filter_map(|a| Some((a, a.step.as_ref()?))) {
        if let Task::DropImage { root } = &step.task
            && changes.is_empty()
        {
            let named = known.images.iter().filter(|(_, versions)| {
                let mut versions = versions.values();
                versions.any(|version| version.root == *root)
            });
            named.for_each(|(name, _)| note(Address::Image(name.clone())));
        }
        let Address::Desktop(id) = &action.object else {
            continue;
        };
        if changes.is_empty() {
            note(Address::Pool(id.pool.clone()));
            references(desired, &id.pool)
                .into_iter()
                .for_each(&mut note);
        }
        if changes.is_empty() || action.risk == Risk::DataLoss {
            note(action.object.clone());
        }
    }
    base
}

/// What a pool refers to, directly and through its template.
pub(crate) fn references(desired: &Desired, pool: &PoolName) -> Vec<Address> {
    let Some(pool) = desired.pools.get(pool) else {
        return Vec::new();
    };
    let mut all = vec![Address::Template(pool.template.clone())];
    all.extend(pool.policies.iter().cloned().map(Address::Policy));
    all.extend(of_template(desired, &pool.template));
    all
}

/// What a template refers to.
pub(crate) fn of_template(desired: &Desired, template: &TemplateName) -> Vec<Address> {
    let Some(template) = desired.templates.get(template) else {
        return Vec::new();
    };
    let mut all = vec![Address::Image(template.image.clone())];
    all.extend(template.networks.iter().cloned().map(Address::Network));
    all
}
