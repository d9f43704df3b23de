//! Many servers that agree by real raft, in a simulated world: on openraft's simulated runtime, with our replica, our
//! machine, and a disk in memory that loses what was not synced. A seed decides everything; then the faults stop, and all
//! must become equal.

pub mod clients;
mod clocks;
pub mod forward;
mod guests;
pub mod history;
pub mod lives;
mod members;
pub mod network;
pub mod panics;
pub mod plants;
pub mod record;
mod rounds;
pub mod search;
mod stations;
mod tail;
pub mod trace;
mod weather;
pub mod wires;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coppice_state::Outcome;
use coppice_world::sim::Chance;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use self::history::{Asked, Key, witness};
use self::lives::Lives;
use self::plants::Plant;
use self::record::Record;
use self::search::{Found, search};
use self::stations::Station;
use self::trace::{Event, Trace};
use self::wires::Wires;

openraft::declare_raft_types!(
    /// The simulated world, with servers in it.
    pub Simulated:
        D = coppice_grid::types::Proposal,
        R = Outcome,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
        LeaderId = coppice_grid::types::Leader,
        AsyncRuntime = Lives,
);

/// How long faults go on, in true time.
const FAULTS: Duration = Duration::from_secs(25);
/// And with rounds, in which more has to come about: a vote is given to nobody who was not well for ten seconds.
const FAULTS_IN_ROUNDS: Duration = Duration::from_secs(50);
/// Clients at once.
const CLIENTS: u64 = 8;
/// Of so many runs, one's history is searched for an order too.
pub const SEARCHED: u64 = 10;
/// Steps of such a search.
const STEPS: u64 = 200_000;

/// What there was of each thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each is named as what it counts")]
pub struct Tally {
    pub messages: u64,
    pub lost: u64,
    pub crashes: u64,
    pub unsynced_lost: u64,
    pub torn: u64,
    pub cuts: u64,
    pub pauses: u64,
    pub clocks: u64,
    pub changes: u64,
    pub installs: u64,
    pub written: u64,
    pub read: u64,
    pub unknown: u64,
    pub forwarded: u64,
    /// Servers that ended by an assertion of openraft's that is known to be wrong.
    pub known_assertions: u64,
    /// Registers that were searched.
    pub searched: u64,
    /// Of these, those for which the search took too long.
    pub undecided: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            messages: self.messages + more.messages,
            lost: self.lost + more.lost,
            crashes: self.crashes + more.crashes,
            unsynced_lost: self.unsynced_lost + more.unsynced_lost,
            torn: self.torn + more.torn,
            cuts: self.cuts + more.cuts,
            pauses: self.pauses + more.pauses,
            clocks: self.clocks + more.clocks,
            changes: self.changes + more.changes,
            installs: self.installs + more.installs,
            written: self.written + more.written,
            read: self.read + more.read,
            unknown: self.unknown + more.unknown,
            forwarded: self.forwarded + more.forwarded,
            known_assertions: self.known_assertions + more.known_assertions,
            searched: self.searched + more.searched,
            undecided: self.undecided + more.undecided,
        }
    }
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Of everything that happened: equal for equal seeds.
    pub trace: u64,
    /// How many events that were.
    pub events: u64,
    /// What there was.
    pub tally: Tally,
    /// What the executor did, line by line, as a hash; 0 where that was not recorded.
    pub executed: u64,
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

/// How a run is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Course {
    /// Decides everything.
    pub seed: u64,
    /// A bug put in.
    pub plant: Option<Plant>,
    /// One put into the rounds.
    pub round_plant: Option<crate::plants::Plant>,
    /// Whether leaders decide and servers act, on top of agreeing.
    pub rounds: bool,
    /// Nothing else goes wrong but that each server's clock in turn is set an hour off, and that it leads then.
    pub clocks: bool,
    /// Whether all that the executor does is hashed too, which takes long.
    pub executed: bool,
}

impl Course {
    /// Of so many seeds, one's grid has rounds on top: these take two or three times as long.
    const ROUNDS: u64 = 5;

    /// The course of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            rounds: seed % Self::ROUNDS == Self::ROUNDS - 1,
            ..Self::default()
        }
    }
}

/// A simulated grid.
pub struct Grid {
    /// The bug in it.
    pub plant: Option<Plant>,
    /// The bug in its rounds.
    pub round_plant: Option<crate::plants::Plant>,
    /// Servers come and go.
    pub churns: bool,
    /// Leaders decide and servers act, on top of agreeing.
    pub rounds: bool,
    /// What was applied.
    pub record: Record,
    chance: Mutex<Chance>,
    wires: Mutex<Wires>,
    stations: Mutex<BTreeMap<u64, Station>>,
    trace: Mutex<Trace>,
    tally: Mutex<Tally>,
    history: Mutex<Vec<Asked>>,
    broken: Mutex<Option<String>>,
    over: Mutex<bool>,
    /// People do nothing more.
    idle: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held is found by other means, and what is behind it is still readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Grid {
    /// Draws by chance.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut lock(&self.chance))
    }

