//! Who belongs to the grid: joined, removed.

use std::sync::Arc;

use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{KnownDesktop, Phase, ServerState};

use crate::entry::{Outcome, Refusal};
use crate::join::{self, JoinRefusal, JoinToken, Joiner};
use crate::state::{Happening, Server, State};
use crate::token::TokenId;

/// How many join tokens that are of no use any more are remembered, to say so to whoever brings one.
const USELESS_KEPT: usize = 100;

pub(super) fn token_created(
    state: &mut State,
    id: &TokenId,
    token: &JoinToken,
    author: &str,
) -> Result<Outcome, Refusal> {
    if state.tokens.contains_key(id) || state.join_tokens.contains_key(id) {
        return Err(Refusal::Exists(format!("token {id}")));
    }
    forget_useless(state);
    state.join_tokens.insert(id.clone(), token.clone());
    let what = format!("token {id} was made, by which a {} may join", token.role);
    super::people::changed(state, Address::Grid, what, author)
}

fn forget_useless(state: &mut State) {
    let time = state.time;
    let useless = |token: &JoinToken| token.spent.is_some() || token.expires <= time;
    let mut old: Vec<_> = state
        .join_tokens
        .iter()
        .filter(|(_, token)| useless(token))
        .map(|(id, token)| (token.expires, id.clone()))
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(USELESS_KEPT);
    for (_, id) in old.into_iter().take(surplus) {
        state.join_tokens.remove(&id);
    }
}

/// The one place where it is decided who may join: two machines that bring one token at the same time may not both.
pub(super) fn joined(state: &mut State, joiner: &Joiner) -> Result<Outcome, Refusal> {
    let (token, name) = (&joiner.token, &joiner.name);
    let known = state.join_tokens.get(token);
    let known = known
        .filter(|known| known.hash == joiner.proof)
        .ok_or_else(|| JoinRefusal::Unknown(token.clone()))?;
    let member = state
        .servers
        .iter()
        .find(|(_, server)| server.key == Some(joiner.key))
        .map(|(id, server)| (*id, server.name.clone(), server.state));
    match known.spent {
        Some(key) if key != joiner.key => {
            let by = state.servers.values().find(|s| s.key == Some(key));
            let by = by.map_or_else(
                || "by a machine that is no member any more".to_owned(),
                |server| format!("by server {}", server.name),
            );
            let token = token.clone();
            return Err(JoinRefusal::Spent { token, by }.into());
        }
        // A join that was cut off is finished also after its token's time.
        None if known.expires <= state.time => {
            return Err(JoinRefusal::Expired(token.clone()).into());
        }
        Some(_) | None => {}
    }
    if known.role != joiner.role {
        let (token, role) = (token.clone(), known.role);
        return Err(JoinRefusal::OtherRole { token, role }.into());
    }
    if let Some((_, name, ServerState::Removed)) = &member {
        return Err(JoinRefusal::Removed(name.clone()).into());
    }
    if joiner.feature_level < state.feature_level {
        let (grid, joiner) = (state.feature_level, joiner.feature_level);
        return Err(JoinRefusal::TooOld { grid, joiner }.into());
    }
    let namesake = state.server_named(name).map(|(id, _)| id);
    let may_take = |id: &ServerId| joiner.again || state.servers.get(id).is_some_and(|s| s.parted);
    let parted = namesake.filter(may_take);
    if namesake.is_some() && parted.is_none() && namesake != member.as_ref().map(|(id, ..)| *id) {
        return Err(JoinRefusal::NameTaken(name.clone()).into());
    }
    if let Some(known) = state.join_tokens.get_mut(token) {
        known.spent = Some(joiner.key);
    }
    if let Some((id, ..)) = member {
        let known = super::member(state, id)?;
        // Until it runs for the first time its file may be written anew.
        if known.state == ServerState::Joining {
            known.name = name.clone();
        }
        known.api = joiner.api.clone();
        known.feature_level = joiner.feature_level;
        return Ok(Outcome::Done);
    }
    let raft_id = join::raft_id(state.epoch, state.index);
    let server = Server {
        feature_level: joiner.feature_level,
        role: joiner.role,
        key: Some(joiner.key),
        ..Server::joining(name.clone(), raft_id, joiner.api.clone(), state.time)
    };
    // What it held is still remembered as its own, and is looked at when it reports.
    let id = parted.unwrap_or(ServerId(state.index));
    state.servers.insert(id, server);
    state.authorities.forget(id);
    state.record(
        Address::Server(name.clone()),
        Happening::Changed {
            what: match parted {
                None => format!("joined as a {}", joiner.role),
                Some(_) => format!("joined again as a {}, in its former place", joiner.role),
            },
            author: format!("token {token}"),
        },
    );
    Ok(Outcome::Done)
}

/// A server is no member any more, and its numbers are never given again. The record stays, for whoever asks who that
/// was. One that holds desktops is removed only when it is `gone` for good: then they are gone with it.
pub(super) fn removed(
    state: &mut State,
    server: ServerId,
    gone: bool,
    author: &str,
) -> Result<Outcome, Refusal> {
    let known = super::member(state, server)?;
    let (name, part) = (known.name.clone(), known.state);
    if part == ServerState::Removed {
        return Ok(Outcome::Done);
    }
    let members = state.servers.values();
    if members.filter(|s| s.state != ServerState::Removed).count() == 1 {
        return Err(Refusal::LastServer(name));
    }
    if gone {
        super::moves::gone(state, server);
    }
    // What is on its way needs both ends until it is there.
    let shares = |desktop: &KnownDesktop| matches!(desktop.phase, Phase::Migrating { from, to, .. } if from == server || to == server);
    let needs = |desktop: &KnownDesktop| desktop.server == server || (!gone && shares(desktop));
    let held: Vec<DesktopId> = state
        .desktops
        .iter()
        .filter(|(_, desktop)| needs(desktop))
        .map(|(id, _)| id.clone())
        .collect();
    if !gone && !held.is_empty() {
        let what = format!("server {name}");
        let by = match held.len() {
            1 => "a desktop".to_owned(),
            n => format!("{n} desktops"),
        };
        return Err(Refusal::InUse { what, by });
    }
    Arc::make_mut(&mut state.orders).retain(|_, order| order.server != server);
    super::life::stay(state, server);
    let since = state.time;
    for desktop in held {
        if gone && super::restored::has_copy(state, &desktop) {
            super::observation::set_phase(state, &desktop, Phase::Unknown { since });
        } else {
            super::observation::forget(state, &desktop);
        }
    }
    let known = super::member(state, server)?;
    known.state = ServerState::Removed;
    if !gone {
        // Nothing is left there that could end.
        known.lease = None;
    }
    // What it showed last takes no slot any more.
    known.look = None;
    let what = if gone {
        "was removed; it is gone for good, and so are its desktops of which there is no copy"
    } else {
        "was removed"
    };
    super::people::changed(state, Address::Server(name), what.to_owned(), author)
}

/// What a member cannot apply must never be agreed on. One that is lost is refused when it is back, until it can.
pub(super) fn feature_raised(state: &mut State, level: u32) -> Result<Outcome, Refusal> {
    let behind = state.servers.values().find(|server| {
        let counts = !matches!(server.state, ServerState::Removed | ServerState::Lost);
        counts && server.feature_level < level
    });
    if let Some(server) = behind {
        return Err(Refusal::FeatureLevel {
            server: server.name.clone(),
            applies: server.feature_level,
            level,
        });
    }
    state.feature_level = state.feature_level.max(level);
    Ok(Outcome::Done)
}
