//! The life of a server in its grid.
//!
//! ```text
//!   Joining ──described──▶ Ready ⇄ Cordoned        (people)
//!                            │ ⇅        ⇅
//!                            └▶ Draining ──▶ (removed)
//!   any of these ──not heard──▶ Lost ──reported whole──▶ Reconciling ──restored──▶ what it was
//! ```
//!
//! A witness that was lost holds nothing that it could report: it is what it was as soon as it describes itself again.

use std::sync::Arc;

use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{KnownDesktop, Phase, Request, ServerState, Skew};
use coppice_schema::units::Span;

use super::member;
use super::people::changed;
use crate::entry::{Outcome, Refusal};
use crate::join::Role;
use crate::state::{Happening, Server, State};

/// A server proposed the entry that is being applied.
pub(super) fn spoke(state: &mut State, server: ServerId) {
    let index = state.index;
    if let Some(known) = state.servers.get_mut(&server) {
        known.spoke = index;
    }
}

/// A server said what it can carry: from the first time on it takes part. A witness that was lost does again.
pub(super) fn described(state: &mut State, server: ServerId) {
    let time = state.time;
    spoke(state, server);
    let Some(known) = state.servers.get_mut(&server) else {
        return;
    };
    if known.state == ServerState::Joining {
        come_to(known, ServerState::Ready, time);
    } else if known.state == ServerState::Lost && known.role == Role::Witness {
        let away = time.since(known.since);
        let part = known.before.take().unwrap_or(ServerState::Ready);
        come_to(known, part, time);
        let about = Address::Server(known.name.clone());
        let what = format!("is back after {away}");
        state.record(about, Happening::Server { what });
    }
}

fn come_to(known: &mut Server, part: ServerState, time: coppice_schema::units::Timestamp) {
    if known.state != part {
        known.since = time;
    }
    known.state = part;
}

/// Gives a server the part that a person wants it to have; one that is away has it when it is back.
fn wanted(known: &mut Server, part: ServerState, time: coppice_schema::units::Timestamp) {
    match known.state {
        ServerState::Lost | ServerState::Reconciling => known.before = Some(part),
        ServerState::Joining
        | ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Suspect
        | ServerState::Removed => come_to(known, part, time),
    }
}

pub(super) fn set(
    state: &mut State,
    server: ServerId,
    part: ServerState,
    author: &str,
) -> Result<Outcome, Refusal> {
    let time = state.time;
    let known = member(state, server)?;
    wanted(known, part, time);
    known.force_at = None;
    let address = Address::Server(known.name.clone());
    let what = format!("is {part:?} now").to_lowercase();
    if part != ServerState::Ready {
        stay(state, server);
    }
    changed(state, address, what, author)
}

pub(super) fn drain(
    state: &mut State,
    server: ServerId,
    force_after: Option<Span>,
    author: &str,
) -> Result<Outcome, Refusal> {
    let time = state.time;
    let known = member(state, server)?;
    if known.state == ServerState::Removed {
        return Err(Refusal::Absent(format!("server {}", known.name)));
    }
    wanted(known, ServerState::Draining, time);
    known.force_at = force_after.map(|span| time.after(span));
    let address = Address::Server(known.name.clone());
    let what = match force_after {
        Some(span) => format!("is being emptied, and people are waited for {span}"),
        None => "is being emptied, and people are waited for".to_owned(),
    };
    stay(state, server);
    changed(state, address, what, author)
}

pub(super) fn lost(
    state: &mut State,
    server: ServerId,
    silent: Span,
    read: u64,
) -> Result<Outcome, Refusal> {
    let known = member(state, server)?;
    let name = known.name.clone();
    if known.state == ServerState::Lost {
        return Ok(Outcome::Done);
    }
    // One that does not take part holds nothing that another could take over.
    if !known.state.takes_part() {
        return Err(Refusal::Absent(format!("server {name} that takes part")));
    }
    if known.spoke > read {
        return Err(Refusal::Heard(name));
    }
    let with_it = away(state, server);
    let what = format!("was lost with {with_it} desktops: it was not heard for {silent}");
    state.record(Address::Server(name), Happening::Server { what });
    Ok(Outcome::Done)
}

/// A server is not there: what it holds is neither touched nor counted on. Returns how many desktops are there.
pub(super) fn away(state: &mut State, server: ServerId) -> u32 {
    let time = state.time;
    if let Some(known) = state.servers.get_mut(&server) {
        known.before.get_or_insert(known.state);
        come_to(known, ServerState::Lost, time);
    }
    // What it was told and has not done is not to be done when it comes back: the plan decides anew then.
    if state.orders.values().any(|order| order.server == server) {
        Arc::make_mut(&mut state.orders).retain(|_, order| order.server != server);
    }
    super::moves::lost(state, server);
    stay(state, server);
    let mut with_it = 0u32;
    for (_, desktop) in held(state, server) {
        with_it += 1;
        // What is leaving has to leave when the server is back, whatever it is like then.
        if matches!(desktop.phase, Phase::Deleting { .. }) {
            continue;
        }
        desktop.wear.replaced = !desktop.personal;
        // One that may stand still there has to be told how it goes on.
        if !matches!(desktop.phase, Phase::Migrating { .. }) {
            let before = std::mem::replace(&mut desktop.phase, Phase::Unknown { since: time });
            super::observation::forgive(desktop, &before, time);
        }
    }
    with_it
}

