//! Other members: how they are shown, and whether one may be stopped.

use std::sync::Arc;

use coppice_portal::api::{Explanation, Server, Status, UpgradeCheck};
use coppice_schema::ids::ServerId;
use coppice_schema::known::{MoveStep, Phase, ServerState};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::Part;
use coppice_state::agreement::THERE;
use coppice_state::join::Role;
use coppice_state::token::Scope;

use crate::world::World;

/// Another member, ready, with that raft id, and with no look yet.
fn add(world: &World, name: &str, raft_id: u64, role: Role) -> ServerId {
    let id = ServerId(1_000 + raft_id);
    let first = world.grid.server();
    world.grid.edit(|state| {
        let mut other = state.servers[&first].clone();
        (other.name, other.raft_id) = (name.parse().unwrap(), raft_id);
        (other.role, other.state) = (role, ServerState::Ready);
        other.look = None;
        state.servers.insert(id, other);
    });
    id
}

/// Whoever leads heard the one with that raft id so long ago.
fn hear(world: &World, raft_id: u64, heard: Option<Span>) {
    let part = Part {
        voter: true,
        heard,
        holds: Some(0),
    };
    let mut standing = world.grid.standing.lock().unwrap();
    standing.parts.insert(raft_id, part);
}

#[tokio::test]
async fn a_witness_that_is_heard_is_all_that_a_witness_can_be() {
    let world = World::new();
    add(&world, "w", 2, Role::Witness);
    hear(&world, 1, Some(Span(0)));
    let witness = async || {
        let servers: Vec<Server> = world.get(Scope::Viewer, "/servers").await;
        let status: Status = world.get(Scope::Viewer, "/status").await;
        let found = servers.into_iter().find(|s| s.status.name.as_str() == "w");
        let found = found.unwrap().status;
        assert!(status.servers.contains(&found));
        found
    };
    for (heard, current) in [
        (Some(Span(10)), true),
        (Some(Span(THERE.0 + 1)), false),
        (None, false),
    ] {
        hear(&world, 2, heard);
        assert_eq!(witness().await.current, current, "{heard:?}");
    }
    let told: Explanation = world.get(Scope::Viewer, "/explain/server.w").await;
    assert!(
        told.trace.iter().any(|line| line.contains("a witness")),
        "{told:?}"
    );
    // A server of which that is all is not seen.
    add(&world, "b", 3, Role::Server);
    hear(&world, 3, Some(Span(10)));
    let servers: Vec<Server> = world.get(Scope::Viewer, "/servers").await;
    let other = servers.iter().find(|s| s.status.name.as_str() == "b");
    assert!(!other.unwrap().status.current);
}

#[tokio::test]
async fn no_server_is_stopped_while_a_desktop_is_on_its_way_from_or_to_it() {
    let world = World::new();
    for (name, raft_id) in [("b", 2), ("c", 3)] {
        add(&world, name, raft_id, Role::Server);
    }
    for raft_id in 1..=3 {
        hear(&world, raft_id, Some(Span(10)));
    }
    let check = async || -> UpgradeCheck { world.get(Scope::Viewer, "/upgrade").await };
    assert!(check().await.safe);

    let desktop = world.grow(1, true);
    let from = world.grid.server();
    world.grid.edit(|state| {
        let known = Arc::make_mut(&mut state.desktops);
        let known = known.get_mut(&desktop).unwrap();
        known.phase = Phase::Migrating {
            since: Timestamp(0),
            from,
            to: ServerId(1_002),
            spec: Box::new(known.spec.clone()),
            step: MoveStep::Copying,
        };
    });
    let moving = check().await;
    assert!(!moving.safe);
    let holds: Vec<bool> = moving.servers.iter().map(|s| s.holds.is_some()).collect();
    assert_eq!(holds, [true, true, false], "{moving:?}");
    let why = moving.servers[0].holds.as_deref().unwrap();
    assert!(why.contains("being moved"), "{why}");
}
