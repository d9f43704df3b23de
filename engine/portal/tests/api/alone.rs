//! A server on its own: what it still does, what it refuses, and what it says; backups; and what other lives left.

use std::sync::atomic::Ordering;

use axum::http::{Method, StatusCode};
use coppice_portal::api::{Code, HealthReport, Problem, Status};
use coppice_schema::ids::{Epoch, ServerId};
use coppice_schema::units::Timestamp;
use coppice_state::backup::Backup;
use coppice_state::entry::{Entry, NewServer, Origin, Recovery};
use coppice_state::join::Role;
use coppice_state::token::Scope;

use crate::world::{Answer, EPOCH, GRID, World};

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> T {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

async fn status(world: &World) -> Status {
    read(&world.send(Scope::Viewer, Method::GET, "/status", "").await)
}

#[tokio::test]
async fn a_server_on_its_own_says_so_everywhere_and_changes_nothing() {
    let world = World::new();
    world.grid.alone.store(true, Ordering::SeqCst);
    *world.grid.degraded.lock().unwrap() = Some(Timestamp(1_000_000));
    let health: HealthReport = read(&world.send(Scope::Viewer, Method::GET, "/health", "").await);
    assert_eq!(health.status, "degraded");
    let now = status(&world).await;
    assert!(!now.quorum && !now.settled);
    assert_eq!(now.degraded, Some(Timestamp(1_000_000)));
    let said = serde_json::to_string(&now.findings).unwrap();
    assert!(
        said.contains("no_majority") && said.contains("recover --alone"),
        "{said}"
    );
    assert!(said.contains("--witness"), "{said}");

    let pause = r#"{"address":"pool.lab"}"#;
    let refused = world
        .send(Scope::Operator, Method::POST, "/pauses", pause)
        .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let problem: Problem = read(&refused);
    assert_eq!(problem.code, Code::Quorum);
    assert!(
        problem.detail.contains("on its own for"),
        "{}",
        problem.detail
    );
    assert!(problem.help.contains("recover --alone"), "{}", problem.help);

    // A majority answers again: as if nothing had been.
    world.grid.alone.store(false, Ordering::SeqCst);
    *world.grid.degraded.lock().unwrap() = None;
    assert_eq!(status(&world).await.degraded, None);
    let done = world
        .send(Scope::Operator, Method::POST, "/pauses", pause)
        .await;
    assert_eq!(done.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_backup_is_everything_and_where_in_the_log_that_was() {
    let world = World::new();
    let backup = |body: &'static str| world.send(Scope::Admin, Method::POST, "/backup", body);
    let answer = backup("{}").await;
    let kept = Backup::decode(&answer.body).unwrap();
    assert_eq!((kept.grid(), kept.epoch()), (Some(GRID), EPOCH));
    assert_eq!(kept.state, *world.grid.now());
    assert!(kept.newest && kept.keys.is_none());
    assert_eq!(
        (kept.version.as_str(), kept.server.as_str()),
        ("1.2.3", "a")
    );

    let with = backup(r#"{"passphrase":"abc"}"#).await;
    assert_eq!(Backup::decode(&with.body).unwrap().keys.unwrap(), b"cba");
    let refused = backup(r#"{"passphrase":"nothing here"}"#).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);

    *world.grid.degraded.lock().unwrap() = Some(Timestamp(1));
    let refused = backup("{}").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let stale = backup(r#"{"stale":true}"#).await;
    assert!(!Backup::decode(&stale.body).unwrap().newest);
}

#[tokio::test]
async fn whoever_was_met_of_another_life_is_told_with_what_to_do() {
    let world = World::new();
    let first = EPOCH;
    let recovery = Recovery {
        epoch: first.next(7),
        from: Origin::Log,
        server: NewServer {
            name: "a".parse().unwrap(),
            raft_id: 1,
            api: "a.example:7420".to_owned(),
        },
        off: Default::default(),
        author: "test".to_owned(),
    };
    world.grid.agree(Entry::Recovered(Box::new(recovery)));
    let id: ServerId = *world.grid.now().servers.keys().next().unwrap();
    let told = async |epoch: Epoch| {
        world.grid.apart.lock().unwrap().insert(id, epoch);
        serde_json::to_string(&status(&world).await.findings).unwrap()
    };
    let former = told(first).await;
    assert!(
        former.contains("former_life") && former.contains("--role server"),
        "{former}"
    );
    world.grid.edit(|state| {
        state.servers.get_mut(&id).unwrap().role = Role::Witness;
    });
    let former = told(first).await;
    assert!(former.contains("--role witness"), "{former}");
    assert!(told(first.next(8)).await.contains("split"));
    let behind = told(first.next(7).next(1)).await;
    assert!(
        behind.contains("left_behind") && behind.contains("server rejoin"),
        "{behind}"
    );
    assert!(!told(first.next(7)).await.contains("life"));
}
