//! Keeps those who vote as they should be: on every server, and at work on the one that leads.
//!
//! What is to be done, [`crate::voters`] says; here it is done, one change at a time, each compared with who took
//! part when it was decided. Nothing is remembered that a new leader would miss: it looks for itself, and its
//! observations begin anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::known::ServerState;
use coppice_schema::units::Span;
use coppice_state::join::Role;
use coppice_state::{Agreement, Entry, Leadership, Standing, State};
use futures::StreamExt;
use futures::future::select;
use openraft::Instant;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use crate::clocks;
use crate::replica::{Former, Members, MembersError, Replica};
use crate::types::GridTypes;
use crate::voters::{self, Change, Pulse, Seat};

/// How often it is looked how the others are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks, whatever happens.
const BREATH: Duration = Duration::from_millis(20);
/// How long a server that is to stop waits for the others to go on without it.
const FAREWELL: Duration = Duration::from_secs(6);

/// Keeps voters for ever, and what is known of their clocks. Dropping it is safe at any point.
pub async fn keep<C: GridTypes>(replica: Replica<C>) {
    let clocks = Box::pin(clocks::watch(&replica));
    select(clocks, Box::pin(keep_voters(&replica))).await;
}

async fn keep_voters<C: GridTypes>(replica: &Replica<C>) {
    let mut watch = replica.watch();
    let mut memory = Memory::<C>::default();
    loop {
        let pause = if step(replica, &mut memory).await {
            // Something changed, and more may be to do.
            BREATH
        } else {
            LOOK_EVERY
        };
        // Also a grid in which nothing is agreed on has servers that fall silent.
        let woken = async {
            if watch.next().await.is_none() {
                futures::future::pending::<()>().await;
            }
            // Entries come in bursts, and one look serves them all.
            C::sleep(BREATH).await;
        };
        select(Box::pin(woken), Box::pin(C::sleep(pause))).await;
    }
}

/// Says that this server is there again, whenever the grid takes it for one that was stopped as planned. To be dropped
/// before [`rest`].
pub async fn wake<C: GridTypes>(replica: Replica<C>) {
    let mut watch = replica.watch();
    let resting = |replica: &Replica<C>| {
        let state = replica.local();
        let mine = state.server_by_raft_id(replica.raft_id());
        mine.filter(|(_, mine)| mine.resting).map(|(id, _)| id)
    };
    loop {
        if let Some(server) = resting(&replica) {
            let awake = Entry::ServerRests {
                server,
                rests: false,
            };
            if let Err(error) = replica.propose(awake).await {
                tracing::debug!(%error, "the grid does not know yet that this server is back");
                C::sleep(LOOK_EVERY).await;
                continue;
            }
        }
        if watch.next().await.is_none() {
            return futures::future::pending().await;
        }
    }
}

/// Prepares the others for this server's planned stop: they give it time to be back, leadership goes to another, and of two
/// voters the other keeps the majority. [`keep`] must be running meanwhile. Returns when that is so, or cannot be in time: then this server stops
/// as one that was killed, which costs the others a few seconds.
pub async fn rest<C: GridTypes>(replica: &Replica<C>) {
    let me = replica.raft_id();
    let members = replica.members();
    // There is nobody to tell.
    if members.voters.iter().all(|voter| *voter == me) {
        return;
    }
    let state = replica.local();
    let Some((server, _)) = state.server_by_raft_id(me) else {
        return;
    };
    let rests = Entry::ServerRests {
        server,
        rests: true,
    };
    let farewell = async {
        if let Err(error) = replica.propose(rests).await {
            tracing::warn!(%error, "the others could not be told that this server stops");
            return;
        }
        while !spared(replica) {
            C::sleep(Duration::from_millis(20)).await;
        }
    };
    if C::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("nobody took over in time; the others will notice that this server is gone");
    }
}

/// Whether the others go on at once when this server stops.
fn spared<C: GridTypes>(replica: &Replica<C>) -> bool {
    let members = replica.members();
    let me = replica.raft_id();
    let leads = matches!(replica.leadership(), Leadership::Here { .. });
    let needed = members.voters.len() <= 2 && members.voters.contains(&me);
    !leads && !needed && !members.changing
}

/// What a leader saw of the others since it leads.
struct Memory<C: GridTypes> {
    /// In which term, and since when.
    leads: Option<(u64, InstantOf<C>)>,
    /// Since when each has answered without a gap, and been caught up.
    well: BTreeMap<u64, InstantOf<C>>,
}

impl<C: GridTypes> Default for Memory<C> {
    fn default() -> Self {
        Self {
            leads: None,
            well: BTreeMap::new(),
        }
    }
}

