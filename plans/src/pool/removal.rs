//! Desktops that go: too many, of pools that are gone, half removed, or unknown to the grid.

use std::collections::BTreeSet;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, Member, PoolName, ServerId};
use coppice_schema::known::{KnownDesktop, Phase, Task};

use super::fate::{self, Deed};
use super::moving::{self, Remains};
use super::rollout::is_ready;
use super::{Yard, is_kept, members, quarantine};
use crate::draft::Draft;
use crate::images::Published;
use crate::plan::{
    Action, Drift, DriftKind, Finding, FindingKind, Impact, Kind, Memory, Reason, Response, Risk,
    Severity, Step, Wait,
};

/// Tells servers again to remove what they were told to and have not.
pub(crate) fn leaving(yard: Yard<'_>, draft: &mut Draft<'_>) {
    for (id, desktop) in yard.members() {
        let waiting = matches!(desktop.phase, Phase::Deleting { done: false, .. });
        if waiting && !draft.busy.contains(id) {
            let waits = fate::ordinary_waits(yard, id, desktop, draft);
            push_removal(id, desktop, Reason::Unused, Memory::Unchanged, waits, draft);
        }
    }
}

/// Desktops beyond `target`; plans their removal. Those that are worth least go first, people's last.
pub(crate) fn surplus(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    target: u32,
    draft: &mut Draft<'_>,
) -> BTreeSet<DesktopId> {
    let mut alive: Vec<(&DesktopId, &KnownDesktop)> = yard
        .members()
        .filter(|(_, desktop)| {
            !matches!(
                desktop.phase,
                Phase::Deleting { .. } | Phase::Unknown { .. } | Phase::Migrating { .. }
            ) && !super::emptied(yard.known, desktop)
        })
        .collect();
    let excess = alive
        .len()
        .saturating_sub(usize::try_from(target).unwrap_or(usize::MAX));
    if excess == 0 {
        return BTreeSet::new();
    }
    let outdated =
        |desktop: &KnownDesktop| image.is_some_and(|image| desktop.spec.image != image.record.root);
    let off_by_policy = yard.pool.policy.power.is_some();
    alive.sort_by_key(|(id, desktop)| {
        let used = desktop.people() > 0;
        // One that is on can be had sooner than one that is off.
        let on = is_ready(&desktop.phase) && !matches!(desktop.phase, Phase::Off { .. });
        (
            used,
            on,
            on || (off_by_policy && matches!(desktop.phase, Phase::Off { .. })),
            // Others were grown in place of those whose server was lost.
            !desktop.wear.replaced,
            is_ready(&desktop.phase),
            !outdated(desktop),
            std::cmp::Reverse(id.slot),
        )
    });
    let from = u32::try_from(alive.len()).unwrap_or(u32::MAX);
    let mut returned = returned(yard, target, &alive);
    alive.truncate(excess);
    let chosen: BTreeSet<&DesktopId> = alive.iter().map(|(id, _)| *id).collect();
    let mut spare = draft.review.spare(yard.name, &chosen, yard.known);
    let mut going = BTreeSet::new();
    for (id, desktop) in &alive {
        let mut waits = fate::disruptive_waits(yard, id, desktop, draft);
        let too_much = returned > 0 && !desktop.personal;
        returned -= u32::from(too_much);
        let approval = draft.review.wait(id, Kind::Delete, risk(desktop));
        // Nobody asked for it: it follows from a server's return.
        let approval = approval.filter(|_| !too_much);
        if approval.is_some() && !desktop.personal && spare > 0 {
            spare -= 1;
            going.insert((*id).clone());
        } else if approval.is_some() {
            // It is looked after like the others until somebody lets it go.
            waits.extend(approval);
        } else {
            going.insert((*id).clone());
        }
        let reason = if too_much {
            Reason::Returned { from, to: target }
        } else {
            Reason::Scale { from, to: target }
        };
        push_removal(id, desktop, reason, Memory::Leaving, waits, draft);
    }
    going
}

/// How many of `alive` are too many because servers came back whose desktops had been replaced.
fn returned(yard: Yard<'_>, target: u32, alive: &[(&DesktopId, &KnownDesktop)]) -> u32 {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let replaced = alive.iter().filter(|(_, d)| d.wear.replaced && !d.personal);
    let committed = yard.known.committed.pools.get(yard.name);
    // What a plan would make smaller is the business of whoever applies it.
    let wanted = committed.map_or(target, |pool| pool.desktops.max(target));
    count(replaced.count()).min(count(alive.len()).saturating_sub(wanted))
}

/// Desktops of pools that the configuration no longer has.
pub(crate) fn forgotten_pools(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    let pools: BTreeSet<&PoolName> = known.desktops.keys().map(|id| &id.pool).collect();
    for pool in pools
        .into_iter()
        .filter(|pool| !desired.pools.contains_key(*pool))
    {
        let address = Address::Pool(pool.clone());
        if is_kept(desired, known, pool) {
            continue;
        }
        for (id, desktop) in members(known, pool) {
            let ordered = draft.ordered(id);
            let again = matches!(desktop.phase, Phase::Deleting { .. });
            if matches!(
                desktop.phase,
                Phase::Deleting { done: true, .. } | Phase::Migrating { .. }
            ) || (again && ordered.is_some())
            {
                continue;
            }
            let mut waits: Vec<Wait> = ordered.into_iter().collect();
            waits.extend(draft.not_seen(desktop.server));
            waits.extend(draft.unseen());
            waits.extend(draft.pause(&[Address::Desktop(id.clone()), address.clone()]));
            if !again {
                waits.extend(draft.review.wait(id, Kind::Delete, risk(desktop)));
                waits.extend(draft.freeze.clone());
                waits.extend(fate::logoff(desktop, None, draft));
            }
            let memory = if again {
                Memory::Unchanged
            } else {
                Memory::Leaving
            };
            push_removal(id, desktop, Reason::RemovedFromConfig, memory, waits, draft);
        }
    }
}

