//! An independent judge of plans. It shares no code with the planner: what both got wrong the same way would be
//! found by neither. Every plan is checked before it is committed or ordered; a violation is a fault of ours.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{Assignment, Desired, Origin, Pool};
use coppice_schema::ids::{Address, DesktopId, Generation, PoolName, ServerId};
use coppice_schema::known::{
    CopyState, DesktopSpec, Ending, ImageVersion, Known, KnownDesktop, Phase, ServerState, Task,
};
use coppice_schema::units::Timestamp;

use crate::plan::{Action, Kind, Memory, Plan, Reason, Risk, Step};

/// A rule that a plan breaks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Violation {
    /// About what.
    pub object: Address,
    /// The rule, as a sentence that the plan makes false.
    pub rule: &'static str,
}

/// Judges `plan`, made of `desired` and `known`. An empty answer: nothing is wrong with it.
#[must_use]
pub fn check(plan: &Plan, desired: &Desired, known: &Known) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut judge = |holds: bool, object: &Address, rule: &'static str| {
        if !holds {
            found.push(Violation {
                object: object.clone(),
                rule,
            });
        }
    };
    for (address, read) in &plan.base.objects {
        let now = known
            .generations
            .get(address)
            .copied()
            .unwrap_or(Generation(0));
        judge(
            now == *read,
            address,
            "the base holds the generations that were read",
        );
    }
    for (index, action) in plan.actions.iter().enumerate() {
        let earlier = action.needs.iter().all(|need| *need < index);
        judge(earlier, &action.object, "an action needs only earlier ones");
    }
    judge(
        plan.complete
            == known
                .servers
                .values()
                .all(|s| s.current || !holds_desktops(s.state)),
        &Address::Grid,
        "a plan is complete when every server was seen whole",
    );
    let mut touched: BTreeSet<&DesktopId> = known
        .orders
        .values()
        .filter_map(|o| Some(&o.task.member()?.desktop))
        .collect();
    for (action, step) in due(plan) {
        if let Some(member) = step.task.member() {
            judge(
                touched.insert(&member.desktop),
                &action.object,
                "a desktop has one order at a time",
            );
            judge(
                base_has(plan, action, desired, known),
                &action.object,
                "a round reads what it orders",
            );
        }
        one(action, step, known, &mut judge);
        if let Some((member, desktop)) = step.task.member().and_then(|member| {
            let desktop = known.desktops.get(&member.desktop)?;
            (desktop.incarnation == member.incarnation).then_some((member, desktop))
        }) {
            let ends = match step.task {
                Task::Remove { .. } | Task::Stop { .. } | Task::Restart { .. } => true,
                Task::Create { .. }
                | Task::Redefine { .. }
                | Task::Start { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. } => false,
            };
            let again = matches!(desktop.phase, Phase::Deleting { .. });
            judge(
                !ends
                    || again
                    || action.reason == Reason::Requested
                    || !may_be_used(desktop)
                    || overdue(
                        action,
                        desktop,
                        desired.pools.get(&member.desktop.pool),
                        plan.at,
                    ),
                &action.object,
                "nobody is cut off",
            );
        }
    }
    pools(plan, desired, known, &mut judge);
    disks(plan, desired, known, &mut judge);
    given_up(plan, desired, known, &mut judge);
    // A configuration that is not committed is reviewed by looking at this very plan.
    if *desired == known.committed && !known.runs.is_empty() {
        approved(plan, known, &mut judge);
    }
    found
}

/// Actions that would be ordered at once.
fn due(plan: &Plan) -> impl Iterator<Item = (&Action, &Step)> {
    plan.actions
        .iter()
        .filter(|action| action.waits.is_empty())
        .filter_map(|a| Some((a, a.step.as_ref()?)))
}

fn holds_desktops(part: ServerState) -> bool {
    !matches!(
        part,
        ServerState::Joining | ServerState::Lost | ServerState::Removed
    )
}

fn base_has(plan: &Plan, action: &Action, desired: &Desired, known: &Known) -> bool {
    *desired != known.committed || plan.base.objects.contains_key(&action.object)
}

