//! What must hold after every step, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::Memory;
use coppice_reconcile::leader::LeaderReport;
use coppice_schema::ids::{DesktopId, Member, PoolName, Stamp};
use coppice_schema::known::{Phase, ServerState, Task};
use coppice_state::entry::{NewOrder, Report};
use coppice_state::{Entry, Outcome, State};
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{Deed, Hand, SimDomain};
use coppice_world::stamps::Stamps;
use futures::executor::block_on;
use uuid::Uuid;

use crate::agreement::Logged;
use crate::world::{Machine, World};

/// What it has judged so far.
#[derive(Default)]
pub struct Judge {
    entries: usize,
    changes: BTreeMap<usize, usize>,
    fences: BTreeMap<usize, BTreeMap<DesktopId, Stamp>>,
    /// The newest stamp that was written for each slot.
    written: BTreeMap<DesktopId, Stamp>,
    /// Others' domains, as others left them.
    foreign: BTreeMap<(usize, Uuid), SimDomain>,
}

/// What does not hold, in words.
pub type Verdict = Result<(), String>;

impl Judge {
    /// Judges everything since the last time.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(&mut self, world: &World) -> Verdict {
        self.one_life_each(world)?;
        for (index, machine) in world.machines.iter().enumerate() {
            self.hands_off(index, machine)?;
            self.fences_hold(index, machine)?;
            self.deeds(index, machine, world)?;
        }
        let new = world.log.since(self.entries);
        self.entries += new.len();
        for logged in &new {
            if matches!(logged.outcome, Outcome::Refused(_)) {
                continue;
            }
            let entry = &logged.envelope.entry;
            if let Entry::Reported(report) = entry {
                absence_is_true(report, world)?;
            }
            if let Entry::Planned { orders, .. } = entry {
                nothing_unseen(orders, logged)?;
                within_budget(orders, logged)?;
            }
        }
        Ok(())
    }

    /// What others did to their own domains is not ours.
    pub fn others_acted(&mut self, world: &World) {
        self.foreign.clear();
        for (index, machine) in world.machines.iter().enumerate() {
            for domain in machine.sim.domains() {
                if !is_ours(domain.mark.as_ref(), world) {
                    self.foreign.insert((index, domain.uuid), domain);
                }
            }
        }
    }

    fn one_life_each(&self, world: &World) -> Verdict {
        let mut live: BTreeMap<DesktopId, String> = BTreeMap::new();
        for machine in &world.machines {
            for domain in machine.sim.domains().iter().filter(|d| d.runs()) {
                let Some(mark) = domain.mark.as_ref().filter(|m| m.grid == world.grid) else {
                    continue;
                };
                let here = format!("{} on {}", mark.member, machine.name);
                if let Some(there) = live.insert(mark.member.desktop.clone(), here.clone()) {
                    return Err(format!("two live domains in one slot: {there} and {here}"));
                }
            }
        }
        Ok(())
    }

    fn hands_off(&self, index: usize, machine: &Machine) -> Verdict {
        if let Some(misuse) = machine.sim.misuse().first() {
            return Err(format!("misuse of {}: {misuse}", machine.name));
        }
        let domains = machine.sim.domains();
        let mut left = self.foreign.iter().filter(|((i, _), _)| *i == index);
        match left.find(|(_, domain)| !domains.contains(domain)) {
            Some((_, domain)) => Err(format!(
                "{} of {} is not ours, and was changed",
                domain.name, machine.name
            )),
            None => Ok(()),
        }
    }

    fn fences_hold(&mut self, index: usize, machine: &Machine) -> Verdict {
        let stamps = block_on(machine.stamps.all()).map_err(|e| e.to_string())?;
        let before = self
            .fences
            .insert(index, stamps.clone())
            .unwrap_or_default();
        for (slot, stamp) in before {
            if stamps.get(&slot) < Some(&stamp) {
                return Err(format!("the stamp of {slot} on {} shrank", machine.name));
            }
        }
        Ok(())
    }

    fn deeds(&mut self, index: usize, machine: &Machine, world: &World) -> Verdict {
        let seen = self.changes.entry(index).or_default();
        let new = machine.sim.journal_since(*seen);
        *seen += new.len();
        for change in new.into_iter().filter(|c| c.by == Hand::Ours) {
            let mark = match change.deed {
                Deed::Defined { mark, .. } => {
                    self.stamps_grow(mark.as_ref(), machine)?;
                    mark
                }
                Deed::Started { mark, .. }
                | Deed::Ended { mark, .. }
                | Deed::Undefined { mark, .. }
                | Deed::OverlayMade { mark, .. }
                | Deed::OverlayRemoved { mark, .. } => mark,
                Deed::ImageMade(_) | Deed::ImageGone(_) => continue,
            };
            if !is_ours(mark.as_ref(), world) {
                return Err(format!("{} was touched, and is not ours", machine.name));
            }
        }
        Ok(())
    }

    fn stamps_grow(&mut self, mark: Option<&Mark>, machine: &Machine) -> Verdict {
        let Some(Mark { member, stamp, .. }) = mark else {
            return Ok(());
        };
        let last = self.written.entry(member.desktop.clone()).or_default();
        if *last > *stamp {
            return Err(format!(
                "{member} on {} was written by order {stamp} after order {last}",
                machine.name
            ));
        }
        *last = *stamp;
        Ok(())
    }
}

