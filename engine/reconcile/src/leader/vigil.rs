//! The leader's watch: which servers have been silent for too long.
//!
//! What is heard of servers passes, and is never agreed on; that one is lost is. Nobody is taken for lost because the
//! leader itself did not run, was just elected, or cannot reach a majority: only time in which it watched without a
//! break counts.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use coppice_schema::ids::ServerId;
use coppice_schema::known::{ServerState, Skew};
use coppice_schema::units::Span;
use coppice_state::agreement::{HEARTBEAT, SUSPECT};
use coppice_state::state::Server;
use coppice_state::{
    Agreement, AgreementError, Entry, Leadership, Outcome, Standing, State, clocks,
};
use coppice_world::clock::Clock;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};

/// A look that comes later than it was asked for by more than this was kept from it: what is beyond counts for nothing.
const BREAK: Span = HEARTBEAT;
/// A pause that was measured counts for so long, and at most twice that.
const REMEMBERED: Span = Span::minutes(10);
/// A server is given so many times the worst pause that was measured before it counts as lost.
const PAUSES: u64 = 3;
/// And no longer than that, however bad it was: or each pause would allow a longer one.
const LONGEST: Span = Span::seconds(30);
/// A server that is stopped as planned is given so long to be back: an upgrade of its daemon takes less, and what runs there
/// runs on meanwhile.
const RESTS: Span = Span::minutes(1);
/// How long the desktops of a server take to end, once they are killed.
const ENDS: Span = Span::seconds(2);
/// Nobody is to be watched: a look costs nothing, and a server may join.
const LONE: Span = Span::seconds(1);

/// What one leader has heard, in its term.
#[derive(Debug, Default)]
pub struct Vigil {
    term: Option<u64>,
    /// For how long it has listened: monotonic time without what it was kept from looking.
    listened: Span,
    /// When it looked last, and for how long it meant to wait then.
    last: Option<(Span, Span)>,
    /// When each replica last answered, by raft id: in monotonic time, and by [`Self::listened`].
    heard: BTreeMap<u64, (Span, Span)>,
    /// The worst pause after which somebody was heard again, in this stretch of [`REMEMBERED`] and in the one before.
    pauses: [Span; 2],
    turned: Span,
    /// Lost servers that were heard again and have not reported yet: after which pause, and which start of their daemon
    /// they were lost with.
    back: BTreeMap<ServerId, (Span, Option<u64>)>,
    /// Lost servers with a lease: which loss that is, by the last entry that they proposed, and since when it is known here.
    away: BTreeMap<ServerId, (u64, Span)>,
}

/// What a look at everybody gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beat {
    /// Servers that have been silent for too long, and for how long.
    pub lost: Vec<(ServerId, Span)>,
    /// Servers whose clock is not what the grid takes it for: where it is.
    pub skewed: Vec<(ServerId, Option<Skew>)>,
    /// Servers that have been lost for longer than their lease, and the last entry that each had proposed before.
    pub fenced: Vec<(ServerId, u64)>,
    /// Look again after that.
    pub next: Span,
}

impl Vigil {
    /// Looks at who was heard, `passed` being monotonic time.
    pub fn look(
        &mut self,
        leadership: Leadership,
        standing: &Standing,
        state: &State,
        passed: Span,
    ) -> Beat {
        let Leadership::Here { term } = leadership else {
            *self = Self::default();
            return Beat {
                lost: Vec::new(),
                skewed: Vec::new(),
                fenced: Vec::new(),
                next: HEARTBEAT,
            };
        };
        if self.term != Some(term) {
            *self = Self {
                term: Some(term),
                turned: passed,
                ..Self::default()
            };
        }
        if let Some((last, nap)) = self.last {
            let most = nap.0.saturating_add(BREAK.0);
            self.listened.0 += since(passed, last).0.min(most);
        }
        self.forget(passed);
        self.hear(standing, state, passed);
        self.come_back(state);
        let limit = self.limit(state.committed.grid.lost_after);
        // Who cannot reach a majority learns nothing of the others by their silence.
        let alone = standing.majority.is_some_and(|ago| ago > SUSPECT);
        let nap = if state.servers.len() > 1 {
            HEARTBEAT
        } else {
            LONE
        };
        let mut beat = Beat {
            lost: Vec::new(),
            skewed: skewed(standing, state),
            fenced: Vec::new(),
            next: nap,
        };
        self.wait_for_leases(state, passed, &mut beat);
        for (id, resting, silent) in self.silent(standing, state) {
            let limit = if resting { limit.max(RESTS) } else { limit };
            if silent < limit {
                beat.next = beat.next.min(Span(limit.0 - silent.0));
            } else if !alone {
                beat.lost.push((id, silent));
            }
        }
        self.last = Some((passed, beat.next));
        beat
    }

