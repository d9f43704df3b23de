//! After the storm: nothing goes wrong any more, and the grid must become what was asked for.

use coppice_plans::plan::{Action, Finding, FindingKind, Plan, UnderWay, Wait};
use coppice_schema::ids::{Address, ServerId};
use coppice_schema::known::{Phase, Request, ServerState};
use coppice_schema::units::{Size, Span};
use coppice_state::{Entry, State};
use coppice_world::clock::Clock;

use super::Storm;
use crate::agreement::Unrest;
use crate::configs;
use crate::judge::Verdict;

/// Passes in which a grid must settle. Each is a round of the leader and of every server.
const PASSES: u32 = 400;

impl Storm {
    /// Faults stop, people repair what they broke and the grid cannot mend, and it settles.
    pub(super) fn calm(&mut self) -> Verdict {
        self.note("calm".to_owned());
        let ids: Vec<_> = self.world.machines.iter().map(|m| m.raft_id).collect();
        for (from, to) in ids
            .iter()
            .flat_map(|from| ids.iter().map(move |to| (from, to)))
        {
            self.world.wires.cut(ServerId(*from), ServerId(*to), false);
        }
        for index in 0..self.world.machines.len() {
            self.world.join(index);
        }
        self.all_take_part();
        for (index, machine) in self.world.machines.iter_mut().enumerate() {
            machine.sim.calm();
            // Whoever died in the service of another is dead, and what it was doing is over.
            if machine.crashed() {
                machine.restart();
            }
            machine.sim.revive();
            machine.agreement.set_unrest(Unrest::default());
            machine.agreement.revive();
            machine.sim.others_use(Size(0));
            for (_, _, record) in configs::catalogue() {
                let sim = &machine.sim;
                // One brings every image again; the others get theirs from there.
                if index == 0 {
                    sim.put_image(record.root, record.size, record.data);
                }
                sim.silence_image(record.root, false);
            }
            for domain in machine.sim.domains() {
                // Everybody goes home.
                machine.sim.sign_in(domain.uuid, 0);
                machine.sim.open_screen(domain.uuid, 0);
                if domain.mark.is_none_or(|m| m.grid != self.world.grid) {
                    machine.sim.undefine_by_hand(domain.uuid);
                }
            }
        }
        self.judge.others_acted(&self.world);
        let committed = self.world.log.state().committed.clone();
        self.commit(&configs::everywhere(committed.as_ref().clone()))?;
        self.resume();
        self.settle()?;
        // A guest that fell silent just before is found out only when it missed several questions.
        for _ in 0..4 {
            self.world.pass(Span::seconds(61));
            for index in 0..self.world.machines.len() {
                self.server_round(index)?;
            }
        }
        self.settle()?;
        self.wait_for_what_is_due()?;
        self.idle()?;
        let replayed = self.world.log.replayed();
        if replayed != self.world.log.state().digest() {
            return Err("the log gives another state when it is applied again".to_owned());
        }
        Ok(())
    }

    /// Every server is to take new desktops again.
    fn all_take_part(&mut self) {
        let state = self.world.log.state();
        for server in state.servers.keys() {
            self.world.log.append(Entry::ServerSet {
                server: *server,
                state: ServerState::Ready,
                author: "test".to_owned(),
            });
        }
    }

    /// A person looks at what stopped, and lets it go on.
    fn resume(&mut self) {
        let committed = self.world.log.state().committed.clone();
        for pool in committed.pools.keys() {
            let address = Address::Pool(pool.clone());
            let author = "test".to_owned();
            self.world.log.append(Entry::Paused {
                address: address.clone(),
                until: None,
                author: author.clone(),
            });
            self.world.log.append(Entry::Resumed { address, author });
        }
    }

