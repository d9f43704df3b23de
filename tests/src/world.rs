//! A simulated grid: servers, their daemons, and one log.

mod drive;
mod settled;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use coppice_reconcile::leader::LeaderReport;
use coppice_reconcile::leader::vigil::{self, Vigil};
use coppice_reconcile::lease::Keeper;
use coppice_reconcile::server::{Carrier, Description, Ports, Server, ServerReport};
use coppice_reconcile::{leader, lease, replicas, server};
use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, ServerId, ServerName};
use coppice_schema::known::{Capacity, ServerState};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, State, apply};
use coppice_world::clock::Clock;
use coppice_world::disks::Disks;
use coppice_world::peers::Purpose;
use coppice_world::sim::{Chance, Setup, SimClock, SimServer, SimStamps, SimWires};
use futures::future::{FutureExt, select_all};
use futures::stream::{self, StreamExt};

use crate::agreement::{SimAgreement, SimLog};
use crate::configs;
use crate::plants::{self, Plant};

use self::drive::{Lines, Mortal, Woken, drive};

/// When every simulated world begins: a Monday, 2026-11-23, 08:00 UTC.
pub const DAWN: Timestamp = Timestamp(1_795_420_800_000);

/// A daemon renews its lease that often.
const RENEWED: Span = Span::seconds(5);

/// A grid with its servers.
pub struct World {
    /// The one clock.
    pub clock: SimClock,
    /// The one log.
    pub log: Arc<SimLog>,
    /// Servers.
    pub machines: Vec<Machine>,
    /// Its identity.
    pub grid: GridId,
    /// What lies between them.
    pub wires: SimWires,
    lines: Lines,
    plant: Option<Plant>,
    vigil: Vigil,
}

/// A server that may be crashed, and its daemon.
pub struct Machine {
    /// Its name.
    pub name: ServerName,
    /// What outlives daemons.
    pub sim: Arc<SimServer>,
    /// Its fence, which outlives daemons too.
    pub stamps: SimStamps,
    /// Its access to the log.
    pub agreement: Arc<SimAgreement>,
    /// Its number in raft.
    pub raft_id: u64,
    /// How often its daemon was started.
    pub boot: u64,
    /// It has no power.
    pub dark: bool,
    ports: Ports,
    daemon: Server,
    /// Its lease, for one daemon.
    keeper: Keeper,
    /// How many daemons have died: what one served dies with it.
    daemons: Arc<AtomicU64>,
    lines: Lines,
}

impl World {
    /// A grid of `count` servers that hold every image of [`configs::catalogue`].
    #[must_use]
    pub fn new(chance: &mut Chance, count: u64, plant: Option<Plant>) -> Self {
        let capacity = Capacity {
            disk: Size::gib(64),
            ..Setup::default().capacity
        };
        Self::of(chance, count, &capacity, plant)
    }

    /// The same, of servers that carry so much each.
    #[must_use]
    pub fn of(chance: &mut Chance, count: u64, capacity: &Capacity, plant: Option<Plant>) -> Self {
        let clock = SimClock::new(DAWN);
        let grid = GridId([7; 16]);
        let log = SimLog::new(clock.clone(), founded(grid, count));
        let lines = Lines::default();
        let each = |raft_id| {
            machine(
                chance,
                &clock,
                &log,
                grid,
                (raft_id, capacity),
                plant,
                &lines,
            )
        };
        let machines: Vec<Machine> = (1..=count).map(each).collect();
        let first = log.state().servers.keys().next().copied();
        for (image, version, record) in configs::catalogue() {
            for machine in &machines {
                machine.sim.put_image(record.root, record.size, record.data);
            }
            log.append(Entry::ImageImported {
                image,
                version,
                record,
                server: first.unwrap_or_default(),
                author: "test".to_owned(),
            });
        }
        Self {
            clock,
            log,
            machines,
            grid,
            wires: lines.0.clone(),
            lines,
            plant,
            vigil: Vigil::default(),
        }
    }

    /// Time passes, while the leader watches who is silent.
    pub fn pass(&mut self, span: Span) {
        let end = Span(self.clock.passed().0 + span.0);
        loop {
            let next = self.watch();
            let left = Span(end.0.saturating_sub(self.clock.passed().0));
            if left == Span(0) {
                return;
            }
            let state = self.log.state();
            // Where everybody answers, nothing comes of looking.
            let silent = state.servers.values().any(|server| {
                let lost = server.state == ServerState::Lost;
                let ends = lost && server.lease.is_some() && !server.fenced;
                ends || !lost && !self.log.reaches(server.raft_id)
            });
            let step = if silent { next.min(left) } else { left };
            let step = if self.renew() {
                step.min(RENEWED)
            } else {
                step
            };
            self.clock.advance(step);
        }
    }