fn risk(desktop: &KnownDesktop) -> Risk {
    if desktop.personal {
        Risk::DataLoss
    } else {
        Risk::Disruptive
    }
}

fn push_removal(
    id: &DesktopId,
    desktop: &KnownDesktop,
    reason: Reason,
    memory: Memory,
    waits: Vec<Wait>,
    draft: &mut Draft<'_>,
) {
    let task = Task::Remove {
        member: id.member(desktop.incarnation),
    };
    let deed = Deed {
        kind: Kind::Delete,
        reason,
        risk: risk(desktop),
        step: Some(Step { task, memory }),
    };
    fate::push(id, desktop, deed, waits, draft);
}

/// Lives that a server shows and the grid does not know as the present one there.
pub(crate) fn strays(known: &Known, draft: &mut Draft<'_>) {
    for (server, looked) in known.servers.iter().filter(|(_, server)| server.current) {
        let Some(look) = &looked.look else { continue };
        for member in look.members.keys() {
            let present = known.desktops.get(&member.desktop);
            let own = present.is_some_and(|desktop| {
                desktop.incarnation == member.incarnation && desktop.server == *server
            });
            if !own {
                stray(known, *server, member, present, draft);
            }
        }
    }
}

fn stray(
    known: &Known,
    server: ServerId,
    member: &Member,
    present: Option<&KnownDesktop>,
    draft: &mut Draft<'_>,
) {
    let same = present.filter(|desktop| desktop.incarnation == member.incarnation);
    match same.and_then(|desktop| moving::remains(known, server, desktop)) {
        Some(Remains::Needed) => return,
        Some(Remains::Superfluous) => return removed(server, member, Reason::Unused, draft),
        None => {}
    }
    let former =
        present.filter(|desktop| desktop.personal && desktop.incarnation > member.incarnation);
    if former.is_some() {
        return superseded(known, server, member, draft);
    }
    let object = Address::Desktop(member.desktop.clone());
    let since = draft.since(&object, DriftKind::Stray);
    // Only a life that the grid itself has superseded, and that held nothing of anyone's, goes by itself.
    let superseded = known
        .slots
        .get(&member.desktop)
        .is_some_and(|slot| slot.incarnation > member.incarnation);
    let removable = superseded && present.is_some_and(|desktop| !desktop.personal);
    let response = if removable {
        Response::Repaired
    } else {
        Response::NeedsAdmin
    };
    let drift = Drift {
        object: object.clone(),
        server: Some(server),
        kind: DriftKind::Stray,
        edits: Vec::new(),
        since,
        response,
        waits: Vec::new(),
    };
    draft.drift(drift);
    if !removable {
        let kind = FindingKind::Stray {
            member: member.to_string(),
        };
        let remedy =
            "look at it, save what matters, and remove it on its server by hand".to_owned();
        draft.finding(Finding {
            object,
            kind,
            severity: Severity::Warning,
            remedy,
        });
        return;
    }
    let reason = Reason::Drift {
        what: DriftKind::Stray,
    };
    removed(server, member, reason, draft);
}

/// What is left of a personal desktop that went on from a copy: it holds what was written after the copy was made.
fn superseded(known: &Known, server: ServerId, member: &Member, draft: &mut Draft<'_>) {
    let name = known.servers.get(&server);
    let name = name.map_or_else(|| server.to_string(), |it| it.name.to_string());
    draft.finding(Finding {
        object: Address::Desktop(member.desktop.clone()),
        kind: FindingKind::Superseded {
            member: member.to_string(),
            server: name.clone(),
        },
        severity: Severity::Warning,
        remedy: format!(
            "nothing touches its disk; save from its disk what matters, and when nobody wants it: \
             coppice desktop discard {member} --on {name} --approve personal-data"
        ),
    });
    quarantine::give_up(known, server, member, draft);
}

/// Plans that what a server holds of a life that is not at home there goes.
fn removed(server: ServerId, member: &Member, reason: Reason, draft: &mut Draft<'_>) {
    let object = Address::Desktop(member.desktop.clone());
    if draft.busy.contains(&member.desktop) {
        return;
    }
    let waits: Vec<Wait> = draft
        .pause(std::slice::from_ref(&object))
        .into_iter()
        .collect();
    draft.busy.insert(member.desktop.clone());
    draft.actions.push(Action {
        object,
        kind: Kind::Delete,
        server: Some(server),
        needs: Vec::new(),
        wave: 0,
        reason,
        risk: Risk::Safe,
        reversible: false,
        impact: Impact::default(),
        waits,
        edits: Vec::new(),
        step: Some(Step {
            task: Task::Remove {
                member: member.clone(),
            },
            memory: Memory::Unchanged,
        }),
    });
}
