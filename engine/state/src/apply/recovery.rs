//! A grid that begins another life: from one server's log, or from a backup.

use std::sync::Arc;

use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{Capacity, ServerState};

use super::observation::forget;
use crate::entry::{Origin, Outcome, Recovery, Refusal};
use crate::state::{Happening, State};

pub(super) fn recovered(state: &mut State, recovery: &Recovery) -> Result<Outcome, Refusal> {
    let grid = state
        .grid
        .ok_or_else(|| Refusal::Absent("grid to recover".to_owned()))?;
    if recovery.epoch.number <= state.epoch.number {
        return Err(Refusal::Exists(format!(
            "life {} of grid {grid}",
            recovery.epoch.number
        )));
    }
    state.former.push(state.epoch);
    state.epoch = recovery.epoch;
    let survivor = go_on(state, recovery);
    let others: Vec<(ServerId, ServerState)> = state
        .servers
        .iter()
        .filter(|(id, server)| **id != survivor && server.state != ServerState::Removed)
        .map(|(id, _)| {
            let off = recovery.off.contains(id);
            let part = if off {
                ServerState::Removed
            } else {
                ServerState::Lost
            };
            (*id, part)
        })
        .collect();
    for (id, part) in others {
        part_with(state, id, part);
    }
    if let Origin::Backup { keys } = recovery.from {
        // What is on its disk is not what the orders of that time were about.
        Arc::make_mut(&mut state.orders).clear();
        if !keys {
            // The server that goes on makes itself another.
            state.authorities = Default::default();
            for secret in state.secrets.values_mut() {
                secret.sealed.clear();
            }
        }
    }
    let what = match recovery.from {
        Origin::Log => format!(
            "goes on with server {} alone, in its life {}",
            recovery.server.name, recovery.epoch.number
        ),
        Origin::Backup { .. } => format!(
            "was restored from a backup on server {}, in its life {}",
            recovery.server.name, recovery.epoch.number
        ),
    };
    let author = recovery.author.clone();
    state.record(Address::Grid, Happening::Changed { what, author });
    Ok(Outcome::Done)
}

/// The server that is left, as a member.
fn go_on(state: &mut State, recovery: &Recovery) -> ServerId {
    let (new, time) = (&recovery.server, state.time);
    let Some((id, _)) = state.server_named(&new.name) else {
        super::add_server(state, new);
        return ServerId(state.index);
    };
    if let Some(server) = state.servers.get_mut(&id) {
        server.raft_id = new.raft_id;
        server.parted = false;
        server.before = None;
        server.since = time;
        server.api.clone_from(&new.api);
        // In this life it has confirmed nothing.
        server.confirmed_term = 0;
        match recovery.from {
            Origin::Log => {
                if !matches!(server.state, ServerState::Cordoned | ServerState::Draining) {
                    server.state = ServerState::Ready;
                }
            }
            Origin::Backup { .. } => {
                // It may be another machine: until it says what it can carry, it carries nothing.
                server.look = None;
                server.labels.clear();
                server.capacity = Capacity::default();
                server.state = ServerState::Joining;
            }
        }
    }
    id
}

/// A server that is not there any more: lost, or off for good, and then with what is nobody's own.
fn part_with(state: &mut State, id: ServerId, part: ServerState) {
    super::life::away(state, id);
    if let Some(server) = state.servers.get_mut(&id) {
        server.parted = true;
        // Its own grid may go on, and renew the lease: nobody who has parted with it may count with its end.
        server.lease = None;
        server.fenced = false;
        if part == ServerState::Removed {
            server.state = part;
            server.before = None;
            // What it showed last takes no slot any more.
            server.look = None;
        }
    }
    if part != ServerState::Removed {
        return;
    }
    super::moves::gone(state, id);
    let held = state.desktops.iter().filter(|(_, d)| d.server == id);
    let free: Vec<DesktopId> = held
        .filter(|(_, desktop)| !desktop.personal)
        .map(|(id, _)| id.clone())
        .collect();
    for desktop in free {
        forget(state, &desktop);
    }
}
