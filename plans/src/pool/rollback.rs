//! A version whose clones do not become ready is given up, until a person says otherwise.
//!
//! What is remembered is the slots': of which image a clone was ready there last, and of which none became ready. So a
//! plan settles: going back does not undo the memory that the published version failed, and only a clone of it that
//! becomes ready, a person who resumes the pool, or another template or image does.

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::DesktopId;
use coppice_schema::known::{CopyState, KnownDesktop, Phase, SlotMemory};

use super::Yard;
use crate::images::Published;
use crate::plan::{Finding, FindingKind, Reason, Severity};

/// The published version of a pool's image was given up.
pub(crate) struct GivenUp<'a> {
    /// Slots in which no clone of it became ready.
    pub(crate) failures: u32,
    /// The version that takes its place; `None`: no server holds one any more.
    pub(crate) back: Option<Published<'a>>,
    from: Published<'a>,
}

/// Whether the published version is given up: as many slots as stop a roll-out saw it fail, and the pool was well with
/// another.
pub(crate) fn survey<'a>(yard: Yard<'a>, image: Published<'a>) -> Option<GivenUp<'a>> {
    let rules = &yard.pool.policy.rollout;
    let same = yard.desired.form(yard.name) == yard.known.committed.form(yard.name);
    if !rules.rollback || yard.personal() || !same {
        return None;
    }
    let root = image.record.root;
    let slots = || {
        let all = yard.known.slots.iter();
        all.filter(|(id, _)| id.pool == *yard.name)
    };
    let failed = |slot: &SlotMemory| slot.failed.contains(&root);
    let failures = slots().filter(|(_, slot)| failed(slot)).count();
    let failures = u32::try_from(failures).unwrap_or(u32::MAX);
    if failures < rules.pause_after_failures.max(1) {
        return None;
    }
    // A slot that is no longer used remembers what the pool has left behind.
    let used =
        |id: &DesktopId, slot: &SlotMemory| yard.known.desktops.contains_key(id) || failed(slot);
    let before: BTreeSet<Digest> = slots()
        .filter(|(id, slot)| used(id, slot))
        .filter_map(|(_, slot)| slot.well)
        .filter(|well| *well != root)
        .collect();
    if before.is_empty() {
        return None;
    }
    Some(GivenUp {
        failures,
        back: latest(yard, &before),
        from: image,
    })
}

/// The youngest of those versions that can still be cloned.
fn latest<'a>(yard: Yard<'a>, roots: &BTreeSet<Digest>) -> Option<Published<'a>> {
    let held = |root: &Digest| {
        let looks = yard.known.servers.values().filter_map(|s| s.look.as_ref());
        looks
            .into_iter()
            .any(|look| look.images.get(root) == Some(&CopyState::Verified))
    };
    let versions = yard.known.images.get(&yard.template.image)?.iter();
    versions
        .filter(|(_, record)| roots.contains(&record.root) && held(&record.root))
        .filter(|(_, record)| yard.template.disk.is_none_or(|disk| disk >= record.size))
        .max_by_key(|(version, record)| (record.imported, *version))
        .map(|(version, record)| Published { version, record })
}

impl GivenUp<'_> {
    pub(crate) fn finding(&self, yard: Yard<'_>) -> Finding {
        let failures = self.failures;
        let again = format!(
            "publish another version, or try this one again: coppice resume pool.{}",
            yard.name
        );
        let (kind, remedy) = match self.back {
            Some(back) => {
                let (from, to) = (self.from.version.clone(), back.version.clone());
                (FindingKind::RolledBack { from, to, failures }, again)
            }
            None => (
                FindingKind::RolloutStopped { failures },
                format!("no server holds the version before, so nothing goes back; {again}"),
            ),
        };
        Finding {
            object: yard.address(),
            kind,
            severity: Severity::Error,
            remedy,
        }
    }
}

/// Why `desktop` goes back to an earlier version, if it does: it is a clone of the published one, and broken, in a slot
/// where none became ready.
pub(crate) fn reason(
    yard: Yard<'_>,
    image: Option<Published<'_>>,
    back: Option<Published<'_>>,
    id: &DesktopId,
    desktop: &KnownDesktop,
) -> Option<Reason> {
    let (image, back) = (image?, back?);
    let root = image.record.root;
    let failed = yard
        .known
        .slots
        .get(id)
        .is_some_and(|slot| slot.failed.contains(&root));
    let broken = matches!(desktop.phase, Phase::Broken { .. });
    (failed && broken && desktop.spec.image == root && !desktop.personal).then(|| {
        Reason::RolledBack {
            image: yard.template.image.clone(),
            from: image.version.clone(),
            to: back.version.clone(),
        }
    })
}
