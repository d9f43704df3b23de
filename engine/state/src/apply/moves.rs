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

use coppice_plans::plan::Memory;
use coppice_schema::ids::DesktopId;
use coppice_schema::known::{Failures, KnownDesktop, MoveStep, Phase, Task};

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
                let count = desktop.stayed.count.saturating_add(1);
                desktop.stayed = Failures { count, last: time };
            }
        }
        Memory::Unchanged | Memory::Grown { .. } | Memory::Rewritten { .. } | Memory::Leaving => {}
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
                desktop.stayed = Failures::default();
            }
            arrived(state, &id);
        }
        (Task::Stay { .. }, MoveStep::Returning) => arrived(state, &id),
        _ => {}
    }
    true
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
