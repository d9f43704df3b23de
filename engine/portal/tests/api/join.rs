//! Machines that join.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use coppice_portal::api::{
    Code, JoinRequest, JoinResponse, JoinSecret, JoinTerms, JoinTokenCreated, JoinTokenInfo,
    Problem,
};
use coppice_schema::Digest;
use coppice_schema::units::Span;
use coppice_state::Part;
use coppice_state::join::Role;
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::token::Scope;
use coppice_world::clock::Clock;
use serde_json::json;

use crate::world::{Answer, World, request_of};

async fn token(world: &World, role: &str) -> JoinSecret {
    let made: JoinTokenCreated = world
        .post(Scope::Admin, "/join-tokens", &json!({ "role": role }))
        .await
        .json(StatusCode::CREATED);
    made.token.parse().unwrap()
}

fn asked(world: &World, token: &JoinSecret, name: &str, key: &str) -> JoinRequest {
    JoinRequest {
        token: token.token.clone(),
        secret: token.secret,
        request: request_of(key),
        name: name.parse().unwrap(),
        role: token.role,
        api: format!("{name}.example:7443"),
        names: [format!("{name}.example")].into(),
        wire: 6,
        wire_oldest: 5,
        feature_level: FEATURE_LEVEL,
        version: "1.2.3".to_owned(),
        time: world.clock.now(),
        again: false,
    }
}

async fn send(world: &World, request: &JoinRequest) -> Answer {
    let body = Body::from(serde_json::to_vec(request).unwrap());
    let request = Request::post("/api/v1/join").body(body).unwrap();
    world.raw(request).await
}

async fn joined(world: &World, request: &JoinRequest) -> JoinResponse {
    send(world, request).await.json(StatusCode::OK)
}

async fn refused(world: &World, request: &JoinRequest, code: Code) -> Problem {
    let servers = world.grid.now().servers.clone();
    let problem = send(world, request).await.problem(code);
    assert_eq!(world.grid.now().servers, servers);
    problem
}

#[tokio::test]
async fn a_machine_with_a_token_becomes_a_member() {
    let world = World::new();
    let token = token(&world, "server").await;
    let terms = Request::get("/api/v1/join").body(Body::empty()).unwrap();
    let terms: JoinTerms = world.raw(terms).await.json(StatusCode::OK);
    assert_eq!(Digest::of(terms.authority.as_bytes()), token.authority);
    assert_eq!((terms.wire_oldest, terms.wire), (3, 5));
    assert_eq!(terms.time, world.clock.now());

    let member = joined(&world, &asked(&world, &token, "b", "kb")).await;
    let certificate = format!("server {} at b.example for request of kb", member.server);
    assert_eq!(member.certificate, certificate);
    assert_eq!(member.grid_key, Some(Digest([8; 32])));
    assert_eq!(member.members.len(), 1);
    assert_eq!(member.members[0].name.as_str(), "a");
    let state = world.grid.now();
    let server = &state.servers[&member.server];
    assert_eq!(server.raft_id, member.raft_id);
    assert_eq!(server.api, "b.example:7443");
    assert!(
        state
            .servers
            .values()
            .all(|other| { other.name == server.name || other.raft_id != server.raft_id })
    );
    // The state opens nothing to whoever steals it.
    let text = format!("{state:?}");
    assert!(!text.contains(&token.secret.to_string()));
}

#[tokio::test]
async fn a_witness_gets_no_key_of_the_grid() {
    let world = World::new();
    let token = token(&world, "witness").await;
    let member = joined(&world, &asked(&world, &token, "w", "kw")).await;
    assert_eq!(member.grid_key, None);
    let state = world.grid.now();
    assert_eq!(state.servers[&member.server].role, Role::Witness);
}

