//! What holds for a pool, or a server, as a whole.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::{Assignment, Desired, Origin};
use coppice_schema::ids::{Address, PoolName, ServerId};
use coppice_schema::known::{
    CopyState, DesktopSpec, ImageVersion, KnownDesktop, Phase, Request, ServerState, Task,
};

use super::{block, due};
use crate::plan::{Kind, Plan, Reason};

/// What holds for a pool as a whole.
pub(super) fn pools(
    plan: &Plan,
    desired: &Desired,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let mut made: BTreeMap<&PoolName, u32> = BTreeMap::new();
    let mut taken: BTreeMap<&PoolName, u32> = BTreeMap::new();
    let mut shifted: BTreeMap<&PoolName, u32> = BTreeMap::new();
    let mut returned: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for (action, step) in due(plan) {
        let Some(member) = step.task.member() else {
            continue;
        };
        let pool = &member.desktop.pool;
        let moves = matches!(action.reason, Reason::Rebalance { .. });
        if moves && action.kind != Kind::Create {
            *shifted.entry(pool).or_default() += 1;
            let asked = matches!(known.requests.get(&member.desktop), Some(Request::Move { member: asked, .. }) if asked == member);
            let desktop = known.desktops.get(&member.desktop);
            judge(
                asked && desktop.is_some_and(|desktop| !desktop.personal),
                &action.object,
                "only a desktop that is asked to move moves, and no personal one",
            );
        }
        if matches!(action.reason, Reason::Returned { .. }) {
            *returned.entry(pool).or_default() += 1;
        }
        // One that goes on from a copy takes its own place.
        let anew = !matches!(action.reason, Reason::FromCopy { .. });
        if action.kind == Kind::Create && anew {
            *made.entry(pool).or_default() += 1;
        }
        let voluntary = matches!(
            action.reason,
            Reason::CannotUpdateInPlace { .. }
                | Reason::ImageVersion { .. }
                | Reason::Refresh { .. }
                | Reason::PendingHardware
                | Reason::Draining { .. }
        );
        // One that moves is used on, and one that is started for that was off.
        if voluntary
            && !matches!(action.kind, Kind::Migrate | Kind::PowerOn)
            && known
                .desktops
                .get(&member.desktop)
                .is_some_and(|desktop| ready(&desktop.phase))
        {
            *taken.entry(pool).or_default() += 1;
        }
    }
    for name in desired.pools.keys() {
        let Some(pool) = block(desired, known, name) else {
            continue;
        };
        let object = Address::Pool(name.clone());
        let mine = || {
            known
                .desktops
                .iter()
                .filter(|(id, _)| id.pool == *name)
                .map(|(_, desktop)| desktop)
        };
        let count = |test: &dyn Fn(&KnownDesktop) -> bool| {
            u32::try_from(mine().filter(|desktop| test(desktop)).count()).unwrap_or(u32::MAX)
        };
        // What others are grown in place of: it is out of reach, or its server is being emptied.
        let given_up = |desktop: &KnownDesktop| {
            let part = known
                .servers
                .get(&desktop.server)
                .map(|server| server.state);
            let part = part.unwrap_or(ServerState::Ready);
            let away = part == ServerState::Lost || matches!(desktop.phase, Phase::Unknown { .. });
            // One that goes there itself is still there.
            let leaves = super::moves::may_leave(known, desktop);
            !desktop.personal && (away || (part == ServerState::Draining && !leaves))
        };
        let holding = count(&|desktop| !given_up(desktop));
        let new = made.get(name).copied().unwrap_or(0);
        let rules = &pool.policy.rollout;
        let moving = |desktop: &KnownDesktop| {
            let request = known.requests.get(&desktop.spec.member.desktop);
            matches!(request, Some(Request::Move { member, .. }) if *member == desktop.spec.member)
        };
        // For each that moves another is grown first, a few at a time.
        let moves = count(&moving).min(rules.max_unavailable.of(pool.desktops).max(1));
        let most = pool
            .desktops
            .saturating_add(rules.max_surge.of(pool.desktops))
            .saturating_add(moves);
        judge(
            new == 0 || holding.saturating_add(new) <= most,
            &object,
            "a pool does not grow beyond its size",
        );
        let back = returned.get(name).copied().unwrap_or(0);
        judge(
            back == 0 || holding >= pool.desktops.saturating_add(back),
            &object,
            "what a return made too many goes, and no more",
        );
        let floor = pool
            .desktops
            .saturating_sub(rules.max_unavailable.of(pool.desktops));
        let gone = taken.get(name).copied().unwrap_or(0);
        let going = |desktop: &KnownDesktop| {
            let order = known
                .orders
                .values()
                .find(|o| o.task.member() == Some(&desktop.spec.member));
            let task = order.map(|order| &order.task);
            matches!(
                task,
                Some(Task::Restart { .. } | Task::Stop { .. } | Task::Remove { .. })
            )
        };
        let here = count(&|desktop| ready(&desktop.phase) && !going(desktop));
        let moved = shifted.get(name).copied().unwrap_or(0);
        judge(
            moved == 0 || here >= pool.desktops.saturating_add(moved),
            &object,
            "a desktop moves when another is ready in its place",
        );
        let left = here.saturating_sub(gone).saturating_sub(moved);
        judge(
            gone == 0 || left >= floor,
            &object,
            "a change leaves as many desktops as its policy says",
        );
    }
}