    /// A server makes the copies that are due. `false`: a daemon died in it, its own or one that was to get a copy.
    pub fn copies(&mut self, index: usize) -> bool {
        let Some(machine) = self.machines.get(index).filter(|machine| !machine.dark) else {
            return true;
        };
        let dead = || self.machines.iter().any(Machine::crashed);
        let (name, ports) = (machine.name.clone(), machine.ports.clone());
        let settled = replicas::settle(name, ports, &self.clock);
        let alive = drive(&self.clock, &self.lines, dead, settled).is_some();
        if !alive {
            let machines = self.machines.iter_mut();
            machines
                .filter(|machine| machine.crashed())
                .for_each(Machine::restart);
        }
        alive
    }

    /// Daemons renew what their watchdogs hold. Whether there is anything.
    fn renew(&mut self) -> bool {
        let mut any = false;
        for machine in &mut self.machines {
            if !machine.dark && !machine.sim.guarding().domains.is_empty() {
                any = true;
                machine.renew(&self.clock);
            }
        }
        any
    }

    /// The leader looks at who was heard. Returns when it is to look again.
    fn watch(&mut self) -> Span {
        let leader = self.log.leader();
        let leader = self.machines.iter().find(|m| m.raft_id == leader);
        let Some(leader) = leader else {
            return Span::seconds(1);
        };
        let agreement = plants::leading(self.plant, Arc::clone(&leader.agreement) as _);
        let state = plants::watching(self.plant, self.log.state());
        let passed = self.clock.passed();
        let (leadership, standing) = (agreement.leadership(), agreement.standing());
        let beat = self.vigil.look(leadership, &standing, &state, passed);
        for (server, silent) in beat.lost {
            self.log.append(vigil::entry(server, silent, &state));
        }
        for (server, spoke) in beat.fenced {
            self.log.append(Entry::ServerFenced { server, spoke });
        }
        for (server, skew) in beat.skewed {
            self.log.append(Entry::ServerClock { server, skew });
        }
        beat.next
    }

    fn raft_id(&self, index: usize) -> u64 {
        self.machines
            .get(index)
            .map_or(0, |machine| machine.raft_id)
    }

    /// A machine is out of reach; its daemon and its desktops run on, unless it lost its power. Where it led, another
    /// does. `false`: it is the last one, and stays.
    pub fn part(&mut self, index: usize, power: bool) -> bool {
        let raft_id = self.raft_id(index);
        let others = self.machines.iter().map(|machine| machine.raft_id);
        let mut reached = others.filter(|id| *id != raft_id && self.log.reaches(*id));
        let Some(heir) = reached.next() else {
            return false;
        };
        if let Some(machine) = self.machines.get(index) {
            // It heard everything up to now, and may not have begun what it was told.
            machine.agreement.catch_up();
        }
        self.log.part(raft_id);
        self.wires.part(ServerId(raft_id), true);
        if self.log.leader() == raft_id {
            self.log.elect(heir);
        }
        if let Some(machine) = self.machines.get_mut(index)
            && power
        {
            machine.sim.black_out();
            machine.dark = true;
        }
        true
    }

    /// It is reached again; where it had lost its power, its daemon is started.
    pub fn join(&mut self, index: usize) {
        let raft_id = self.raft_id(index);
        self.log.join(raft_id);
        self.wires.part(ServerId(raft_id), false);
        if let Some(machine) = self.machines.get_mut(index)
            && machine.dark
        {
            machine.dark = false;
            machine.restart();
        }
    }

    /// Whether a machine can be reached.
    #[must_use]
    pub fn reaches(&self, index: usize) -> bool {
        self.log.reaches(self.raft_id(index))
    }

    /// Rounds of the daemon of machine `index`: one, and another whenever an act ended at once. An act that takes
    /// time goes on beside its later rounds. `None`: it died, and another daemon stands there now.
    pub fn server_round(&mut self, index: usize) -> Option<ServerReport> {
        let machine = self.machines.get_mut(index)?;
        if machine.dark {
            return Some(ServerReport::default());
        }
        machine.renew(&self.clock);
        let report = machine.rounds(&self.clock);
        if report.is_none() {
            machine.restart();
        }
        report
    }