    /// Waits for the leases of lost servers to end. More time than was watched does no harm: they have ended then, too. A
    /// new leader waits all of it, since it does not know when the loss was agreed on.
    fn wait_for_leases(&mut self, state: &State, passed: Span, beat: &mut Beat) {
        let waiting = state.servers.iter().filter_map(|(id, server)| {
            let lost =
                matches!(server.state, ServerState::Lost | ServerState::Removed) && !server.fenced;
            Some((*id, server.spoke, server.lease.filter(|_| lost)?))
        });
        let waiting: Vec<(ServerId, u64, Span)> = waiting.collect();
        self.away
            .retain(|id, _| waiting.iter().any(|(other, ..)| other == id));
        for (id, spoke, lease) in waiting {
            let known = self.away.entry(id).or_insert((spoke, passed));
            if known.0 != spoke {
                *known = (spoke, passed);
            }
            let waited = since(passed, known.1);
            let wait = fenced_after(lease);
            if waited < wait {
                beat.next = beat.next.min(Span(wait.0 - waited.0));
            } else {
                beat.fenced.push((id, spoke));
            }
        }
    }

    /// How long a server may be silent: `lost_after`, and three times the worst pause that was measured.
    #[must_use]
    pub fn limit(&self, lost_after: Span) -> Span {
        let [now, before] = self.pauses;
        let worst = now.max(before).0.saturating_mul(PAUSES);
        lost_after.max(Span(worst.min(LONGEST.0)))
    }

    /// Those that could be lost, whether each was stopped as planned, and for how long it was silent while it was listened
    /// to.
    fn silent(
        &self,
        standing: &Standing,
        state: &State,
    ) -> impl Iterator<Item = (ServerId, bool, Span)> {
        let watched = state.servers.iter().filter(|(_, server)| {
            // One that takes no part in the log could not be heard.
            server.state.takes_part() && standing.parts.contains_key(&server.raft_id)
        });
        watched.map(|(id, server)| {
            let heard = self.heard.get(&server.raft_id);
            let at = heard.map_or(Span(0), |(_, listened)| *listened);
            (*id, server.resting, since(self.listened, at))
        })
    }

    /// Notes who was heard, and after which pause. One that was away for good reason, or for so long that no limit would
    /// have waited for it, says nothing of how long the others may be silent.
    fn hear(&mut self, standing: &Standing, state: &State, passed: Span) {
        for (raft_id, part) in &standing.parts {
            let Some(ago) = part.heard else { continue };
            let at = since(passed, ago);
            // What was heard during a break was heard at its end at the latest.
            let listened = since(self.listened, ago);
            let before = self.heard.entry(*raft_id).or_insert((at, listened));
            if at > before.0 {
                let listened = listened.max(before.1);
                let pause = since(listened, before.1);
                *before = (at, listened);
                if pause <= HEARTBEAT || pause > LONGEST {
                    continue;
                }
                match state.server_by_raft_id(*raft_id) {
                    Some((_, server)) if server.resting => {}
                    Some((id, server)) if server.state == ServerState::Lost => {
                        self.back.insert(id, (pause, boot(server)));
                    }
                    Some(_) | None => self.measured(pause),
                }
            }
        }
    }

    /// Whoever was lost, and has reported from the same daemon, was wrongly taken for lost: that is a pause. A daemon that was
    /// started anew was away.
    fn come_back(&mut self, state: &State) {
        let mut wrongly = Vec::new();
        self.back.retain(|id, (pause, before)| {
            let Some(server) = state.servers.get(id) else {
                return false;
            };
            let lost = server.state == ServerState::Lost;
            if !lost && boot(server) == *before {
                wrongly.push(*pause);
            }
            lost
        });
        wrongly.into_iter().for_each(|pause| self.measured(pause));
    }

    fn measured(&mut self, pause: Span) {
        let [now, _] = &mut self.pauses;
        *now = pause.max(*now);
    }