    /// Counts.
    pub fn tally(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut lock(&self.tally));
    }

    /// Tells what happens now.
    pub fn note(&self, event: Event) {
        lock(&self.trace).add(event);
    }

    /// Tells what is done to the grid.
    pub fn deed(&self, what: String) {
        self.note(Event::Deed(what));
    }

    /// Something does not hold; what is told first counts.
    pub fn breaks(&self, what: String) {
        lock(&self.broken).get_or_insert(what);
    }

    /// What does not hold.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        // A panic is the cause of what else is told.
        let told = || lock(&self.broken).clone();
        panics::newest()
            .or_else(|| self.record.broken())
            .or_else(told)
    }

    /// Clients stop.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *lock(&self.over)
    }

    /// Keeps what a client heard.
    pub fn remember(&self, asked: Asked) {
        lock(&self.history).push(asked);
    }

    fn wires<T>(&self, act: impl FnOnce(&mut Wires, &mut Chance) -> T) -> T {
        act(&mut lock(&self.wires), &mut lock(&self.chance))
    }

    /// When each copy of a message arrives.
    pub fn send(&self, from: u64, to: u64) -> Vec<Duration> {
        self.wires(|wires, chance| wires.send(from, to, chance))
    }

    /// How long a client's message takes.
    #[must_use]
    pub fn takes(&self) -> Duration {
        self.wires(|wires, chance| wires.takes(chance))
    }

    /// Whether nothing gets from one to the other now.
    #[must_use]
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        lock(&self.wires).is_cut(from, to)
    }
}

/// Runs the grid of a seed.
///
/// # Errors
/// What did not hold.
pub fn run(course: Course) -> Result<Ended, Failed> {
    panics::watch();
    lives::forget_all();
    let mut chance = Chance::new(course.seed);
    let (servers, churns) = match chance.below(4) {
        0 | 1 => (3, course.rounds),
        2 => (3, true),
        _ => (5, chance.per_mille(500)),
    };
    let grid = Grid::new(course, chance, servers, churns);
    let mut runtime = SimRuntime::with_seed(course.seed);
    runtime.record_trace(course.executed);
    if course.clocks {
        runtime.block_on(clocks::live(Arc::clone(&grid)));
    } else {
        runtime.block_on(live(Arc::clone(&grid), course.rounds));
    }
    let executed = if course.executed {
        let mut hash = trace::Fnv::default();
        for line in runtime.take_trace() {
            std::hash::Hasher::write(&mut hash, line.as_bytes());
        }
        std::hash::Hasher::finish(&hash)
    } else {
        0
    };
    grid.leave();
    drop(runtime);
    let history = std::mem::take(&mut *lock(&grid.history));
    if grid.broken().is_none()
        && let Err(what) = grid.judge(&history, course.seed)
    {
        grid.breaks(what);
    }
    let trace = lock(&grid.trace);
    if let Some(what) = grid.broken() {
        return Err(Failed {
            seed: course.seed,
            what,
            trace: trace.told(),
        });
    }
    let mut tally = *lock(&grid.tally);
    tally.messages = lock(&grid.wires).sent;
    tally.lost = lock(&grid.wires).lost;
    Ok(Ended {
        trace: trace.hash(),
        events: trace.count(),
        tally,
        executed,
    })
}

async fn live(grid: Arc<Grid>, rounds: bool) {
    for server in grid.numbers() {
        grid.start(server);
    }
    let faults = if rounds { FAULTS_IN_ROUNDS } else { FAULTS };
    let until = u64::try_from(faults.as_nanos()).unwrap_or(u64::MAX);
    if rounds {
        drop(lives::spawn(None, Arc::clone(&grid).watch_hosts()));
        drop(lives::spawn(None, Arc::clone(&grid).people(until)));
    }
    for number in 1..=CLIENTS {
        drop(lives::spawn(
            None,
            clients::client(Arc::clone(&grid), number),
        ));
    }
    SimRuntime::sleep(Duration::from_millis(2_500)).await;
    grid.wires(|wires, _| wires.set_rough(true));
    grid.rage(until).await;
    if grid.broken().is_none()
        && let Err(what) = grid.calm(rounds).await
    {
        grid.breaks(what);
    }
    *lock(&grid.over) = true;
}

impl Grid {
    /// Judges what clients heard by what was applied.
    fn judge(&self, history: &[Asked], seed: u64) -> Result<(), String> {
        witness(history, &self.record)?;
        if seed.is_multiple_of(SEARCHED) {
            for key in Key::ALL {
                let found = search(history, key, STEPS);
                self.tally(|tally| {
                    tally.searched += 1;
                    tally.undecided += u64::from(found == Found::Undecided);
                });
                if found == Found::None {
                    return Err(format!("no order explains what clients heard of {key:?}"));
                }
            }
        }
        Ok(())
    }
}