    /// Leader and servers go on by themselves for `span`, woken as in a daemon. Then their daemons are killed, and others
    /// stand there.
    ///
    /// # Panics
    /// When they end by themselves.
    pub fn live(&mut self, span: Span) {
        let end = self.clock.now().after(span);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let mut loops = Vec::new();
        for machine in self.machines.iter_mut().filter(|machine| !machine.dark) {
            // What was under way is not done by two.
            machine.restart();
            let agreement = Arc::clone(&machine.agreement) as _;
            loops.push(leader::run(agreement, Arc::clone(&clock)).boxed());
            let daemon = machine.start();
            let ports = || machine.ports.clone();
            let arrivals = stream::pending().boxed();
            let own = server::run(daemon, ports(), arrivals, Arc::clone(&clock));
            loops.push(own.boxed());
            let copies = replicas::run(machine.name.clone(), ports(), Arc::clone(&clock));
            loops.push(copies.boxed());
            let Ports {
                agreement,
                watchdog,
                ..
            } = ports();
            let name = machine.name.clone();
            loops.push(lease::run(name, agreement, watchdog, Arc::clone(&clock)).boxed());
        }
        let mut loops = select_all(loops);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            // Everything that can be done without time passing, before it does.
            while woken.0.swap(false, Ordering::SeqCst) {
                for machine in &self.machines {
                    machine.agreement.catch_up();
                }
                self.lines.go_on(&mut Context::from_waker(&waker));
                let polled = loops.poll_unpin(&mut Context::from_waker(&waker));
                assert!(polled.is_pending(), "a loop has ended");
            }
            let alarm = self.clock.next_alarm().filter(|at| *at <= end);
            let Some(alarm) = alarm else { break };
            self.clock.advance_to(alarm);
        }
        self.clock.advance_to(end);
        drop(loops);
        let alive = self.machines.iter_mut().filter(|machine| !machine.dark);
        alive.for_each(Machine::restart);
    }

    /// The grid goes on from `state` with the machine of that name alone, as after a restore or a recovery. Its
    /// hypervisor and its disks are as they were; where no machine has that name, it is a new one without anything. The
    /// others are returned.
    pub fn go_on_from(&mut self, state: State, name: &ServerName, raft_id: u64) -> Vec<Machine> {
        self.log = SimLog::new(self.clock.clone(), state);
        self.log.elect(raft_id);
        let mut chance = Chance::new(raft_id);
        let place = self.machines.iter().position(|m| m.name == *name);
        let mut survivor = match place {
            Some(place) => self.machines.remove(place),
            None => {
                let (clock, log) = (&self.clock, &self.log);
                let part = (raft_id, &Setup::default().capacity);
                let (plant, lines) = (self.plant, &self.lines);
                machine(&mut chance, clock, log, self.grid, part, plant, lines)
            }
        };
        survivor.name = name.clone();
        survivor.raft_id = raft_id;
        survivor.agreement = self.log.access(raft_id, chance);
        survivor.ports.agreement = Arc::clone(&survivor.agreement) as _;
        survivor.restart();
        std::mem::replace(&mut self.machines, vec![survivor])
    }

    /// A round of the leader. `None`: its daemon died in it.
    pub fn leader_round(&mut self) -> Option<LeaderReport> {
        let leader = self.log.leader();
        let now = self.clock.now();
        let mut machines = self.machines.iter_mut();
        let machine = machines.find(|machine| machine.raft_id == leader)?;
        let agreement = plants::leading(self.plant, Arc::clone(&machine.agreement) as _);
        let dead = || machine.agreement.crashed();
        let lines = &self.lines;
        let report = drive(
            &self.clock,
            lines,
            dead,
            leader::round(agreement.as_ref(), now),
        );
        if report.is_none() {
            machine.restart();
        }
        report
    }
}

impl Machine {
    /// Whether its daemon has died, by its own call or in the service of another.
    pub(crate) fn crashed(&self) -> bool {
        self.sim.crashed() || self.agreement.crashed()
    }

    /// Its daemon renews its lease, and has it agreed on as it should be.
    fn renew(&mut self, clock: &SimClock) {
        let (sim, agreement) = (Arc::clone(&self.sim), Arc::clone(&self.agreement));
        let dead = || sim.crashed() || agreement.crashed();
        let (agreement, watchdog) = (&self.ports.agreement, &self.ports.watchdog);
        let settled = self.keeper.settle(agreement.as_ref(), watchdog.as_ref());
        if drive(clock, &self.lines, dead, settled).is_none() {
            self.restart();
        }
    }

