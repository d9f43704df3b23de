//! Servers: looked at, cordoned, emptied, and taken back.

use axum::http::StatusCode;
use coppice_schema::ids::{ServerId, ServerName};
use coppice_schema::known::{Health, ServerState};
use coppice_schema::units::Span;
use coppice_state::entry::Entry;
use coppice_state::join::Role;
use coppice_state::state;
use serde::Deserialize;

use crate::api::{Code, Problem, Removal, Server, ServerStatus};
use crate::auth::Who;
use crate::params::{Asked, Named};
use crate::portal::{Portal, Seen};

/// Whoever answered within that time is there.
const THERE: Span = Span::seconds(3);

/// All members.
#[utoipa::path(get, path = "/api/v1/servers", responses((status = 200, body = Vec<Server>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<Server>> {
    let seen = portal.look_at_all().await;
    let servers = seen.state.servers.iter().filter(|(_, s)| is_member(s));
    axum::Json(
        servers
            .map(|(id, server)| whole(&seen, *id, server))
            .collect(),
    )
}

/// No new desktops there; those that are there stay.
#[utoipa::path(post, path = "/api/v1/servers/{name}/cordon", params(("name" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn cordon(
    portal: Portal,
    who: Who,
    Named(name): Named<ServerName>,
) -> Result<StatusCode, Box<Problem>> {
    set(
        &portal,
        &who,
        &name,
        ServerState::Ready,
        ServerState::Cordoned,
    )
    .await
}

/// It takes new desktops again.
#[utoipa::path(post, path = "/api/v1/servers/{name}/uncordon", params(("name" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn uncordon(
    portal: Portal,
    who: Who,
    Named(name): Named<ServerName>,
) -> Result<StatusCode, Box<Problem>> {
    set(
        &portal,
        &who,
        &name,
        ServerState::Cordoned,
        ServerState::Ready,
    )
    .await
}

/// It is no member any more, and never is again. One that holds desktops is drained first, or gone for good.
#[utoipa::path(delete, path = "/api/v1/servers/{name}", params(("name" = String, Path), ("lost" = Option<bool>, Query)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn remove(
    portal: Portal,
    who: Who,
    Named(name): Named<ServerName>,
    Asked(Removal { lost }): Asked<Removal>,
) -> Result<StatusCode, Box<Problem>> {
    portal.look_surely().await?;
    let seen = portal.look_at_all().await;
    let (server, now) = seen.state.server_named(&name).ok_or_else(|| {
        Problem::absent(
            format!("server {name}"),
            "`coppice server list` shows all of them",
        )
    })?;
    let held = seen.state.desktops.values().filter(|d| d.server == server);
    let held = held.count();
    if held > 0 && !lost {
        return Err(Problem::new(
            Code::InUse,
            format!("server {name} holds desktops: {held}"),
            format!(
                "empty it first: `coppice server drain {name}`; if the machine is gone for good, and its desktops with it: \
                 `coppice server remove {name} --lost`"
            ),
        ));
    }
    let here = answered(&portal, &seen, server, now).is_some();
    if lost && held > 0 && here {
        return Err(Problem::new(
            Code::Conflict,
            format!("server {name} answers, so it is not gone: its desktops may be in use"),
            format!("empty it first: `coppice server drain {name}`; or switch that machine off"),
        ));
    }
    let entry = Entry::ServerRemoved {
        server,
        gone: lost,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How long ago a server answered whoever leads, where that is so short that it is there; it is where it is asked.
pub(crate) fn answered(
    portal: &Portal,
    seen: &Seen,
    id: ServerId,
    server: &state::Server,
) -> Option<Span> {
    if id == portal.app.server {
        return Some(Span(0));
    }
    let heard = seen.log_part(server.raft_id).and_then(|part| part.heard);
    heard.filter(|ago| *ago <= THERE)
}

/// Query of `drain`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drain {
    /// Milliseconds after which people there are no longer waited for; absent: they always are.
    #[serde(default)]
    force_after: Option<Span>,
}

/// Empties a server: nothing new goes there; idle pooled desktops go once others are ready elsewhere, used ones once
/// their people have left, or after `force_after` milliseconds. Used and personal ones move while they run, where their
/// servers can. Asking again changes how long people are waited for.
#[utoipa::path(post, path = "/api/v1/servers/{name}/drain",
    params(("name" = String, Path), ("force_after" = Option<u64>, Query)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn drain(
    portal: Portal,
    who: Who,
    Named(name): Named<ServerName>,
    Asked(Drain { force_after }): Asked<Drain>,
) -> Result<StatusCode, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let (server, now) = find(&seen, &name)?;
    if matches!(part(now), ServerState::Joining | ServerState::Removed) {
        return Err(not_so(&name, part(now), "ready or cordoned"));
    }
    let entry = Entry::ServerDrained {
        server,
        force_after,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// It is no longer emptied, and takes new desktops again.
#[utoipa::path(post, path = "/api/v1/servers/{name}/undrain", params(("name" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn undrain(
    portal: Portal,
    who: Who,
    Named(name): Named<ServerName>,
) -> Result<StatusCode, Box<Problem>> {
    set(
        &portal,
        &who,
        &name,
        ServerState::Draining,
        ServerState::Ready,
    )
    .await
}

fn find<'a>(
    seen: &'a Seen,
    name: &ServerName,
) -> Result<(ServerId, &'a state::Server), Box<Problem>> {
    let found = seen.state.server_named(name);
    found.ok_or_else(|| {
        Problem::absent(
            format!("server {name}"),
            "`coppice server list` shows all of them",
        )
    })
}

/// The part that people gave it, also while it is away.
fn part(server: &state::Server) -> ServerState {
    let away = matches!(server.state, ServerState::Lost | ServerState::Reconciling);
    server.before.filter(|_| away).unwrap_or(server.state)
}

fn not_so(name: &ServerName, is: ServerState, expected: &str) -> Box<Problem> {
    let help = match is {
        ServerState::Draining => format!("take it back first: coppice server undrain {name}"),
        ServerState::Cordoned => format!("take it back first: coppice server uncordon {name}"),
        ServerState::Joining
        | ServerState::Ready
        | ServerState::Suspect
        | ServerState::Lost
        | ServerState::Reconciling
        | ServerState::Removed => {
            format!("`coppice explain server.{name}` says why it is what it is")
        }
    };
    let is = word(is);
    Problem::new(
        Code::Conflict,
        format!("server {name} is {is}, not {expected}"),
        help,
    )
}

async fn set(
    portal: &Portal,
    who: &Who,
    name: &ServerName,
    from: ServerState,
    to: ServerState,
) -> Result<StatusCode, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let (server, now) = find(&seen, name)?;
    if part(now) == to {
        return Ok(StatusCode::NO_CONTENT);
    }
    if part(now) != from {
        return Err(not_so(name, part(now), word(from)));
    }
    let entry = Entry::ServerSet {
        server,
        state: to,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Joining => "joining",
        ServerState::Ready => "ready",
        ServerState::Cordoned => "cordoned",
        ServerState::Draining => "draining",
        ServerState::Suspect => "suspect",
        ServerState::Lost => "lost",
        ServerState::Reconciling => "reconciling",
        ServerState::Removed => "removed",
    }
}