fn is_ours(mark: Option<&Mark>, world: &World) -> bool {
    mark.is_some_and(|m| m.grid == world.grid)
}

/// What is reported to be gone is gone.
fn absence_is_true(report: &Report, world: &World) -> Verdict {
    let machine = world
        .machines
        .iter()
        .find(|m| m.id(&world.log) == Some(report.server));
    let Some(machine) = machine else {
        return Err(format!("a report of server {}", report.server));
    };
    let marks = |member: &Member| -> bool {
        let of = |mark: Option<Mark>| mark.is_some_and(|m| m.member == *member);
        let domain = machine.sim.domains().into_iter().any(|d| of(d.mark));
        let overlay = machine
            .sim
            .overlay_files()
            .into_iter()
            .any(|(_, o)| of(o.mark));
        domain || overlay
    };
    let domains: BTreeSet<Uuid> = machine.sim.domains().iter().map(|d| d.uuid).collect();
    for (member, seen) in &report.members {
        let Some(seen) = seen else {
            if marks(member) {
                return Err(format!("{member} was reported gone, and is there"));
            }
            continue;
        };
        let uuid = member
            .desktop
            .uuid(world.grid, world.log.state().epoch, member.incarnation);
        if seen.domain.is_none() && domains.contains(&uuid) {
            return Err(format!(
                "{member} was reported without its domain, which is there"
            ));
        }
        let path = coppice_world::sim::SimServer::overlay_path(member);
        let files = machine.sim.overlay_files();
        if seen.overlay.is_none() && files.iter().any(|(p, _)| *p == path) {
            return Err(format!(
                "{member} was reported without its overlay, which is there"
            ));
        }
    }
    Ok(())
}

/// While a server may hold what it does not show, nothing is created and nothing is removed.
fn nothing_unseen(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let known = logged.before.known(logged.term);
    let takes_part = |part: ServerState| match part {
        ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Suspect
        | ServerState::Reconciling => true,
        ServerState::Joining | ServerState::Lost | ServerState::Removed => false,
    };
    let unseen = known
        .servers
        .values()
        .find(|s| takes_part(s.state) && !s.current);
    let Some(unseen) = unseen else {
        return Ok(());
    };
    let decided = orders.iter().find(|order| match order.memory {
        Memory::Grown { .. } | Memory::Leaving => true,
        Memory::Unchanged | Memory::Rewritten { .. } => false,
    });
    match decided {
        Some(order) => Err(format!(
            "{} was ordered while {} was not seen",
            order.task.describe(),
            unseen.name
        )),
        None => Ok(()),
    }
}

/// Of desktops that people could have, no more are taken away than the pool's budget has left.
fn within_budget(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let state: &State = &logged.before;
    let mut taken: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for order in orders {
        let member = match &order.task {
            Task::Remove { member } | Task::Restart { member } | Task::Stop { member } => member,
            Task::Create { .. }
            | Task::Redefine { .. }
            | Task::Start { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. } => continue,
        };
        let here = state.desktops.get(&member.desktop);
        let ready = here.is_some_and(|d| d.spec.member == *member && is_ready(&d.phase));
        if ready {
            *taken.entry(&member.desktop.pool).or_default() += 1;
        }
    }
    for (pool, taken) in taken {
        // A pool whose block is gone goes as a whole.
        let Some(block) = state.committed.pools.get(pool) else {
            continue;
        };
        let mine = state.desktops.iter().filter(|(id, _)| id.pool == *pool);
        let ready = mine.filter(|(_, d)| is_ready(&d.phase)).count();
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        let budget = block.policy.rollout.max_unavailable.of(block.desktops);
        let left = ready.saturating_sub(taken);
        if left < block.desktops.saturating_sub(budget) {
            return Err(format!(
                "{taken} of {ready} ready desktops of {pool} were taken away at once: {} are wanted, {budget} may be \
                 away",
                block.desktops
            ));
        }
    }
    Ok(())
}

fn is_ready(phase: &Phase) -> bool {
    match phase {
        Phase::Available { .. } | Phase::InUse { .. } => true,
        Phase::Provisioning { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    }
}

/// Plans pass their check.
///
/// # Errors
/// What the checker found.
pub fn plan_is_right(report: &LeaderReport) -> Verdict {
    match report.violations.first() {
        Some(violation) => Err(format!("the plan fails its check: {violation}")),
        None => Ok(()),
    }
}
