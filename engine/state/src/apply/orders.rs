//! Orders: given, tried, withdrawn.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_plans::plan::{Base, Memory};
use coppice_schema::ids::{Address, DesktopId, Incarnation, ServerId, ServerName, Stamp};
use coppice_schema::known::{
    BrokenReason, DesktopSpec, KnownDesktop, Order, Phase, Request, ServerState, Task, Wear,
};

use super::commit::compare;
use super::observation::{rederive, set_phase};
use super::{generation, member};
use crate::entry::{Attempt, NewOrder, Outcome, Refusal};
use crate::state::{Happening, State};

/// Repairs of one domain that are remembered: as many as make it contended.
const REPAIRS_KEPT: usize = 3;

/// What was decided in an earlier term may be agreed on in a later one: whoever led may lead again, or have handed it on.
/// By then another may have decided otherwise, of servers that were not seen in this term yet.
pub(super) fn current(state: &State, decided: u64) -> Result<(), Refusal> {
    let now = state.term;
    if decided == 0 || decided == now {
        return Ok(());
    }
    Err(Refusal::Deposed { decided, now })
}

pub(super) fn planned(
    state: &mut State,
    base: &Base,
    orders: &[NewOrder],
    findings: &BTreeSet<String>,
    settled: bool,
) -> Result<Outcome, Refusal> {
    compare(state, base)?;
    let busy: BTreeSet<DesktopId> = state.orders.values().filter_map(about).collect();
    let mut touched = BTreeSet::new();
    for order in orders {
        acceptable(state, order)?;
        if let Task::DropImage { root } = &order.task {
            super::catalogue::nameless(state, *root, base)?;
        }
        if let Some(member) = order.task.member()
            && (busy.contains(&member.desktop) || !touched.insert(member.desktop.clone()))
        {
            return Err(Refusal::Exists(format!(
                "an order for desktop {}",
                member.desktop
            )));
        }
    }
    for (ordinal, order) in (0u32..).zip(orders) {
        give(state, order, ordinal);
    }
    let time = state.time;
    state.since.retain(|key, _| findings.contains(key));
    for key in findings {
        state.since.entry(key.clone()).or_insert(time);
    }
    if settled {
        // A plan made before a commit says nothing about the run that it began.
        let runs = state.runs.range_mut(..=base.revision);
        for (_, run) in runs.filter(|(_, run)| run.finished.is_none()) {
            run.finished = Some(time);
        }
        super::life::settled(state);
    }
    Ok(Outcome::Done)
}

fn about(order: &Order) -> Option<DesktopId> {
    order.task.member().map(|member| member.desktop.clone())
}

/// An order that contradicts what is remembered is a fault of the planner; it must not harm a slot.
fn acceptable(state: &State, order: &NewOrder) -> Result<(), Refusal> {
    let server = state.servers.get(&order.server);
    let server = server.ok_or_else(|| Refusal::Absent(format!("server {}", order.server)))?;
    // It was lost since the plan was made: what it is told now would wait for it, and hold a slot.
    if matches!(server.state, ServerState::Lost | ServerState::Removed) {
        let name = &server.name;
        return Err(Refusal::Absent(format!("server {name} that takes part")));
    }
    if let Some(user) = super::catalogue::user(state, order) {
        let what = format!("the copy of image {} on {}", user.0.short(), server.name);
        return Err(Refusal::InUse { what, by: user.1 });
    }
    let Some(member) = order.task.member() else {
        return Ok(());
    };
    let known = state.desktops.get(&member.desktop);
    if let Some(verdict) = super::moves::acceptable(order, known) {
        return verdict;
    }
    if known.is_some_and(|known| takes_what_came_up(order, known)) {
        return Err(Refusal::CameUp(member.desktop.clone()));
    }
    match (&order.memory, known) {
        (Memory::Grown { .. }, Some(_)) => {
            Err(Refusal::Exists(format!("desktop {}", member.desktop)))
        }
        (Memory::Grown { spec, .. }, None) => {
            let last = state
                .slots
                .get(&member.desktop)
                .map(|slot| slot.incarnation)
                .unwrap_or_default();
            let fresh = spec.member == *member && member.incarnation > last;
            if fresh {
                Ok(())
            } else {
                Err(Refusal::Exists(format!("{member}, or a later life of it")))
            }
        }
        (Memory::Restored { spec }, Some(known)) => {
            super::restored::acceptable(state, order, spec, known)
        }
        // A stray is removed where it was seen; it has no memory.
        (Memory::Unchanged, None) if matches!(order.task, Task::Remove { .. }) => Ok(()),
        (Memory::Unchanged, Some(_)) if matches!(order.task, Task::Remove { .. }) => {
            if known
                .is_some_and(|d| d.incarnation == member.incarnation && d.server == order.server)
                && !known.is_some_and(|d| matches!(d.phase, Phase::Deleting { .. }))
            {
                return Err(Refusal::Exists(format!("{member}, which is not a stray")));
            }
            Ok(())
        }
        (Memory::Unchanged | Memory::Rewritten { .. } | Memory::Leaving, Some(known)) => {
            super::restored::again(order, known)?;
            if known.incarnation == member.incarnation && known.server == order.server {
                Ok(())
            } else {
                Err(Refusal::Absent(format!(
                    "{member} on server {}",
                    order.server
                )))
            }
        }
        (
            Memory::Unchanged
            | Memory::Restored { .. }
            | Memory::Rewritten { .. }
            | Memory::Leaving,
            None,
        )
        | (Memory::Moving { .. } | Memory::Copying | Memory::Switched | Memory::Returning, _) => {
            Err(Refusal::Absent(format!("desktop {}", member.desktop)))
        }
    }
}

