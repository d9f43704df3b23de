//! What others changed of a desktop, and whether it is put back.

use coppice_schema::desired::{DriftRule, DriftRules};
use coppice_schema::ids::DesktopId;
use coppice_schema::known::{KnownDesktop, Task};
use coppice_schema::units::Span;

use super::Yard;
use super::fate::{Deed, ordinary_waits, push, seen};
use super::power;
use crate::draft::Draft;
use crate::plan::{
    Drift, DriftKind, Edit, Finding, FindingKind, Kind, Memory, Reason, Response, Risk, Severity,
    Step,
};
use crate::specs;

/// A domain written back so often within this time is fought over.
const CONTENDED_WITHIN: Span = Span::minutes(10);

/// That often.
const CONTENDED_AFTER: usize = 3;

/// Compares what was seen with what was last written. Returns whether something is done.
pub(crate) fn drifted(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> bool {
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
pub(crate) fn report(
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
        waits: Vec::new(),
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
