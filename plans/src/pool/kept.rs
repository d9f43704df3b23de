//! Pools that protection keeps, although their block is gone or wants no desktop any more.
//!
//! They are looked after as they last were: what people sit at does not rot because a block was deleted.

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, PoolName};

use super::{Yard, members};
use crate::draft::Draft;
use crate::plan::{Finding, FindingKind, Severity};

/// Whether an object is protected once `desired` is committed: only its own block can lift that.
pub(crate) fn protected(desired: &Desired, known: &Known, address: &Address) -> bool {
    let said = if let Address::Pool(name) = address {
        desired.pools.get(name).map(|pool| pool.protect)
    } else if let Address::Image(name) = address {
        desired.images.get(name).map(|image| image.protect)
    } else {
        None
    };
    said.unwrap_or_else(|| known.protections.contains(address))
}

/// Whether protection alone keeps that pool's desktops.
pub(crate) fn is_kept(desired: &Desired, known: &Known, name: &PoolName) -> bool {
    !wants_desktops(desired, name) && protected(desired, known, &Address::Pool(name.clone()))
}

fn wants_desktops(desired: &Desired, name: &PoolName) -> bool {
    desired
        .pools
        .get(name)
        .is_some_and(|pool| pool.desktops > 0)
}

/// Every kept pool, and the form in which it is looked after, where that is remembered.
fn each<'a>(
    desired: &'a Desired,
    known: &'a Known,
) -> impl Iterator<Item = (&'a PoolName, Option<Desired>)> {
    let protections = known.protections.iter().filter_map(|address| {
        let Address::Pool(name) = address else {
            return None;
        };
        Some(name)
    });
    let pools: BTreeSet<&PoolName> = protections.chain(desired.pools.keys()).collect();
    pools
        .into_iter()
        .filter(|name| is_kept(desired, known, name))
        .map(|name| (name, form(desired, known, name)))
}

/// The kept pools that are looked after, each in the last form in which it wanted desktops.
pub(crate) fn forms(desired: &Desired, known: &Known) -> Vec<(PoolName, Desired)> {
    let known = each(desired, known).filter_map(|(name, form)| Some((name.clone(), form?)));
    known.collect()
}

/// Plans every kept pool by the last form in which it wanted desktops.
pub(crate) fn plan(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    for (name, form) in each(desired, known) {
        let yard = form.as_ref().and_then(|form| {
            let pool = form.pools.get(name)?;
            Yard::new(form, known, name, pool)
        });
        if yard.is_none() && members(known, name).next().is_none() {
            continue;
        }
        tell(name, yard.is_some(), draft);
        if let Some(yard) = yard {
            super::plan(yard, draft);
        }
    }
}

/// `desired`, with the pool and what it refers to as they last were.
fn form(desired: &Desired, known: &Known, name: &PoolName) -> Option<Desired> {
    let last = if wants_desktops(&known.committed, name) {
        &known.committed
    } else {
        known.kept.get(name)?
    };
    let address = Address::Pool(name.clone());
    let mut form = desired.clone();
    for reference in last.references(&address) {
        form.take(&reference, last);
    }
    form.take(&address, last);
    Some(form)
}

fn tell(name: &PoolName, looked_after: bool, draft: &mut Draft<'_>) {
    let object = Address::Pool(name.clone());
    let (kind, remedy) = if looked_after {
        let lift = "bring its block back with protect = false, apply, and remove it then";
        (
            FindingKind::KeptProtected,
            format!("to let {object} go, {lift}"),
        )
    } else {
        let remedy = format!("bring the block of {object} back, with the desktops it wants");
        (FindingKind::KeptUntended, remedy)
    };
    draft.finding(Finding {
        object,
        kind,
        severity: Severity::Warning,
        remedy,
    });
}
