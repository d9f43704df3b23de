//! An independent judge of plans. It shares no code with the planner: what both got wrong the same way would be
//! found by neither. Every plan is checked before it is committed or ordered; a violation is a fault of ours.

mod moves;
mod people;
mod places;
mod pools;
mod restored;
mod reviewed;

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::desired::{Desired, Pool};
use coppice_schema::ids::{Address, DesktopId, Generation, PoolName, ServerId};
use coppice_schema::known::{
    CopyState, Ending, Known, KnownDesktop, Phase, Request, ServerState, Task,
};

use self::people::{forced, may_be_used, overdue};
use self::places::places;
use self::pools::{disks, given_up, pools};
use self::reviewed::approved;
use crate::plan::{Action, Kind, Memory, Plan, Reason, Step};

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
    let unseen = known
        .servers
        .values()
        .any(|s| !s.current && holds_desktops(s.state));
    let only_joining = !known.servers.is_empty()
        && known
            .servers
            .values()
            .all(|s| matches!(s.state, ServerState::Joining));
    judge(
        plan.complete != (unseen || only_joining),
        &Address::Grid,
        "a plan is complete when every server was seen whole",
    );
    let mut touched: BTreeSet<&DesktopId> = known
        .orders
        .values()
        .filter_map(|o| Some(&o.task.member()?.desktop))
        .collect();
    let gets = known.orders.values().filter_map(|order| match &order.task {
        Task::CopyImage { root, .. } => Some((order.server, *root)),
        Task::Create { .. }
        | Task::Restore { .. }
        | Task::Redefine { .. }
        | Task::Start { .. }
        | Task::Stop { .. }
        | Task::Restart { .. }
        | Task::Remove { .. }
        | Task::Receive { .. }
        | Task::Send { .. }
        | Task::Enter { .. }
        | Task::Stay { .. }
        | Task::VerifyImage { .. }
        | Task::DropImage { .. } => None,
    });
    let mut copied: BTreeSet<(ServerId, Digest)> = gets.collect();
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
        if let Task::CopyImage { root, from } = &step.task {
            let server = action.server.unwrap_or_default();
            judge(
                copied.insert((server, *root)),
                &action.object,
                "a server gets an image once at a time",
            );
            judge(
                !from.is_empty() && !from.contains(&server),
                &action.object,
                "an image is got from others",
            );
            let look = known.servers.get(&server).and_then(|s| s.look.as_ref());
            let here = look.and_then(|look| look.images.get(root));
            judge(
                here != Some(&CopyState::Verified),
                &action.object,
                "a copy that is whole is not made again",
            );
            let mut versions = known.images.values().flat_map(|all| all.values());
            judge(
                versions.any(|version| version.root == *root),
                &action.object,
                "only what the catalogue names is copied",
            );
        }
        surplus(plan, action, step, known, &mut judge);
        let drops = matches!(step.task, Task::DropImage { .. }) && !is_surplus(action);
        judge(
            !(drops && *desired == known.committed && known.protections.contains(&action.object)),
            &action.object,
            "a protected image keeps its versions",
        );
        one(action, step, desired, known, &mut judge);
        if let Some((member, desktop)) = step.task.member().and_then(|member| {
            let desktop = known.desktops.get(&member.desktop)?;
            // What is left of it on another server is nobody's.
            let here = action.server.is_none_or(|server| server == desktop.server);
            (here && desktop.incarnation == member.incarnation).then_some((member, desktop))
        }) {
            let ends = match step.task {
                Task::Remove { .. } | Task::Stop { .. } | Task::Restart { .. } => true,
                Task::Create { .. }
                | Task::Restore { .. }
                | Task::Redefine { .. }
                | Task::Start { .. }
                | Task::Receive { .. }
                | Task::Send { .. }
                | Task::Enter { .. }
                | Task::Stay { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. }
                | Task::CopyImage { .. } => false,
            };
            let again = matches!(desktop.phase, Phase::Deleting { .. });
            judge(
                !ends
                    || again
                    || action.reason == Reason::Requested
                    || !may_be_used(desktop)
                    || forced(action, desktop, known, plan.at)
                    || overdue(
                        action,
                        desktop,
                        block(desired, known, &member.desktop.pool),
                        plan.at,
                    ),
                &action.object,
                "nobody is cut off",
            );
        }
    }
    pools(plan, desired, known, &mut judge);
    disks(plan, desired, known, &mut judge);
    places(plan, desired, known, &mut judge);
    given_up(plan, desired, known, &mut judge);
    // A configuration that is not committed is reviewed by looking at this very plan.
    if *desired == known.committed && !known.runs.is_empty() {
        approved(plan, known, &mut judge);
    }
    found
}

