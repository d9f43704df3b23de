//! What is done about one desktop that is to stay in its pool.

use coppice_schema::ids::DesktopId;

use coppice_schema::known::{
    DesktopSpec, KnownDesktop, Phase, PowerState, Request, SeenDomain, Task,
};

use coppice_schema::units::Size;

use super::power::{self, Target};

use super::rollout::{self, Rollout};

use super::{Yard, drift, heal, refresh};

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

/// Plans what `desktop` needs. Returns whether anything is done, so that nothing else is.
pub(crate) fn decide(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    target: Option<&Target>,
    rollout: &mut Rollout,
    draft: &mut Draft<'_>,
) -> bool {
    if matches!(
        desktop.phase,
        Phase::Deleting { .. } | Phase::Unknown { .. }
    ) || draft.busy.contains(id)
    {
        return true;
    }
    if requested(yard, id, desktop, draft) || heal::heal(yard, id, desktop, target, draft) {
        return true;
    }
    let wanted = image.map(|image| {
        let wanted = specs::of(
            yard.desired,
            yard.known,
            yard.pool,
            yard.template,
            image.record,
            &desktop.spec.member,
            desktop.server,
        );
        // What would cost a person's disk waits until that person asks for a new one.
        if desktop.personal {
            specs::without_regrowing(&desktop.spec, wanted)
        } else {
            wanted
        }
    });
    let edits = wanted
        .as_ref()
        .map(|wanted| specs::edits(&desktop.spec, wanted))
        .unwrap_or_default();
    if edits.iter().any(|edit| edit.applies == Applies::Regrow) {
        let reason = regrow_reason(yard, image, desktop, &edits);
        return regrow(yard, id, desktop, reason, edits, rollout, draft);
    }
    if !desktop.personal
        && let Some(reason) = refresh::due(yard, desktop, draft)
    {
        return regrow(yard, id, desktop, reason, Vec::new(), rollout, draft);
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
        None => return false,
        Some(Request::Restart(member)) => (
            Kind::Reboot,
            Task::Restart {
                member: member.clone(),
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
    reason: Reason,
    edits: Vec<Edit>,
    rollout: &mut Rollout,
    draft: &mut Draft<'_>,
) -> bool {
    let mut waits = disruptive_waits(yard, id, desktop, draft);
    let mut wave = 0;
    if waits.is_empty() {
        let (number, wait) = rollout.take(rollout::is_ready(&desktop.phase));
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
        kind: Kind::ReplaceDeleteFirst,
        reason,
        risk: Risk::Disruptive,
        step: Some(step),
    };
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        (action.wave, action.edits) = (wave, edits);
    }
    true
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
    rollout: &mut Rollout,
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
    let mut wave = 0;
    if waits.is_empty() {
        let (number, wait) = rollout.take(rollout::is_ready(&desktop.phase));
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
    };
    let step = Step {
        task,
        memory: Memory::Unchanged,
    };
    let deed = Deed {
        kind: Kind::Reboot,
        reason: Reason::PendingHardware,
        risk: Risk::Disruptive,
        step: Some(step),
    };
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        action.wave = wave;
    }
    true
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
    waits.extend(draft.not_seen(desktop.server));
    waits.extend(draft.pause(&[power::address(id), yard.address()]));
    waits
}

/// What a person who asked for it still waits for: nobody is cut off, and a freeze is not overruled.
fn asked_waits(
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
    if let Phase::InUse { users, .. } = desktop.phase {
        waits.push(Wait::Logoff { users });
    }
    waits
}

/// Puts an action on a desktop into the plan.
pub(crate) fn push(
    id: &DesktopId,
    desktop: &KnownDesktop,
    deed: Deed,
    waits: Vec<Wait>,
    draft: &mut Draft<'_>,
) {
    let users = match desktop.phase {
        Phase::InUse { users, .. } => users,
        Phase::Provisioning { .. }
        | Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => 0,
    };
    let waited_for = waits.iter().any(|wait| matches!(wait, Wait::Logoff { .. }));
    let interrupts = matches!(
        deed.kind,
        Kind::Delete | Kind::ReplaceDeleteFirst | Kind::Reboot | Kind::PowerOff
    );
    let exact = |value| Estimate {
        value,
        basis: Basis::Exact,
    };
    let lost = deed.risk == Risk::DataLoss;
    let impact = Impact {
        sessions_interrupted: exact(if interrupts && !waited_for { users } else { 0 }),
        sessions_drained: exact(if waited_for { users } else { 0 }),
        users: exact(if interrupts { users } else { 0 }),
        // What a personal disk holds is known only as a power of two: enough to be warned by.
        personal_bytes_lost: if lost {
            personal_bytes(desktop, draft)
        } else {
            Estimate::default()
        },
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
    draft.busy.insert(id.clone());
}

fn personal_bytes(desktop: &KnownDesktop, draft: &Draft<'_>) -> Estimate<Size> {
    let look = draft
        .known
        .servers
        .get(&desktop.server)
        .and_then(|server| server.look.as_ref());
    let overlay = look
        .and_then(|look| look.members.get(&desktop.spec.member))
        .and_then(|seen| seen.overlay.as_ref());
    let value = overlay.map_or(Size(0), |overlay| Size::mib(1u64 << overlay.bulk.min(40)));
    Estimate {
        value,
        basis: Basis::Guess,
    }
}
