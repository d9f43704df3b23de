//! What is done about one desktop that is to stay in its pool.

use coppice_schema::ids::DesktopId;

use coppice_schema::known::{
    DesktopSpec, Ending, KnownDesktop, Phase, PowerState, Request, SeenDomain, SeenOverlay, Task,
};

use coppice_schema::units::{Size, Timestamp};

use super::power::{self, Target};

use super::rollout::{self, Rollout};

use super::refresh::{self, Due};

use super::{Yard, drift, heal, moving, personal, restore, rollback};

use crate::draft::Draft;

use crate::images::{self, Published};

use crate::plan::{
    Action, Applies, Basis, Edit, Estimate, Impact, Kind, Memory, Reason, Risk, Step, Wait,
};

use crate::specs;

/// What is done, before it is known what it waits for.
pub(crate) struct Deed {
    pub(crate) kind: Kind,
    pub(crate) reason: Reason,
    pub(crate) risk: Risk,
    pub(crate) step: Option<Step>,
}

/// What it costs to take a pooled desktop away to grow it anew.
pub(crate) const TAKEN: Risk = Risk::Disruptive;

/// Plans what `desktop` needs. Returns whether anything is done, so that nothing else is.
pub(crate) fn decide(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    target: Option<&Target>,
    rollout: &mut Rollout<'_>,
    draft: &mut Draft<'_>,
) -> bool {
    if matches!(
        desktop.phase,
        Phase::Deleting { .. } | Phase::Unknown { .. } | Phase::Migrating { .. }
    ) {
        if desktop.personal && matches!(desktop.phase, Phase::Unknown { .. }) {
            restore::restore(yard, id, desktop, draft);
        }
        return true;
    }
    personal::survey(yard, image, id, desktop, draft);
    let ordered = draft.ordered(id).is_some();
    if !ordered && (draft.busy.contains(id) || requested(yard, id, desktop, draft)) {
        return true;
    }
    let back = rollout.back();
    if !ordered {
        if let Some(reason) = rollback::reason(yard, image, back, id, desktop) {
            return heal::regrow(yard, id, desktop, reason, draft);
        }
        if heal::heal(yard, id, desktop, target, draft) {
            return true;
        }
        // While the published version is given up, a clone of the one before is regrown as what it is.
        if !desktop.personal
            && back.is_some_and(|back| back.record.root == desktop.spec.image)
            && let Some(due) = refresh::due(yard, desktop, draft)
        {
            return regrow(yard, id, desktop, due, Vec::new(), rollout, draft);
        }
    }
    if !ordered && moving::leave(yard, id, desktop, draft) {
        return true;
    }
    let mut wanted = image.map(|image| yard.wanted(image, desktop));
    if desktop.personal {
        // Never regrown without being told to; whatever else is wanted of it, it gets.
        wanted = wanted.map(|wanted| personal::living(desktop, wanted));
    }
    let edits = wanted
        .as_ref()
        .map(|wanted| specs::edits(&desktop.spec, wanted))
        .unwrap_or_default();
    let outdated = edits.iter().any(|edit| edit.applies == Applies::Regrow);
    if ordered {
        // What the configuration asks of it next is part of the plan, and comes after its order.
        if outdated {
            let reason = regrow_reason(yard, image, desktop, &edits);
            let due = Due {
                reason,
                until: None,
            };
            regrow(yard, id, desktop, due, edits, rollout, draft);
        } else if let Some(wanted) = wanted.filter(|_| !edits.is_empty()) {
            rewrite(yard, id, desktop, wanted, edits, draft);
        }
        return true;
    }
    // What was not reviewed waits, and what has nothing to do with the configuration goes on meanwhile.
    let held = outdated && draft.review.wait(id, rollout.replacing(), TAKEN).is_some();
    if (!outdated || held)
        && let Some(due) = refresh::due(yard, desktop, draft)
    {
        return regrow(yard, id, desktop, due, Vec::new(), rollout, draft);
    }
    if held && drift::drifted(yard, id, desktop, draft) {
        return true;
    }
    if outdated {
        let reason = regrow_reason(yard, image, desktop, &edits);
        let due = Due {
            reason,
            until: None,
        };
        return regrow(yard, id, desktop, due, edits, rollout, draft);
    }
    if let Some(wanted) = wanted.filter(|_| !edits.is_empty()) {
        return rewrite(yard, id, desktop, wanted, edits, draft);
    }
    drift::drifted(yard, id, desktop, draft) || reboot(yard, id, desktop, rollout, draft)
}