fn one(
    action: &Action,
    step: &Step,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let object = &action.object;
    let Some(server) = action
        .server
        .and_then(|id| Some((id, known.servers.get(&id)?)))
    else {
        judge(false, object, "an order is for a member of the grid");
        return;
    };
    judge(
        server.1.current,
        object,
        "an order is for a server that was seen whole",
    );
    let whole = known
        .servers
        .values()
        .all(|s| s.current || !holds_desktops(s.state));
    if let Task::DropImage { root } = &step.task {
        let mut clones = known.desktops.values();
        judge(
            !clones.any(|desktop| desktop.spec.image == *root),
            object,
            "an image that has clones stays",
        );
    }
    let Some(member) = step.task.member() else {
        return;
    };
    let id = &member.desktop;
    let present = known.desktops.get(id);
    let shown = known.servers.values().filter_map(|s| s.look.as_ref());
    let mut paused = vec![
        Address::Grid,
        Address::Pool(id.pool.clone()),
        Address::Desktop(id.clone()),
    ];
    paused.retain(|address| matches!(known.pauses.get(address), Some(None)));
    judge(paused.is_empty(), object, "what is paused is let be");
    match (&step.task, &step.memory) {
        (
            Task::Create { spec, .. },
            Memory::Grown {
                spec: remembered, ..
            },
        ) => {
            judge(whole, object, "nothing is made while a server is not seen");
            judge(present.is_none(), object, "a slot has one desktop");
            let last = known.slots.get(id).map_or(0, |slot| slot.incarnation.0);
            judge(
                member.incarnation.0 > last,
                object,
                "every life of a slot is a new one",
            );
            let mut lives = shown.clone().flat_map(|look| look.members.keys());
            judge(
                !lives.any(|seen| seen.desktop == *id),
                object,
                "a slot that a server still holds is not filled",
            );
            let mut names = shown.clone().flat_map(|look| look.foreign.keys());
            judge(
                !names.any(|name| *name == id.to_string()),
                object,
                "a name that is not ours is not taken",
            );
            let image = server
                .1
                .look
                .as_ref()
                .and_then(|look| look.images.get(&spec.image));
            judge(
                image == Some(&CopyState::Verified),
                object,
                "a clone is made of a verified image",
            );
            judge(
                **remembered == *spec,
                object,
                "what is remembered is what is ordered",
            );
            judge(
                spec.uuid == id.uuid(known.grid, known.epoch, member.incarnation),
                object,
                "a desktop's UUID is derived",
            );
            let mut others = known.desktops.iter().filter(|(other, _)| *other != id);
            judge(
                !others.any(|(_, d)| d.spec.hostname == spec.hostname),
                object,
                "a host name is used once",
            );
        }
        (Task::Create { .. }, _) => judge(false, object, "a desktop that is made is remembered"),
        (Task::Remove { .. }, Memory::Leaving) => {
            judge(
                belongs(present, action, member.incarnation),
                object,
                "only a present desktop can leave",
            );
            judge(
                whole,
                object,
                "nothing is taken away while a server is not seen",
            );
            if action.kind == Kind::Delete {
                let pool = Address::Pool(id.pool.clone());
                let gone = matches!(action.reason, Reason::RemovedFromConfig);
                judge(
                    !(gone && known.protections.contains(&pool)),
                    object,
                    "a protected pool is kept",
                );
            }
            if let Some(desktop) = present {
                let by_person = matches!(
                    action.reason,
                    Reason::Requested | Reason::RemovedFromConfig | Reason::Scale { .. }
                );
                judge(
                    !desktop.personal || by_person,
                    object,
                    "a personal disk goes only by a person's word",
                );
            }
        }
        (Task::Remove { .. }, Memory::Unchanged) => {
            let leaving = present.is_some_and(|d| {
                d.incarnation == member.incarnation && matches!(d.phase, Phase::Deleting { .. })
            });
            let last = known.slots.get(id).map_or(0, |slot| slot.incarnation.0);
            let superseded = last > member.incarnation.0 && present.is_some_and(|d| !d.personal);
            judge(
                leaving || superseded,
                object,
                "a stray goes only when it was superseded",
            );
        }
        (Task::Remove { .. }, _) => judge(
            false,
            object,
            "what is removed is not remembered as something new",
        ),
        (Task::Redefine { spec }, memory) => {
            judge(
                belongs(present, action, member.incarnation),
                object,
                "only a present desktop is changed",
            );
            let written = match memory {
                Memory::Rewritten { spec } => Some(spec.as_ref()),
                Memory::Unchanged => present.map(|desktop| &desktop.spec),
                Memory::Grown { .. } | Memory::Leaving => None,
            };
            judge(
                written == Some(spec),
                object,
                "what is written is what is remembered",
            );
        }
        (Task::Start { .. } | Task::Stop { .. } | Task::Restart { .. }, memory) => {
            judge(
                belongs(present, action, member.incarnation),
                object,
                "only a present desktop is switched",
            );
            judge(
                *memory == Memory::Unchanged,
                object,
                "switching changes no memory",
            );
            let cut = matches!(
                &step.task,
                Task::Restart {
                    ending: Ending::AskedIfUp,
                    ..
                }
            );
            judge(
                !(cut && present.is_some_and(|desktop| desktop.personal)),
                object,
                "a personal desktop is asked before its power goes",
            );
        }
        (Task::VerifyImage { .. } | Task::DropImage { .. }, _) => {}
    }
}

