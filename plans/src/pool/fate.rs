//! What is done about one desktop that is to stay in its pool.

use coppice_schema::desired::{DriftRule, DriftRules};
use coppice_schema::ids::DesktopId;
use coppice_schema::known::{
    BrokenReason, DesktopSpec, KnownDesktop, Phase, PowerState, Request, SeenDomain, Task,
};
use coppice_schema::units::{Size, Span};

use super::power::{self, Target};
use super::rollout::{self, Rollout};
use super::{Yard, refresh};
use crate::draft::Draft;
use crate::images::{self, Published};
use crate::plan::{
    Action, Applies, Basis, Drift, DriftKind, Edit, Estimate, Finding, FindingKind, Impact, Kind,
    Memory, Reason, Response, Risk, Severity, Step, Wait,
};
use crate::specs;

/// A domain written back so often within this time is fought over.
const CONTENDED_WITHIN: Span = Span::minutes(10);
/// That often.
const CONTENDED_AFTER: usize = 3;
/// A guest that did not come up after so many tries is grown anew.
const RESTARTS: u32 = 3;

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
    if requested(yard, id, desktop, draft) || heal(yard, id, desktop, target, draft) {
        return true;
    }
    let wanted = image.map(|image| {
        specs::of(
            yard.desired,
            yard.known,
            yard.pool,
            yard.template,
            image.record,
            &desktop.spec.member,
            desktop.server,
        )
    });
    let edits = wanted
        .as_ref()
        .map(|wanted| specs::edits(&desktop.spec, wanted))
        .unwrap_or_default();
    if edits.iter().any(|edit| edit.applies == Applies::Regrow) {
        let reason = regrow_reason(yard, image, desktop, &edits);
        return regrow(yard, id, desktop, reason, edits, rollout, draft);
    }
    if let Some(reason) = refresh::due(yard, desktop, draft) {
        return regrow(yard, id, desktop, reason, Vec::new(), rollout, draft);
    }
    if let Some(wanted) = wanted.filter(|_| !edits.is_empty()) {
        return rewrite(yard, id, desktop, wanted, edits, draft);
    }
    drifted(yard, id, desktop, draft) || reboot(yard, id, desktop, rollout, draft)
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

/// Repairs what is broken; no roll-out budget applies, for it takes nothing away from anyone.
fn heal(
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
        | Phase::Deleting { .. } => return false,
    };
    let why = explain(reason);
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
    if !report(id, desktop, kind, Vec::new(), rule, draft) {
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
    if !report(id, desktop, kind, Vec::new(), rule, draft) {
        if desktop.personal {
            needs_person(id, desktop, draft);
        }
        return true;
    }
    let task = Task::Remove {
        member: id.member(desktop.incarnation),
    };
    let step = Step {
        task,
        memory: Memory::Leaving,
    };
    let reason = Reason::Drift { what: kind };
    let deed = Deed {
        kind: Kind::ReplaceDeleteFirst,
        reason,
        risk: Risk::Notice,
        step: Some(step),
    };
    heal_with(yard, id, desktop, deed, draft)
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
    let task = Task::Remove {
        member: id.member(desktop.incarnation),
    };
    let step = Step {
        task,
        memory: Memory::Leaving,
    };
    let reason = Reason::Broken { why };
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
    waits.extend(draft.backoff(desktop.failures));
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
    if desktop.personal && !matches!(reason, Reason::Requested) {
        // Never regrown without being told to; the change waits in its definition.
        return false;
    }
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

/// Compares what was seen with what was last written. Returns whether something is done.
fn drifted(yard: Yard<'_>, id: &DesktopId, desktop: &KnownDesktop, draft: &mut Draft<'_>) -> bool {
    let Some(domain) = seen(yard, desktop) else {
        return false;
    };
    let found = specs::edits(&desktop.spec, &domain.spec);
    if found.is_empty() {
        return false;
    }
    let rule = found
        .iter()
        .map(|edit| rule_for(&yard.pool.policy.drift, &edit.path))
        .min_by_key(strictness);
    if !report(
        id,
        desktop,
        DriftKind::DomainChanged,
        found.clone(),
        rule.unwrap_or(DriftRule::Warn),
        draft,
    ) {
        return false;
    }
    let task = Task::Redefine {
        spec: desktop.spec.clone(),
    };
    let step = Step {
        task,
        memory: Memory::Unchanged,
    };
    let reason = Reason::Drift {
        what: DriftKind::DomainChanged,
    };
    let deed = Deed {
        kind: Kind::Update,
        reason,
        risk: Risk::Notice,
        step: Some(step),
    };
    let waits = ordinary_waits(yard, id, desktop, draft);
    push(id, desktop, deed, waits, draft);
    if let Some(action) = draft.actions.last_mut() {
        let undo = |edit: Edit| Edit {
            before: edit.after,
            after: edit.before,
            ..edit
        };
        action.edits = found.into_iter().map(undo).collect();
    }
    true
}

/// Identity, disks and network are put right unless the policy says otherwise; the rest is told.
fn rule_for(rules: &DriftRules, path: &str) -> DriftRule {
    rules.domain.unwrap_or(match path {
        "hostname" | "image" | "disk" | "network" => DriftRule::Enforce,
        _ => DriftRule::Warn,
    })
}

fn strictness(rule: &DriftRule) -> u8 {
    match rule {
        DriftRule::Enforce => 0,
        DriftRule::Warn => 1,
        DriftRule::Ignore => 2,
    }
}

/// Puts drift into the plan. Returns whether it is to be repaired.
fn report(
    id: &DesktopId,
    desktop: &KnownDesktop,
    kind: DriftKind,
    edits: Vec<Edit>,
    rule: DriftRule,
    draft: &mut Draft<'_>,
) -> bool {
    if rule == DriftRule::Ignore {
        return false;
    }
    let object = power::address(id);
    let contended = kind == DriftKind::DomainChanged && contended(id, draft);
    let response = match rule {
        _ if contended => Response::Contended,
        DriftRule::Enforce => Response::Repaired,
        DriftRule::Warn | DriftRule::Ignore if desktop.personal => Response::NeedsAdmin,
        DriftRule::Warn | DriftRule::Ignore => Response::Told,
    };
    if contended {
        let path = edits
            .iter()
            .map(|edit| edit.path.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        draft.finding(Finding {
            object: object.clone(),
            kind: FindingKind::Contended { path },
            severity: Severity::Warning,
            remedy: "find out who else writes this domain; it is left alone until ten minutes have passed".to_owned(),
        });
    }
    let since = draft.since(&object, kind);
    draft.drift(Drift {
        object,
        server: Some(desktop.server),
        kind,
        edits,
        since,
        response,
    });
    response == Response::Repaired
}

fn contended(id: &DesktopId, draft: &mut Draft<'_>) -> bool {
    let Some(repairs) = draft.known.repairs.get(id) else {
        return false;
    };
    let Some(oldest) = repairs.first().filter(|_| repairs.len() >= CONTENDED_AFTER) else {
        return false;
    };
    let until = oldest.after(CONTENDED_WITHIN);
    draft.wake(until);
    until > draft.now
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

fn seen<'a>(yard: Yard<'a>, desktop: &KnownDesktop) -> Option<&'a SeenDomain> {
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
