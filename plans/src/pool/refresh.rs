//! When it is time to regrow a desktop that is well.

use coppice_schema::desired::Refresh;
use coppice_schema::known::{DiskLevel, KnownDesktop, SeenOverlay};
use coppice_schema::units::Timestamp;

use super::Yard;
use crate::draft::Draft;
use crate::plan::Reason;
use crate::windows;

/// The trigger that fired for `desktop`, if any. Any of them fires alone.
pub(crate) fn due(yard: Yard<'_>, desktop: &KnownDesktop, draft: &mut Draft<'_>) -> Option<Reason> {
    let reason = |trigger: &str| {
        Some(Reason::Refresh {
            trigger: trigger.to_owned(),
        })
    };
    let trigger = yard
        .pool
        .policy
        .refresh
        .as_ref()
        .and_then(|refresh| fired(refresh, desktop.grown, draft));
    if let Some(trigger) = trigger {
        return reason(trigger);
    }
    let overlay = overlay(yard, desktop)?;
    if overlay.over_limit {
        return reason("disk_limit");
    }
    let server = yard.known.servers.get(&desktop.server)?;
    let full = server
        .look
        .as_ref()
        .is_some_and(|look| look.disk == DiskLevel::Critical);
    (full && is_bulkiest(yard, desktop, overlay)).then(|| Reason::Refresh {
        trigger: "disk".to_owned(),
    })
}

fn fired(refresh: &Refresh, grown: Timestamp, draft: &mut Draft<'_>) -> Option<&'static str> {
    let ages = [("every", refresh.every), ("max_age", refresh.max_age)];
    for (trigger, age) in ages {
        let Some(age) = age else { continue };
        let due = grown.after(age);
        if due <= draft.now {
            return Some(trigger);
        }
        draft.wake(due);
    }
    let at = refresh.at.as_ref()?;
    if windows::last_of(at, &draft.zone, draft.now).is_some_and(|last| last > grown) {
        return Some("at");
    }
    windows::next_after(at, &draft.zone, draft.now)
        .into_iter()
        .for_each(|next| draft.wake(next));
    None
}

fn overlay<'a>(yard: Yard<'a>, desktop: &KnownDesktop) -> Option<&'a SeenOverlay> {
    let look = yard.known.servers.get(&desktop.server)?.look.as_ref()?;
    look.members.get(&desktop.spec.member)?.overlay.as_ref()
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
        .filter_map(|other| Some((self::overlay(yard, other)?.bulk, &other.spec.member)))
        .any(|other| other > mine)
}