#[tokio::test]
async fn a_join_that_was_cut_off_is_finished_by_the_same_key_and_no_other() {
    let world = World::new();
    let token = token(&world, "server").await;
    let request = asked(&world, &token, "b", "kb");
    let first = joined(&world, &request).await;
    // Also after the token's time, and under another address.
    world.clock.pass(Span::hours(2));
    let moved = JoinRequest {
        api: "b2.example:7443".to_owned(),
        time: world.clock.now(),
        ..request.clone()
    };
    let again = joined(&world, &moved).await;
    assert_eq!((first.server, first.raft_id), (again.server, again.raft_id));
    assert_eq!(world.grid.now().servers.len(), 2);
    assert_eq!(world.grid.now().servers[&again.server].api, moved.api);

    let other = asked(&world, &token, "c", "kc");
    let problem = refused(&world, &other, Code::Conflict).await;
    assert!(
        problem.detail.contains("used already, by server b"),
        "{problem:?}"
    );
    assert!(problem.help.contains("token create --role"), "{problem:?}");
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_member_that_answers() {
    let world = World::new();
    let first = token(&world, "server").await;
    let member = joined(&world, &asked(&world, &first, "b", "kb")).await;
    let hear = |raft_id: u64, heard: Option<Span>| {
        let part = Part {
            voter: true,
            heard,
            holds: Some(0),
        };
        let mut standing = world.grid.standing.lock().unwrap();
        standing.parts.insert(raft_id, part);
    };
    let second = token(&world, "server").await;
    let again = JoinRequest {
        again: true,
        ..asked(&world, &second, "b", "another")
    };
    // Nobody says whether it is there.
    let problem = refused(&world, &again, Code::Quorum).await;
    assert!(problem.detail.contains("hears b"), "{problem:?}");

    hear(1, Some(Span(0)));
    hear(member.raft_id, Some(Span(900)));
    let problem = refused(&world, &again, Code::InUse).await;
    for part in ["name b is in use", "b.example:7443", "900ms ago"] {
        assert!(problem.detail.contains(part), "{problem:?}");
    }
    assert!(problem.help.contains("--name"), "{problem:?}");
    assert!(problem.help.contains("stop `coppice serve`"), "{problem:?}");
    // The server that was asked needs to be heard by nobody.
    let asked_itself = JoinRequest {
        name: "a".parse().unwrap(),
        ..again.clone()
    };
    refused(&world, &asked_itself, Code::InUse).await;

    // Once it is silent its place can be taken; and that is finished also while the new one is heard.
    hear(member.raft_id, Some(Span::seconds(4)));
    let taken = joined(&world, &again).await;
    assert_eq!(taken.server, member.server);
    assert_ne!(taken.raft_id, member.raft_id);
    hear(taken.raft_id, Some(Span(10)));
    let finished = joined(&world, &again).await;
    assert_eq!(finished.raft_id, taken.raft_id);
}

#[tokio::test]
async fn a_join_with_bad_input_is_told_what_to_do_and_changes_nothing() {
    let world = World::new();
    let token = token(&world, "server").await;
    let fine = asked(&world, &token, "b", "kb");

    let wrong = JoinRequest {
        secret: Digest([7; 32]),
        ..fine.clone()
    };
    let problem = refused(&world, &wrong, Code::Unauthorized).await;
    assert!(problem.help.contains("token create --role"), "{problem:?}");

    let witness = JoinRequest {
        role: Role::Witness,
        ..fine.clone()
    };
    let problem = refused(&world, &witness, Code::Forbidden).await;
    assert!(problem.detail.contains("is for a server"), "{problem:?}");

    let namesake = JoinRequest {
        name: "a".parse().unwrap(),
        ..fine.clone()
    };
    let problem = refused(&world, &namesake, Code::Exists).await;
    assert!(problem.help.contains("--name"), "{problem:?}");

    for (wire_oldest, wire) in [(1, 2), (6, 7)] {
        let foreign = JoinRequest {
            wire,
            wire_oldest,
            ..fine.clone()
        };
        let problem = refused(&world, &foreign, Code::Conflict).await;
        assert!(problem.help.contains("version"), "{problem:?}");
    }

    world
        .grid
        .edit(|state| state.feature_level = FEATURE_LEVEL + 1);
    let problem = refused(&world, &fine, Code::Conflict).await;
    assert!(problem.detail.contains("feature level"), "{problem:?}");
    world.grid.edit(|state| state.feature_level = FEATURE_LEVEL);

    let garbled = JoinRequest {
        request: "what?".to_owned(),
        ..fine.clone()
    };
    refused(&world, &garbled, Code::Request).await;

    world.clock.pass(Span::hours(1));
    let problem = refused(&world, &fine, Code::Unauthorized).await;
    assert!(problem.detail.contains("expired"), "{problem:?}");
    let path = format!("/tokens/{}", token.token);
    world.send(Scope::Admin, Method::DELETE, &path, "").await;
    let problem = refused(&world, &fine, Code::Unauthorized).await;
    assert!(problem.detail.contains("revoked"), "{problem:?}");
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_and_fills_no_log() {
    let world = World::new();
    let token = token(&world, "server").await;
    let before = world.grid.now().index;
    let guess = JoinRequest {
        secret: Digest([7; 32]),
        ..asked(&world, &token, "b", "kb")
    };
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(send(&world, &guess).await.status.as_u16());
    }
    assert_eq!((codes[0], codes[59]), (401, 429), "{codes:?}");
    assert_eq!(world.grid.now().index, before);
}

#[tokio::test]
async fn join_tokens_are_listed_without_their_secrets_and_bounded_in_time() {
    let world = World::new();
    let request = json!({ "role": "server", "name": "rack-2", "expires_in": 60_000 });
    let made = world.post(Scope::Admin, "/join-tokens", &request).await;
    let made: JoinTokenCreated = made.json(StatusCode::CREATED);
    let list = world
        .send(Scope::Admin, Method::GET, "/join-tokens", "")
        .await;
    let secret: JoinSecret = made.token.parse().unwrap();
    assert!(!list.text().contains(&secret.secret.to_string()));
    let list: Vec<JoinTokenInfo> = list.json(StatusCode::OK);
    assert_eq!(
        (list.len(), list[0].used, list[0].expired),
        (1, false, false)
    );
    assert_eq!(list[0].name.to_string(), "rack-2");
    let again = world.post(Scope::Admin, "/join-tokens", &request).await;
    again.problem(Code::Exists);
    for lasts in [0, 31 * 24 * 3_600_000_u64] {
        let request = json!({ "role": "server", "expires_in": lasts });
        let refused = world.post(Scope::Admin, "/join-tokens", &request).await;
        refused.problem(Code::Request);
    }
}
