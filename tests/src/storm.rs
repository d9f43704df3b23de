//! A storm: everything that can happen, in an order that a seed decides; then calm, in which the grid must settle.

pub(crate) mod calm;
mod hands;
mod tally;

use coppice_plans::plan::{Bounds, GateKind};
use coppice_schema::known::Capacity;
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_schema::{Digest, Known};
use coppice_state::entry::Commit;
use coppice_state::{Entry, State};
use coppice_world::clock::Clock;
use coppice_world::sim::{Chance, CrashPoint, Moment, Setup, Weather};

use crate::agreement::Unrest;
use crate::configs;
use crate::judge::{
    Judge, Verdict, begun_is_ordered, plan_is_right, settled_is_whole, the_lost_are_told, witness,
};
use crate::plants::Plant;
use crate::world::World;

pub use self::tally::Tally;

/// Steps of a storm before the calm.
const STEPS: u64 = 60;
/// Desktops of a pool at most.
const DESKTOPS: u32 = 4;

/// How a storm ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Digest of everything that happened: equal for equal seeds.
    pub trace: Digest,
    /// Entries in the log at the end.
    pub entries: usize,
    /// Daemons that were killed.
    pub crashes: u64,
    /// What else came about.
    pub tally: Tally,
}

/// What did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Repeats it.
    pub seed: u64,
    /// What.
    pub what: String,
    /// What had happened, the newest last.
    pub trace: Vec<String>,
}

/// A storm under way.
pub struct Storm {
    chance: Chance,
    world: World,
    judge: Judge,
    trace: Vec<String>,
    crashes: u64,
    raging: bool,
    /// All desktops are personal, with copies.
    copied: bool,
}

/// Runs the storm of `seed`, with a bug put in.
///
/// # Errors
/// What did not hold.
pub fn run(seed: u64, plant: Option<Plant>) -> Result<Ended, Failed> {
    let mut storm = Storm::new(seed, plant);
    let done = storm
        .begin()
        .and_then(|()| storm.rage())
        .and_then(|()| storm.calm());
    match done {
        Ok(()) => Ok(storm.ended()),
        Err(what) => Err(Failed {
            seed,
            what,
            trace: storm.trace,
        }),
    }
}

impl Storm {
    fn new(seed: u64, plant: Option<Plant>) -> Self {
        let mut chance = Chance::new(seed);
        let copied = seed % 5 == 1;
        // Of fewer, none goes on without one.
        let servers = if copied { 3 } else { chance.between(1, 3) };
        // In half of the storms running desktops can move.
        let capacity = Capacity {
            disk: Size::gib(64),
            moves: seed.is_multiple_of(2).then(|| "simulated".to_owned()),
            ..Setup::default().capacity
        };
        let world = World::of(&mut chance, servers, &capacity, plant);
        world.log.set_witness(witness(&world));
        Self {
            chance,
            world,
            judge: Judge::default(),
            trace: Vec::new(),
            crashes: 0,
            raging: false,
            copied,
        }
    }

    /// The storm of `seed` at its end, before the calm.
    ///
    /// # Errors
    /// What did not hold.
    pub fn raged(seed: u64) -> Result<Self, String> {
        let mut storm = Self::new(seed, None);
        storm.begin()?;
        storm.rage()?;
        Ok(storm)
    }

    /// The storm of `seed` after the calm.
    ///
    /// # Errors
    /// What did not hold.
    pub fn settled(seed: u64) -> Result<Self, String> {
        let mut storm = Self::raged(seed)?;
        storm.calm()?;
        Ok(storm)
    }

    /// The weather clears, and every server looks and tells, the last one first when `backwards`.
    pub fn look(&mut self, backwards: bool) {
        for machine in &self.world.machines {
            machine.sim.calm();
            machine.sim.revive();
            machine.agreement.set_unrest(Unrest::default());
            machine.agreement.revive();
        }
        let mut order: Vec<usize> = (0..self.world.machines.len()).collect();
        if backwards {
            order.reverse();
        }
        for index in order {
            self.world.machines[index].agreement.catch_up();
            self.world.server_round(index);
        }
    }

