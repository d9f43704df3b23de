//! From one state to the next.

mod authority;
mod catalogue;
mod commit;
mod life;
mod members;
mod moves;
mod observation;
mod orders;
mod people;
mod recovery;
mod restored;

pub(crate) use observation::deadlines;

use coppice_schema::ids::{Generation, ServerId};

use crate::entry::{Entry, Envelope, NewServer, Outcome, Refusal};
use crate::state::{FEATURE_LEVEL, Server, State};

/// Applies the entry at `index` of `term` to `state`.
///
/// Total: an entry that does not fit gives [`Outcome::Refused`] and changes nothing but time and position. The
/// caller applies each index once, in order.
pub fn apply(state: &mut State, term: u64, index: u64, envelope: &Envelope) -> Outcome {
    state.time = state.time.max(envelope.at);
    state.term = term;
    state.index = index;
    match step(state, &envelope.entry) {
        Ok(outcome) => {
            authority::advance(state);
            outcome
        }
        Err(refusal) => Outcome::Refused(refusal),
    }
}

fn step(state: &mut State, entry: &Entry) -> Result<Outcome, Refusal> {
    match entry {
        Entry::Founded {
            grid,
            epoch,
            server,
            token,
        } => {
            if let Some(grid) = state.grid {
                return Err(Refusal::Founded(grid));
            }
            state.grid = Some(*grid);
            state.epoch = *epoch;
            state.feature_level = FEATURE_LEVEL;
            add_server(state, server);
            state.tokens.insert(token.0.clone(), token.1.clone());
            Ok(Outcome::Done)
        }
        Entry::Recovered(recovery) => recovery::recovered(state, recovery),
        Entry::Tick => {
            observation::tick(state);
            Ok(Outcome::Done)
        }
        Entry::Committed(commit) => commit::commit(state, commit),
        Entry::Reported(report) => {
            let outcome = observation::report(state, report)?;
            life::spoke(state, report.server);
            Ok(outcome)
        }
        Entry::Confirmed {
            server,
            boot,
            sequence,
            term,
        } => {
            let outcome = observation::confirm(state, *server, *boot, *sequence, *term)?;
            life::spoke(state, *server);
            Ok(outcome)
        }
        Entry::Planned {
            term,
            base,
            orders,
            findings,
            settled,
        } => {
            orders::current(state, *term)?;
            orders::planned(state, base, orders, findings, *settled)
        }
        Entry::Receipt {
            server,
            stamp,
            result,
        } => orders::receipt(state, *server, *stamp, result),
        Entry::Withdrawn { stamp, why } => orders::withdrawn(state, *stamp, why),
        Entry::ImageImported {
            image,
            version,
            record,
            server,
            author,
        } => catalogue::imported(state, image, version, record, *server, author),
        Entry::ImageRemoved {
            image,
            version,
            author,
        } => catalogue::removed(state, image, version, author),
        Entry::ServerDescribed {
            server,
            labels,
            capacity,
            api,
            feature_level,
        } => {
            let known = member(state, *server)?;
            known.labels = labels.clone();
            known.capacity = capacity.clone();
            known.api = api.clone();
            known.feature_level = *feature_level;
            life::described(state, *server);
            Ok(Outcome::Done)
        }
        Entry::ServerSet {
            server,
            state: part,
            author,
        } => life::set(state, *server, *part, author),
        Entry::ServerDrained {
            server,
            force_after,
            author,
        } => life::drain(state, *server, *force_after, author),
        Entry::ServerLost {
            server,
            silent,
            read,
        } => life::lost(state, *server, *silent, *read),
        Entry::ServerClock { server, skew } => life::clock(state, *server, *skew),
        Entry::ServerLease {
            server,
            lease,
            read,
        } => life::lease(state, *server, *lease, *read),
        Entry::ServerFenced { server, spoke } => life::fenced(state, *server, *spoke),
        Entry::ServerRestored { server } => life::restored(state, *server),
        Entry::JoinTokenCreated { id, token, author } => {
            members::token_created(state, id, token, author)
        }
        Entry::ServerJoined(joiner) => members::joined(state, joiner),
        Entry::ServerRests { server, rests } => {
            member(state, *server)?.resting = *rests;
            Ok(Outcome::Done)
        }
        Entry::FeatureRaised { level } => members::feature_raised(state, *level),
        Entry::ServerRemoved {
            server,
            gone,
            author,
        } => members::removed(state, *server, *gone, author),
        Entry::TokenCreated { id, token, author } => {
            people::token_created(state, id, token, author)
        }
        Entry::TokenRevoked { id, author } => people::token_revoked(state, id, author),
        Entry::AuthorityBegun { successor, author } => authority::begun(state, successor, author),
        Entry::AuthorityFollowed { server, key, shows } => {
            authority::followed(state, *server, *key, *shows)
        }
        Entry::AuthorityDropped { key, author } => authority::dropped(state, *key, author),
        Entry::SecretSet {
            name,
            sealed,
            author,
        } => people::secret_set(state, name, sealed, author),
        Entry::SecretRemoved { name, author } => people::secret_removed(state, name, author),
        Entry::Paused {
            address,
            until,
            author,
        } => people::paused(state, address, *until, author),
        Entry::Resumed { address, author } => people::resumed(state, address, author),
        Entry::Requested { request, author } => people::requested(state, request, author),
        Entry::Rebalanced {
            base,
            moves,
            author,
        } => people::rebalanced(state, base, moves, author),
    }
}

fn add_server(state: &mut State, server: &NewServer) {
    let (name, api) = (server.name.clone(), server.api.clone());
    let known = Server::joining(name, server.raft_id, api, state.time);
    state.servers.insert(ServerId(state.index), known);
}

fn member(state: &mut State, id: ServerId) -> Result<&mut Server, Refusal> {
    state
        .servers
        .get_mut(&id)
        .ok_or_else(|| Refusal::Absent(format!("server {id}")))
}

/// The generation that an address gets by the entry being applied. Taken from the log's index: it only grows, and
/// an address that went away and came back never has one that it had before.
fn generation(state: &State) -> Generation {
    Generation(state.index)
}