    fn forget(&mut self, passed: Span) {
        if since(passed, self.turned) >= REMEMBERED {
            let [now, _] = self.pauses;
            self.pauses = [Span(0), now];
            self.turned = passed;
        }
    }
}

/// How long to wait for the end of what a lost server runs under that lease: clocks that count the same time differ by far
/// less than a tenth, and the processes of all its desktops end within the rest.
#[must_use]
pub fn fenced_after(lease: Span) -> Span {
    Span(lease.0.saturating_add(lease.0 / 10).saturating_add(ENDS.0))
}

/// Which start of its daemon a server reported from last.
fn boot(server: &Server) -> Option<u64> {
    server.look.as_ref().map(|look| look.boot)
}

fn skewed(standing: &Standing, state: &State) -> Vec<(ServerId, Option<Skew>)> {
    let voter = |id| standing.parts.get(&id).is_some_and(|part| part.voter);
    let servers = || state.servers.iter();
    let before = |id| state.server_by_raft_id(id)?.1.skew;
    let judged = clocks::judge(&standing.clocks, voter, before);
    let other = servers().filter_map(|(id, server)| {
        let skew = *judged.get(&server.raft_id)?;
        (skew != server.skew).then_some((*id, skew))
    });
    other.collect()
}

fn since(now: Span, before: Span) -> Span {
    Span(now.0.saturating_sub(before.0))
}

/// Watches for ever: whoever is silent for too long is lost, by agreement, in that moment. On a server that does not
/// lead it does nothing.
///
/// Dropping it is safe at any point.
pub async fn keep(agreement: &dyn Agreement, clock: &dyn Clock) {
    let mut vigil = Vigil::default();
    let mut under_way = FuturesUnordered::new();
    let mut proposed: BTreeSet<ServerId> = BTreeSet::new();
    loop {
        let state = agreement.local();
        let (leadership, standing) = (agreement.leadership(), agreement.standing());
        let beat = vigil.look(leadership, &standing, &state, clock.passed());
        let lost = beat.lost.iter();
        let lost = lost.map(|(server, silent)| (*server, entry(*server, *silent, &state)));
        let clocks = beat.skewed.iter();
        let clocks = clocks.map(|(server, skew)| {
            let (server, skew) = (*server, *skew);
            (server, Entry::ServerClock { server, skew })
        });
        let fenced = beat.fenced.iter();
        let fenced = fenced.map(|(server, spoke)| {
            let (server, spoke) = (*server, *spoke);
            (server, Entry::ServerFenced { server, spoke })
        });
        for (server, entry) in lost.chain(fenced).chain(clocks) {
            if proposed.insert(server) {
                let what = entry.clone();
                under_way.push(async move { (server, what, agreement.propose(entry).await) });
            }
        }
        // Who waits for a majority must not stop watching.
        let mut nap = pin!(clock.sleep(beat.next));
        while !under_way.is_empty() {
            match select(&mut nap, under_way.next()).await {
                Either::Left(_) => break,
                Either::Right((Some((server, what, outcome)), _)) => {
                    proposed.remove(&server);
                    tell(server, &what, &outcome);
                }
                Either::Right((None, _)) => {}
            }
        }
        if under_way.is_empty() {
            nap.await;
        }
    }
}

/// The entry by which `server` is lost, `state` being what was known when that was decided.
#[must_use]
pub fn entry(server: ServerId, silent: Span, state: &State) -> Entry {
    Entry::ServerLost {
        server,
        silent,
        read: state.index,
    }
}

fn tell(server: ServerId, what: &Entry, outcome: &Result<Outcome, AgreementError>) {
    let clock = matches!(what, Entry::ServerClock { .. });
    let fenced = matches!(what, Entry::ServerFenced { .. });
    match outcome {
        Ok(Outcome::Refused(refusal)) => tracing::info!(%server, %refusal, "not so any more"),
        Ok(_) if clock => tracing::warn!(%server, "a server's clock is wrong, or right again"),
        Ok(_) if fenced => {
            tracing::warn!(%server, "a server is lost for longer than its lease: its desktops with copies have ended");
        }
        Ok(Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. }) => {
            tracing::warn!(%server, "a server is lost");
        }
        Err(error) => {
            tracing::warn!(%server, %error, "a server is silent or wrong, and no majority hears of it");
        }
    }
}

#[cfg(test)]
mod tests;
