//! What a run may do.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::ids::{Address, PoolName};

use super::due;
use crate::plan::{Kind, Memory, Plan, Reason, Risk};

/// A run does nothing disruptive for the configuration's sake that nobody has looked at.
pub(super) fn approved(
    plan: &Plan,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let rule = "a run does what was reviewed";
    let mut unnamed: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for (action, step) in due(plan) {
        let (Some(member), true) = (step.task.member(), action.risk > Risk::Notice) else {
            continue;
        };
        let id = &member.desktop;
        let wanted = match &action.reason {
            Reason::CannotUpdateInPlace { .. }
            | Reason::ImageVersion { .. }
            | Reason::RemovedFromConfig
            | Reason::Scale { .. }
            | Reason::AttributesChanged
            | Reason::NotPresent => step.memory != Memory::Unchanged,
            // The boot that follows a repair is part of the repair.
            Reason::PendingHardware => !known.repairs.contains_key(id),
            Reason::Drift { .. }
            | Reason::HostGone { .. }
            | Reason::FromCopy { .. }
            | Reason::Draining { .. }
            | Reason::Moving { .. }
            | Reason::Returned { .. }
            | Reason::Requested
            | Reason::Broken { .. }
            | Reason::Refresh { .. }
            | Reason::RolledBack { .. }
            | Reason::Power { .. }
            | Reason::Rebalance { .. }
            | Reason::Unused
            | Reason::Surplus { .. }
            | Reason::Unnamed { .. } => false,
        };
        let mut reviewed = known.runs.values().flat_map(|run| &run.reviewed);
        let named = reviewed.any(|it| {
            let mut slots = it.slots.iter();
            (&it.pool, it.kind) == (&id.pool, action.kind)
                && it.risk >= action.risk
                && slots.any(|(first, last)| *first <= id.slot && id.slot <= *last)
        });
        if wanted && !named {
            let scaled = matches!(action.reason, Reason::Scale { .. });
            judge(
                scaled && action.risk == Risk::Disruptive,
                &action.object,
                rule,
            );
            *unnamed.entry(&id.pool).or_default() += 1;
        }
    }
    // Which pooled desktops a smaller pool loses shows only then; how many does not.
    for (pool, count) in unnamed {
        let each = known.runs.values().map(|run| {
            let all = run.reviewed.iter();
            let removals = all.filter(|it| it.pool == *pool && it.kind == Kind::Delete);
            let counts = removals.map(|it| {
                let named = it.slots.iter().map(|(first, last)| last.0 - first.0 + 1);
                it.extra + named.sum::<u32>()
            });
            counts.sum::<u32>()
        });
        let object = Address::Pool(pool.clone());
        judge(count <= each.max().unwrap_or(0), &object, rule);
    }
}
