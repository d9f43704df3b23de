//! The rounds on top: each server has a hypervisor, a daemon that looks at it and carries orders out, and one that
//! decides where it leads. People change the configuration, use desktops and get in the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_grid::keeper;
use coppice_plans::plan::{FindingKind, Plan};
use coppice_reconcile::leader::LeaderReport;
use coppice_reconcile::server::{Ports, Server};
use coppice_reconcile::{leader, lease, server};
use coppice_schema::Desired;
use coppice_schema::ids::{Address, GridId, ServerName};
use coppice_schema::known::{Capacity, Request};
use coppice_schema::units::{Size, Span};
use coppice_state::entry::Report;
use coppice_state::{Agreement, AgreementError, Entry, Envelope, Outcome, State, apply};
use coppice_world::clock::Clock;
use coppice_world::peers::Alone;
use coppice_world::sim::{Chance, Setup, SimDomain, SimServer, SimStamps};
use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt, join, join3, poll_fn};
use futures::stream::{self, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::forward::Access;
use super::lives::{self, Life, TrueClock, WallClock, true_nanos, true_time};
use super::{Grid, lock};
use crate::configs;
use crate::judge::{absence_is_true, one_life_each};
use crate::plants;
use crate::storm::calm::{awaits_approval, is_stopped, lacking, left};
use crate::storm::commit_of;
use crate::world::{DAWN, description, founded, server_name};

/// The grid that is simulated.
pub(super) const GRID: GridId = GridId([7; 16]);
/// Desktops of a pool at most.
const DESKTOPS: u32 = 3;
/// How long everything may take to become what is wanted, once nothing goes wrong any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(900);

/// What a server's daemon works on, and what outlives it.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) name: ServerName,
    pub(super) sim: Arc<SimServer>,
    stamps: SimStamps,
    /// The daemon's loops: dropped in the moment in which it dies.
    loops: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
}

impl Host {
    /// A server with every image on its disk.
    pub(super) fn new(name: ServerName, chance: &mut Chance) -> Self {
        let setup = Setup {
            seed: chance.bits(),
            grid: Some(GRID),
            boot: Span(chance.between(500, 5_000)),
            capacity: Capacity {
                disk: Size::gib(64),
                ..Setup::default().capacity
            },
            ..Setup::default()
        };
        let sim = SimServer::new(setup, Arc::new(TrueClock));
        for (_, _, record) in configs::catalogue() {
            sim.put_image(record.root, record.size, record.data);
        }
        Self {
            name,
            sim,
            stamps: SimStamps::default(),
            loops: Arc::default(),
        }
    }

    /// Starts the daemon of `life`.
    pub(super) fn start(&self, life: Life, access: &Access) {
        let clock: Arc<dyn Clock> = Arc::new(WallClock(life.server));
        let agreement: Arc<dyn Agreement> = Arc::new(access.clone());
        let ports = Ports {
            agreement: Arc::clone(&agreement),
            hypervisor: Arc::clone(&self.sim) as _,
            disks: Arc::clone(&self.sim) as _,
            stamps: Arc::new(self.stamps.clone()),
            moves: Arc::clone(&self.sim) as _,
            peers: Arc::new(Alone),
            replicas: Arc::clone(&self.sim) as _,
            watchdog: self.sim.watchdog(),
        };
        let plant = access.grid.round_plant;
        let ports = plants::planted(plant, ports);
        let daemon = Server::new(self.name.clone(), life.number, description(&self.name));
        let decides = leader::run(plants::leading(plant, agreement), Arc::clone(&clock));
        let renews = lease::run(
            self.name.clone(),
            Arc::clone(&ports.agreement),
            Arc::clone(&ports.watchdog),
            Arc::clone(&clock),
        );
        let acts = server::run(daemon, ports, stream::pending().boxed(), clock);
        let acts = join(acts, renews);
        let replica = &access.replica;
        let keeps = join(keeper::keep(replica.clone()), keeper::wake(replica.clone()));
        *lock(&self.loops) = Some(join3(decides, acts, keeps).map(|_| ()).boxed());
        let loops = Arc::clone(&self.loops);
        drop(lives::spawn(
            Some(life),
            poll_fn(move |context| match lock(&loops).as_mut() {
                Some(running) => running.poll_unpin(context),
                None => std::task::Poll::Pending,
            }),
        ));
    }

    /// The daemon dies; with `power`, the machine loses its power too.
    pub(super) fn dies(&self, power: bool) {
        drop(lock(&self.loops).take());
        if power {
            self.sim.black_out();
        }
    }

