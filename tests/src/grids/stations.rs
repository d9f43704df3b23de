//! Servers: started, crashed, started again on what their disks kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_grid::Replica;
use coppice_grid::machine::{Machine, Snapshot};
use coppice_grid::memory::MemoryDisk;
use coppice_grid::replica::Fate;
use coppice_grid::types::{KEEP_BEHIND_SNAPSHOT, LogId, Membership, SnapshotMeta, settings};
use coppice_schema::known::Health;
use coppice_state::{Entry, State};
use coppice_world::sim::Chance;
use openraft::async_runtime::AsyncRuntime;
use openraft::impls::BasicNode;
use openraft::{Config, SnapshotPolicy};
use openraft_rt_sim::SimRuntime;

use super::forward::Access;
use super::lives::{self, Life, WallClock};
use super::network::Wire;
use super::panics;
use super::plants::{Plant, PlantedLog};
use super::record::{Record, Watcher};
use super::rounds::{self, Host};
use super::trace::Trace;
use super::wires::Wires;
use super::{Course, Grid, Simulated, Tally, lock};

/// The longest that a sync takes on a disk that is well.
const SYNC: Duration = Duration::from_millis(4);

/// A server: what outlives its lives, and the present one.
pub(super) struct Station {
    disk: MemoryDisk<Simulated>,
    present: Option<(Life, Access)>,
    pub(super) host: Option<Host>,
    /// It broke, and never starts again.
    gone: bool,
}

/// The grid's settings, but for how often there are snapshots: often enough to be met by everything that goes wrong.
fn often(plant: Option<Plant>) -> Config {
    let real = settings().expect("settings of the grid");
    assert!(real.max_in_snapshot_log_to_keep == KEEP_BEHIND_SNAPSHOT);
    Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(40),
        max_in_snapshot_log_to_keep: 10,
        replication_lag_threshold: 60,
        max_payload_entries: 16,
        install_snapshot_timeout: 3_000,
        enable_leader_restore: Some(plant == Some(Plant::LeaderRestore)),
        ..real.as_ref().clone()
    }
}

impl Grid {
    pub(super) fn new(course: Course, mut chance: Chance, servers: u64, churns: bool) -> Arc<Self> {
        let Course {
            plant,
            round_plant,
            rounds,
            ..
        } = course;
        let state = rounds::beginning(servers, rounds, &mut chance);
        let grid = Self {
            plant,
            round_plant,
            churns,
            rounds,
            record: Record::after(state.clone()),
            chance: Mutex::new(chance),
            wires: Mutex::new(Wires::default()),
            stations: Mutex::default(),
            trace: Mutex::new(Trace::default()),
            tally: Mutex::new(Tally::default()),
            history: Mutex::default(),
            broken: Mutex::default(),
            over: Mutex::new(false),
            idle: Mutex::new(false),
        };
        let begin = beginning(state, servers);
        let mut hosts = if rounds {
            grid.new_hosts(servers)
        } else {
            BTreeMap::new()
        };
        for number in 1..=servers {
            let disk = grid.empty_disk().holding(begin.clone());
            let mut station = Station::with(disk);
            station.host = hosts.remove(&number);
            lock(&grid.stations).insert(number, station);
        }
        Arc::new(grid)
    }

    fn empty_disk(&self) -> MemoryDisk<Simulated> {
        let disk = MemoryDisk::new(self.draw(Chance::bits), SYNC);
        if self.plant == Some(Plant::LyingDisk) {
            return disk.lying();
        }
        disk
    }