fn requested(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> bool {
    let request = yard
        .known
        .requests
        .get(id)
        .filter(|request| request.member().incarnation == desktop.incarnation);
    let (kind, task, memory) = match request {
        None | Some(Request::Discard { .. } | Request::Move { .. }) => return false,
        Some(Request::Restart(member)) => (
            Kind::Reboot,
            Task::Restart {
                member: member.clone(),
                ending: ending(desktop),
            },
            Memory::Unchanged,
        ),
        Some(Request::Regrow(member)) => (
            Kind::ReplaceDeleteFirst,
            Task::Remove {
                member: member.clone(),
            },
            Memory::Leaving,
        ),
    };
    let risk = if desktop.personal && kind == Kind::ReplaceDeleteFirst {
        Risk::DataLoss
    } else {
        Risk::Disruptive
    };
    let deed = Deed {
        kind,
        reason: Reason::Requested,
        risk,
        step: Some(Step { task, memory }),
    };
    let waits = asked_waits(yard, id, desktop, draft);
    push(id, desktop, deed, waits, draft);
    true
}

fn regrow_reason(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    desktop: &KnownDesktop,
    edits: &[Edit],
) -> Reason {
    let paths: Vec<&str> = edits
        .iter()
        .filter(|edit| edit.applies == Applies::Regrow)
        .map(|edit| edit.path.as_str())
        .collect();
    match (image, paths.as_slice()) {
        (Some(image), ["image"]) => Reason::ImageVersion {
            image: yard.template.image.clone(),
            from: images::version_of(yard.known, &yard.template.image, desktop.spec.image),
            to: image.version.clone(),
        },
        (_, paths) => Reason::CannotUpdateInPlace {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        },
    }
}

fn regrow(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    due: Due,
    edits: Vec<Edit>,
    rollout: &mut Rollout<'_>,
    draft: &mut Draft<'_>,
) -> bool {
    let Due { reason, until } = due;
    let mut waits = asked_waits(yard, id, desktop, draft);
    waits.extend(logoff(desktop, until, draft));
    let configured = !matches!(reason, Reason::Refresh { .. });
    let approval = draft
        .review
        .wait(id, rollout.replacing(), TAKEN)
        .filter(|_| configured);
    let held = approval.is_some();
    waits.extend(approval);
    // A roll-out begins on a server when its clones can be made there.
    let published = yard.published().ok().filter(|_| configured);
    let copy = published.and_then(|image| draft.copies.wait(image.record.root, desktop.server));
    waits.extend(copy);
    let mut wave = 0;
    if waits.is_empty() {
        let refresh = matches!(reason, Reason::Refresh { .. });
        let back = rollout.back().filter(|_| refresh);
        let comes_back = back.is_some_and(|back| back.record.root == desktop.spec.image);
        let (number, wait) = rollout.take(rollout::is_ready(&desktop.phase), comes_back);
        wave = number;
        waits.extend(wait);
    }
    let task = Task::Remove {
        member: id.member(desktop.incarnation),
    };
    let step = Step {
        task,
        memory: Memory::Leaving,
    };
    let deed = Deed {
        kind: rollout.replacing(),
        reason,
        risk: TAKEN,
        step: Some(step),
    };
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        (action.wave, action.edits) = (wave, edits);
    }
    !held
}