/// Whether a person may have a desktop by now that nobody could when it was decided to take it away: how many may be away
/// at a time, and who is asked to leave, was decided without it.
fn takes_what_came_up(order: &NewOrder, known: &KnownDesktop) -> bool {
    let takes = matches!(
        order.task,
        Task::Remove { .. } | Task::Restart { .. } | Task::Stop { .. }
    );
    let there = matches!(known.phase, Phase::Available { .. } | Phase::InUse { .. });
    takes && there && known.phase.since() > order.not_before
}

fn give(state: &mut State, new: &NewOrder, ordinal: u32) {
    let stamp = Stamp {
        epoch: state.epoch.number,
        term: state.term,
        index: state.index,
        ordinal,
    };
    let what = new.task.describe();
    let address = match new.task.member() {
        Some(member) => Address::Desktop(member.desktop.clone()),
        None => state
            .servers
            .get(&new.server)
            .map_or(Address::Grid, |s| Address::Server(s.name.clone())),
    };
    match &new.memory {
        Memory::Unchanged => {}
        Memory::Grown { spec, personal } => grow(state, new.server, spec, *personal),
        Memory::Restored { spec } => super::restored::begun(state, new, spec),
        Memory::Rewritten { spec } => {
            if let Some(desktop) = state.desktop_mut(&spec.member.desktop) {
                desktop.spec = spec.as_ref().clone();
            }
        }
        Memory::Moving { .. } | Memory::Copying | Memory::Switched | Memory::Returning => {
            if let Address::Desktop(id) = &address {
                super::moves::ordered(state, id, &new.memory);
            }
        }
        Memory::Leaving => {
            if let Address::Desktop(id) = &address {
                let since = state.time;
                set_phase(state, id, Phase::Deleting { since, done: false });
                state.requests.remove(id);
            }
        }
    }
    if new.memory != Memory::Unchanged {
        let generation = generation(state);
        state.generations.insert(address.clone(), generation);
    }
    remember_repair(state, new);
    let order = Order {
        server: new.server,
        task: new.task.clone(),
        not_before: new.not_before,
        deadline: new.deadline,
        attempts: 0,
        last_error: None,
    };
    Arc::make_mut(&mut state.orders).insert(stamp, order);
    state.record(address, Happening::Ordered { what });
}

pub(super) fn grow(state: &mut State, server: ServerId, spec: &DesktopSpec, personal: bool) {
    let id = spec.member.desktop.clone();
    let slot = state.slots.entry(id.clone()).or_default();
    slot.incarnation = spec.member.incarnation;
    let desktop = KnownDesktop {
        incarnation: spec.member.incarnation,
        server,
        spec: spec.clone(),
        phase: Phase::Provisioning { since: state.time },
        personal,
        failures: slot.failures,
        grown: state.time,
        wear: Wear::default(),
        stayed: Default::default(),
        restored_from: None,
    };
    Arc::make_mut(&mut state.desktops).insert(id, desktop);
}

/// Writing a domain again as it was last written means that others had changed it.
fn remember_repair(state: &mut State, order: &NewOrder) {
    match (&order.task, &order.memory) {
        (Task::Redefine { spec }, Memory::Unchanged) => {
            let repairs = state
                .repairs
                .entry(spec.member.desktop.clone())
                .or_default();
            repairs.push(state.time);
            if repairs.len() > REPAIRS_KEPT {
                repairs.remove(0);
            }
        }
        (Task::Restart { member, .. }, _) => {
            let asked = state.requests.get(&member.desktop);
            if matches!(asked, Some(Request::Restart(asked)) if asked == member) {
                state.requests.remove(&member.desktop);
            }
        }
        (
            Task::Redefine { .. }
            | Task::Create { .. }
            | Task::Restore { .. }
            | Task::Start { .. }
            | Task::Stop { .. }
            | Task::Remove { .. }
            | Task::Receive { .. }
            | Task::Send { .. }
            | Task::Enter { .. }
            | Task::Stay { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. }
            | Task::CopyImage { .. },
            _,
        ) => {}
    }
}

