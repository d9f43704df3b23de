//! `GET status`.

use std::collections::BTreeMap;

use coppice_schema::ids::{GridId, PoolName, Revision};
use coppice_state::State;
use coppice_state::state::Run;

use crate::api::{DesktopState, GridInfo, PoolStatus, Problem, RunStatus, Status};
use crate::portal::{Portal, Seen};
use crate::{preview, servers, standing};

/// How the grid stands.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
pub(crate) async fn status(portal: Portal) -> Result<axum::Json<Status>, Box<Problem>> {
    let seen = portal.look_at_all().await;
    let plan = preview::of_committed(&portal, &seen).await?.plan;
    let state = &seen.state;
    let members = state.servers.values().filter(|s| servers::is_member(s));
    let settled = seen.quorum && plan.complete && plan.is_settled();
    Ok(axum::Json(Status {
        grid: grid(state),
        revision: state.revision,
        time: state.time,
        quorum: seen.quorum,
        servers: members
            .map(|server| servers::short(&seen, server))
            .collect(),
        pools: pools(state),
        run: latest_run(&seen),
        findings: [standing::findings(&portal, state), plan.findings].concat(),
        degraded: portal.app.agreement.degraded(),
        settled,
    }))
}

fn grid(state: &State) -> GridInfo {
    GridInfo {
        name: state.committed.grid.name.clone(),
        id: state.grid.unwrap_or(GridId([0; 16])),
        epoch: state.epoch.number,
    }
}

fn pools(state: &State) -> Vec<PoolStatus> {
    let wanted = state.committed.pools.iter();
    let mut pools: BTreeMap<PoolName, PoolStatus> = wanted
        .map(|(name, pool)| (name.clone(), empty(name, pool.desktops)))
        .collect();
    for (id, desktop) in state.desktops.iter() {
        let pool = pools
            .entry(id.pool.clone())
            .or_insert_with(|| empty(&id.pool, 0));
        let figure = match DesktopState::from(&desktop.phase) {
            DesktopState::Provisioning => &mut pool.provisioning,
            DesktopState::Available => &mut pool.available,
            DesktopState::Off => &mut pool.off,
            // Whoever is at it stays at it.
            DesktopState::InUse | DesktopState::Migrating => &mut pool.in_use,
            DesktopState::Broken => &mut pool.broken,
            DesktopState::Unknown => &mut pool.unknown,
            DesktopState::Deleting => &mut pool.deleting,
        };
        *figure += 1;
    }
    pools.into_values().collect()
}

fn empty(name: &PoolName, desired: u32) -> PoolStatus {
    PoolStatus {
        name: name.clone(),
        desired,
        available: 0,
        in_use: 0,
        broken: 0,
        provisioning: 0,
        off: 0,
        deleting: 0,
        unknown: 0,
    }
}

pub(crate) fn latest_run(seen: &Seen) -> Option<RunStatus> {
    let (revision, record) = seen.state.runs.last_key_value()?;
    Some(run(&seen.state, *revision, record))
}

/// A run for clients. Open orders are the grid's: only the newest run has any.
pub(crate) fn run(state: &State, revision: Revision, run: &Run) -> RunStatus {
    let newest = state.runs.last_key_value().map(|(revision, _)| *revision);
    let open = if newest == Some(revision) {
        u32::try_from(state.orders.len()).unwrap_or(u32::MAX)
    } else {
        0
    };
    RunStatus {
        revision,
        author: run.author.clone(),
        started: run.started,
        finished: run.finished,
        done: run.done,
        failed: run.failed,
        open_orders: open,
    }
}
