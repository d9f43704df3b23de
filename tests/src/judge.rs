//! What must hold after every step, whatever happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_plans::plan::{FindingKind, Memory};
use coppice_reconcile::leader::LeaderReport;
use coppice_reconcile::server::ServerReport;
use coppice_schema::Known;
use coppice_schema::desired::Origin;
use coppice_schema::ids::{Address, DesktopId, GridId, Member, PoolName, ServerName, Stamp};
use coppice_schema::known::{
    DesktopSpec, Health, KnownDesktop, Phase, Request, Seen, ServerState, Task,
};
use coppice_schema::units::Span;
use coppice_state::entry::{NewOrder, Report};
use coppice_state::{Entry, Outcome, State};
use coppice_world::clock::Clock;
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{Deed, Hand, SimDomain, SimServer};
use coppice_world::stamps::Stamps;
use futures::executor::block_on;
use uuid::Uuid;

use crate::agreement::{Logged, Witness};
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
        let sims = world.machines.iter().map(|m| (&m.name, m.sim.as_ref()));
        one_life_each(world.grid, sims)?;
        for (index, machine) in world.machines.iter().enumerate() {
            self.hands_off(index, machine)?;
            self.fences_hold(index, machine)?;
            self.deeds(index, machine, world)?;
        }
        if let Some(untruth) = world.log.untruths().first() {
            return Err(untruth.clone());
        }
        let new = world.log.since(self.entries);
        self.entries += new.len();
        new.iter().try_for_each(decided_rightly)
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

/// No two live domains are in one slot.
pub(crate) fn one_life_each<'a>(
    grid: GridId,
    servers: impl Iterator<Item = (&'a ServerName, &'a SimServer)>,
) -> Verdict {
    let mut live: BTreeMap<DesktopId, String> = BTreeMap::new();
    for (name, sim) in servers {
        // One that stands still between two servers is on both, and on neither.
        let between = |uuid| sim.is_between_servers(uuid);
        for domain in sim
            .domains()
            .iter()
            .filter(|d| d.runs() && !between(d.uuid))
        {
            let Some(mark) = domain.mark.as_ref().filter(|m| m.grid == grid) else {
                continue;
            };
            let here = format!("{} on {name}", mark.member);
            if let Some(there) = live.insert(mark.member.desktop.clone(), here.clone()) {
                return Err(format!("two live domains in one slot: {there} and {here}"));
            }
        }
    }
    Ok(())
}

/// What a leader decided was right by what was agreed before it.
pub(crate) fn decided_rightly(logged: &Logged) -> Verdict {
    // Also where that was refused: nobody who knew of the loss would ask.
    if let Entry::Planned { orders, .. } = &logged.envelope.entry {
        nothing_for_the_lost(orders, logged)?;
    }
    if matches!(logged.outcome, Outcome::Refused(_)) {
        return Ok(());
    }
    if let Entry::Planned { orders, .. } = &logged.envelope.entry {
        nothing_unseen(orders, logged)?;
        within_budget(orders, logged)?;
        nobody_cut_off(orders, logged)?;
        nothing_in_place_of_personal(orders, logged)?;
    }
    Ok(())
}

fn is_ours(mark: Option<&Mark>, world: &World) -> bool {
    mark.is_some_and(|m| m.grid == world.grid)
}

/// Judges what servers report by what is there in that moment.
#[must_use]
pub fn witness(world: &World) -> Witness {
    let sims = world.machines.iter();
    let sims: Vec<_> = sims.map(|m| (m.name.clone(), Arc::clone(&m.sim))).collect();
    Box::new(move |state, entry| {
        let Entry::Reported(report) = entry else {
            return Ok(());
        };
        let name = state.servers.get(&report.server).map(|s| &s.name);
        let sim = sims.iter().find(|(n, _)| Some(n) == name);
        let (_, sim) = sim.ok_or_else(|| format!("a report of server {}", report.server))?;
        if report.hypervisor != Health::Well {
            return Ok(());
        }
        absence_is_true(report, sim, state)
    })
}