    /// What the leader knows now, and the time.
    #[must_use]
    pub fn known(&self) -> (Known, Timestamp) {
        let state = self.world.log.state();
        let now = self.world.clock.now().max(state.time);
        (state.known(self.world.log.term()), now)
    }

    fn begin(&mut self) -> Verdict {
        let desired = if self.copied {
            configs::copied(&mut self.chance, DESKTOPS)
        } else {
            configs::desired(&mut self.chance, DESKTOPS)
        };
        for index in 0..self.world.machines.len() {
            self.server_round(index)?;
        }
        self.commit(&desired)?;
        // Half of the storms begin in a grid that has settled: there is more to break in it.
        if self.copied || self.chance.per_mille(500) {
            self.settle()?;
        }
        if self.copied {
            let servers = 0..self.world.machines.len();
            servers.clone().for_each(|index| self.copies(index));
            for index in servers {
                self.server_round(index)?;
            }
        }
        for machine in &self.world.machines {
            machine.sim.set_weather(Weather::STORM);
            machine.agreement.set_unrest(Unrest {
                refused: 20,
                lost: 20,
            });
        }
        Ok(())
    }

    fn rage(&mut self) -> Verdict {
        self.raging = true;
        for _ in 0..STEPS {
            self.step()?;
        }
        self.raging = false;
        Ok(())
    }

    fn step(&mut self) -> Verdict {
        let machines = u64::try_from(self.world.machines.len()).unwrap_or(1);
        let index = usize::try_from(self.chance.below(machines)).unwrap_or(0);
        match self.chance.below(112) {
            0..30 => self.leader_round()?,
            30..60 => self.server_round(index)?,
            60..68 => self.fate(index)?,
            68..80 => {
                let span = Span(self.chance.between(100, 60_000));
                self.note(format!("{span} pass"));
                self.world.pass(span);
            }
            80..92 => self.meddle(index)?,
            92..95 => {
                let before = self.world.log.state().committed.clone();
                let desired = configs::edited(&mut self.chance, &before, DESKTOPS);
                self.commit(&desired)?;
            }
            95..97 => {
                let leader = self.chance.between(1, machines);
                if self.world.log.reaches(leader) {
                    self.note(format!("s{leader} leads"));
                    self.world.log.elect(leader);
                }
            }
            97..98 => {
                let name = self.kill(index);
                self.note(format!("{name} is killed"));
            }
            98..99 => {
                let span = Span::minutes(self.chance.between(5, 40));
                self.note(format!("{span} pass"));
                self.world.pass(span);
            }
            99..100 => {
                let span = Span::hours(self.chance.between(1, 5));
                self.note(format!("{span} pass"));
                self.world.pass(span);
            }
            100..104 => self.somebody_levels(index)?,
            _ => self.copies(index),
        }
        self.judge.judge(&self.world)
    }

    fn kill(&mut self, index: usize) -> String {
        self.crashes += 1;
        let machine = self.world.machines.get_mut(index);
        machine.map_or(String::new(), |machine| {
            machine.restart();
            machine.name.to_string()
        })
    }

    fn leader_round(&mut self) -> Verdict {
        let index = usize::try_from(self.world.log.leader() - 1).unwrap_or(0);
        self.plan_death(index, 4);
        let before = self.world.log.state();
        let Some(report) = self.world.leader_round() else {
            self.crashes += 1;
            self.note("the leader dies in its round".to_owned());
            return Ok(());
        };
        self.note(format!(
            "leader: ordered {:?}, withdrawn {:?}, trouble {:?}",
            report.ordered, report.withdrawn, report.trouble
        ));
        the_lost_are_told(&report, &before)?;
        settled_is_whole(&report, &self.world.log.state())?;
        plan_is_right(&report)
    }