    /// Judges what its server is about to say by what is there.
    pub(super) fn says(&self, report: &Report, state: &State) -> Result<(), String> {
        absence_is_true(report, &self.sim, state)
    }
}

/// The state that a grid begins with: founded, joined by all, with images and a configuration.
pub(super) fn beginning(servers: u64, rounds: bool, chance: &mut Chance) -> State {
    let mut state = founded(GRID, servers);
    if !rounds {
        return state;
    }
    let first = state.servers.keys().next().copied().unwrap_or_default();
    let mut entries: Vec<Entry> = configs::catalogue()
        .map(|(image, version, record)| Entry::ImageImported {
            image,
            version,
            record,
            server: first,
            author: "test".to_owned(),
        })
        .collect();
    let desired = timeless(configs::desired(chance, DESKTOPS));
    let mut then = state.clone();
    agreed(&mut then, entries.clone());
    entries.extend(commit_of(&desired, &then, then.term, DAWN, 0));
    agreed(&mut state, entries);
    state
}

fn agreed(state: &mut State, entries: Vec<Entry>) {
    for entry in entries {
        let (term, index) = (state.term, state.index + 1);
        apply(state, term, index, &Envelope { at: DAWN, entry });
    }
}

/// `desired` without what waits for a time of day, since hours of raft are many messages; and without what ties a pool to
/// one server, since any may go.
fn timeless(desired: Desired) -> Desired {
    let mut desired = configs::everywhere(desired);
    desired.windows.clear();
    desired.servers.clear();
    for pool in desired.pools.values_mut() {
        pool.servers.clear();
        pool.policy.power = None;
        pool.policy.rollout.window = None;
        pool.protect = false;
        let refresh = pool.policy.refresh.as_ref();
        let by_time = |r: &coppice_schema::desired::Refresh| {
            r.every.is_some() || r.max_age.is_some() || r.at.is_some()
        };
        if refresh.is_some_and(by_time) {
            pool.policy.refresh = None;
        }
    }
    desired
}

impl Grid {
    fn hosts(&self) -> Vec<Host> {
        let stations = lock(&self.stations);
        stations.values().filter_map(|s| s.host.clone()).collect()
    }

    /// Judges what runs where.
    fn look_at_hosts(&self) {
        let hosts = self.hosts();
        let each = hosts.iter().map(|host| (&host.name, host.sim.as_ref()));
        if let Err(what) = one_life_each(GRID, each) {
            self.breaks(what);
        }
        for host in &hosts {
            if let Some(misuse) = host.sim.misuse().first() {
                self.breaks(format!("misuse of {}: {misuse}", host.name));
            }
        }
    }

    /// Looks again and again at what runs where.
    pub(super) async fn watch_hosts(self: Arc<Self>) {
        while self.broken().is_none() {
            self.look_at_hosts();
            SimRuntime::sleep(Duration::from_millis(100)).await;
        }
    }

    /// People edit, sign in, and get in the way, until the faults end.
    pub(super) async fn people(self: Arc<Self>, until: u64) {
        while true_nanos() < until && self.broken().is_none() {
            let pause = self.draw(|chance| chance.between(500, 6_000));
            SimRuntime::sleep(Duration::from_millis(pause)).await;
            match self.draw(|chance| chance.below(10)) {
                0..=2 => self.edit().await,
                3 | 4 if self.churns => self.come().await,
                5 | 6 if self.churns => self.go().await,
                7 => self.stop_as_planned().await,
                _ => self.meddle(),
            }
        }
        self.deed("people are done".to_owned());
        *lock(&self.idle) = true;
    }

    /// What the grid agrees on, as any of its servers says.
    pub(super) async fn read(self: &Arc<Self>) -> Option<Arc<State>> {
        let (life, access) = self.access_to_any(self.draw(Chance::bits))?;
        asked(life, async move { access.read().await }).await?.ok()
    }

    async fn edit(self: &Arc<Self>) {
        let Some(state) = self.read().await else {
            return;
        };
        let before = state.committed.as_ref();
        let desired = self.draw(|chance| configs::edited(chance, before, DESKTOPS));
        self.commit(timeless(desired), &state).await;
    }

