//! How many desktops run.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::ids::{Address, DesktopId};
use coppice_schema::known::{KnownDesktop, Phase, Task};

use super::fate::{self, Deed};
use super::{Yard, moving};
use crate::draft::Draft;
use crate::plan::{Kind, Memory, Reason, Risk, Step, Wait};
use crate::windows::{self, Now};

/// How many desktops of a pool are to run. A pool without a `power` block keeps all of them on and has no target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// To run.
    pub(crate) wanted: u32,
    /// Running, or about to.
    pub(crate) running: u32,
}

pub(crate) fn target(yard: Yard<'_>, draft: &mut Draft<'_>) -> Option<Target> {
    let power = yard.pool.policy.power.as_ref()?;
    let (mut spare, mut most) = (power.spare, power.powered_on_max);
    for schedule in power.schedules.values() {
        match windows::weekly_state(&schedule.hours, &draft.zone, draft.now) {
            Now::Open { closes } => {
                (spare, most) = (schedule.spare, schedule.powered_on_max.or(most));
                draft.wake(closes);
            }
            Now::Closed { opens } => opens.into_iter().for_each(|at| draft.wake(at)),
        }
    }
    let count = |test: &dyn Fn(&DesktopId, &KnownDesktop) -> bool| {
        let found = yard.members().filter(|(id, desktop)| test(id, desktop));
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    };
    let orders = yard.known.orders.values();
    let told: BTreeMap<&DesktopId, &Task> = orders
        .filter_map(|order| Some((&order.task.member()?.desktop, &order.task)))
        .collect();
    let used = count(&|_, desktop| matches!(desktop.phase, Phase::InUse { .. }));
    // What is under way counts as it will be: a guest may take minutes to shut down, and another one must not be
    // stopped in its place.
    let running = count(&|id, desktop| match told.get(id) {
        // One that goes with its server's emptying keeps nobody warm; its successor is to run.
        _ if super::emptied(yard.known, desktop)
            && !matches!(desktop.phase, Phase::InUse { .. }) =>
        {
            false
        }
        Some(Task::Stop { .. }) => false,
        Some(Task::Start { .. }) => true,
        Some(
            Task::Create { .. }
            | Task::Restore { .. }
            | Task::Redefine { .. }
            | Task::Restart { .. }
            | Task::Remove { .. }
            | Task::Receive { .. }
            | Task::Send { .. }
            | Task::Enter { .. }
            | Task::Stay { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. }
            | Task::CopyImage { .. },
        )
        | None => matches!(
            desktop.phase,
            Phase::Available { .. }
                | Phase::InUse { .. }
                | Phase::Provisioning { .. }
                | Phase::Migrating { .. }
        ),
    });
    let wanted = used
        .saturating_add(spare)
        .min(most.unwrap_or(u32::MAX))
        .max(used)
        .min(yard.pool.desktops);
    Some(Target { wanted, running })
}

/// Switches desktops on or off until the target runs. `made` are those that are being created running.
pub(crate) fn balance(
    yard: Yard<'_>,
    target: Option<Target>,
    surplus: &BTreeSet<DesktopId>,
    going: &BTreeSet<DesktopId>,
    made: u32,
    draft: &mut Draft<'_>,
) {
    let Some(target) = target else { return };
    let running = target.running.saturating_add(made);
    let reason = Reason::Power {
        target: target.wanted,
    };
    let mut free: Vec<_> = yard
        .members()
        .filter(|(id, _)| {
            !surplus.contains(*id) && !going.contains(*id) && !draft.busy.contains(*id)
        })
        .collect();
    if running < target.wanted {
        free.retain(|(_, desktop)| matches!(desktop.phase, Phase::Off { .. }));
        for (id, desktop) in free
            .into_iter()
            .take(usize::try_from(target.wanted - running).unwrap_or(0))
        {
            let task = Task::Start {
                member: id.member(desktop.incarnation),
            };
            let mut waits: Vec<Wait> = fate::ordinary_waits(yard, id, desktop, draft);
            if waits.is_empty() && !draft.ledger.power_on(desktop.server) {
                waits.push(Wait::Budget {
                    name: "power-on".to_owned(),
                });
            }
            let step = Step {
                task,
                memory: Memory::Unchanged,
            };
            let deed = Deed {
                kind: Kind::PowerOn,
                reason: reason.clone(),
                risk: Risk::Safe,
                step: Some(step),
            };
            fate::push(id, desktop, deed, waits, draft);
        }
    } else {
        // One that runs so that it can be moved goes off again where it has come to: no other does in its place.
        let leave = yard.members();
        let leave = leave.filter(|(_, desktop)| moving::runs_to_leave(yard.known, desktop));
        let leave = u32::try_from(leave.count()).unwrap_or(u32::MAX);
        let many = running.saturating_sub(target.wanted.saturating_add(leave));
        free.retain(|(_, desktop)| matches!(desktop.phase, Phase::Available { .. }));
        // The highest slots go first, so that the same desktops stay warm.
        for (id, desktop) in free
            .into_iter()
            .rev()
            .take(usize::try_from(many).unwrap_or(0))
        {
            let task = Task::Stop {
                member: id.member(desktop.incarnation),
            };
            let waits = fate::ordinary_waits(yard, id, desktop, draft);
            let step = Step {
                task,
                memory: Memory::Unchanged,
            };
            let deed = Deed {
                kind: Kind::PowerOff,
                reason: reason.clone(),
                risk: Risk::Safe,
                step: Some(step),
            };
            fate::push(id, desktop, deed, waits, draft);
        }
    }
}

/// Whether a desktop that is off ought to be on, whatever the pool's figures are.
pub(crate) fn always_on(target: Option<&Target>) -> bool {
    target.is_none()
}

/// The address of a desktop.
pub(crate) fn address(id: &DesktopId) -> Address {
    Address::Desktop(id.clone())
}
