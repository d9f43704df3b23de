//! What people decide beside configurations.

use std::collections::BTreeMap;

use coppice_plans::plan::Base;
use coppice_schema::ids::{Address, Member, PoolName, SecretName, ServerId};
use coppice_schema::known::{Request, ServerState};
use coppice_schema::review::{Kind, Reviewed, Risk};
use coppice_schema::units::Timestamp;

use crate::entry::{Outcome, Refusal};
use crate::secret::Secret;
use crate::state::{Happening, State};
use crate::token::{Scope, Token, TokenId};

pub(super) fn changed(
    state: &mut State,
    about: Address,
    what: String,
    author: &str,
) -> Result<Outcome, Refusal> {
    state.record(
        about,
        Happening::Changed {
            what,
            author: author.to_owned(),
        },
    );
    Ok(Outcome::Done)
}

pub(super) fn token_created(
    state: &mut State,
    id: &TokenId,
    token: &Token,
    author: &str,
) -> Result<Outcome, Refusal> {
    if state.tokens.contains_key(id) || state.join_tokens.contains_key(id) {
        return Err(Refusal::Exists(format!("token {id}")));
    }
    state.tokens.insert(id.clone(), token.clone());
    changed(state, Address::Grid, format!("token {id} was made"), author)
}

pub(super) fn token_revoked(
    state: &mut State,
    id: &TokenId,
    author: &str,
) -> Result<Outcome, Refusal> {
    if state.join_tokens.remove(id).is_some() {
        let what = format!("token {id} was revoked");
        return changed(state, Address::Grid, what, author);
    }
    if !state.tokens.contains_key(id) {
        return Err(Refusal::Absent(format!("token {id}")));
    }
    let counts = |token: &Token| {
        let over = token.expires.is_some_and(|at| at <= state.time);
        token.scope == Scope::Admin && !over
    };
    // Decided here, and not before it is agreed: two people who revoke each other's token may not both succeed.
    let mut others = state.tokens.iter().filter(|(other, _)| *other != id);
    if !others.any(|(_, token)| counts(token)) {
        return Err(Refusal::LastAdmin(format!("token {id}")));
    }
    state.tokens.remove(id);
    changed(
        state,
        Address::Grid,
        format!("token {id} was revoked"),
        author,
    )
}

pub(super) fn secret_set(
    state: &mut State,
    name: &SecretName,
    sealed: &[u8],
    author: &str,
) -> Result<Outcome, Refusal> {
    let version = state.secrets.get(name).map_or(0, |secret| secret.version) + 1;
    let secret = Secret {
        version,
        sealed: sealed.to_vec(),
        set: state.time,
    };
    state.secrets.insert(name.clone(), secret);
    let generation = super::generation(state);
    state
        .generations
        .insert(Address::Secret(name.clone()), generation);
    changed(
        state,
        Address::Secret(name.clone()),
        format!("has version {version} now"),
        author,
    )
}

pub(super) fn secret_removed(
    state: &mut State,
    name: &SecretName,
    author: &str,
) -> Result<Outcome, Refusal> {
    state
        .secrets
        .remove(name)
        .ok_or_else(|| Refusal::Absent(format!("secret {name}")))?;
    state.generations.remove(&Address::Secret(name.clone()));
    changed(
        state,
        Address::Secret(name.clone()),
        "was removed".to_owned(),
        author,
    )
}

pub(super) fn paused(
    state: &mut State,
    address: &Address,
    until: Option<Timestamp>,
    author: &str,
) -> Result<Outcome, Refusal> {
    state.pauses.insert(address.clone(), until);
    changed(state, address.clone(), "is paused".to_owned(), author)
}

pub(super) fn resumed(
    state: &mut State,
    address: &Address,
    author: &str,
) -> Result<Outcome, Refusal> {
    let paused = state.pauses.remove(address).is_some();
    // Resuming also forgives: whoever resumes has looked.
    let mut forgiven = false;
    if let Address::Pool(pool) = address {
        for (_, slot) in state.slots.iter_mut().filter(|(id, _)| id.pool == *pool) {
            forgiven |= slot.failures.count > 0 || !slot.failed.is_empty();
            slot.failures = Default::default();
            slot.failed.clear();
        }
    }
    if !paused && !forgiven {
        return Err(Refusal::Absent(format!("pause of {address}")));
    }
    changed(state, address.clone(), "goes on".to_owned(), author)
}