    /// Rounds until the plan is empty and every desktop is ready.
    pub(super) fn settle(&mut self) -> Verdict {
        let mut last = None;
        // What was broken in the storm may come to light in the calm, and stop a roll-out once more.
        let mut resumes = 3;
        for _ in 0..PASSES {
            // Only what is seen now counts: a state that nobody told about the last deeds looks settled too.
            for index in 0..self.world.machines.len() {
                self.server_round(index)?;
            }
            let report = self.world.leader_round();
            let report = report.ok_or("the leader died in the calm")?;
            self.note(format!(
                "leader: ordered {:?}, withdrawn {:?}, trouble {:?}",
                report.ordered, report.withdrawn, report.trouble
            ));
            crate::judge::plan_is_right(&report)?;
            let lacking = lacking(&self.world.log.state());
            if report.settled() && lacking.is_none() {
                return Ok(());
            }
            self.regrow_by_hand(report.plan.as_deref());
            if resumes > 0 && report.plan.as_deref().is_some_and(is_stopped) {
                resumes -= 1;
                self.note("a person resumes".to_owned());
                self.resume();
            }
            // What came up in the storm and was not in any plan that was applied is looked at now.
            if report.plan.as_deref().is_some_and(awaits_approval) {
                self.note("a person applies again".to_owned());
                let committed = self.world.log.state().committed.as_ref().clone();
                self.commit(&committed)?;
            }
            // Booting takes seconds, a back-off minutes; both are waited for without looking every second. A window
            // may be hours away, and is waited for when nothing else is left to do.
            let now = self.world.clock.now();
            let next = report.next.map_or(Span::seconds(30), |at| at.since(now));
            let most = match report.plan.as_deref() {
                Some(plan) if waits_for_windows(plan) => next,
                Some(_) | None => Span::seconds(30),
            };
            self.world.pass(next.min(most).max(Span::seconds(2)));
            last = report.plan.zip(Some(lacking));
        }
        let left = last.map(|(plan, lacking)| left(&plan, lacking));
        Err(format!("it does not settle in {PASSES} passes: {left:#?}"))
    }

    /// A person lets go of what only a person may throw away.
    fn regrow_by_hand(&mut self, plan: Option<&Plan>) {
        let found = plan.map(|plan| plan.findings.as_slice());
        for finding in found.unwrap_or_default() {
            if let FindingKind::Stray { member } = &finding.kind {
                self.removed_by_hand(member);
            }
            let (Address::Desktop(id), FindingKind::Broken { .. }) =
                (&finding.object, &finding.kind)
            else {
                continue;
            };
            let state = self.world.log.state();
            let asked = state.requests.get(id);
            if asked.is_some_and(|request| !matches!(request, Request::Move { .. })) {
                continue;
            }
            if let Some(desktop) = state.desktops.get(id) {
                self.world.log.append(Entry::Requested {
                    request: Request::Regrow(desktop.spec.member.clone()),
                    author: "test".to_owned(),
                });
            }
        }
    }

    /// What the grid does not know any more goes as its finding says.
    fn removed_by_hand(&mut self, stray: &str) {
        self.note(format!("{stray} is removed by hand"));
        let state = self.world.log.state();
        for machine in &self.world.machines {
            let known = state.servers.get(&ServerId(machine.raft_id));
            let look = known.and_then(|known| known.look.as_ref());
            let mut members = look.into_iter().flat_map(|look| &look.members);
            let Some((member, seen)) = members.find(|(member, _)| member.to_string() == stray)
            else {
                continue;
            };
            if let Some(domain) = &seen.domain {
                machine.sim.undefine_by_hand(domain.uuid);
            }
            machine.sim.delete_overlay(member);
        }
    }

    /// What policies want done soon is done before it is said that nothing is left.
    fn wait_for_what_is_due(&mut self) -> Verdict {
        for _ in 0..PASSES {
            let report = self.world.leader_round();
            let report = report.ok_or("the leader died in the calm")?;
            let now = self.world.clock.now();
            let Some(next) = report.next.filter(|at| at.since(now) < Span::minutes(10)) else {
                return Ok(());
            };
            self.world.pass(next.since(now));
            self.settle()?;
        }
        Err("something is due every few minutes for ever".to_owned())
    }

