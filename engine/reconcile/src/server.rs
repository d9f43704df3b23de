//! A server's round: look, report what changed, carry out what was ordered, report again, and say how it went.

mod act;
mod allowed;
mod look;
mod report;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_schema::desired::NetworkTarget;
use coppice_schema::ids::{GridId, NetworkName, ServerId, ServerName, Stamp};
use coppice_schema::known::{Capacity, Phase};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::Attempt;
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::{Agreement, Entry, Leadership, Outcome, State};
use coppice_world::disks::Disks;
use coppice_world::hypervisor::Hypervisor;
use coppice_world::stamps::Stamps;

pub use self::run::run;

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

/// One server's memory between its rounds, for one start of its daemon. Losing it costs nothing but a whole report:
/// all that must outlive the daemon is in the state, in the world, or behind [`Stamps`].
#[derive(Debug)]
pub struct Server {
    name: ServerName,
    boot: u64,
    description: Description,
    at_once: usize,
    /// The index that the log had reached after the start; until it is applied here nothing is acted on.
    caught_up: Option<u64>,
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
    /// Orders that were tried, in the order of their stamps.
    pub tried: Vec<(Stamp, String, Attempt)>,
    /// What did not work, in words, beside orders.
    pub trouble: Vec<String>,
    /// Look again then at the latest, whatever happens.
    pub again: Option<Span>,
}

/// How many orders are carried out at once: a server's disk serves few boots well, and many badly.
pub const AT_ONCE: usize = 4;
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
        Self {
            name,
            boot,
            description,
            at_once: AT_ONCE,
            caught_up: None,
            capacity: None,
            guests: Guests::default(),
            receipts: BTreeMap::new(),
        }
    }

    /// Changes what it says of itself.
    pub fn describe(&mut self, description: Description) {
        self.description = description;
    }
}

/// One round at `now`.
///
/// It can be dropped at any point. Nothing that was not seen is ever reported as absent; a server that is not whole
/// acts on nothing; an object without this grid's mark is never touched.
pub async fn round(server: &mut Server, ports: &Ports, now: Timestamp) -> ServerReport {
    let mut report = ServerReport::default();
    let Some(state) = catch_up(server, ports, &mut report).await else {
        return report;
    };
    let Some((grid, me)) = placed(server, &state) else {
        return report;
    };
    let round = Round { me, grid, now };

    let state = describe(server, ports, &round, state, &mut report).await;
    let sight = look::look(&mut server.guests, ports, &round, &state).await;
    report.whole = sight.whole;
    report.trouble.extend(sight.trouble.clone());
    let Some(state) = tell(server, ports, &round, &state, &sight, &mut report).await else {
        report.again = Some(TROUBLED);
        return report;
    };
    if !sight.whole {
        report.again = Some(TROUBLED);
        return report;
    }

    let tried = act::carry_out(server, ports, &round, &state, &sight, &mut report).await;
    if !tried.is_empty() {
        server.receipts.extend(tried);
        // What an act did is seen before it is said to be done: the state never holds a desktop for broken because
        // its receipt came before its sight.
        let sight = look::look(&mut server.guests, ports, &round, &state).await;
        report.trouble.extend(sight.trouble.clone());
        let told = tell(server, ports, &round, &state, &sight, &mut report).await;
        report.whole = sight.whole;
        if !sight.whole || told.is_none() {
            report.again = Some(TROUBLED);
            return report;
        }
    }
    send_receipts(server, ports, &round, &mut report).await;
    report.again = again(server, &round, &ports.agreement.local());
    report
}

/// What does not change in a round.
struct Round {
    me: ServerId,
    grid: GridId,
    now: Timestamp,
}

/// The state, once everything that the log held at the start is in it.
async fn catch_up(
    server: &mut Server,
    ports: &Ports,
    report: &mut ServerReport,
) -> Option<Arc<State>> {
    let index = match server.caught_up {
        Some(index) => index,
        None => match ports.agreement.read().await {
            Ok(state) => *server.caught_up.insert(state.index),
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

fn placed(server: &Server, state: &State) -> Option<(GridId, ServerId)> {
    let (id, _) = state.server_named(&server.name)?;
    Some((state.grid?, id))
}

/// Proposes an entry. `None`: it may or may not have come about, so the next round reads the grid's state anew.
async fn propose(
    server: &mut Server,
    ports: &Ports,
    entry: Entry,
    report: &mut ServerReport,
) -> Option<Outcome> {
    match ports.agreement.propose(entry).await {
        Ok(outcome) => Some(outcome),
        Err(e) => {
            server.caught_up = None;
            report.trouble.push(e.to_string());
            None
        }
    }
}

/// Says what this server is, where that changed.
async fn describe(
    server: &mut Server,
    ports: &Ports,
    round: &Round,
    state: Arc<State>,
    report: &mut ServerReport,
) -> Arc<State> {
    let fresh = |(at, _): &&(Timestamp, _)| round.now.since(*at) < CAPACITY_LASTS;
    if server.capacity.as_ref().filter(fresh).is_none() {
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
                server.capacity = Some((round.now, capacity));
            }
            Err(e) => report.trouble.push(e.to_string()),
        }
    }
    let (Some((_, capacity)), Some(known)) = (&server.capacity, state.servers.get(&round.me))
    else {
        return state;
    };
    let mut capacity = capacity.clone();
    capacity.networks.clone_from(&server.description.networks);
    let Description { labels, api, .. } = &server.description;
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
    propose(server, ports, entry, report).await;
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
    server: &mut Server,
    ports: &Ports,
    round: &Round,
    state: &Arc<State>,
    sight: &Sight,
    report: &mut ServerReport,
) -> Option<Arc<State>> {
    let look = state.servers.get(&round.me).and_then(|s| s.look.as_deref());
    if let Some(change) = report::difference(round.me, server.boot, look, sight) {
        match propose(server, ports, Entry::Reported(Box::new(change)), report).await? {
            Outcome::Done => report.reported = true,
            Outcome::Refused(refusal) => {
                server.caught_up = None;
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
    let look = known.look.as_ref().filter(|l| l.boot == server.boot)?;
    if known.confirmed_term < term {
        let entry = Entry::Confirmed {
            server: round.me,
            boot: look.boot,
            sequence: look.sequence,
            term,
        };
        propose(server, ports, entry, report).await?;
    }
    Some(ports.agreement.local())
}

async fn send_receipts(
    server: &mut Server,
    ports: &Ports,
    round: &Round,
    report: &mut ServerReport,
) {
    for (stamp, result) in server.receipts.clone() {
        let entry = Entry::Receipt {
            server: round.me,
            stamp,
            result,
        };
        // Refused: the order was withdrawn meanwhile, and nobody waits for its receipt.
        if propose(server, ports, entry, report).await.is_some() {
            server.receipts.remove(&stamp);
        }
    }
}

/// When to look again without being woken.
fn again(server: &Server, round: &Round, state: &State) -> Option<Span> {
    let retries = state
        .orders
        .values()
        .filter(|order| order.server == round.me)
        .map(|order| order.not_before.since(round.now).max(Span(1)));
    let here = state.desktops.values().filter(|d| d.server == round.me);
    let booting = here
        .filter(|d| matches!(d.phase, Phase::Provisioning { .. }))
        .map(|_| BOOTING);
    let unsaid = server.receipts.keys().map(|_| TROUBLED);
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