    fn rounds(&mut self, clock: &SimClock) -> Option<ServerReport> {
        let (sim, agreement) = (Arc::clone(&self.sim), Arc::clone(&self.agreement));
        let dead = || sim.crashed() || agreement.crashed();
        let mut all = ServerReport::default();
        loop {
            let (now, passed) = (clock.now(), clock.passed());
            let round = server::round(&mut self.daemon, &self.ports, now, passed);
            let report = drive(clock, &self.lines, dead, round)?;
            all = ServerReport {
                begun: [all.begun, report.begun].concat(),
                tried: [all.tried, report.tried].concat(),
                trouble: [all.trouble, report.trouble].concat(),
                reported: all.reported || report.reported,
                ..report
            };
            // Acts and those whom they talk to go on as far as they get without time passing.
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let mut landed = false;
            while woken.0.swap(false, Ordering::SeqCst) {
                let mut context = Context::from_waker(&waker);
                landed |= pin!(self.daemon.landing()).poll(&mut context).is_ready();
                self.lines.go_on(&mut context);
                if dead() {
                    return None;
                }
            }
            if !landed {
                return Some(all);
            }
        }
    }

    /// Its daemon is killed, and started again.
    pub fn restart(&mut self) {
        self.sim.revive();
        self.agreement.revive();
        self.daemons.fetch_add(1, Ordering::SeqCst);
        self.daemon = self.start();
    }

    fn start(&mut self) -> Server {
        self.boot += 1;
        self.keeper = Keeper::new(self.name.clone());
        Server::new(self.name.clone(), self.boot, description(&self.name))
    }

    /// Its number in the grid.
    #[must_use]
    pub fn id(&self, log: &SimLog) -> Option<ServerId> {
        log.state().server_named(&self.name).map(|(id, _)| id)
    }
}

/// The state of a grid that was just founded, and that `count - 1` servers have joined.
pub(crate) fn founded(grid: GridId, count: u64) -> State {
    let token = Token {
        hash: Digest::of(b"token"),
        scope: Scope::Admin,
        created: DAWN,
        expires: None,
    };
    let entry = Entry::Founded {
        grid,
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server: NewServer {
            name: server_name(1),
            raft_id: 1,
            api: String::new(),
        },
        token: (TokenId("admin".to_owned()), token),
    };
    let mut state = State::default();
    apply(&mut state, 1, 1, &Envelope { at: DAWN, entry });
    let first = state.servers.values().next().cloned();
    for raft_id in 2..=count {
        let mut server = first.clone().expect("the first server");
        server.name = server_name(raft_id);
        server.raft_id = raft_id;
        state.servers.insert(ServerId(raft_id), server);
    }
    state.index = count;
    state
}

pub(crate) fn server_name(raft_id: u64) -> ServerName {
    format!("s{raft_id}").parse().expect("a server's name")
}

pub(crate) fn description(name: &ServerName) -> Description {
    Description {
        api: format!("{name}:7443"),
        ..Description::default()
    }
}

fn machine(
    chance: &mut Chance,
    clock: &SimClock,
    log: &Arc<SimLog>,
    grid: GridId,
    (raft_id, capacity): (u64, &Capacity),
    plant: Option<Plant>,
    lines: &Lines,
) -> Machine {
    let setup = Setup {
        seed: chance.bits(),
        grid: Some(grid),
        boot: Span(chance.between(500, 5_000)),
        capacity: capacity.clone(),
        ..Setup::default()
    };
    let sim = SimServer::new(setup, Arc::new(clock.steady()));
    let id = ServerId(raft_id);
    sim.meet(Arc::new(lines.0.peers(id)));
    lines.0.serve(id, Purpose::Images, sim.giver());
    let agreement = log.access(raft_id, chance.split());
    let stamps = SimStamps::default();
    let ports = Ports {
        agreement: Arc::clone(&agreement) as _,
        hypervisor: Arc::clone(&sim) as _,
        disks: Arc::clone(&sim) as _,
        stamps: Arc::new(stamps.clone()),
        moves: Arc::clone(&sim) as _,
        peers: Arc::new(lines.0.peers(id)),
        replicas: Arc::clone(&sim) as _,
        watchdog: sim.watchdog(),
    };
    let name = server_name(raft_id);
    let ports = plants::planted(plant, ports);
    let daemons = Arc::new(AtomicU64::new(0));
    let carrier = Mortal {
        daemons: Arc::clone(&daemons),
        // Who goes by itself looks again in time.
        serves: Arc::new(Carrier::new(name.clone(), ports.clone()).0),
    };
    lines.0.serve(id, Purpose::Desktops, Arc::new(carrier));
    Machine {
        sim,
        stamps,
        agreement,
        raft_id,
        boot: 1,
        dark: false,
        ports,
        daemons,
        daemon: Server::new(name.clone(), 1, description(&name)),
        keeper: Keeper::new(name.clone()),
        name,
        lines: lines.clone(),
    }
}