/// Nothing moves to a server, or away from it, that no longer takes its part: the load that was looked at is another now, and a
/// move that waited would come as a surprise when the server is back.
pub(super) fn stay(state: &mut State, server: ServerId) {
    let State {
        requests, desktops, ..
    } = state;
    requests.retain(|id, request| {
        let there = || {
            desktops
                .get(id)
                .is_some_and(|desktop| desktop.server == server)
        };
        !matches!(request, Request::Move { to, .. } if *to == server || there())
    });
}

fn held(
    state: &mut State,
    server: ServerId,
) -> impl Iterator<Item = (&DesktopId, &mut KnownDesktop)> {
    let any = state.desktops.values().any(|d| d.server == server);
    let all = any.then(|| Arc::make_mut(&mut state.desktops).iter_mut());
    all.into_iter()
        .flatten()
        .filter(move |(_, desktop)| desktop.server == server)
}

/// A server said what it sees, and that this is all. Returns whether it had been lost.
pub(super) fn heard_whole(state: &mut State, server: ServerId) -> bool {
    let time = state.time;
    let Some(known) = state
        .servers
        .get_mut(&server)
        .filter(|known| known.state == ServerState::Lost)
    else {
        return false;
    };
    let away = time.since(known.since);
    come_to(known, ServerState::Reconciling, time);
    known.fenced = false;
    let about = Address::Server(known.name.clone());
    let what = format!("is back after {away}, and said what it holds");
    state.record(about, Happening::Server { what });
    true
}

pub(super) fn clock(
    state: &mut State,
    server: ServerId,
    skew: Option<Skew>,
) -> Result<Outcome, Refusal> {
    let known = member(state, server)?;
    if known.skew == skew {
        return Ok(Outcome::Done);
    }
    known.skew = skew;
    let about = Address::Server(known.name.clone());
    let what = match skew {
        Some(Skew::Ahead) => "has a clock that is ahead of the others'",
        Some(Skew::Behind) => "has a clock that is behind the others'",
        None => "has a clock that is right again",
    };
    let what = what.to_owned();
    state.record(about, Happening::Server { what });
    Ok(Outcome::Done)
}

/// Silent about what is already so: it is said at every start.
pub(super) fn lease(
    state: &mut State,
    server: ServerId,
    lease: Option<Span>,
    read: u64,
) -> Result<Outcome, Refusal> {
    let index = state.index;
    let known = member(state, server)?;
    // Whoever waits for the lease of a lost one to end counts with the one that it had.
    if !known.state.takes_part() {
        let name = &known.name;
        return Err(Refusal::Absent(format!("server {name} that takes part")));
    }
    if known.lease_at > read {
        return Err(Refusal::Heard(known.name.clone()));
    }
    known.lease = lease;
    known.lease_at = index;
    spoke(state, server);
    Ok(Outcome::Done)
}

pub(super) fn fenced(state: &mut State, server: ServerId, spoke: u64) -> Result<Outcome, Refusal> {
    let known = member(state, server)?;
    let name = known.name.clone();
    let away = matches!(known.state, ServerState::Lost | ServerState::Removed);
    let lease = known
        .lease
        .filter(|_| away)
        .ok_or_else(|| Refusal::Absent(format!("server {name} that is lost and has a lease")))?;
    // It was back, and was lost again: of that less time has passed.
    if known.spoke != spoke {
        return Err(Refusal::Heard(name));
    }
    if known.fenced {
        return Ok(Outcome::Done);
    }
    known.fenced = true;
    let what = format!(
        "has been lost for longer than its lease of {lease}: personal desktops with copies run there no more"
    );
    state.record(Address::Server(name), Happening::Server { what });
    Ok(Outcome::Done)
}

pub(super) fn restored(state: &mut State, server: ServerId) -> Result<Outcome, Refusal> {
    let time = state.time;
    let known = member(state, server)?;
    if known.state != ServerState::Reconciling {
        return Err(Refusal::Absent(format!(
            "server {} that is reconciling",
            known.name
        )));
    }
    let part = known.before.take().unwrap_or(ServerState::Ready);
    come_to(known, part, time);
    let about = Address::Server(known.name.clone());
    let what = format!("is {part:?} again").to_lowercase();
    state.record(about, Happening::Server { what });
    Ok(Outcome::Done)
}

/// The grid is what was asked for: no desktop of a server that was lost is too much any more.
pub(super) fn settled(state: &mut State) {
    let State {
        servers, desktops, ..
    } = state;
    let back = |desktop: &KnownDesktop| {
        let server = servers.get(&desktop.server);
        desktop.wear.replaced && server.is_some_and(|known| known.state != ServerState::Lost)
    };
    if desktops.values().any(&back) {
        let all = Arc::make_mut(desktops).values_mut();
        for desktop in all.filter(|desktop| back(desktop)) {
            desktop.wear.replaced = false;
        }
    }
}