pub(super) fn receipt(
    state: &mut State,
    server: ServerId,
    stamp: Stamp,
    result: &Attempt,
) -> Result<Outcome, Refusal> {
    let name = member(state, server)?.name.clone();
    let absent = || Refusal::Absent(format!("order {stamp} of server {name}"));
    let order = state
        .orders
        .get(&stamp)
        .filter(|order| order.server == server)
        .ok_or_else(absent)?;
    let task = order.task.clone();
    super::life::spoke(state, server);
    let what = task.describe();
    let address = task.member().map_or_else(
        || server_address(&name),
        |m| Address::Desktop(m.desktop.clone()),
    );
    match result {
        Attempt::Done => {
            close(state, stamp);
            count(state, |run| run.done = run.done.saturating_add(1));
            state.record(address, Happening::Done { what });
            if let Task::Remove { member } = &task {
                mark_removed(state, &member.desktop, member.incarnation);
            }
            if let Task::DropImage { root } = &task {
                super::catalogue::dropped(state, server, *root);
            } else if super::moves::done(state, &task) {
            } else if let Some(member) = task.member() {
                // What it changed was reported before; while the order was open, what was seen meant less.
                rederive(state, &member.desktop);
            }
        }
        Attempt::Failed { error, retry_at } => {
            if let Some(order) = Arc::make_mut(&mut state.orders).get_mut(&stamp) {
                order.attempts = order.attempts.saturating_add(1);
                order.last_error = Some(error.clone());
                order.not_before = *retry_at;
            }
            count(state, |run| run.failed = run.failed.saturating_add(1));
            state.record(
                address,
                Happening::Failed {
                    what,
                    why: error.clone(),
                },
            );
        }
        Attempt::Refused { error } => {
            close(state, stamp);
            count(state, |run| run.failed = run.failed.saturating_add(1));
            state.record(
                address,
                Happening::Failed {
                    what,
                    why: error.clone(),
                },
            );
            if !super::moves::given_up(state, &task)
                && let Some(member) = task.member()
            {
                refuse(state, &member.desktop, member.incarnation, error);
            }
        }
    }
    Ok(Outcome::Done)
}

fn server_address(name: &ServerName) -> Address {
    Address::Server(name.clone())
}

fn close(state: &mut State, stamp: Stamp) {
    Arc::make_mut(&mut state.orders).remove(&stamp);
}

fn count(state: &mut State, change: impl FnOnce(&mut crate::state::Run)) {
    if let Some(run) = state
        .runs
        .values_mut()
        .next_back()
        .filter(|run| run.finished.is_none())
    {
        change(run);
    }
}

fn mark_removed(state: &mut State, id: &DesktopId, incarnation: Incarnation) {
    let leaving = state
        .desktops
        .get(id)
        .filter(|desktop| desktop.incarnation == incarnation)
        .is_some_and(|desktop| matches!(desktop.phase, Phase::Deleting { .. }));
    if leaving {
        if let Some(desktop) = state.desktop_mut(id) {
            let since = desktop.phase.since();
            desktop.phase = Phase::Deleting { since, done: true };
        }
        rederive(state, id);
    }
}

fn refuse(state: &mut State, id: &DesktopId, incarnation: Incarnation, error: &str) {
    let since = state.time;
    let desktop = state.desktops.get(id);
    match desktop.filter(|desktop| desktop.incarnation == incarnation) {
        Some(desktop) if matches!(desktop.phase, Phase::Migrating { .. }) => {
            super::moves::failed(state, id, error);
        }
        Some(desktop) if !matches!(desktop.phase, Phase::Deleting { .. }) => {
            let reason = BrokenReason::Refused(error.to_owned());
            set_phase(state, id, Phase::Broken { since, reason });
        }
        Some(_) | None => {}
    }
}

pub(super) fn withdrawn(state: &mut State, stamp: Stamp, why: &str) -> Result<Outcome, Refusal> {
    let order = state
        .orders
        .get(&stamp)
        .ok_or_else(|| Refusal::Absent(format!("order {stamp}")))?;
    let (task, server) = (order.task.clone(), order.server);
    close(state, stamp);
    if let Task::CopyImage { .. } = &task {
        // What has come stays, and the next order goes on from there: nothing failed. Its window may just have closed.
        let name = member(state, server)?.name.clone();
        let what = format!("{}: {why}", task.describe());
        state.record(server_address(&name), Happening::Image { what });
        return Ok(Outcome::Done);
    }
    count(state, |run| run.failed = run.failed.saturating_add(1));
    let address = task.member().map_or(Address::Grid, |member| {
        Address::Desktop(member.desktop.clone())
    });
    state.record(
        address,
        Happening::Failed {
            what: task.describe(),
            why: why.to_owned(),
        },
    );
    if let Some(member) = task.member() {
        // Its server may have begun: the desktop stays in its slot, and is looked at again.
        refuse(state, &member.desktop, member.incarnation, why);
    }
    Ok(Outcome::Done)
}