    /// Somebody applies `desired`.
    async fn commit(self: &Arc<Self>, desired: Desired, state: &State) {
        let number = usize::try_from(true_nanos()).unwrap_or(0);
        let now = true_time().max(state.time);
        let entry = match commit_of(&desired, state, state.term, now, number) {
            Ok(entry) => entry,
            Err(what) => return self.breaks(what),
        };
        let outcome = self.propose(entry).await;
        self.deed(format!("somebody applies a configuration: {outcome:?}"));
    }

    pub(super) async fn propose(
        self: &Arc<Self>,
        entry: Entry,
    ) -> Option<Result<Outcome, AgreementError>> {
        let (life, access) = self.access_to_any(self.draw(Chance::bits))?;
        asked(life, async move { access.propose(entry).await }).await
    }

    fn meddle(&self) {
        let hosts = self.hosts();
        let Some(host) = self.draw(|chance| chance.pick(&hosts).cloned()) else {
            return;
        };
        let domains: Vec<SimDomain> = host.sim.domains();
        let Some(domain) = self.draw(|chance| chance.pick(&domains).cloned()) else {
            return;
        };
        let what = match self.draw(|chance| chance.below(6)) {
            0 => {
                host.sim.kill(domain.uuid);
                "is killed"
            }
            1 => {
                host.sim.switch_off(domain.uuid);
                "is switched off"
            }
            2 => {
                host.sim.undefine_by_hand(domain.uuid);
                "is undefined"
            }
            n => {
                host.sim.sign_in(domain.uuid, u32::from(n > 3));
                "gets or loses a user"
            }
        };
        self.deed(format!("{} on {} {what}", domain.name, host.name));
    }

    /// Everybody goes home, and the grid must become what is wanted.
    ///
    /// # Errors
    /// What is left when it does not.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), String> {
        for host in self.hosts() {
            host.sim.calm();
            for domain in host.sim.domains() {
                host.sim.sign_in(domain.uuid, 0);
            }
        }
        let limit = true_nanos() + u64::try_from(SETTLED_WITHIN.as_nanos()).unwrap_or(u64::MAX);
        let mut what = Vec::new();
        while true_nanos() < limit && self.broken().is_none() {
            SimRuntime::sleep(Duration::from_secs(5)).await;
            let Some((_, leader)) = self.leader().filter(|_| *lock(&self.idle)) else {
                continue;
            };
            let state = leader.local();
            let known = state.known(state.term);
            let plan = coppice_plans::plan(&state.committed, &known, true_time().max(state.time));
            let lacks = lacking(&state);
            let report = LeaderReport {
                plan: Some(Box::new(plan.clone())),
                ..LeaderReport::default()
            };
            if report.settled() && lacks.is_none() {
                return Ok(());
            }
            self.help(&plan, &state).await;
            what = left(&plan, lacks);
        }
        match self.broken() {
            Some(_) => Ok(()),
            None => Err(format!(
                "it does not settle within {SETTLED_WITHIN:?}: {what:#?}"
            )),
        }
    }

    /// People do what only people may.
    async fn help(self: &Arc<Self>, plan: &Plan, state: &State) {
        let author = || "test".to_owned();
        for finding in &plan.findings {
            if let (Address::Desktop(id), FindingKind::Broken { .. }) =
                (&finding.object, &finding.kind)
                && let Some(desktop) = state.desktops.get(id)
                && !state.requests.contains_key(id)
            {
                let request = Request::Regrow(desktop.spec.member.clone());
                self.propose(Entry::Requested {
                    request,
                    author: author(),
                })
                .await;
            }
        }
        if is_stopped(plan) {
            for pool in state.committed.pools.keys() {
                let address = Address::Pool(pool.clone());
                self.propose(Entry::Resumed {
                    address,
                    author: author(),
                })
                .await;
            }
        }
        if awaits_approval(plan) {
            self.commit(state.committed.as_ref().clone(), state).await;
        }
    }

    /// Which hosts there are, by the numbers of their servers.
    pub(super) fn new_hosts(&self, servers: u64) -> BTreeMap<u64, Host> {
        let host = |n| (n, self.draw(|chance| Host::new(server_name(n), chance)));
        (1..=servers).map(host).collect()
    }
}

/// What a server answers to something that is asked in its present life; `None`: it died meanwhile.
pub(super) async fn asked<T: Send + 'static>(
    life: Life,
    question: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    drop(lives::spawn(Some(life), async move {
        // Whoever asked may have stopped waiting.
        drop(sender.send(question.await));
    }));
    let answer = SimRuntime::timeout(Duration::from_secs(12), answer).await;
    answer.ok()?.ok()
}
