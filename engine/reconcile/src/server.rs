//! A server's round: look, report what changed, say how orders went that ended before the look, and begin those that
//! are due. What was begun goes on between the rounds and beside them.

mod act;
mod allowed;
mod alone;
pub(crate) mod carry;
mod flight;
mod look;
mod report;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use coppice_schema::desired::NetworkTarget;
use coppice_schema::ids::{GridId, NetworkName, ServerId, ServerName, Stamp};
use coppice_schema::known::{Capacity, Phase, ServerState};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::Attempt;
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::{Agreement, Entry, Leadership, Outcome, State};
use coppice_world::disks::Disks;
use coppice_world::hypervisor::Hypervisor;
use coppice_world::moves::Moves;
use coppice_world::peers::Peers;
use coppice_world::replicas::Replicas;
use coppice_world::stamps::Stamps;
use coppice_world::watchdog::Watchdog;

pub use self::carry::Carrier;
pub use self::run::run;

use crate::time::GridTime;

use self::flight::{Act, Flight, Object};
use self::look::{Guests, Sight};

/// What a server's round works with.
#[derive(Clone)]
pub struct Ports {
    /// The grid's log and state.
    pub agreement: Arc<dyn Agreement>,
    /// Domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Images and overlays.
    pub disks: Arc<dyn Disks>,
    /// The fence against late orders.
    pub stamps: Arc<dyn Stamps>,
    /// Desktops that leave and come, running.
    pub moves: Arc<dyn Moves>,
    /// The other servers.
    pub peers: Arc<dyn Peers>,
    /// Copies of personal desktops: those that leave, and those that are here.
    pub replicas: Arc<dyn Replicas>,
    /// What ends desktops of which there are copies, when the grid may have given this server up.
    pub watchdog: Arc<dyn Watchdog>,
}

/// What a server says of itself, from its own file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Description {
    /// Labels.
    pub labels: BTreeSet<String>,
    /// Networks that are mapped otherwise here.
    pub networks: BTreeMap<NetworkName, NetworkTarget>,
    /// Where its API answers: `HOST:PORT`.
    pub api: String,
}

/// One server between its rounds, for one start of its daemon. Losing it costs nothing but a whole report, and what
/// was under way is begun again: all that must outlive the daemon is in the state, in the world, or behind [`Stamps`].
#[derive(Debug)]
pub struct Server {
    memory: Memory,
    flight: Flight,
}

/// What it remembers.
#[derive(Debug)]
struct Memory {
    name: ServerName,
    boot: u64,
    description: Description,
    /// The index that the log had reached after the start; until it is applied here nothing is acted on.
    caught_up: Option<u64>,
    time: GridTime,
    capacity: Option<(Timestamp, Capacity)>,
    guests: Guests,
    /// How orders went that the grid has not heard of yet.
    receipts: BTreeMap<Stamp, Attempt>,
}

/// What a round did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerReport {
    /// Everything on this server was seen.
    pub whole: bool,
    /// Something changed since the last report, and the grid knows it now.
    pub reported: bool,
    /// Orders that were begun, or wait for others to end.
    pub begun: Vec<(Stamp, String)>,
    /// Orders that were tried before, and of which it is known now how that went.
    pub tried: Vec<(Stamp, String, Attempt)>,
    /// What did not work, in words, beside orders.
    pub trouble: Vec<String>,
    /// Look again then at the latest, whatever happens.
    pub again: Option<Span>,
}

/// What a server can carry is asked again after that long: memory is added, features come with an upgrade.
const CAPACITY_LASTS: Span = Span::minutes(5);
/// A guest that starts is asked again that soon; people wait for it.
const BOOTING: Span = Span::seconds(2);
/// What could not be said or seen is tried again that soon.
const TROUBLED: Span = Span::seconds(5);

impl Server {
    /// The server called `name` in start number `boot` of its daemon, which is greater than in every start before.
    #[must_use]
    pub fn new(name: ServerName, boot: u64, description: Description) -> Self {
        let memory = Memory {
            name,
            boot,
            description,
            caught_up: None,
            time: GridTime::default(),
            capacity: None,
            guests: Guests::default(),
            receipts: BTreeMap::new(),
        };
        Self {
            memory,
            flight: Flight::default(),
        }
    }

    /// Changes what it says of itself.
    pub fn describe(&mut self, description: Description) {
        self.memory.description = description;
    }

    /// Does `work`; acts that are under way go on meanwhile.
    pub async fn along<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.flight.along(work).await
    }

    /// Until an act that is under way has ended, and the next round has something to tell; for ever when none is.
    pub async fn landing(&mut self) {
        self.flight.landing().await;
    }
}