/// Writes new hardware that a living desktop takes on at its next boot.
fn rewrite(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    wanted: DesktopSpec,
    edits: Vec<Edit>,
    draft: &mut Draft<'_>,
) -> bool {
    let waits = ordinary_waits(yard, id, desktop, draft);
    let task = Task::Redefine {
        spec: wanted.clone(),
    };
    let step = Step {
        task,
        memory: Memory::Rewritten {
            spec: Box::new(wanted),
        },
    };
    let deed = Deed {
        kind: Kind::Update,
        reason: Reason::AttributesChanged,
        risk: Risk::Notice,
        step: Some(step),
    };
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        action.edits = edits;
    }
    true
}

/// Reboots an idle pooled desktop that runs with older hardware than it is defined with.
fn reboot(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    rollout: &mut Rollout<'_>,
    draft: &mut Draft<'_>,
) -> bool {
    // What other hands wrote, and what is only told, is not brought into effect by us.
    let stale = seen(yard, desktop).is_some_and(|domain| {
        domain.stale_until_reboot
            && matches!(domain.power, PowerState::Running { .. })
            && specs::edits(&desktop.spec, &domain.spec).is_empty()
    });
    if !stale || desktop.personal {
        return false;
    }
    let mut waits = disruptive_waits(yard, id, desktop, draft);
    let approval = if repaired(yard, id, draft) {
        None
    } else {
        draft.review.wait(id, Kind::Reboot, TAKEN)
    };
    let held = approval.is_some();
    waits.extend(approval);
    let mut wave = 0;
    if waits.is_empty() {
        let (number, wait) = rollout.take(rollout::is_ready(&desktop.phase), false);
        wave = number;
        waits.extend(wait);
    }
    if waits.is_empty() && !draft.ledger.power_on(desktop.server) {
        waits.push(Wait::Budget {
            name: "power-on".to_owned(),
        });
    }
    let task = Task::Restart {
        member: id.member(desktop.incarnation),
        ending: ending(desktop),
    };
    let step = Step {
        task,
        memory: Memory::Unchanged,
    };
    let deed = Deed {
        kind: Kind::Reboot,
        reason: Reason::PendingHardware,
        risk: TAKEN,
        step: Some(step),
    };
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        action.wave = wave;
    }
    !held
}

/// Whether its domain was written back during the run, after others had changed it: the boot belongs to the repair.
fn repaired(yard: Yard<'_>, id: &DesktopId, draft: &Draft<'_>) -> bool {
    let last = yard
        .known
        .repairs
        .get(id)
        .and_then(|repairs| repairs.last());
    last.is_some_and(|last| draft.review.since().is_some_and(|since| *last >= since))
}

/// How `desktop` is stopped to be started again. In a pooled one that never came up there is nothing to lose; what a
/// personal one had begun to write is somebody's, and a guest without an agent never says that it is up.
pub(crate) fn ending(desktop: &KnownDesktop) -> Ending {
    if desktop.personal || !desktop.spec.hardware.agent {
        Ending::Asked
    } else {
        Ending::AskedIfUp
    }
}

pub(crate) fn seen<'a>(yard: Yard<'a>, desktop: &KnownDesktop) -> Option<&'a SeenDomain> {
    let server = yard
        .known
        .servers
        .get(&desktop.server)
        .filter(|server| server.current)?;
    server
        .look
        .as_ref()?
        .members
        .get(&desktop.spec.member)?
        .domain
        .as_ref()
}