pub(super) fn requested(
    state: &mut State,
    request: &Request,
    author: &str,
) -> Result<Outcome, Refusal> {
    let asked = request.member();
    if let Request::Discard { member, server } = request {
        super::member(state, *server)?;
        let look = state.servers.get(server).and_then(|it| it.look.as_deref());
        let present = state.desktops.get(&member.desktop);
        if !look.is_some_and(|look| look.holds_apart(member, present)) {
            return Err(Refusal::Absent(format!("{member} to be discarded there")));
        }
        // Of each desktop one is remembered: that one first.
        if let Some(Request::Discard {
            member: other,
            server,
        }) = state.requests.get(&member.desktop)
            && other != member
            && let Some(it) = state.servers.get(server)
            && it
                .look
                .as_ref()
                .is_some_and(|look| look.holds_apart(other, present))
        {
            let what = format!(
                "a request to discard {other} on {} (it comes first)",
                it.name
            );
            return Err(Refusal::Exists(what));
        }
        return ask(state, request, "is to be removed", author);
    }
    let known = state
        .desktops
        .get(&asked.desktop)
        .filter(|desktop| desktop.incarnation == asked.incarnation);
    if known.is_none() {
        return Err(Refusal::Absent(format!("desktop {asked}")));
    }
    let what = match request {
        Request::Restart(_) => "is to be restarted",
        Request::Regrow(_) => "is to be regrown",
        Request::Discard { .. } => "is to be removed",
        Request::Move { .. } => "is to move",
    };
    ask(state, request, what, author)
}

fn ask(state: &mut State, request: &Request, what: &str, author: &str) -> Result<Outcome, Refusal> {
    let asked = request.member();
    state
        .requests
        .insert(asked.desktop.clone(), request.clone());
    changed(
        state,
        Address::Desktop(asked.desktop.clone()),
        what.to_owned(),
        author,
    )
}

/// Desktops that were regrown since the plan was looked at are passed over, and so are servers that take no new ones.
pub(super) fn rebalanced(
    state: &mut State,
    base: &Base,
    moves: &BTreeMap<Member, ServerId>,
    author: &str,
) -> Result<Outcome, Refusal> {
    super::commit::compare(state, base)?;
    let before = |request: &Request| matches!(request, Request::Move { .. });
    state.requests.retain(|_, request| !before(request));
    let mut count = 0;
    let mut beside: BTreeMap<&PoolName, u32> = BTreeMap::new();
    for (member, to) in moves {
        let ready = |server: ServerId| {
            let server = state.servers.get(&server);
            server.is_some_and(|server| server.state == ServerState::Ready)
        };
        let there = state.desktops.get(&member.desktop).is_some_and(|desktop| {
            desktop.spec.member == *member && !desktop.personal && ready(desktop.server)
        });
        if there && ready(*to) && !state.requests.contains_key(&member.desktop) {
            count += 1;
            *beside.entry(&member.desktop.pool).or_default() += 1;
            let request = Request::Move {
                member: member.clone(),
                to: *to,
            };
            state.requests.insert(member.desktop.clone(), request);
        }
    }
    for (pool, count) in beside {
        too_many_later(state, pool, count);
    }
    let what = match count {
        0 => "no desktop is to move any more".to_owned(),
        1 => "1 desktop is to move to level the load".to_owned(),
        count => format!("{count} desktops are to move to level the load"),
    };
    changed(state, Address::Grid, what, author)
}

/// So many desktops are grown in a pool in whose place others are to go: whoever agreed has looked at that, also when other ones
/// go in the end because those did not move.
fn too_many_later(state: &mut State, pool: &PoolName, count: u32) {
    let runs = state.runs.values_mut();
    for run in runs.filter(|run| run.finished.is_none()) {
        let mut all = run.reviewed.iter_mut();
        let (kind, risk) = (Kind::Delete, Risk::Disruptive);
        let named = all.find(|it| it.pool == *pool && it.kind == kind && it.risk == risk);
        match named {
            Some(reviewed) => reviewed.extra = reviewed.extra.saturating_add(count),
            None => run.reviewed.push(Reviewed {
                pool: pool.clone(),
                kind,
                risk,
                slots: BTreeMap::new(),
                extra: count,
            }),
        }
    }
}