    /// A settled grid writes nothing.
    fn idle(&mut self) -> Verdict {
        // What was seen last is reported first, and what was found is no longer remembered.
        for index in 0..self.world.machines.len() {
            self.server_round(index)?;
        }
        self.world.leader_round();
        let before = self.world.log.len();
        for _ in 0..3 {
            self.world.pass(Span::seconds(61));
            self.world.leader_round();
            for index in 0..self.world.machines.len() {
                self.server_round(index)?;
            }
        }
        let new = self.world.log.since(before);
        match new.first() {
            Some(logged) => Err(format!("an idle grid wrote {:?}", logged.envelope.entry)),
            None => Ok(()),
        }
    }
}

/// What a pool lacks, in words.
pub(crate) fn lacking(state: &State) -> Option<String> {
    let mut servers = state.servers.values();
    // One that was removed is remembered, and is nobody's any more.
    let well = |state| matches!(state, ServerState::Ready | ServerState::Removed);
    if let Some(server) = servers.find(|server| !well(server.state)) {
        return Some(format!("{} is {:?}", server.name, server.state));
    }
    if let Some(order) = state.orders.values().next() {
        return Some(format!("order: {}", order.task.describe()));
    }
    state.committed.pools.iter().find_map(|(name, pool)| {
        let mine = state.desktops.iter().filter(|(id, _)| id.pool == *name);
        let ready = mine.clone().filter(|(_, d)| match d.phase {
            Phase::Available { .. } | Phase::InUse { .. } => true,
            // Where spares are counted, not all desktops run.
            Phase::Off { .. } => pool.policy.power.is_some(),
            Phase::Provisioning { .. }
            | Phase::Migrating { .. }
            | Phase::Broken { .. }
            | Phase::Unknown { .. }
            | Phase::Deleting { .. } => false,
        });
        let (all, ready) = (mine.count(), ready.count());
        let wanted = usize::try_from(pool.desktops).unwrap_or(usize::MAX);
        let address = Address::Pool(name.clone());
        // Nothing that is protected is emptied.
        if wanted == 0 && state.protections.contains(&address) {
            return None;
        }
        let phases = state.desktops.values().map(|d| (&d.spec.member, &d.phase));
        ((all, ready) != (wanted, wanted)).then(|| {
            let phases: Vec<_> = phases.collect();
            format!("{name}: {wanted} wanted, {all} there, {ready} ready of {phases:?}")
        })
    })
}

/// Whether everything that is left waits for a time of day.
fn waits_for_windows(plan: &Plan) -> bool {
    let by_the_clock = |wait: &Wait| matches!(wait, Wait::Window { .. } | Wait::Freeze { .. });
    let waits = |action: &Action| action.waits.iter().any(by_the_clock);
    !plan.actions.is_empty() && plan.under_way.is_empty() && plan.actions.iter().all(waits)
}

/// Something waits for a person to look at failures.
pub(crate) fn is_stopped(plan: &Plan) -> bool {
    let mut waits = plan.actions.iter().flat_map(|action| &action.waits);
    waits.any(|wait| matches!(wait, Wait::RolloutStopped { .. }))
}

/// Something waits for a person to review it.
pub(crate) fn awaits_approval(plan: &Plan) -> bool {
    let mut waits = plan.actions.iter().flat_map(|action| &action.waits);
    waits.any(|wait| matches!(wait, Wait::Approval { .. }))
}

/// What a plan still holds, in few words.
pub(crate) fn left(plan: &Plan, lacking: Option<String>) -> Vec<String> {
    let action = |a: &Action| format!("{:?} {}: waits {:?}", a.kind, a.object, a.waits);
    let under_way = |u: &UnderWay| format!("under way: {} {:?}", u.what, u.last_error);
    let finding = |f: &Finding| format!("finding: {} {:?}", f.object, f.kind);
    lacking
        .into_iter()
        .chain(plan.actions.iter().map(action))
        .chain(plan.under_way.iter().map(under_way))
        .chain(plan.findings.iter().map(finding))
        .collect()
}