    /// Every server that ever was, by its number in raft.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        lock(&self.stations).keys().copied().collect()
    }

    /// The disk of a server.
    #[must_use]
    pub fn disk(&self, server: u64) -> Option<MemoryDisk<Simulated>> {
        lock(&self.stations).get(&server).map(|s| s.disk.clone())
    }

    pub(super) fn replace_disk(&self, server: u64) {
        let disk = self.empty_disk();
        lock(&self.stations).insert(server, Station::with(disk));
    }

    /// A new server with an empty disk and a number that nobody had, which waits to be called.
    pub(super) fn newcomer(self: &Arc<Self>) -> u64 {
        let disk = self.empty_disk();
        let number = {
            let mut stations = lock(&self.stations);
            let last = stations.last_key_value().map_or(0, |(number, _)| *number);
            stations.insert(last + 1, Station::with(disk));
            last + 1
        };
        self.start(number);
        number
    }

    /// The access of a server that is up.
    #[must_use]
    pub fn access(&self, server: u64) -> Option<(Life, Access)> {
        let stations = lock(&self.stations);
        stations.get(&server)?.present.clone()
    }

    /// One of the servers that are up.
    #[must_use]
    pub fn access_to_any(&self, pick: u64) -> Option<(Life, Access)> {
        let stations = lock(&self.stations);
        let up: Vec<_> = stations
            .values()
            .filter_map(|s| s.present.clone())
            .collect();
        let count = u64::try_from(up.len()).ok()?;
        let place = usize::try_from(pick.checked_rem(count)?).ok()?;
        up.get(place).cloned()
    }

    /// What a message from one server finds at another.
    #[must_use]
    pub fn reached(&self, from: u64, to: u64) -> Option<(Life, Access)> {
        if self.is_cut(from, to) {
            return None;
        }
        self.access(to)
    }

    /// Starts a server, if it is down.
    pub fn start(self: &Arc<Self>, server: u64) {
        if lock(&self.stations).get(&server).is_none_or(|s| s.gone) {
            return;
        }
        let Some(life) = lives::begin(server) else {
            return;
        };
        self.deed(format!("{server} starts, for the {}. time", life.number));
        let grid = Arc::clone(self);
        self.in_life(life, async move {
            match grid.open(life).await {
                Ok(replica) => {
                    let access = Access {
                        grid: Arc::clone(&grid),
                        server,
                        replica,
                    };
                    let host = {
                        let mut stations = lock(&grid.stations);
                        let station = stations.get_mut(&server);
                        station.and_then(|station| {
                            station.present = Some((life, access.clone()));
                            station.host.clone()
                        })
                    };
                    if let Some(host) = host {
                        host.start(life, &access);
                    }
                    let why = access.replica.failed().await;
                    grid.ended_by_itself(server, &why);
                }
                Err(why) => grid.breaks(format!("{server} does not start: {why}")),
            }
        });
    }

    async fn open(self: &Arc<Self>, life: Life) -> Result<Replica<Simulated>, String> {
        let server = life.server;
        let disk = self.disk(server).ok_or("there is no such server")?;
        let latest = disk.snapshot();
        let index = latest.as_ref().map_or(0, |s| s.state.index);
        self.record.begins(life, index);
        let watcher = Watcher {
            grid: Arc::clone(self),
            life,
        };
        let machine = Machine::new(Arc::new(disk.snapshots()), latest).observed(Arc::new(watcher));
        let log = PlantedLog::new(disk.log(), self.plant, server);
        let link = Arc::new(Wire {
            grid: Arc::clone(self),
            server,
        });
        let settings = Arc::new(often(self.plant));
        let clock = Arc::new(WallClock(server));
        let start =
            Replica::linked_with(settings, server, log, machine, link, clock, Fate::default());
        start.await.map_err(|e| e.to_string())
    }

    /// A server's replica closed. Only for an assertion that is wrong may it.
    fn ended_by_itself(self: &Arc<Self>, server: u64, why: &str) {
        if !panics::was_known() {
            self.breaks(format!("the replica of {server} has ended: {why}"));
            return;
        }
        self.tally(|tally| tally.known_assertions += 1);
        let grid = Arc::clone(self);
        drop(lives::spawn(None, async move {
            grid.crash(server);
            grid.start_after(server, Duration::from_millis(100));
        }));
    }

    /// The power of a server fails. `false`: it was off.
    pub fn crash(&self, server: u64) -> bool {
        if !lives::end(server) {
            return false;
        }
        let power = self.draw(|chance| chance.per_mille(400));
        let (lost, host) = {
            let mut stations = lock(&self.stations);
            let Some(station) = stations.get_mut(&server) else {
                return false;
            };
            station.present = None;
            (station.disk.crash(), station.host.clone())
        };
        if let Some(host) = host {
            host.dies(power);
        }
        self.deed(format!("{server} crashes: {lost:?}"));
        self.tally(|tally| {
            tally.crashes += 1;
            tally.unsynced_lost += u64::try_from(lost.writes).unwrap_or(0);
            tally.torn += u64::from(lost.torn);
        });
        true
    }

    /// A server breaks, with all that was on it.
    pub(super) fn crash_for_good(&self, server: u64) {
        self.crash(server);
        if let Some(station) = lock(&self.stations).get_mut(&server) {
            station.gone = true;
            if let Some(host) = station.host.take() {
                host.dies(true);
            }
        }
    }

    /// Servers that broke.
    pub(super) fn broken_for_good(&self) -> Vec<u64> {
        let stations = lock(&self.stations);
        let gone = stations.iter().filter(|(_, station)| station.gone);
        gone.map(|(number, _)| *number).collect()
    }

    /// A machine that became a member is there, with an empty disk for the log.
    pub(super) fn settles_in(self: &Arc<Self>, number: u64, host: Host) {
        let mut station = Station::with(self.empty_disk());
        station.host = Some(host);
        lock(&self.stations).insert(number, station);
        self.start(number);
    }

    /// Starts a server after `span`.
    pub fn start_after(self: &Arc<Self>, server: u64, span: Duration) {
        let grid = Arc::clone(self);
        drop(lives::spawn(None, async move {
            SimRuntime::sleep(span).await;
            grid.start(server);
        }));
    }

    /// Nobody holds anything of the runtime any more.
    pub(super) fn leave(&self) {
        for station in lock(&self.stations).values_mut() {
            station.present = None;
            if let Some(host) = &station.host {
                host.dies(false);
            }
        }
    }

    /// A server is about to propose `entry`: what it says of itself must be so.
    pub(super) fn hears(&self, server: u64, entry: &Entry, state: &State) {
        let host = lock(&self.stations)
            .get(&server)
            .and_then(|station| station.host.clone());
        if let (Entry::Reported(report), Some(host)) = (entry, host)
            && report.hypervisor == Health::Well
            && let Err(untruth) = host.says(report, state)
        {
            self.breaks(untruth);
        }
    }
}

impl Station {
    fn with(disk: MemoryDisk<Simulated>) -> Self {
        Self {
            disk,
            present: None,
            host: None,
            gone: false,
        }
    }
}

/// What a grid of so many servers begins with: a state, and all of them vote.
fn beginning(state: State, servers: u64) -> Snapshot {
    let nodes: BTreeMap<u64, BasicNode> =
        (1..=servers).map(|n| (n, BasicNode::default())).collect();
    let voters = nodes.keys().copied().collect();
    let membership = openraft::Membership::new(vec![voters], nodes).expect("voters have nodes");
    let led = coppice_grid::types::Led::new(state.term);
    let at = LogId::new(led, state.index);
    Snapshot {
        meta: SnapshotMeta {
            last_log_id: Some(at),
            last_membership: Membership::new(Some(at), membership),
        },
        state: Arc::new(state),
    }
}
