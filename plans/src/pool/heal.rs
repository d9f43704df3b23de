//! What is done about a desktop that is broken, or off although it should run.

use coppice_schema::Known;
use coppice_schema::desired::DriftRule;
use coppice_schema::ids::{DesktopId, Member};
use coppice_schema::known::{BrokenReason, KnownDesktop, Phase, Task};

use super::fate::{self, Deed, ordinary_waits, push};
use super::power::{self, Target};
use super::{Yard, drift};
use crate::draft::Draft;
use crate::plan::{
    DriftKind, Finding, FindingKind, Kind, Memory, Reason, Risk, Severity, Step, Wait,
};

/// A guest that did not come up after so many tries is grown anew.
const RESTARTS: u32 = 3;

/// Repairs what is broken; no roll-out budget applies, for it takes nothing away from anyone.
pub(crate) fn heal(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    target: Option<&Target>,
    draft: &mut Draft<'_>,
) -> bool {
    let member = id.member(desktop.incarnation);
    let start = || Step {
        task: Task::Start {
            member: member.clone(),
        },
        memory: Memory::Unchanged,
    };
    let reason = match &desktop.phase {
        Phase::Broken { reason, .. } => reason,
        Phase::Off { .. } if power::always_on(target) => {
            let drift = DriftKind::PoweredOff;
            return repair(yard, id, desktop, drift, Kind::PowerOn, start(), draft);
        }
        Phase::Off { .. }
        | Phase::Available { .. }
        | Phase::InUse { .. }
        | Phase::Provisioning { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => return false,
    };
    let why = explain(reason);
    if let Some(from) = &desktop.restored_from
        && matches!(
            reason,
            BrokenReason::DomainMissing | BrokenReason::OverlayMissing | BrokenReason::Refused(_)
        )
        && could_restore(yard.known, desktop, from)
    {
        return restore_again(yard, id, desktop, from, why, draft);
    }
    match reason {
        BrokenReason::Crashed => repair(
            yard,
            id,
            desktop,
            DriftKind::PoweredOff,
            Kind::PowerOn,
            start(),
            draft,
        ),
        BrokenReason::DomainMissing => {
            let task = Task::Redefine {
                spec: desktop.spec.clone(),
            };
            let step = Step {
                task,
                memory: Memory::Unchanged,
            };
            repair(
                yard,
                id,
                desktop,
                DriftKind::DomainUndefined,
                Kind::Update,
                step,
                draft,
            )
        }
        BrokenReason::OverlayMissing => {
            renew_drifted(yard, id, desktop, DriftKind::OverlayMissing, draft)
        }
        BrokenReason::OverlayBad => {
            renew_drifted(yard, id, desktop, DriftKind::OverlayChanged, draft)
        }
        BrokenReason::Paused(_) | BrokenReason::NotReady
            if desktop.failures.count < RESTARTS || desktop.personal =>
        {
            let step = Step {
                task: Task::Restart {
                    member: member.clone(),
                    ending: fate::ending(desktop),
                },
                memory: Memory::Unchanged,
            };
            let reason = Reason::Broken { why };
            let deed = Deed {
                kind: Kind::Reboot,
                reason,
                risk: Risk::Notice,
                step: Some(step),
            };
            heal_with(yard, id, desktop, deed, draft)
        }
        BrokenReason::Paused(_) | BrokenReason::NotReady | BrokenReason::Refused(_) => {
            renew(yard, id, desktop, why, draft)
        }
    }
}

/// Whether its server still shows the copy that it is made of, or the disk that was made of it.
fn could_restore(known: &Known, desktop: &KnownDesktop, from: &Member) -> bool {
    let server = known.servers.get(&desktop.server);
    let look = server.and_then(|server| server.look.as_ref());
    look.is_some_and(|look| look.replicas.contains_key(from)) || known.overlay(desktop).is_some()
}

/// A desktop that goes on from a copy did not get there yet: what it is made of is still where it was.
fn restore_again(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    from: &Member,
    why: String,
    draft: &mut Draft<'_>,
) -> bool {
    let step = Step {
        task: Task::Restore {
            spec: desktop.spec.clone(),
            from: from.clone(),
        },
        memory: Memory::Unchanged,
    };
    let deed = Deed {
        kind: Kind::Update,
        reason: Reason::Broken { why },
        risk: Risk::Notice,
        step: Some(step),
    };
    heal_with(yard, id, desktop, deed, draft)
}

/// What is wrong, for people.
pub(crate) fn explain(reason: &BrokenReason) -> String {
    match reason {
        BrokenReason::DomainMissing => "its domain is gone".to_owned(),
        BrokenReason::OverlayMissing => "its disk is gone".to_owned(),
        BrokenReason::OverlayBad => "its disk cannot be used".to_owned(),
        BrokenReason::Crashed => "it ended without being asked".to_owned(),
        BrokenReason::Paused(why) => format!("it stands still: {why}"),
        BrokenReason::NotReady => "it did not become ready in time".to_owned(),
        BrokenReason::Refused(why) => why.clone(),
    }
}

/// Undoes what others did, if the pool's rules say so.
fn repair(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    kind: DriftKind,
    act: Kind,
    step: Step,
    draft: &mut Draft<'_>,
) -> bool {
    let rule = yard.pool.policy.drift.domain.unwrap_or(DriftRule::Enforce);
    if !drift::report(id, desktop, kind, Vec::new(), rule, draft) {
        return true;
    }
    let deed = Deed {
        kind: act,
        reason: Reason::Drift { what: kind },
        risk: Risk::Safe,
        step: Some(step),
    };
    heal_with(yard, id, desktop, deed, draft)
}

/// A lost disk means a lost desktop: a pooled one is grown anew, a personal one needs a person.
fn renew_drifted(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    kind: DriftKind,
    draft: &mut Draft<'_>,
) -> bool {
    let rule = if desktop.personal {
        DriftRule::Warn
    } else {
        yard.pool.policy.drift.disk
    };
    if !drift::report(id, desktop, kind, Vec::new(), rule, draft) {
        if desktop.personal {
            needs_person(id, desktop, draft);
        }
        return true;
    }
    regrow(yard, id, desktop, Reason::Drift { what: kind }, draft)
}

fn renew(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    why: String,
    draft: &mut Draft<'_>,
) -> bool {
    if desktop.personal {
        needs_person(id, desktop, draft);
        return true;
    }
    regrow(yard, id, desktop, Reason::Broken { why }, draft)
}

/// Grows a desktop that nobody can use anew, in its slot.
pub(crate) fn regrow(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    reason: Reason,
    draft: &mut Draft<'_>,
) -> bool {
    let task = Task::Remove {
        member: id.member(desktop.incarnation),
    };
    let step = Step {
        task,
        memory: Memory::Leaving,
    };
    let deed = Deed {
        kind: Kind::ReplaceDeleteFirst,
        reason,
        risk: Risk::Notice,
        step: Some(step),
    };
    heal_with(yard, id, desktop, deed, draft)
}

fn needs_person(id: &DesktopId, desktop: &KnownDesktop, draft: &mut Draft<'_>) {
    if let Phase::Broken { reason, .. } = &desktop.phase {
        draft.finding(Finding {
            object: power::address(id),
            kind: FindingKind::Broken {
                why: explain(reason),
            },
            severity: Severity::Error,
            remedy: format!(
                "a personal desktop is never thrown away by itself: coppice desktop regrow {id}"
            ),
        });
    }
}

fn heal_with(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    deed: Deed,
    draft: &mut Draft<'_>,
) -> bool {
    let mut waits = ordinary_waits(yard, id, desktop, draft);
    if deed.kind == Kind::ReplaceDeleteFirst {
        // Its successor could not be made while a server is unseen, so it is not taken away either.
        waits.extend(draft.unseen());
    }
    waits.extend(draft.backoff(id, desktop.failures));
    if matches!(deed.kind, Kind::PowerOn | Kind::Reboot)
        && waits.is_empty()
        && !draft.ledger.power_on(desktop.server)
    {
        waits.push(Wait::Budget {
            name: "power-on".to_owned(),
        });
    }
    push(id, desktop, deed, waits, draft);
    true
}