/// A version that failed in as many slots as stop a roll-out is not tried again by itself, where another is at hand.
pub(super) fn given_up(
    plan: &Plan,
    desired: &Desired,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    // Who edits templates or images gives what failed another chance.
    if *desired != known.committed {
        return;
    }
    for (action, step) in due(plan) {
        let Task::Create { spec, .. } = &step.task else {
            continue;
        };
        let name = &spec.member.desktop.pool;
        let Some(pool) = desired.pools.get(name) else {
            continue;
        };
        let mine = known.slots.iter().filter(|(id, _)| id.pool == *name);
        let failed = mine.filter(|(_, slot)| slot.failed.contains(&spec.image));
        let most = usize::try_from(pool.policy.rollout.pause_after_failures.max(1));
        let given_up = pool.policy.rollout.rollback && failed.count() >= most.unwrap_or(usize::MAX);
        let image = desired.templates.get(&pool.template).map(|t| &t.image);
        let versions = image.and_then(|image| known.images.get(image));
        let published = image
            .and_then(|image| match &desired.images.get(image)?.origin {
                Origin::Version(version) => versions?.get(version),
                Origin::Source { .. } => None,
            })
            .is_some_and(|record| record.root == spec.image);
        // The plainest other: what a desktop of the pool is made of, and was well with.
        let other = known.desktops.iter().any(|(id, desktop)| {
            let root = desktop.spec.image;
            let fits =
                |record: &ImageVersion| record.root == root && record.size <= spec.hardware.disk;
            let mut looks = known.servers.values().filter_map(|s| s.look.as_ref());
            id.pool == *name
                && root != spec.image
                && known.slots.get(id).and_then(|slot| slot.well) == Some(root)
                && versions.is_some_and(|versions| versions.values().any(fits))
                && looks.any(|look| look.images.get(&root) == Some(&CopyState::Verified))
        });
        judge(
            !(published && given_up && other && pool.assignment != Assignment::Personal),
            &action.object,
            "a version that was given up is not tried again by itself",
        );
    }
}

/// No new desktop is put where what all of them may grow to leaves less of the disk than is to be kept free.
pub(super) fn disks(
    plan: &Plan,
    desired: &Desired,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let bytes = |spec: &DesktopSpec| {
        let disk = u128::from(spec.hardware.disk.0);
        let limit = spec.hardware.disk_limit.map(|limit| u128::from(limit.0));
        limit.map_or(disk / 8, |limit| limit.min(disk))
    };
    let mut new: BTreeMap<ServerId, u128> = BTreeMap::new();
    for (action, step) in due(plan) {
        if let (Task::Create { spec, .. }, Some(server)) = (&step.task, action.server) {
            *new.entry(server).or_default() += bytes(spec);
        }
    }
    for (id, new) in new {
        let Some(server) = known.servers.get(&id).filter(|s| s.capacity.disk.0 > 0) else {
            continue;
        };
        let there = known.desktops.values().filter(|d| d.server == id);
        let there: u128 = there.map(|desktop| bytes(&desktop.spec)).sum();
        let name = server.name.as_str();
        let rules = desired.servers.iter();
        // Of patterns only the plainest are read here.
        let kept = rules
            .filter(|(pattern, _)| *pattern == "*" || *pattern == name)
            .map(|(_, rule)| u128::from(rule.keep_free_disk.0))
            .max()
            .unwrap_or(0);
        judge(
            there + new + kept <= u128::from(server.capacity.disk.0),
            &Address::Server(server.name.clone()),
            "desktops leave free what is to be kept of a disk",
        );
    }
}

fn ready(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. } | Phase::Migrating { .. }
    )
}
