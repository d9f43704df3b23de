//! Servers: looked at, cordoned, uncordoned.

use axum::http::StatusCode;
use coppice_schema::ids::{ServerId, ServerName};
use coppice_schema::known::{Health, ServerState};
use coppice_state::entry::Entry;
use coppice_state::state;

use crate::api::{Code, Problem, Server, ServerStatus};
use crate::auth::Who;
use crate::params::Named;
use crate::portal::{Portal, Seen};

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

async fn set(
    portal: &Portal,
    who: &Who,
    name: &ServerName,
    from: ServerState,
    to: ServerState,
) -> Result<StatusCode, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let (server, now) = seen.state.server_named(name).ok_or_else(|| {
        Problem::absent(
            format!("server {name}"),
            "`coppice server list` shows all of them",
        )
    })?;
    if now.state == to {
        return Ok(StatusCode::NO_CONTENT);
    }
    if now.state != from {
        return Err(Problem::new(
            Code::Conflict,
            format!("server {name} is {}, not {}", word(now.state), word(from)),
            "wait until it is; `coppice explain server.NAME` says why it is not",
        ));
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
    ServerStatus {
        name: server.name.clone(),
        state: server.state,
        role: server.role,
        log: seen.log_part(server.raft_id),
        current: look.is_some() && away.is_none() && seen.confirmed(server.confirmed_term),
        hypervisor: server.capacity.hypervisor.clone(),
        hypervisor_away: away,
        cpus: server.capacity.cpus,
        memory: server.capacity.memory,
        disk_level: look.map(|look| look.disk),
    }
}

fn whole(seen: &Seen, id: ServerId, server: &state::Server) -> Server {
    let here = seen
        .state
        .desktops
        .values()
        .filter(|desktop| desktop.server == id);
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
        desktops: u32::try_from(here.count()).unwrap_or(u32::MAX),
        foreign: foreign.unwrap_or_default(),
    }
}
