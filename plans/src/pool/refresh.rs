//! When it is time to regrow a desktop that is well.

use coppice_schema::desired::{Refresh, RefreshOn};
use coppice_schema::known::{DiskLevel, KnownDesktop, Phase, SeenOverlay};
use coppice_schema::units::Timestamp;

use super::Yard;
use crate::draft::Draft;
use crate::plan::Reason;
use crate::windows;

/// A desktop that is to be regrown although it is well.
pub(crate) struct Due {
    pub(crate) reason: Reason,
    /// When people who are signed in are no longer waited for; `None`: they always are.
    pub(crate) until: Option<Timestamp>,
}

/// The trigger that fired for `desktop`, if any. Any of them fires alone; none for what is somebody's.
pub(crate) fn due(yard: Yard<'_>, desktop: &KnownDesktop, draft: &mut Draft<'_>) -> Option<Due> {
    if desktop.personal {
        return None;
    }
    let due = |trigger: &str, until| Due {
        reason: Reason::Refresh {
            trigger: trigger.to_owned(),
        },
        until,
    };
    let refresh = yard.pool.policy.refresh.as_ref();
    if let Some((trigger, at)) = refresh.and_then(|refresh| fired(refresh, desktop, draft)) {
        let deadline = refresh.and_then(|refresh| refresh.deadline);
        let until = deadline.and_then(|deadline| {
            // Whoever signed in after the trigger has that long too: nobody is cut off on arriving.
            let Phase::InUse { since, .. } = desktop.phase else {
                return None;
            };
            Some(since.max(at).after(deadline))
        });
        return Some(due(trigger, until));
    }
    let reason = |trigger| Some(due(trigger, None));
    let overlay = yard.known.overlay(desktop)?;
    if overlay.over_limit {
        return reason("disk_limit");
    }
    let server = yard.known.servers.get(&desktop.server)?;
    let full = server
        .look
        .as_ref()
        .is_some_and(|look| look.disk == DiskLevel::Critical);
    if full && is_bulkiest(yard, desktop, overlay) {
        return reason("disk");
    }
    None
}

/// The trigger that fired first since `desktop` was grown, and when; deadlines count from there.
fn fired(
    refresh: &Refresh,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> Option<(&'static str, Timestamp)> {
    let logoff = match refresh.on {
        Some(RefreshOn::Logoff) => desktop.wear.left,
        Some(RefreshOn::Disconnect | RefreshOn::Never) | None => None,
    };
    let grown = desktop.grown;
    let moment = refresh.at.as_ref();
    let triggers = [
        ("logoff", logoff),
        ("every", refresh.every.map(|age| grown.after(age))),
        ("max_age", refresh.max_age.map(|age| grown.after(age))),
        (
            "at",
            moment.and_then(|at| windows::next_after(at, &draft.zone, grown)),
        ),
    ];
    let triggers = triggers
        .into_iter()
        .filter_map(|(trigger, at)| Some((trigger, at?)));
    let first = triggers.min_by_key(|(_, at)| *at)?;
    if first.1 <= draft.now {
        return Some(first);
    }
    draft.wake(first.1);
    None
}

/// No idle pooled desktop on the same server has a larger overlay; ties by id. One at a time is enough: the next
/// look tells whether the disk is still that full.
fn is_bulkiest(yard: Yard<'_>, desktop: &KnownDesktop, overlay: &SeenOverlay) -> bool {
    let mine = (overlay.bulk, &desktop.spec.member);
    let others = yard
        .known
        .desktops
        .values()
        .filter(|other| other.server == desktop.server && !other.personal);
    !others
        .filter(|other| super::rollout::is_ready(&other.phase))
        .filter_map(|other| Some((yard.known.overlay(other)?.bulk, &other.spec.member)))
        .any(|other| other > mine)
}
