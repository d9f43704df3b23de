//! Which desktop a person gets.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::ids::{Address, DesktopId, PoolName, ServerId};
use coppice_schema::known::{KnownServer, Phase, Request, ServerState};

use super::host::{Use, shares};
use crate::pool::members;

/// How busy a server is, as it says with its heartbeats. Whoever leads remembers it, and nobody else: it is never agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServerLoad {
    /// How much of its processors is busy, in parts of a million.
    pub cpus: u64,
    /// How much of its memory is in use, in parts of a million.
    pub memory: u64,
}

/// Why nobody gets a desktop of a pool now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoDesktop {
    /// None is ready, and some come by themselves: they boot, are grown, or are switched on.
    NotReady,
    /// All that are ready are used.
    AllUsed,
    /// The pool has none.
    None,
}

/// The desktop that a person of `pool` gets: an available one on the least loaded server.
///
/// A server's load is the largest of what it says of its processors and memory, and of the share of the people that it
/// serves well; of one that has said nothing yet, as after a change of leader, the latter alone. Ties go to the server with the
/// fewest people, then by the ids of servers and slots. Only pooled desktops that are available on a server that was seen, and that
/// is not being emptied, are given; none that an order is under way for, or that is to be restarted, regrown or moved.
///
/// Pure: whoever leads calls it, and the entry that gives the desktop to the person compares again.
///
/// # Errors
/// When there is none, and why.
pub fn place_session(
    known: &Known,
    pool: &PoolName,
    loads: &BTreeMap<ServerId, ServerLoad>,
) -> Result<DesktopId, NoDesktop> {
    let ordered: BTreeSet<&DesktopId> = known
        .orders
        .values()
        .filter_map(|order| Some(&order.task.member()?.desktop))
        .collect();
    let mut people: BTreeMap<ServerId, u64> = BTreeMap::new();
    for desktop in known.desktops.values() {
        *people.entry(desktop.server).or_default() += u64::from(desktop.people());
    }
    let (mut used, mut coming) = (false, false);
    let mut best = None;
    for (id, desktop) in members(known, pool) {
        match desktop.phase {
            Phase::Available { .. } if !desktop.personal => {}
            Phase::InUse { .. } | Phase::Migrating { .. } => {
                used = true;
                continue;
            }
            Phase::Available { .. } | Phase::Unknown { .. } => continue,
            Phase::Provisioning { .. }
            | Phase::Off { .. }
            | Phase::Broken { .. }
            | Phase::Deleting { .. } => {
                coming = true;
                continue;
            }
        }
        if ordered.contains(id) || is_asked_for(known, id) {
            coming = true;
            continue;
        }
        let server = known.servers.get(&desktop.server);
        let Some(server) = server.filter(|server| serves(server)) else {
            continue;
        };
        let here = people.get(&desktop.server).copied().unwrap_or(0);
        // One that is to move can be had all the same: it stays for as long as somebody is there. Beside it is another.
        let moves = matches!(known.requests.get(id), Some(Request::Move { .. }));
        let key = (
            load(server, here, loads.get(&desktop.server)),
            here,
            desktop.server,
            moves,
        );
        if best.is_none_or(|(lowest, _): (_, &DesktopId)| key < lowest) {
            best = Some((key, id));
        }
    }
    match best {
        Some((_, id)) => Ok(id.clone()),
        None if coming => Err(NoDesktop::NotReady),
        None if used => Err(NoDesktop::AllUsed),
        None => Err(NoDesktop::None),
    }
}

/// Whether people may come to it. One that takes no new desktops still serves those that it has.
fn serves(server: &KnownServer) -> bool {
    server.current
        && match server.state {
            ServerState::Ready | ServerState::Cordoned => true,
            ServerState::Joining
            | ServerState::Draining
            | ServerState::Suspect
            | ServerState::Lost
            | ServerState::Reconciling
            | ServerState::Removed => false,
        }
}

/// A person asked for something that would end a session, or somebody paused it.
fn is_asked_for(known: &Known, id: &DesktopId) -> bool {
    let request = known.requests.get(id).and_then(|request| match request {
        Request::Restart(member) | Request::Regrow(member) | Request::Discard { member, .. } => {
            Some(member)
        }
        Request::Move { .. } => None,
    });
    let present = known.desktops.get(id);
    let asked = request
        .zip(present)
        .is_some_and(|(member, desktop)| *member == desktop.spec.member);
    asked || known.pauses.contains_key(&Address::Desktop(id.clone()))
}

fn load(server: &KnownServer, people: u64, said: Option<&ServerLoad>) -> u64 {
    let all = Use {
        cpus: u64::from(server.capacity.cpus),
        ..Use::default()
    };
    let sessions = shares(all, Use::default(), Use::default(), people).sessions;
    let said = said.copied().unwrap_or_default();
    sessions.max(said.cpus).max(said.memory)
}