impl<C: GridTypes> Memory<C> {
    /// How each member is now.
    fn look(&mut self, term: u64, standing: &Standing) -> BTreeMap<u64, Pulse> {
        let now = C::now();
        let since = match self.leads {
            Some((known, since)) if known == term => since,
            Some(_) | None => {
                self.well.clear();
                self.leads = Some((term, now));
                now
            }
        };
        let led = span(now.saturating_duration_since(since));
        let mut pulses = BTreeMap::new();
        for (id, part) in &standing.parts {
            let silent = part.heard.unwrap_or(led);
            let behind = part.holds.map(|holds| standing.last.saturating_sub(holds));
            let fine = part.there() && part.caught_up(standing.last);
            if !fine {
                self.well.remove(id);
            }
            let well = if fine {
                let since = *self.well.entry(*id).or_insert(now);
                span(now.saturating_duration_since(since))
            } else {
                Span(0)
            };
            pulses.insert(
                *id,
                Pulse {
                    silent,
                    well,
                    behind,
                },
            );
        }
        self.well.retain(|id, _| standing.parts.contains_key(id));
        pulses
    }
}

fn span(duration: Duration) -> Span {
    Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The members, by raft id. Removed ones are none.
fn seats(state: &State) -> BTreeMap<u64, Seat> {
    let members = state.servers.values();
    members
        .filter(|server| server.state != ServerState::Removed)
        .map(|server| {
            let seat = Seat {
                witness: server.role == Role::Witness,
                resting: server.resting,
                lost: server.state == ServerState::Lost,
                address: server.api.clone(),
            };
            (server.raft_id, seat)
        })
        .collect()
}

/// Does what is to be done next, if this server leads; whether something was.
async fn step<C: GridTypes>(replica: &Replica<C>, memory: &mut Memory<C>) -> bool {
    let Leadership::Here { term } = replica.leadership() else {
        memory.leads = None;
        return false;
    };
    let pulses = memory.look(term, &replica.standing());
    let state = replica.local();
    // Before the first entry nobody is a member, and everybody would be a stranger.
    if state.grid.is_none() {
        return false;
    }
    if let Some(level) = level(&state) {
        let raised = replica.propose(Entry::FeatureRaised { level }).await;
        tracing::info!(
            level,
            ?raised,
            "every member can apply a newer feature level"
        );
        return raised.is_ok();
    }
    let seats = seats(&state);
    let members = replica.members();
    let Some(change) = voters::next(replica.raft_id(), &seats, &members, &pulses) else {
        return false;
    };
    match carry_out(replica, &state, &members, &seats, &change).await {
        Ok(()) => true,
        Err(error @ (MembersError::Moved | MembersError::NotNow(_))) => {
            tracing::debug!(%error, ?change, "who takes part in the log is looked at again");
            false
        }
        Err(error) => {
            tracing::warn!(%error, ?change, "who takes part in the log could not be changed");
            false
        }
    }
}

async fn carry_out<C: GridTypes>(
    replica: &Replica<C>,
    state: &Arc<State>,
    members: &Members,
    seats: &BTreeMap<u64, Seat>,
    change: &Change,
) -> Result<(), MembersError> {
    let name = |id: &u64| {
        let server = state.server_by_raft_id(*id);
        server.map_or_else(|| format!("raft id {id}"), |(_, it)| it.name.to_string())
    };
    match change {
        Change::Vote(voters) => {
            let names: Vec<String> = voters.iter().map(name).collect();
            replica
                .set_voters(members, voters.clone(), Former::Learn)
                .await?;
            tracing::info!(voters = names.join(", "), "these vote from now on");
        }
        Change::Learn(id) => {
            let address = seats.get(id).map(|seat| seat.address.clone());
            replica
                .add_learner(members, *id, address.unwrap_or_default())
                .await?;
            tracing::info!(server = name(id), "it learns from now on");
        }
        Change::Forget(id) => {
            replica.remove(members, *id).await?;
            tracing::info!(server = name(id), "it takes no part in the log any more");
        }
        Change::Lead(id) => {
            replica.transfer_leader(*id).await?;
            tracing::info!(server = name(id), "it leads from now on");
        }
    }
    Ok(())
}

/// The feature level that all members can apply, where it is newer than the grid's.
fn level(state: &State) -> Option<u32> {
    let counts = |part| !matches!(part, ServerState::Removed | ServerState::Lost);
    let members = state.servers.values().filter(|s| counts(s.state));
    let level = members.map(|server| server.feature_level).min()?;
    (level > state.feature_level).then_some(level)
}
