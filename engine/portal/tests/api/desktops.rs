//! Desktops.

use axum::http::{Method, StatusCode};
use coppice_plans::plan::GateKind;
use coppice_portal::api::{Code, Desktop, DesktopState, Explanation};
use coppice_schema::Digest;
use coppice_schema::ids::{Address, ServerId, VersionName};
use coppice_schema::known::{BrokenReason, ImageVersion, Phase, Request};
use coppice_schema::units::{Size, Timestamp};
use coppice_state::entry::Entry;
use coppice_state::token::{Scope, TokenId};
use coppice_world::peers::{Peers, Purpose};
use futures::{AsyncReadExt, AsyncWriteExt};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::world::{Answer, World, secret};

#[tokio::test]
async fn a_desktop_is_shown_with_all_that_is_known_of_it() {
    let world = World::new();
    let id = world.grow(7, false);
    let shown: Desktop = world.get(Scope::Viewer, "/desktops/lab-007").await;
    assert_eq!(shown.id, id);
    assert_eq!((shown.name.as_str(), shown.server.as_str()), ("pc-7", "a"));
    assert_eq!(shown.state, DesktopState::Available);
    assert_eq!(shown.overlay.as_deref(), Some("/disks/lab-007@1.qcow2"));
    assert_eq!(shown.image, Digest([7; 32]).to_string());

    let version: VersionName = "2026-11".parse().unwrap();
    world.grid.agree(Entry::ImageImported {
        image: "tiny".parse().unwrap(),
        version,
        record: ImageVersion {
            source: Digest([6; 32]),
            root: Digest([7; 32]),
            size: Size::gib(1),
            data: Size::mib(16),
            imported: Timestamp(0),
        },
        server: world.grid.server(),
        author: "test".to_owned(),
    });
    world.grid.edit(|state| {
        let desktop = Arc::make_mut(&mut state.desktops).get_mut(&id).unwrap();
        let (since, reason) = (Timestamp(77), BrokenReason::Crashed);
        desktop.phase = Phase::Broken { since, reason };
    });
    let listed: Vec<Desktop> = world.get(Scope::Viewer, "/desktops").await;
    assert_eq!(listed[0].image, "tiny@2026-11");
    assert_eq!(
        (listed[0].state, listed[0].since),
        (DesktopState::Broken, Timestamp(77))
    );
    assert_eq!(
        listed[0].reason.as_deref(),
        Some("it ended without being asked")
    );
}

