//! A desktop on its way to another server.
//!
//! ```text
//!   runs at A ──▶ Preparing ──▶ Prepared ──▶ Copying ──▶ Copied ──▶ Switched ──▶ runs at B
//!                     │             │            │          │
//!                     └─────────────┴────────────┴──────────┴──▶ Returning ──▶ runs at A
//! ```
//!
//! A step to the right is an order of the leader's, or the receipt of one. At most one order about the desktop is open at
//! any time, on whichever server: so nothing is let in at B while A may still be told that it stays, and never both.
//!
//! A server that is lost keeps the move as it is: what it may hold of the desktop stands still until it is told how to go
//! on. One that is gone for good decides it: the desktop goes on where the other half of it is.

use coppice_plans::plan::Memory;
use std::sync::Arc;

use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{Failures, KnownDesktop, MoveStep, Phase, Stayed, Task};

use super::observation::{rederive, set_phase};
use crate::entry::{NewOrder, Refusal};
use crate::state::State;

/// Whether an order is the next step of the desktop's move. `None`: it is about something else.
pub(super) fn acceptable(
    order: &NewOrder,
    known: Option<&KnownDesktop>,
) -> Option<Result<(), Refusal>> {
    let is_move = matches!(
        order.task,
        Task::Receive { .. } | Task::Send { .. } | Task::Enter { .. } | Task::Stay { .. }
    );
    let moves = matches!(
        order.memory,
        Memory::Moving { .. } | Memory::Copying | Memory::Switched | Memory::Returning
    );
    if !is_move && !moves {
        return None;
    }
    let member = order.task.member()?;
    let known = known.filter(|desktop| desktop.incarnation == member.incarnation);
    let fits = known.is_some_and(|desktop| follows(order, desktop));
    Some(if fits {
        Ok(())
    } else {
        let what = order.task.describe();
        Err(Refusal::Absent(format!("move in which to {what}")))
    })
}

fn follows(order: &NewOrder, desktop: &KnownDesktop) -> bool {
    let server = order.server;
    match (&order.task, &order.memory, &desktop.phase) {
        (
            Task::Receive { spec },
            Memory::Moving { to, spec: wanted },
            Phase::Available { .. } | Phase::InUse { .. },
        ) => {
            *to == server
                && desktop.server != server
                && **wanted == *spec
                && spec.uuid == desktop.spec.uuid
        }
        (
            Task::Send { to, .. },
            Memory::Copying,
            Phase::Migrating {
                from,
                to: there,
                step: MoveStep::Prepared,
                ..
            },
        ) => *from == server && to == there,
        (
            Task::Enter { spec },
            Memory::Switched,
            Phase::Migrating {
                to,
                spec: wanted,
                step: MoveStep::Copied | MoveStep::Switched,
                ..
            },
        ) => *to == server && **wanted == *spec,
        (
            Task::Stay { .. },
            Memory::Returning,
            Phase::Migrating {
                from,
                step:
                    MoveStep::Preparing
                    | MoveStep::Prepared
                    | MoveStep::Copying
                    | MoveStep::Copied
                    | MoveStep::Returning,
                ..
            },
        ) => *from == server,
        _ => false,
    }
}

/// The order was given: the move is that far.
pub(super) fn ordered(state: &mut State, id: &DesktopId, memory: &Memory) {
    let time = state.time;
    match memory {
        Memory::Moving { to, spec } => {
            let Some(from) = state.desktops.get(id).map(|desktop| desktop.server) else {
                return;
            };
            let phase = Phase::Migrating {
                since: time,
                from,
                to: *to,
                spec: spec.clone(),
                step: MoveStep::Preparing,
            };
            set_phase(state, id, phase);
        }
        Memory::Copying => come_to(state, id, MoveStep::Copying),
        Memory::Switched => {
            come_to(state, id, MoveStep::Switched);
            // From now on it is there, whatever becomes of the order.
            if let Some(desktop) = state.desktop_mut(id)
                && let Phase::Migrating { to, spec, .. } = &desktop.phase
            {
                (desktop.server, desktop.spec) = (*to, spec.as_ref().clone());
            }
        }
        Memory::Returning => {
            let again = matches!(
                state.desktops.get(id).map(|desktop| &desktop.phase),
                Some(Phase::Migrating {
                    step: MoveStep::Returning,
                    ..
                })
            );
            come_to(state, id, MoveStep::Returning);
            if let Some(desktop) = state.desktop_mut(id).filter(|_| !again) {
                let count = desktop.stayed.failures.count.saturating_add(1);
                desktop.stayed.failures = Failures { count, last: time };
                if desktop.stayed.to.is_none() {
                    stayed(desktop, "the other server is not there".to_owned());
                }
            }
        }
        Memory::Unchanged
        | Memory::Grown { .. }
        | Memory::Restored { .. }
        | Memory::Rewritten { .. }
        | Memory::Leaving => {}
    }
}