/// The longest look: all disks' calls at their deadlines, then the guests' at theirs.
const LOOK: Span = Span::minutes(2);

/// What is reported to be gone is gone.
pub(crate) fn absence_is_true(report: &Report, sim: &SimServer, state: &State) -> Verdict {
    let grid = state.grid.unwrap_or(GridId([0; 16]));
    let (domains, overlays) = (sim.domains(), sim.overlay_files());
    // A define that hung may come about between a look and its report; a look takes no longer than its calls.
    let now = sim.now();
    let just_defined: Vec<Uuid> = sim
        .journal()
        .into_iter()
        .filter(|change| now.since(change.at) <= LOOK)
        .filter_map(|change| match change.deed {
            Deed::Defined { uuid, .. } => Some(uuid),
            Deed::Started { .. }
            | Deed::Ended { .. }
            | Deed::Undefined { .. }
            | Deed::OverlayMade { .. }
            | Deed::OverlayRemoved { .. }
            | Deed::ImageMade(_)
            | Deed::ImageGone(_) => None,
        })
        .collect();
    for (member, seen) in &report.members {
        let Member {
            desktop,
            incarnation,
        } = member;
        let uuid = desktop.uuid(grid, state.epoch, *incarnation);
        let domain = domains.iter().any(|d| d.uuid == uuid) && !just_defined.contains(&uuid);
        let path = SimServer::overlay_path(member);
        let overlay = overlays.iter().any(|(p, _)| *p == path);
        let nothing = Seen::default();
        let seen = seen.as_ref().unwrap_or(&nothing);
        if seen.domain.is_none() && domain {
            return Err(format!(
                "the domain of {member} was reported gone, and is there"
            ));
        }
        if seen.overlay.is_none() && overlay {
            return Err(format!(
                "the overlay of {member} was reported gone, and is there"
            ));
        }
    }
    Ok(())
}

/// While a server may hold what it does not show, nothing is created, no pool is made smaller, and nothing is done to
/// what that server holds.
fn nothing_unseen(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let known = logged.before.known(logged.term);
    let unseen = known
        .servers
        .iter()
        .find(|(_, s)| s.state.takes_part() && !s.current);
    let Some((unseen, server)) = unseen else {
        return Ok(());
    };
    let decided = orders.iter().find(|order| match order.memory {
        Memory::Grown { .. } => true,
        Memory::Leaving => order.server == *unseen || makes_smaller(order, &known),
        Memory::Unchanged
        | Memory::Restored { .. }
        | Memory::Rewritten { .. }
        | Memory::Moving { .. }
        | Memory::Copying
        | Memory::Switched
        | Memory::Returning => order.server == *unseen,
    });
    match decided {
        Some(order) => Err(format!(
            "{} was ordered while {} was not seen",
            order.task.describe(),
            server.name
        )),
        None => Ok(()),
    }
}

/// A desktop in which people are is left running, unless a person asked or they had as long as their policy gives.
fn nobody_cut_off(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let state: &State = &logged.before;
    for order in orders {
        let member = match &order.task {
            Task::Remove { member } | Task::Restart { member, .. } | Task::Stop { member } => {
                member
            }
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
            | Task::CopyImage { .. } => continue,
        };
        let here = state.desktops.get(&member.desktop);
        let Some(Phase::InUse { since, .. }) = here
            .filter(|d| d.spec.member == *member && d.server == order.server)
            .map(|d| &d.phase)
        else {
            continue;
        };
        let pool = state.committed.pools.get(&member.desktop.pool);
        let refresh = pool.and_then(|pool| pool.policy.refresh.as_ref());
        let had_long = refresh
            .and_then(|refresh| refresh.deadline)
            .is_some_and(|deadline| since.after(deadline) <= logged.envelope.at);
        let server = here.and_then(|d| state.servers.get(&d.server));
        let forced = server.is_some_and(|server| {
            let over = server.force_at.is_some_and(|at| at <= logged.envelope.at);
            server.state == ServerState::Draining && over
        });
        if !had_long && !forced && !asked(state, member) {
            return Err(format!(
                "{} was ordered while people were in it",
                order.task.describe()
            ));
        }
    }
    Ok(())
}