/// The block that a pool is looked after by: its own, or the last one that wanted desktops where protection keeps them.
fn block<'a>(desired: &'a Desired, known: &'a Known, name: &PoolName) -> Option<&'a Pool> {
    let wants = |pool: &&Pool| pool.desktops > 0;
    let own = desired.pools.get(name);
    let address = Address::Pool(name.clone());
    let protected = own.map_or(known.protections.contains(&address), |pool| pool.protect);
    let committed = known.committed.pools.get(name).filter(wants);
    let last = committed.or_else(|| known.kept.get(name)?.pools.get(name));
    own.filter(wants)
        .or_else(|| last.filter(|_| protected))
        .or(own)
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

/// Each version of that image is one of more than `keep` that its block has, not counting younger ones of its bytes.
fn may_go(root: Digest, desired: &Desired, known: &Known) -> bool {
    known.images.iter().all(|(name, versions)| {
        let mut mine = versions.values().filter(|version| version.root == root);
        mine.all(|mine| {
            let younger = versions
                .values()
                .filter(|other| other.root != root && other.imported >= mine.imported);
            let younger = u32::try_from(younger.count()).unwrap_or(u32::MAX);
            let block = desired.images.get(name);
            block.is_some_and(|block| younger >= block.keep)
        })
    })
}

fn is_surplus(action: &Action) -> bool {
    matches!(action.reason, Reason::Surplus { .. })
}

/// What is dropped because there is more than is wanted.
fn surplus(
    plan: &Plan,
    action: &Action,
    step: &Step,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let (Task::DropImage { root }, Reason::Surplus { copies }) = (&step.task, &action.reason)
    else {
        return;
    };
    let mut clones = known.desktops.values();
    judge(
        !clones.any(|it| Some(it.server) == action.server && it.spec.image == *root),
        &action.object,
        "a copy that has clones stays",
    );
    let drops = due(plan).filter(|(_, other)| other.task == step.task);
    let planned: BTreeSet<ServerId> = drops.filter_map(|(action, _)| action.server).collect();
    let left = known.servers.iter().filter(|(id, server)| {
        let look = server.look.as_ref().filter(|_| server.current);
        let copy = look.and_then(|look| look.images.get(root));
        copy == Some(&CopyState::Verified) && !planned.contains(id)
    });
    judge(
        *copies > 0 && u32::try_from(left.count()).unwrap_or(u32::MAX) >= *copies,
        &action.object,
        "as many copies as are wanted stay",
    );
}

fn one(
    action: &Action,
    step: &Step,
    desired: &Desired,
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
    judge(
        server.1.state != ServerState::Lost,
        object,
        "a server that is lost is told nothing",
    );
    let whole = known
        .servers
        .values()
        .all(|s| s.current || !holds_desktops(s.state));
    if let (Task::DropImage { root }, false) = (&step.task, is_surplus(action)) {
        let mut clones = known.desktops.values();
        judge(
            !clones.any(|desktop| desktop.spec.image == *root),
            object,
            "an image that has clones stays",
        );
        judge(
            may_go(*root, desired, known),
            object,
            "a version stays in the catalogue unless it is beyond `keep` of its image's block",
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
    // One that stands still between two servers goes on, on one of them.
    let stands = matches!(
        step.task,
        Task::Enter { .. } | Task::Stay { .. } | Task::Send { .. }
    );
    judge(
        paused.is_empty() || stands,
        object,
        "what is paused is let be",
    );
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
            let mut lives = shown
                .clone()
                .flat_map(|look| look.members.keys().chain(look.quarantine.keys()));
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
        (Task::Restore { spec, from }, Memory::Restored { spec: remembered }) => {
            restored::judge(action, (spec, from), remembered, present, known, judge);
        }
        (Task::Restore { spec, from }, Memory::Unchanged) => judge(
            present.is_some_and(|desktop| {
                desktop.restored_from.as_ref() == Some(from) && desktop.spec == *spec
            }) && belongs(present, action, member.incarnation),
            object,
            "a restoration is tried again as it was begun",
        ),
        (Task::Restore { .. }, _) => judge(
            false,
            object,
            "a desktop that is brought back is remembered as that",
        ),
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
            let left = moves::is_elsewhere(present, member.incarnation, server.0, known);
            let look = server.1.look.as_ref();
            let apart = look.is_some_and(|look| look.holds_apart(member, present));
            let given_up = known.requests.get(id)
                == Some(&Request::Discard {
                    member: member.clone(),
                    server: server.0,
                });
            judge(
                apart || leaving || superseded || left,
                object,
                "a stray goes only when it was superseded",
            );
            judge(
                !apart || given_up,
                object,
                "what is in quarantine goes by a person's word only",
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
                Memory::Grown { .. }
                | Memory::Restored { .. }
                | Memory::Leaving
                | Memory::Moving { .. }
                | Memory::Copying
                | Memory::Switched
                | Memory::Returning => None,
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
        (Task::Receive { .. } | Task::Send { .. } | Task::Enter { .. } | Task::Stay { .. }, _) => {
            moves::judge(action, step, present, server, judge)
        }
        (Task::VerifyImage { .. } | Task::DropImage { .. } | Task::CopyImage { .. }, _) => {}
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
