//! A choice, as it can be explained.

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, PoolName};
use coppice_schema::units::Size;

use super::Ledger;
use crate::placement::{Candidate, Placement};
use crate::pool::Yard;

/// Where a new desktop of a pool would go now, or where a desktop would go if it were grown anew now, and why there.
///
/// `None`: the address is neither a pool nor a desktop of one, or there is no image to make a desktop of.
#[must_use]
pub fn placement(desired: &Desired, known: &Known, about: &Address) -> Option<Placement> {
    let (name, desktop) = match about {
        Address::Pool(name) => (name, None),
        Address::Desktop(id) => (&id.pool, Some(id)),
        Address::Grid
        | Address::Window(_)
        | Address::Network(_)
        | Address::Directory(_)
        | Address::Location(_)
        | Address::Image(_)
        | Address::Template(_)
        | Address::Policy(_)
        | Address::Server(_)
        | Address::Secret(_) => return None,
    };
    of(desired, known, name, desktop)
}

fn of(
    desired: &Desired,
    known: &Known,
    name: &PoolName,
    desktop: Option<&DesktopId>,
) -> Option<Placement> {
    let yard = Yard::new(desired, known, name, desired.pools.get(name)?)?;
    let need = yard.need(yard.published().ok()?);
    let mut ledger = Ledger::new(desired, known);
    let present = desktop.and_then(|id| known.desktops.get(id));
    if let Some(present) = present {
        // It makes room for itself.
        ledger.leave(known, present);
    }
    let here = |id| present.is_some_and(|present| present.server == id);
    let mut weighed: Vec<_> = ledger
        .hosts
        .iter()
        .map(|host| {
            let shares = host.shares(need.takes, 1);
            let candidate = Candidate {
                server: host.server.name.clone(),
                shares,
                dominant: shares.dominant(),
                lacks: host.lacks(&need),
                chosen: false,
                here: here(host.id),
            };
            (
                candidate.lacks.is_some(),
                candidate.dominant,
                host.id,
                candidate,
            )
        })
        .collect();
    weighed
        .sort_by_key(|(lacks, dominant, id, _)| (*lacks, if *lacks { 0 } else { *dominant }, *id));
    let mut candidates: Vec<Candidate> = weighed
        .into_iter()
        .map(|(.., candidate)| candidate)
        .collect();
    if let Some(first) = candidates.first_mut() {
        first.chosen = first.lacks.is_none();
    }
    Some(Placement {
        cpus: yard.template.cpus,
        memory: yard.template.memory,
        disk: Size(need.takes.disk),
        candidates,
    })
}