/// The order was done. Returns whether it was a move's.
pub(super) fn done(state: &mut State, task: &Task) -> bool {
    let (Some(member), Some(phase)) = (
        task.member(),
        task.member()
            .and_then(|member| state.desktops.get(&member.desktop))
            .map(|desktop| &desktop.phase),
    ) else {
        return false;
    };
    let Phase::Migrating { step, .. } = phase else {
        return false;
    };
    let id = member.desktop.clone();
    match (task, *step) {
        (Task::Receive { .. }, MoveStep::Preparing) => come_to(state, &id, MoveStep::Prepared),
        (Task::Send { .. }, MoveStep::Copying) => come_to(state, &id, MoveStep::Copied),
        (Task::Enter { .. }, MoveStep::Switched) => {
            if let Some(desktop) = state.desktop_mut(&id) {
                desktop.stayed = Stayed::default();
            }
            arrived(state, &id);
        }
        (Task::Stay { .. }, MoveStep::Returning) => arrived(state, &id),
        _ => {}
    }
    true
}

/// One that was to go on where it has come cannot: its disk there is gone. It is there all the same, as broken as it is
/// seen to be; what is left of it where it came from is kept. Returns whether it was that.
pub(super) fn given_up(state: &mut State, task: &Task) -> bool {
    let Task::Enter { spec } = task else {
        return false;
    };
    let id = &spec.member.desktop;
    let switched = state.desktops.get(id).is_some_and(|desktop| {
        desktop.spec.member == spec.member
            && matches!(
                desktop.phase,
                Phase::Migrating {
                    step: MoveStep::Switched,
                    ..
                }
            )
    });
    if switched {
        arrived(state, id);
    }
    switched
}

/// An order of a move was refused, or taken back. What becomes of the desktop is decided by the next plan.
pub(super) fn failed(state: &mut State, id: &DesktopId, why: &str) {
    if let Some(desktop) = state.desktop_mut(id) {
        stayed(desktop, why.to_owned());
    }
}

/// A server was lost: what is on its way to it has a reason not to get there.
pub(super) fn lost(state: &mut State, server: ServerId) {
    let coming = |desktop: &KnownDesktop| matches!(desktop.phase, Phase::Migrating { to, .. } if to == server);
    if !state.desktops.values().any(coming) {
        return;
    }
    let name = state.servers.get(&server);
    let name = name.map_or_else(|| server.to_string(), |server| server.name.to_string());
    let all = Arc::make_mut(&mut state.desktops).values_mut();
    for desktop in all.filter(|desktop| coming(desktop)) {
        stayed(desktop, format!("server {name} was lost on the way"));
    }
}

/// Remembers why one that is on its way does not get there.
fn stayed(desktop: &mut KnownDesktop, why: String) {
    if let Phase::Migrating { to, .. } = desktop.phase {
        desktop.stayed.to = Some(to);
        desktop.stayed.why = why;
    }
}

/// A server is gone for good: a desktop that stood still on it and on another, whole on both, goes on there. One that was
/// not that far is gone with its server.
pub(super) fn gone(state: &mut State, server: ServerId) {
    let since = state.time;
    let shared = state.desktops.iter().filter_map(|(id, desktop)| {
        let Phase::Migrating { from, to, step, .. } = desktop.phase else {
            return None;
        };
        let other = if from == server { to } else { from };
        (from == server || to == server).then(|| (id.clone(), step, other))
    });
    let shared: Vec<(DesktopId, MoveStep, ServerId)> = shared.collect();
    for (id, step, other) in shared {
        let generation = super::generation(state);
        let Some(desktop) = state.desktop_mut(&id) else {
            continue;
        };
        if desktop.server != server {
            // It goes on, or stays, at the other one.
            continue;
        }
        match step {
            MoveStep::Copied => desktop.server = other,
            MoveStep::Switched => {
                desktop.server = other;
                come_to(state, &id, MoveStep::Returning);
            }
            MoveStep::Preparing | MoveStep::Prepared | MoveStep::Copying | MoveStep::Returning => {
                desktop.phase = Phase::Unknown { since }
            }
        }
        let address = Address::Desktop(id);
        state.generations.insert(address, generation);
    }
}

/// It is on one server again, and what it is follows from what is seen there.
fn arrived(state: &mut State, id: &DesktopId) {
    let since = state.time;
    set_phase(state, id, Phase::Provisioning { since });
    rederive(state, id);
}

fn come_to(state: &mut State, id: &DesktopId, reached: MoveStep) {
    if let Some(desktop) = state.desktop_mut(id)
        && let Phase::Migrating { step, .. } = &mut desktop.phase
    {
        *step = reached;
    }
}