/// One round at `now`, as the clock shows it, and after `passed` of monotonic time. Acts that earlier rounds began go on beside it, none begins in it, and it waits for none.
///
/// It can be dropped at any point. Nothing that was not seen is ever reported as absent; a server that is not whole
/// begins nothing; an object without this grid's mark is never touched.
pub async fn round(
    server: &mut Server,
    ports: &Ports,
    now: Timestamp,
    passed: Span,
) -> ServerReport {
    let mut report = ServerReport::default();
    let Server { memory, flight } = server;
    let state = ports.agreement.local();
    let now = memory.time.go_on(now, passed, state.time);
    flight.ground(&state.orders, now);
    // What an act did is seen before it is said to be done, so that the state never holds a desktop for broken because
    // its receipt came before its sight: only what ended before this round looks is told in it.
    for landed in flight.land() {
        let (stamp, what) = (landed.stamp, landed.order.task.describe());
        let Some(attempt) = act::attempt(landed, now) else {
            continue;
        };
        memory.receipts.insert(stamp, attempt.clone());
        report.tried.push((stamp, what, attempt));
    }
    // What waits is judged anew, by what is seen now.
    flight.queue(Vec::new());
    let busy = flight.objects();
    let acts = flight
        .along(attend(memory, ports, now, busy, &mut report))
        .await;
    flight.queue(acts);
    report
}

/// The round itself: returns the acts to begin. `busy` is what those are about that are under way.
async fn attend(
    memory: &mut Memory,
    ports: &Ports,
    now: Timestamp,
    mut busy: BTreeSet<Object>,
    report: &mut ServerReport,
) -> Vec<Act> {
    if ports.agreement.degraded().is_some() {
        alone::attend(memory, ports, now, &busy, report).await;
        return Vec::new();
    }
    let Some(state) = catch_up(memory, ports, report).await else {
        return Vec::new();
    };
    let Some((grid, me)) = placed(memory, &state) else {
        return Vec::new();
    };
    let round = Round { me, grid, now };
    ports
        .disks
        .limit_images(state.committed.grid.image_bandwidth);

    let state = describe(memory, ports, &round, state, report).await;
    let sight = look::look(&mut memory.guests, ports, &round, &state).await;
    report.whole = sight.whole;
    report.trouble.extend(sight.trouble.clone());
    let told = tell(memory, ports, &round, &state, &sight, report).await;
    let Some(state) = told.filter(|_| sight.whole) else {
        report.again = Some(TROUBLED);
        return Vec::new();
    };

    let prepared = act::prepare(memory, ports, &round, &state, &sight, &busy).await;
    let (acts, refused) = prepared.unwrap_or_else(|e| {
        report.trouble.push(e);
        Default::default()
    });
    for (stamp, attempt) in refused {
        let order = state.orders.get(&stamp);
        let what = order.map(|order| order.task.describe());
        report
            .tried
            .push((stamp, what.unwrap_or_default(), attempt.clone()));
        memory.receipts.insert(stamp, attempt);
    }
    for Act { stamp, order, .. } in &acts {
        report.begun.push((*stamp, order.task.describe()));
        busy.insert(Object::of(&order.task));
    }
    send_receipts(memory, ports, &round, report).await;
    report.again = again(memory, &round, &ports.agreement.local(), &busy);
    acts
}

/// What does not change in a round.
struct Round {
    me: ServerId,
    grid: GridId,
    now: Timestamp,
}

/// The state, once everything that the log held at the start is in it.
async fn catch_up(
    memory: &mut Memory,
    ports: &Ports,
    report: &mut ServerReport,
) -> Option<Arc<State>> {
    let index = match memory.caught_up {
        Some(index) => index,
        None => match ports.agreement.read().await {
            Ok(state) => *memory.caught_up.insert(state.index),
            Err(e) => {
                report
                    .trouble
                    .push(format!("cannot catch up with the grid: {e}"));
                report.again = Some(TROUBLED);
                return None;
            }
        },
    };
    let state = ports.agreement.local();
    if state.index < index {
        report.again = Some(BOOTING);
        return None;
    }
    Some(state)
}

fn placed(memory: &Memory, state: &State) -> Option<(GridId, ServerId)> {
    let (id, _) = state.server_named(&memory.name)?;
    Some((state.grid?, id))
}

/// Proposes an entry. `None`: it may or may not have come about, so the next round reads the grid's state anew.
async fn propose(
    memory: &mut Memory,
    ports: &Ports,
    entry: Entry,
    report: &mut ServerReport,
) -> Option<Outcome> {
    match ports.agreement.propose(entry).await {
        Ok(outcome) => Some(outcome),
        Err(e) => {
            memory.caught_up = None;
            report.trouble.push(e.to_string());
            None
        }
    }
}