/// A person wants it done to that desktop, whoever is there. Nobody who lets desktops move does.
fn asked(state: &State, member: &Member) -> bool {
    let request = state.requests.get(&member.desktop);
    match request.filter(|request| request.member() == member) {
        Some(Request::Restart(_) | Request::Regrow(_) | Request::Discard { .. }) => true,
        Some(Request::Move { .. }) | None => false,
    }
}

/// A server that is lost is told nothing, and what it holds stays.
fn nothing_for_the_lost(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let state: &State = &logged.before;
    let lost = orders.iter().find(|order| {
        let server = state.servers.get(&order.server);
        server.is_some_and(|server| server.state == ServerState::Lost)
    });
    match lost {
        Some(order) => Err(format!(
            "{} was ordered of a server that is lost",
            order.task.describe()
        )),
        None => Ok(()),
    }
}

/// A personal pool does not get more desktops than it is to have because servers are lost or being emptied.
fn nothing_in_place_of_personal(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let state: &State = &logged.before;
    // Where protection alone keeps a pool, its former size counts.
    let pools = state.committed.pools.iter();
    for (name, pool) in pools.filter(|(_, pool)| pool.desktops > 0) {
        let new = orders.iter().filter(|order| match &order.memory {
            Memory::Grown { spec, personal } => *personal && spec.member.desktop.pool == *name,
            // It takes the place of itself.
            Memory::Unchanged
            | Memory::Restored { .. }
            | Memory::Rewritten { .. }
            | Memory::Leaving
            | Memory::Moving { .. }
            | Memory::Copying
            | Memory::Switched
            | Memory::Returning => false,
        });
        let new = new.count();
        let kept = state.desktops.iter().filter(|(id, desktop)| {
            let leaves = matches!(desktop.phase, Phase::Deleting { .. });
            id.pool == *name && desktop.personal && !leaves
        });
        let most = pool.desktops + pool.policy.rollout.max_surge.of(pool.desktops);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if new > 0 && kept.count() + new > most {
            return Err(format!(
                "{new} were grown in pool.{name} beside its personal desktops"
            ));
        }
    }
    Ok(())
}

/// What a server began was ordered, as the grid stood then; one that reaches nobody begins nothing.
///
/// # Errors
/// What it began.
pub fn begun_is_ordered(report: &ServerReport, before: &State, reached: bool) -> Verdict {
    let begun = report.begun.iter();
    let mut loose = begun.filter(|(stamp, _)| !reached || !before.orders.contains_key(stamp));
    match loose.next() {
        Some((_, what)) => Err(format!(
            "{what} was begun, and was no order then (reached: {reached})"
        )),
        None => Ok(()),
    }
}

fn makes_smaller(order: &NewOrder, known: &Known) -> bool {
    let Some(Member { desktop, .. }) = order.task.member() else {
        return false;
    };
    // One that is broken, or of another form than it should be, is regrown: its slot stays.
    let there = known.desktops.get(desktop);
    if there.is_none_or(|d| matches!(d.phase, Phase::Broken { .. }) || is_outdated(d, known)) {
        return false;
    }
    let pool = &desktop.pool;
    let most = known.committed.pools.get(pool).map_or(0, |p| {
        p.desktops + p.policy.rollout.max_surge.of(p.desktops)
    });
    let there = known.desktops.keys().filter(|id| id.pool == *pool).count();
    there > usize::try_from(most).unwrap_or(usize::MAX)
}