/// One that was removed is shown to nobody.
pub(crate) fn is_member(server: &state::Server) -> bool {
    server.state != ServerState::Removed
}

pub(crate) fn short(seen: &Seen, server: &state::Server) -> ServerStatus {
    let look = server.look.as_deref();
    let away = look.and_then(|look| match &look.hypervisor {
        Health::Well => None,
        Health::Away(why) => Some(why.clone()),
    });
    let silent = seen.silent(server.raft_id);
    let state = if server.state == ServerState::Ready && silent.is_some() {
        ServerState::Suspect
    } else {
        server.state
    };
    ServerStatus {
        name: server.name.clone(),
        state,
        since: server.since,
        force_at: server.force_at,
        silent,
        role: server.role,
        log: seen.log_part(server.raft_id),
        current: server.state != ServerState::Lost
            && match server.role {
                // There is nothing to be seen on one: that it is heard is all.
                Role::Witness => seen.hears(server.raft_id),
                Role::Server => {
                    look.is_some() && away.is_none() && seen.confirmed(server.confirmed_term)
                }
            },
        hypervisor: server.capacity.hypervisor.clone(),
        hypervisor_away: away,
        cpus: server.capacity.cpus,
        memory: server.capacity.memory,
        disk_level: look.map(|look| look.disk),
    }
}

fn whole(seen: &Seen, id: ServerId, server: &state::Server) -> Server {
    let here = || {
        let all = seen.state.desktops.values();
        all.filter(|desktop| desktop.server == id)
    };
    let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
    let foreign = server
        .look
        .as_deref()
        .map(|look| look.foreign.keys().cloned().collect());
    Server {
        status: short(seen, server),
        id,
        api: server.api.clone(),
        labels: server.labels.iter().cloned().collect(),
        disk: server.capacity.disk,
        missing: server.capacity.missing.iter().copied().collect(),
        desktops: count(here().count()),
        in_use: count(here().filter(|desktop| desktop.people() > 0).count()),
        personal: count(here().filter(|desktop| desktop.personal).count()),
        foreign: foreign.unwrap_or_default(),
    }
}
