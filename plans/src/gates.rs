//! Conditions under which a person's plan may be applied. Rounds are never stopped by them: what was approved is
//! carried out.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, ImageName, PoolName};
use coppice_schema::known::Phase;

use crate::draft::Draft;
use crate::plan::{Action, Gate, GateKind, Kind, Reason, Risk, Verdict, Wait};

/// Deleting more than this part of a pool, in per cent, ...
const MASS_PERCENT: u32 = 20;
/// ... and more than so many desktops, needs a second word.
const MASS_COUNT: u32 = 2;

/// The gates that do not simply pass.
pub(crate) fn judge(desired: &Desired, known: &Known, draft: &Draft<'_>) -> Vec<Gate> {
    let mut gates = Vec::new();
    gates.extend(empty(desired, known));
    gates.extend(mass_delete(known, draft));
    gates.extend(protected(desired, known, draft));
    gates.extend(personal(draft));
    gates.extend(freeze(draft));
    gates
}

fn empty(desired: &Desired, known: &Known) -> Option<Gate> {
    let hollow = |c: &Desired| c.pools.is_empty() && c.templates.is_empty() && c.images.is_empty();
    let emptied = hollow(desired) && !hollow(&known.committed);
    emptied.then(|| Gate {
        kind: GateKind::EmptyConfiguration,
        verdict: Verdict::NeedsApproval,
        reason: "the configuration has no image, template or pool any more".to_owned(),
        objects: BTreeSet::new(),
    })
}

fn mass_delete(known: &Known, draft: &Draft<'_>) -> Option<Gate> {
    let mut deleted: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for action in &draft.actions {
        let wanted = matches!(
            action.reason,
            Reason::RemovedFromConfig | Reason::Scale { .. }
        );
        if let (Kind::Delete, true, Address::Desktop(id)) = (action.kind, wanted, &action.object) {
            *deleted.entry(&id.pool).or_default() += 1;
        }
    }
    let mut worst = Vec::new();
    for (pool, count) in deleted {
        let alive = crate::pool::members(known, pool)
            .filter(|(_, d)| !matches!(d.phase, Phase::Deleting { .. }));
        let all = u32::try_from(alive.count()).unwrap_or(u32::MAX);
        if count > MASS_COUNT && u64::from(count) * 100 > u64::from(all) * u64::from(MASS_PERCENT) {
            worst.push((pool, count, all));
        }
    }
    if worst.is_empty() {
        return None;
    }
    let each = worst
        .iter()
        .map(|(pool, count, all)| format!("{count} of {all} desktops of pool.{pool}"));
    Some(Gate {
        kind: GateKind::MassDelete,
        verdict: Verdict::NeedsApproval,
        reason: format!("deletes {}", each.collect::<Vec<_>>().join(", ")),
        objects: worst
            .into_iter()
            .map(|(pool, _, _)| Address::Pool(pool.clone()))
            .collect(),
    })
}

/// What is protected now, also where the same plan lifts it.
fn protected(desired: &Desired, known: &Known, draft: &Draft<'_>) -> Option<Gate> {
    let mut hurt = BTreeMap::new();
    for address in &known.protections {
        let what = if let Address::Pool(name) = address {
            harm_to_pool(name, desired, known)
        } else if let Address::Image(name) = address {
            harm_to_image(name, desired, known, draft)
        } else {
            None
        };
        hurt.extend(what.map(|what| (address.clone(), what)));
    }
    let what = hurt.values().cloned().collect::<Vec<_>>().join(", ");
    let be = if hurt.len() == 1 { "is" } else { "are" };
    (!hurt.is_empty()).then(|| Gate {
        kind: GateKind::Protected,
        verdict: Verdict::NeedsApproval,
        reason: format!("{what}, which {be} protected"),
        objects: hurt.into_keys().collect(),
    })
}

fn harm_to_pool(name: &PoolName, desired: &Desired, known: &Known) -> Option<String> {
    let (before, after) = (known.committed.pools.get(name), desired.pools.get(name));
    let Some(pool) = after else {
        return before.map(|_| format!("removes pool.{name}"));
    };
    let smaller = before != after && pool.desktops < size(known, name);
    smaller.then(|| format!("makes pool.{name} smaller"))
}

fn harm_to_image(
    name: &ImageName,
    desired: &Desired,
    known: &Known,
    draft: &Draft<'_>,
) -> Option<String> {
    let there = |desired: &Desired| desired.images.contains_key(name);
    if there(&known.committed) && !there(desired) {
        return Some(format!("removes image.{name}"));
    }
    let address = Address::Image(name.clone());
    let dropped = |action: &Action| {
        action.object == address && action.step.is_some() && action.kind == Kind::Delete
    };
    let drops = draft.actions.iter().any(dropped);
    drops.then(|| format!("drops versions of image.{name}"))
}

/// How many desktops a pool has by the last form that wanted any.
fn size(known: &Known, name: &PoolName) -> u32 {
    let committed = known.committed.pools.get(name);
    let kept = || known.kept.get(name)?.pools.get(name);
    let last = committed.filter(|pool| pool.desktops > 0).or_else(kept);
    let there = crate::pool::members(known, name).count();
    last.map_or(u32::try_from(there).unwrap_or(u32::MAX), |pool| {
        pool.desktops
    })
}

fn personal(draft: &Draft<'_>) -> Option<Gate> {
    let lost = draft
        .actions
        .iter()
        .filter(|action| action.risk == Risk::DataLoss);
    let objects: BTreeSet<Address> = lost.map(|action| action.object.clone()).collect();
    (!objects.is_empty()).then(|| Gate {
        kind: GateKind::PersonalData,
        verdict: Verdict::NeedsApproval,
        reason: format!(
            "destroys {} personal disk{}",
            objects.len(),
            if objects.len() == 1 { "" } else { "s" }
        ),
        objects,
    })
}

fn freeze(draft: &Draft<'_>) -> Option<Gate> {
    let Some(Wait::Freeze { name, .. }) = &draft.freeze else {
        return None;
    };
    let disruptive = draft
        .actions
        .iter()
        .filter(|action| action.risk >= Risk::Disruptive);
    let objects: BTreeSet<Address> = disruptive.map(|action| action.object.clone()).collect();
    (!objects.is_empty()).then(|| Gate {
        kind: GateKind::Freeze,
        verdict: Verdict::Denied,
        reason: format!("window.{name} is open, within which disruptive work is refused"),
        objects,
    })
}