#[tokio::test]
async fn the_stable_fields_of_a_desktop_are_there_by_name() {
    let world = World::new();
    world.grow(1, false);
    let listed: Value = world.get(Scope::Viewer, "/desktops").await;
    let mut fields: Vec<&str> = listed[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.retain(|field| {
        [
            "id", "name", "pool", "slot", "server", "state", "uuid", "image", "overlay",
        ]
        .contains(field)
    });
    assert_eq!(fields.len(), 9, "{listed}");
    assert_eq!(listed[0]["state"], "available");
    assert_eq!(listed[0]["slot"], 1);
}

#[tokio::test]
async fn a_restart_is_asked_for_one_life() {
    let world = World::new();
    let id = world.grow(1, false);
    let answer = world
        .send(
            Scope::Helpdesk,
            Method::POST,
            "/desktops/lab-001/restart",
            "",
        )
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    let asked = world.grid.now().requests[&id].clone();
    assert_eq!(
        asked,
        Request::Restart(id.member(coppice_schema::ids::Incarnation(1)))
    );
    let answer = world
        .send(
            Scope::Helpdesk,
            Method::POST,
            "/desktops/lab-002/restart",
            "",
        )
        .await;
    answer.problem(Code::Absent);
}

#[tokio::test]
async fn a_personal_desktop_is_regrown_only_when_that_is_approved_by_name() {
    let world = World::new();
    let id = world.grow(1, true);
    let regrow = |query: &'static str| world.send(Scope::Operator, Method::POST, query, "");
    for query in [
        "/desktops/lab-001/regrow",
        "/desktops/lab-001/regrow?approve=mass-delete",
    ] {
        let problem = regrow(query).await.problem(Code::Gate);
        assert_eq!(problem.gates[0].gate, GateKind::PersonalData);
        assert!(world.grid.now().requests.is_empty());
    }
    let answer = regrow("/desktops/lab-001/regrow?approve=personal-data").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(matches!(world.grid.now().requests[&id], Request::Regrow(_)));
}

#[tokio::test]
async fn a_desktop_of_a_protected_pool_is_not_regrown() {
    let world = World::new();
    world.grow(1, false);
    let pool = Address::Pool("lab".parse().unwrap());
    world.grid.edit(|state| {
        state.protections.insert(pool);
    });
    let answer = world
        .send(
            Scope::Operator,
            Method::POST,
            "/desktops/lab-001/regrow",
            "",
        )
        .await;
    let problem = answer.problem(Code::Conflict);
    assert!(problem.help.contains("protect = false"), "{problem:?}");
    assert!(world.grid.now().requests.is_empty());
}

#[tokio::test]
async fn one_failure_is_no_row() {
    let world = World::new();
    let id = world.grow(1, false);
    for (count, words) in [(1, "it failed once, "), (3, "it failed 3 times in a row")] {
        world.grid.edit(|state| {
            let desktops = Arc::make_mut(&mut state.desktops);
            desktops.get_mut(&id).unwrap().failures.count = count;
        });
        let told: Explanation = world.get(Scope::Viewer, "/explain/desktop.lab-001").await;
        assert!(
            told.trace.iter().any(|line| line.starts_with(words)),
            "{told:?}"
        );
    }
}

async fn look(world: &World) -> Answer {
    let path = "/desktops/lab-001/screenshot";
    world.send(Scope::Helpdesk, Method::GET, path, "").await
}

#[tokio::test]
async fn a_screen_is_seen_where_the_desktop_is() {
    let world = World::new();
    let id = world.grow(1, false);
    let answer = look(&world).await;
    assert_eq!(
        (answer.status, answer.kind.as_str()),
        (StatusCode::OK, "image/png")
    );
    assert!(answer.body.starts_with(b"\x89PNG"));

    world.hypervisor.0.lock().unwrap().clear();
    look(&world).await.problem(Code::Conflict);

    // On a server that is not reached.
    world.gone_elsewhere(&id);
    let problem = look(&world).await.problem(Code::Elsewhere);
    assert!(problem.help.contains("--server"), "{problem:?}");
    assert!(problem.detail.contains("99"), "{problem:?}");
}

#[tokio::test]
async fn a_screen_is_asked_for_where_the_desktop_is_by_any_server() {
    let (mut world, other) = (World::new(), World::new());
    for world in [&world, &other] {
        world.grow(1, false);
    }
    let id = "lab-001".parse().unwrap();
    world.gone_elsewhere(&id);
    world.hypervisor.0.lock().unwrap().clear();
    let wire = world.reach(&other);
    let answer = look(&world).await;
    assert_eq!(
        (answer.status, answer.kind.as_str()),
        (StatusCode::OK, "image/png")
    );
    assert!(answer.body.starts_with(b"\x89PNG"));
    assert_eq!(wire.opened.load(Ordering::SeqCst), 1);

    // What is refused there is told as it is.
    other.hypervisor.0.lock().unwrap().clear();
    look(&world).await.problem(Code::Conflict);
    // Who may see it is judged here, before anything is passed on, and there.
    let path = "/desktops/lab-001/screenshot";
    let viewer = world.send(Scope::Viewer, Method::GET, path, "");
    viewer.await.problem(Code::Forbidden);
    assert_eq!(wire.opened.load(Ordering::SeqCst), 2);
    other.grid.agree(Entry::TokenRevoked {
        id: TokenId("test-helpdesk".to_owned()),
        author: "test".to_owned(),
    });
    look(&world).await.problem(Code::Unauthorized);
}

#[tokio::test]
async fn a_request_for_a_screen_is_passed_on_once() {
    let (mut world, mut other, third) = (World::new(), World::new(), World::new());
    for world in [&world, &other, &third] {
        world.grow(1, false);
    }
    // The other has heard already that it moved.
    let id = "lab-001".parse().unwrap();
    for world in [&world, &other] {
        world.gone_elsewhere(&id);
    }
    let further = other.reach(&third);
    world.reach(&other);
    let problem = look(&world).await.problem(Code::Elsewhere);
    assert!(problem.help.contains("try again"), "{problem:?}");
    assert_eq!(further.opened.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn nothing_but_screens_is_asked_for_by_another_server() {
    let (mut world, other) = (World::new(), World::new());
    other.grow(1, false);
    let wire = world.reach(&other);
    for (path, status) in [
        ("/desktops/lab-001/screenshot", "200"),
        ("/desktops/lab-001", "404"),
        ("/tokens", "404"),
    ] {
        let mut stream = wire.connect(ServerId(1), Purpose::Consoles).await.unwrap();
        let request = format!(
            "GET /api/v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            secret(Scope::Admin)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_console_without_a_websocket_says_so() {
    let world = World::new();
    world.grow(1, false);
    let answer = world
        .send(
            Scope::Helpdesk,
            Method::GET,
            "/desktops/lab-001/console",
            "",
        )
        .await;
    assert!(answer.problem(Code::Request).detail.contains("WebSocket"));
}
