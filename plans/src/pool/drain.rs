//! Pooled desktops on servers that are being emptied: each goes once another is ready elsewhere, and nobody uses it.

use std::collections::BTreeSet;

use coppice_schema::ids::DesktopId;
use coppice_schema::known::{GuestState, KnownDesktop, Phase, PowerState, Task};

use super::fate::{self, Deed, TAKEN};
use super::{Yard, emptied, moving};
use crate::draft::Draft;
use crate::plan::{Kind, Memory, Reason, Step, Wait};

/// What becomes of desktops that nobody uses.
pub(crate) struct Drained {
    /// Those for which this plan has decided.
    pub(crate) going: BTreeSet<DesktopId>,
    /// How many of them people could have had until now, and go at once.
    pub(crate) taken: u32,
}

/// Decides about those that nobody uses, or that are waited for no longer; `surplus` are those that go anyway. Never do
/// so many go that fewer than the pool's size are ready.
pub(crate) fn idle(
    yard: Yard<'_>,
    surplus: &BTreeSet<DesktopId>,
    draft: &mut Draft<'_>,
) -> Drained {
    let mut drained = Drained {
        going: BTreeSet::new(),
        taken: 0,
    };
    let mine: Vec<(&DesktopId, &KnownDesktop, Option<String>)> = yard
        .members()
        .filter(|(id, _)| !surplus.contains(*id))
        .filter_map(|(id, desktop)| {
            let stuck = moving::stuck(yard, desktop, draft);
            let goes = stuck.is_some() || emptied(yard.known, desktop);
            goes.then_some((id, desktop, stuck))
        })
        .collect();
    if mine.is_empty() {
        return drained;
    }
    let ready = yard.members().filter(|(id, desktop)| {
        is_ready(yard, desktop) && !draft.busy.contains(*id) && !surplus.contains(*id)
    });
    let ready = u32::try_from(ready.count()).unwrap_or(u32::MAX);
    let mut spare = ready.saturating_sub(yard.pool.desktops);
    for (id, desktop, stuck) in mine {
        if matches!(desktop.phase, Phase::Deleting { .. }) || draft.busy.contains(id) {
            drained.going.insert(id.clone());
            continue;
        }
        if people(yard, desktop, draft).is_some() {
            continue;
        }
        if let Some(why) = stuck {
            moving::stays_there(yard.known, id, desktop, why, draft);
        }
        let mut waits = fate::asked_waits(yard, id, desktop, draft);
        // One that others switched off can be had again in a moment.
        let can_be_had = is_ready(yard, desktop) || matches!(desktop.phase, Phase::Off { .. });
        if waits.is_empty() && can_be_had {
            if spare == 0 {
                waits.push(Wait::Successor);
            } else {
                spare -= 1;
                drained.taken += 1;
            }
        }
        go(yard, id, desktop, waits, draft);
        drained.going.insert(id.clone());
    }
    drained
}

/// One that somebody uses goes when they have left. Until then it is looked after like any other.
pub(crate) fn used(yard: Yard<'_>, id: &DesktopId, desktop: &KnownDesktop, draft: &mut Draft<'_>) {
    let mut waits = fate::asked_waits(yard, id, desktop, draft);
    // Whoever is waited for no longer is decided about with those that nobody uses.
    waits.push(people(yard, desktop, draft).unwrap_or(Wait::Successor));
    go(yard, id, desktop, waits, draft);
}

fn go(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    waits: Vec<Wait>,
    draft: &mut Draft<'_>,
) {
    let server = yard.known.servers.get(&desktop.server);
    let server = server.map(|server| server.name.to_string());
    let deed = Deed {
        kind: Kind::Drain,
        reason: Reason::Draining {
            server: server.unwrap_or_default(),
        },
        risk: TAKEN,
        step: Some(Step {
            task: Task::Remove {
                member: id.member(desktop.incarnation),
            },
            memory: Memory::Leaving,
        }),
    };
    fate::push(id, desktop, deed, waits, draft);
}

/// Who is waited for; `None`: nobody.
fn people(yard: Yard<'_>, desktop: &KnownDesktop, draft: &mut Draft<'_>) -> Option<Wait> {
    let until = yard.known.servers.get(&desktop.server)?.force_at;
    if desktop.people() > 0 {
        return fate::logoff(desktop, until, draft);
    }
    if is_vacant(yard, desktop) || until.is_some_and(|until| until <= draft.now) {
        return None;
    }
    until.into_iter().for_each(|until| draft.wake(until));
    Some(Wait::Vacancy { until })
}

/// Whether it is known that nobody uses it: it does not run, or its guest says so. Where a guest was made without a
/// voice, its screen alone tells.
fn is_vacant(yard: Yard<'_>, desktop: &KnownDesktop) -> bool {
    let Some(domain) = fate::seen(yard, desktop) else {
        // What is not there, or is not seen while its order is under way, was not used when it was.
        return !desktop.wear.occupied;
    };
    let runs = matches!(
        domain.power,
        PowerState::Running { .. } | PowerState::Paused(_)
    );
    if domain.viewers.is_some_and(|viewers| viewers > 0) {
        return false;
    }
    // One that never was ready was never anybody's.
    if !runs || desktop.wear.ready.is_none() {
        return true;
    }
    match &domain.guest {
        GuestState::Answers { users, .. } => *users == Some(0),
        GuestState::Silent if desktop.spec.hardware.agent => !desktop.wear.occupied,
        GuestState::Silent => domain.viewers == Some(0),
    }
}

/// A person can have it, now or once the pool's own figures switch it on.
pub(super) fn is_ready(yard: Yard<'_>, desktop: &KnownDesktop) -> bool {
    match desktop.phase {
        Phase::Available { .. } | Phase::InUse { .. } => true,
        Phase::Off { .. } => yard.pool.policy.power.is_some(),
        Phase::Provisioning { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => false,
    }
}