/// Somebody is signed in, or was when its guest was last heard.
fn may_be_used(desktop: &KnownDesktop) -> bool {
    match desktop.phase {
        Phase::InUse { .. } => true,
        Phase::Provisioning { .. } => desktop.wear.occupied,
        Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    }
}

/// The pool's policy says how long people have, and they had it: since they signed in, and since the earliest moment
/// at which a trigger can have fired.
fn overdue(action: &Action, desktop: &KnownDesktop, pool: Option<&Pool>, now: Timestamp) -> bool {
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

/// A run does nothing disruptive for the configuration's sake that nobody has looked at.
fn approved(plan: &Plan, known: &Known, judge: &mut impl FnMut(bool, &Address, &'static str)) {
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
            | Reason::Requested
            | Reason::Broken { .. }
            | Reason::Refresh { .. }
            | Reason::RolledBack { .. }
            | Reason::Power { .. }
            | Reason::Unused => false,
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

fn belongs(
    present: Option<&KnownDesktop>,
    action: &Action,
    incarnation: coppice_schema::ids::Incarnation,
) -> bool {
    present.is_some_and(|desktop| {
        desktop.incarnation == incarnation && Some(desktop.server) == action.server
    })
}

/// What holds for a pool as a whole.
fn pools(
    plan: &Plan,
    desired: &Desired,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let mut made: BTreeMap<&PoolName, u32> = BTreeMap::new();
    let mut taken: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for (action, step) in due(plan) {
        let Some(member) = step.task.member() else {
            continue;
        };
        let pool = &member.desktop.pool;
        if action.kind == Kind::Create {
            *made.entry(pool).or_default() += 1;
        }
        let voluntary = matches!(
            action.reason,
            Reason::CannotUpdateInPlace { .. }
                | Reason::ImageVersion { .. }
                | Reason::Refresh { .. }
                | Reason::PendingHardware
        );
        if voluntary
            && known
                .desktops
                .get(&member.desktop)
                .is_some_and(|desktop| ready(&desktop.phase))
        {
            *taken.entry(pool).or_default() += 1;
        }
    }
    for (name, pool) in &desired.pools {
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
        let holding = count(&|desktop| !matches!(desktop.phase, Phase::Unknown { .. }));
        let new = made.get(name).copied().unwrap_or(0);
        let rules = &pool.policy.rollout;
        let most = pool
            .desktops
            .saturating_add(rules.max_surge.of(pool.desktops));
        judge(
            new == 0 || holding.saturating_add(new) <= most,
            &object,
            "a pool does not grow beyond its size",
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
        let left = count(&|desktop| ready(&desktop.phase) && !going(desktop)).saturating_sub(gone);
        judge(
            gone == 0 || left >= floor,
            &object,
            "a change leaves as many desktops as its policy says",
        );
    }
}

/// A version that failed in as many slots as stop a roll-out is not tried again by itself, where another is at hand.
fn given_up(
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
fn disks(
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
        Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. }
    )
}
