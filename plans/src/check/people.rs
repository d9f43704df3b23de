//! Who may be at a desktop, and how long people have.

use coppice_schema::Known;
use coppice_schema::desired::Pool;
use coppice_schema::known::{KnownDesktop, Phase, ServerState};
use coppice_schema::units::Timestamp;

use crate::plan::{Action, Reason};

/// Somebody is signed in, or was when its guest was last heard.
pub(super) fn may_be_used(desktop: &KnownDesktop) -> bool {
    match desktop.phase {
        Phase::InUse { .. } => true,
        Phase::Provisioning { .. } | Phase::Migrating { .. } => desktop.wear.occupied,
        Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    }
}

/// Its server is being emptied, and whoever asked for that said how long people have: they had it.
pub(super) fn forced(
    action: &Action,
    desktop: &KnownDesktop,
    known: &Known,
    now: Timestamp,
) -> bool {
    let server = known.servers.get(&desktop.server);
    let over = server.is_some_and(|server| {
        server.state == ServerState::Draining && server.force_at.is_some_and(|at| at <= now)
    });
    matches!(action.reason, Reason::Draining { .. }) && over && !desktop.personal
}

/// The pool's policy says how long people have, and they had it: since they signed in, and since the earliest moment
/// at which a trigger can have fired.
pub(super) fn overdue(
    action: &Action,
    desktop: &KnownDesktop,
    pool: Option<&Pool>,
    now: Timestamp,
) -> bool {
    let refresh = pool.and_then(|pool| pool.policy.refresh.as_ref());
    let (Reason::Refresh { .. }, Phase::InUse { since, .. }, Some(refresh)) =
        (&action.reason, &desktop.phase, refresh)
    else {
        return false;
    };
    let grown = desktop.grown;
    let triggers = [
        refresh.on.and(desktop.wear.left),
        refresh.every.map(|age| grown.after(age)),
        refresh.max_age.map(|age| grown.after(age)),
        refresh.at.as_ref().map(|_| grown),
    ];
    let (Some(deadline), Some(trigger)) = (refresh.deadline, triggers.into_iter().flatten().min())
    else {
        return false;
    };
    trigger.max(*since).after(deadline) <= now
}