    fn server_round(&mut self, index: usize) -> Verdict {
        self.plan_death(index, 14);
        // A replica lags as long as it likes in a storm, and not for ever.
        let lags = self.raging && self.chance.per_mille(300);
        let Some(machine) = self.world.machines.get(index) else {
            return Ok(());
        };
        if !lags {
            machine.agreement.catch_up();
        }
        let name = machine.name.to_string();
        let before = self.world.log.state();
        match self.world.server_round(index) {
            None => {
                self.crashes += 1;
                self.note(format!("{name} dies in its round"));
            }
            Some(report) => {
                self.note(format!(
                    "{name}: whole {}, tried {:?}, trouble {:?}",
                    report.whole, report.tried, report.trouble
                ));
                begun_is_ordered(&report, &before, self.world.reaches(index))?;
            }
        }
        self.judge.judge(&self.world)
    }

    /// A server copies what is due.
    fn copies(&mut self, index: usize) {
        self.plan_death(index, 6);
        if self.world.copies(index) {
            self.note(format!("s{} copies", index + 1));
        } else {
            self.crashes += 1;
            self.note(format!("s{} dies while it copies", index + 1));
        }
    }

    /// One round in eight of a storm is cut off somewhere.
    fn plan_death(&mut self, index: usize, calls: u64) {
        let Some(machine) = self.world.machines.get(index) else {
            return;
        };
        if !self.raging || !self.chance.per_mille(125) {
            return;
        }
        let point = CrashPoint {
            call: self.chance.below(calls),
            moment: if self.chance.per_mille(500) {
                Moment::Before
            } else {
                Moment::After
            },
        };
        if self.chance.per_mille(300) {
            machine.agreement.crash_at(CrashPoint {
                call: point.call / 3,
                ..point
            });
        } else {
            machine.sim.crash_at(point);
        }
    }

    /// Plans `desired` and commits it, as `apply` does, with every gate approved.
    fn commit(&mut self, desired: &coppice_schema::Desired) -> Verdict {
        let log = &self.world.log;
        let now = self.world.clock.now();
        let entry = commit_of(desired, &log.state(), log.term(), now, log.len())?;
        let outcome = log.append(entry);
        let pools = desired.pools.iter();
        let pools: Vec<_> = pools
            .map(|(n, p)| format!("{n} × {}", p.desktops))
            .collect();
        self.note(format!("commit of {}: {outcome:?}", pools.join(", ")));
        Ok(())
    }

    fn note(&mut self, what: String) {
        let now = self.world.clock.now();
        let line = format!("{} {what}", now.0);
        self.trace.push(line);
    }

    fn ended(&self) -> Ended {
        let mut all = self.trace.join("\n");
        all.push_str(&self.world.log.state().digest().to_string());
        Ended {
            trace: Digest::of(all.as_bytes()),
            entries: self.world.log.len(),
            crashes: self.crashes,
            tally: Tally::of(&self.world.log.since(0)),
        }
    }
}

/// The entry by which `apply` commits `desired`, with every gate approved. `number` tells it from others of the same texts.
pub(crate) fn commit_of(
    desired: &coppice_schema::Desired,
    state: &State,
    term: u64,
    now: Timestamp,
    number: usize,
) -> Result<Entry, String> {
    let mut known = state.known(term);
    known.runs.clear();
    let plan = coppice_plans::plan(desired, &known, now);
    let violations = coppice_plans::check(&plan, desired, &known);
    if let Some(violation) = violations.first() {
        return Err(format!("a plan of an edit fails its check: {violation:?}"));
    }
    let texts = Digest::of(format!("{desired:?}").as_bytes());
    let document = coppice_plans::document::of(&plan, &known, "storm", now);
    Ok(Entry::Committed(Box::new(Commit {
        desired: desired.clone(),
        texts,
        base: plan.base,
        reviewed: coppice_plans::reviewed(&document, desired),
        plan: Digest::of(format!("{number} {texts}").as_bytes()),
        bounds: Bounds {
            sessions_interrupted: u32::MAX,
            bytes_copied: Size(u64::MAX),
            approved: GATES.into_iter().collect(),
        },
        author: "test".to_owned(),
        changes: plan.changes,
    })))
}

const GATES: [GateKind; 6] = [
    GateKind::ServerLoss,
    GateKind::MassDelete,
    GateKind::PersonalData,
    GateKind::Protected,
    GateKind::EmptyConfiguration,
    GateKind::Freeze,
];