/// Says what this server is, where that changed.
async fn describe(
    memory: &mut Memory,
    ports: &Ports,
    round: &Round,
    state: Arc<State>,
    report: &mut ServerReport,
) -> Arc<State> {
    let fresh = |(at, _): &&(Timestamp, _)| round.now.since(*at) < CAPACITY_LASTS;
    if memory.capacity.as_ref().filter(fresh).is_none() {
        match ports.hypervisor.capacity().await {
            Ok(mut capacity) => {
                // A hypervisor does not know where overlays are kept.
                let told = state.servers.get(&round.me);
                let told = told.map_or(Size(0), |server| server.capacity.disk);
                capacity.disk = match ports.disks.space().await {
                    Ok(space) => steady(told, space.total),
                    Err(e) => {
                        report.trouble.push(e.to_string());
                        told
                    }
                };
                memory.capacity = Some((round.now, capacity));
            }
            Err(e) => report.trouble.push(e.to_string()),
        }
    }
    let (Some((_, capacity)), Some(known)) = (&memory.capacity, state.servers.get(&round.me))
    else {
        return state;
    };
    let mut capacity = capacity.clone();
    capacity.networks.clone_from(&memory.description.networks);
    let Description { labels, api, .. } = &memory.description;
    let same = known.labels == *labels
        && known.capacity == capacity
        && known.api == *api
        && known.feature_level == FEATURE_LEVEL;
    if same {
        return state;
    }
    let entry = Entry::ServerDescribed {
        server: round.me,
        labels: labels.clone(),
        capacity,
        api: api.clone(),
        feature_level: FEATURE_LEVEL,
    };
    propose(memory, ports, entry, report).await;
    ports.agreement.local()
}

/// The size of a disk as it is told: where file systems share a pool of space it moves with what the others hold, and
/// only a real change of it is worth an entry in the log.
fn steady(told: Size, found: Size) -> Size {
    if told.0.abs_diff(found.0) > told.0 / 16 {
        found
    } else {
        told
    }
}

/// Reports what differs from what the state holds as last reported, and confirms it in a new term. `None`: the grid
/// may not know.
async fn tell(
    memory: &mut Memory,
    ports: &Ports,
    round: &Round,
    state: &Arc<State>,
    sight: &Sight,
    report: &mut ServerReport,
) -> Option<Arc<State>> {
    let look = state.servers.get(&round.me).and_then(|s| s.look.as_deref());
    if let Some(change) = report::difference(round.me, memory.boot, look, sight) {
        match propose(memory, ports, Entry::Reported(Box::new(change)), report).await? {
            Outcome::Done => report.reported = true,
            Outcome::Refused(refusal) => {
                memory.caught_up = None;
                report.trouble.push(format!("report: {refusal}"));
                return None;
            }
            Outcome::Committed { .. } | Outcome::Already { .. } => {}
        }
    }
    let state = ports.agreement.local();
    let known = state.servers.get(&round.me)?;
    let term = match ports.agreement.leadership() {
        Leadership::Here { term } | Leadership::There { term, .. } => term,
        Leadership::Nobody => return Some(state),
    };
    let look = known.look.as_ref().filter(|l| l.boot == memory.boot)?;
    // One that was lost says that it is back, also when nothing there has changed.
    if known.confirmed_term < term || known.state == ServerState::Lost {
        let entry = Entry::Confirmed {
            server: round.me,
            boot: look.boot,
            sequence: look.sequence,
            term,
        };
        propose(memory, ports, entry, report).await?;
    }
    Some(ports.agreement.local())
}

async fn send_receipts(
    memory: &mut Memory,
    ports: &Ports,
    round: &Round,
    report: &mut ServerReport,
) {
    for (stamp, result) in memory.receipts.clone() {
        let entry = Entry::Receipt {
            server: round.me,
            stamp,
            result,
        };
        // Refused: the order was withdrawn meanwhile, and nobody waits for its receipt.
        if propose(memory, ports, entry, report).await.is_some() {
            memory.receipts.remove(&stamp);
        }
    }
}

/// When to look again without being woken.
fn again(memory: &Memory, round: &Round, state: &State, busy: &BTreeSet<Object>) -> Option<Span> {
    // The end of what is under way wakes by itself.
    let retries = state
        .orders
        .values()
        .filter(|order| order.server == round.me && !busy.contains(&Object::of(&order.task)))
        .filter(|order| round.now < order.deadline)
        .map(|order| order.not_before.since(round.now).max(Span(1)));
    let here = state.desktops.values().filter(|d| d.server == round.me);
    let booting = here
        .filter(|d| matches!(d.phase, Phase::Provisioning { .. }))
        .map(|_| BOOTING);
    let unsaid = memory.receipts.keys().map(|_| TROUBLED);
    retries.chain(booting).chain(unsaid).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_real_change_of_a_disk_is_told() {
        let (told, grown) = (Size::gib(64), Size::gib(80));
        assert_eq!(steady(Size(0), told), told, "it was not told before");
        assert_eq!(steady(told, Size::gib(61)), told);
        assert_eq!(steady(told, Size::gib(67)), told);
        assert_eq!(steady(told, grown), grown);
    }
}