/// What any action on a desktop waits for.
pub(crate) fn ordinary_waits(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> Vec<Wait> {
    let mut waits = Vec::new();
    waits.extend(draft.ordered(id));
    waits.extend(draft.not_seen(desktop.server));
    waits.extend(draft.pause(&[power::address(id), yard.address()]));
    waits
}

/// What a person who asked for it still waits for: nobody is cut off, and a freeze is not overruled.
pub(crate) fn asked_waits(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> Vec<Wait> {
    let mut waits = ordinary_waits(yard, id, desktop, draft);
    waits.extend(draft.unseen());
    waits.extend(draft.freeze.clone());
    waits
}

/// What an action that takes a desktop away waits for.
pub(crate) fn disruptive_waits(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> Vec<Wait> {
    let mut waits = asked_waits(yard, id, desktop, draft);
    waits.extend(logoff(desktop, None, draft));
    waits
}

/// The people that are waited for, and until when if not for good.
pub(crate) fn logoff(
    desktop: &KnownDesktop,
    until: Option<Timestamp>,
    draft: &mut Draft<'_>,
) -> Option<Wait> {
    let users = desktop.people();
    if users == 0 || until.is_some_and(|until| until <= draft.now) {
        return None;
    }
    until.into_iter().for_each(|until| draft.wake(until));
    Some(Wait::Logoff { users, until })
}

/// Puts an action on a desktop into the plan. One that nobody approved yet leaves the desktop to what is due anyway.
pub(crate) fn push(
    id: &DesktopId,
    desktop: &KnownDesktop,
    deed: Deed,
    waits: Vec<Wait>,
    draft: &mut Draft<'_>,
) {
    let users = desktop.people();
    let ends = waits.iter().find_map(|wait| match wait {
        Wait::Logoff { until, .. } => Some(*until),
        Wait::Window { .. }
        | Wait::Freeze { .. }
        | Wait::Approval { .. }
        | Wait::Budget { .. }
        | Wait::Backoff { .. }
        | Wait::Order { .. }
        | Wait::Image { .. }
        | Wait::Copy { .. }
        | Wait::Disk { .. }
        | Wait::Observation { .. }
        | Wait::Room { .. }
        | Wait::Paused { .. }
        | Wait::RolloutStopped { .. }
        | Wait::Return { .. }
        | Wait::Successor
        | Wait::Vacancy { .. } => None,
    });
    let waited_for = ends == Some(None);
    let held = waits
        .iter()
        .any(|wait| matches!(wait, Wait::Approval { .. }));
    let interrupts = matches!(
        deed.kind,
        Kind::Delete
            | Kind::ReplaceCreateFirst
            | Kind::ReplaceDeleteFirst
            | Kind::Drain
            | Kind::Reboot
            | Kind::PowerOff
    );
    let exact = |value| Estimate {
        value,
        basis: Basis::Exact,
    };
    let lost = deed.risk == Risk::DataLoss;
    let impact = Impact {
        sessions_interrupted: Estimate {
            value: if interrupts && !waited_for { users } else { 0 },
            // Some of them may have ended by themselves until then.
            basis: if ends.flatten().is_some() {
                Basis::Guess
            } else {
                Basis::Exact
            },
        },
        sessions_drained: exact(if waited_for { users } else { 0 }),
        users: exact(if interrupts { users } else { 0 }),
        // What a personal disk holds is known only as a power of two: enough to be warned by.
        personal_bytes_lost: if lost {
            personal_bytes(desktop, draft)
        } else {
            Estimate::default()
        },
        pause: Estimate::default(),
        bytes_copied: Estimate::default(),
        takes: Estimate {
            value: super::GROWTH_GUESS,
            basis: Basis::Guess,
        },
    };
    draft.actions.push(Action {
        object: power::address(id),
        kind: deed.kind,
        server: Some(desktop.server),
        needs: Vec::new(),
        wave: 0,
        reason: deed.reason,
        risk: deed.risk,
        reversible: !lost,
        impact,
        waits,
        edits: Vec::new(),
        step: deed.step,
    });
    if !held {
        draft.busy.insert(id.clone());
    }
}

fn personal_bytes(desktop: &KnownDesktop, draft: &Draft<'_>) -> Estimate<Size> {
    let overlay = draft.known.overlay(desktop);
    let value = overlay.map_or(Size(0), SeenOverlay::most);
    Estimate {
        value,
        basis: Basis::Guess,
    }
}