fn is_outdated(desktop: &KnownDesktop, known: &Known) -> bool {
    let Known { committed, .. } = known;
    let DesktopSpec {
        member,
        hardware,
        image: root,
        ..
    } = &desktop.spec;
    let pool = committed.pools.get(&member.desktop.pool);
    let template = pool.and_then(|pool| committed.templates.get(&pool.template));
    let image = template.and_then(|t| Some((t, committed.images.get(&t.image)?)));
    let Some((template, image)) = image else {
        return false;
    };
    let Origin::Version(version) = &image.origin else {
        return false;
    };
    let versions = known.images.get(&template.image);
    let record = versions.and_then(|versions| versions.get(version));
    let disk = template.disk.or(record.map(|record| record.size));
    record.is_some_and(|record| record.root != *root)
        || disk.is_some_and(|disk| disk != hardware.disk)
        || (template.cpus, template.memory) != (hardware.cpus, hardware.memory)
        || image.agent != hardware.agent
}

/// Of desktops that people could have, no more are taken away than the pool's budget has left.
fn within_budget(orders: &[NewOrder], logged: &Logged) -> Verdict {
    let state: &State = &logged.before;
    let mut taken: BTreeMap<&PoolName, u32> = BTreeMap::new();
    // Where spares are counted, one that is switched off can be had all the same.
    let spares = |pool: &PoolName| {
        let pool = state.committed.pools.get(pool);
        pool.is_some_and(|pool| pool.policy.power.is_some())
    };
    let is_ready = |pool: &PoolName, phase: &Phase| {
        is_ready(phase) || (spares(pool) && matches!(phase, Phase::Off { .. }))
    };
    for order in orders {
        let member = match &order.task {
            Task::Stop { member } if spares(&member.desktop.pool) => continue,
            Task::Remove { member } | Task::Restart { member, .. } | Task::Stop { member } => {
                member
            }
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
            | Task::CopyImage { .. } => continue,
        };
        // What a person asked for is theirs to answer for.
        if asked(state, member) {
            continue;
        }
        let here = state.desktops.get(&member.desktop);
        let ready = here.is_some_and(|d| {
            d.spec.member == *member
                && d.server == order.server
                && is_ready(&member.desktop.pool, &d.phase)
        });
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
        let ready = mine.filter(|(_, d)| is_ready(pool, &d.phase)).count();
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
        Phase::Available { .. } | Phase::InUse { .. } | Phase::Migrating { .. } => true,
        Phase::Provisioning { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    }
}

/// Every plan says which servers are lost, `before` being what it was made of.
///
/// # Errors
/// Which one it does not know of.
pub fn the_lost_are_told(report: &LeaderReport, before: &State) -> Verdict {
    let Some(plan) = &report.plan else {
        return Ok(());
    };
    let mut servers = before.servers.values();
    let untold = servers.find(|server| {
        let address = Address::Server(server.name.clone());
        let mut about = plan.findings.iter().filter(|found| found.object == address);
        server.state == ServerState::Lost
            && !about.any(|found| matches!(found.kind, FindingKind::ServerLost { .. }))
    });
    match untold {
        Some(server) => Err(format!(
            "{} is lost, and the plan does not say so",
            server.name
        )),
        None => Ok(()),
    }
}

/// Where nothing is left to do, pools are whole without what is on servers that are lost.
///
/// # Errors
/// Which pool is not.
pub fn settled_is_whole(report: &LeaderReport, state: &State) -> Verdict {
    if !report.settled() {
        return Ok(());
    }
    let said = |name: &PoolName| {
        let findings = report.plan.iter().flat_map(|plan| &plan.findings);
        let mut about = findings.filter(|found| found.object == Address::Pool(name.clone()));
        about.any(|found| matches!(found.kind, FindingKind::NoRoom { .. }))
    };
    let pools = state.committed.pools.iter();
    for (name, pool) in pools.filter(|(name, _)| !said(name)) {
        let mine = state.desktops.iter().filter(|(id, _)| id.pool == *name);
        let there = mine.filter(|(_, desktop)| {
            desktop.personal || !matches!(desktop.phase, Phase::Unknown { .. })
        });
        let there = there.count();
        if there < usize::try_from(pool.desktops).unwrap_or(usize::MAX) {
            return Err(format!(
                "nothing is left to do, and of {} desktops of pool.{name} {there} are there",
                pool.desktops
            ));
        }
    }
    Ok(())
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
