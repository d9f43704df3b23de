//! Tokens, secrets, pauses, servers.

use axum::http::{Method, StatusCode};
use coppice_plans::plan::{Finding, FindingKind};
use coppice_portal::api::{Code, Explanation, Pause, SecretInfo, Server, TokenCreated, TokenInfo};
use coppice_schema::known::ServerState;
use coppice_state::secret::Vault;
use coppice_state::state::Happening;
use coppice_state::token::{Scope, TokenId};
use serde_json::json;
use std::sync::atomic::Ordering;

use crate::world::{Key, World};

#[tokio::test]
async fn a_token_is_made_shown_once_used_and_revoked() {
    let world = World::new();
    let request = json!({"name": "ci", "scope": "planner", "expires_in": 60_000});
    let made: TokenCreated = world
        .post(Scope::Admin, "/tokens", &request)
        .await
        .json(StatusCode::CREATED);
    assert!(made.token.starts_with("ci."));
    let (id, hash) = coppice_portal::parse_token(&made.token).unwrap();
    let state = world.grid.now();
    assert_eq!(state.tokens[&id].hash, hash);
    assert!(!format!("{state:?}").contains(made.token.split_once('.').unwrap().1));

    let listed: Vec<TokenInfo> = world.get(Scope::Admin, "/tokens").await;
    assert!(listed.contains(&made.info));
    world
        .post(Scope::Admin, "/tokens", &request)
        .await
        .problem(Code::Exists);

    let answer = world
        .send(Scope::Admin, Method::DELETE, "/tokens/ci", "")
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(!world.grid.now().tokens.contains_key(&id));
    let answer = world
        .send(Scope::Admin, Method::DELETE, "/tokens/ci", "")
        .await;
    answer.problem(Code::Absent);
}

#[tokio::test]
async fn the_author_of_what_happens_is_the_token() {
    let world = World::new();
    world
        .post(
            Scope::Admin,
            "/tokens",
            &json!({"name": "ci", "scope": "viewer"}),
        )
        .await;
    let last = world.grid.now().history.last().unwrap().what.clone();
    let Happening::Changed { author, .. } = last else {
        panic!("{last:?}")
    };
    assert_eq!(author, "test-admin");
}

#[tokio::test]
async fn two_tokens_never_have_one_secret() {
    let world = World::new();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..8 {
        let request = json!({"name": format!("t{n}"), "scope": "viewer"});
        let made: TokenCreated = world
            .post(Scope::Admin, "/tokens", &request)
            .await
            .json(StatusCode::CREATED);
        assert!(seen.insert(made.token.split_once('.').unwrap().1.to_owned()));
    }
}

#[tokio::test]
async fn the_last_admin_token_stays() {
    let world = World::new();
    let answer = world
        .send(Scope::Admin, Method::DELETE, "/tokens/test-admin", "")
        .await;
    assert!(answer.problem(Code::Conflict).detail.contains("last"));
    assert!(
        world
            .grid
            .now()
            .tokens
            .contains_key(&TokenId("test-admin".to_owned()))
    );
    // One that expires counts as long as it has not.
    let request = json!({"name": "next", "scope": "admin", "expires_in": 60_000});
    world.post(Scope::Admin, "/tokens", &request).await;
    let answer = world
        .send(Scope::Admin, Method::DELETE, "/tokens/test-admin", "")
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_tokens_name_is_a_name() {
    let world = World::new();
    for name in ["", "A", "a b", "a.b", "ä", "../x", &"x".repeat(41)] {
        let request = json!({"name": name, "scope": "viewer"});
        world
            .post(Scope::Admin, "/tokens", &request)
            .await
            .problem(Code::Request);
    }
}

#[tokio::test]
async fn a_secret_goes_in_sealed_and_never_comes_out() {
    let world = World::new();
    let set = |value: &'static [u8]| world.send(Scope::Admin, Method::PUT, "/secrets/ldap", value);
    let first: SecretInfo = set(b"hunter2").await.json(StatusCode::OK);
    let second: SecretInfo = set(b"correct horse\n").await.json(StatusCode::OK);
    assert_eq!((first.version, second.version), (1, 2));
    let sealed = world.grid.now().secrets[&first.name].sealed.clone();
    assert_eq!(Key.open(&first.name, &sealed).unwrap(), b"correct horse\n");

    let answer = world.send(Scope::Admin, Method::GET, "/secrets", "").await;
    assert!(!answer.text().contains("horse"));
    let listed: Vec<SecretInfo> = answer.json(StatusCode::OK);
    assert_eq!(listed, [second]);

    set(b"").await.problem(Code::Request);
    let large = vec![b'x'; (64 << 10) + 1];
    let answer = world
        .send(Scope::Admin, Method::PUT, "/secrets/ldap", large)
        .await;
    answer.problem(Code::TooLarge);
    assert_eq!(world.grid.now().secrets[&first.name].version, 2);

    let answer = world
        .send(Scope::Admin, Method::DELETE, "/secrets/ldap", "")
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(world.grid.now().secrets.is_empty());
    let answer = world
        .send(Scope::Admin, Method::DELETE, "/secrets/ldap", "")
        .await;
    answer.problem(Code::Absent);
}

#[tokio::test]
async fn an_address_is_paused_and_resumed() {
    let world = World::new();
    let request = json!({"address": "pool.lab", "until": 2_000_000});
    let made: Pause = world
        .post(Scope::Operator, "/pauses", &request)
        .await
        .json(StatusCode::CREATED);
    let listed: Vec<Pause> = world.get(Scope::Viewer, "/pauses").await;
    assert_eq!(listed, [made]);
    let past = json!({"address": "pool.lab", "until": 1_000_000});
    world
        .post(Scope::Operator, "/pauses", &past)
        .await
        .problem(Code::Request);
    let answer = world
        .send(Scope::Operator, Method::DELETE, "/pauses/pool.lab", "")
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    let answer = world
        .send(Scope::Operator, Method::DELETE, "/pauses/pool.lab", "")
        .await;
    answer.problem(Code::Absent);
}

#[tokio::test]
async fn a_server_is_cordoned_only_when_it_is_ready() {
    let world = World::new();
    let post = |path: &'static str| world.send(Scope::Operator, Method::POST, path, "");
    assert_eq!(
        post("/servers/a/cordon").await.status,
        StatusCode::NO_CONTENT
    );
    let servers: Vec<Server> = world.get(Scope::Viewer, "/servers").await;
    assert_eq!(servers[0].status.state, ServerState::Cordoned);
    assert!(servers[0].status.current);
    // Again: it is so already.
    assert_eq!(
        post("/servers/a/cordon").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        post("/servers/a/uncordon").await.status,
        StatusCode::NO_CONTENT
    );
    post("/servers/b/cordon").await.problem(Code::Absent);

    let server = world.grid.server();
    world.grid.edit(|state| {
        state.servers.get_mut(&server).unwrap().state = ServerState::Lost;
    });
    let problem = post("/servers/a/uncordon").await.problem(Code::Conflict);
    assert!(problem.detail.contains("lost"), "{problem:?}");
    assert_eq!(world.grid.now().servers[&server].state, ServerState::Lost);
}

#[tokio::test]
async fn a_server_is_emptied_and_taken_back() {
    let world = World::new();
    let post = |path: &'static str| world.send(Scope::Operator, Method::POST, path, "");
    let part = || async {
        let servers: Vec<Server> = world.get(Scope::Viewer, "/servers").await;
        servers[0].status.clone()
    };
    assert_eq!(
        post("/servers/a/drain").await.status,
        StatusCode::NO_CONTENT
    );
    let draining = part().await;
    assert_eq!(draining.state, ServerState::Draining);
    assert_eq!(draining.force_at, None, "people are always waited for");
    let problem = post("/servers/a/uncordon").await.problem(Code::Conflict);
    assert!(problem.help.contains("undrain"), "{problem:?}");
    // Asked again, it says for how long.
    let path = "/servers/a/drain?force_after=60000";
    assert_eq!(post(path).await.status, StatusCode::NO_CONTENT);
    assert!(part().await.force_at.is_some());
    post("/servers/a/drain?until=now")
        .await
        .problem(Code::Request);
    post("/servers/b/drain").await.problem(Code::Absent);
    let explained: Explanation = world.get(Scope::Viewer, "/explain/server.a").await;
    assert_eq!(explained.state, "draining");
    let said = |found: &&Finding| matches!(found.kind, FindingKind::Drained);
    assert_eq!(
        explained.findings.iter().filter(said).count(),
        1,
        "{explained:?}"
    );
    assert_eq!(
        post("/servers/a/undrain").await.status,
        StatusCode::NO_CONTENT
    );
    let back = part().await;
    assert_eq!((back.state, back.force_at), (ServerState::Ready, None));

    // What is wanted of one that is away is what it will be.
    let server = world.grid.server();
    world.grid.edit(|state| {
        let known = state.servers.get_mut(&server).unwrap();
        (known.state, known.before) = (ServerState::Lost, Some(ServerState::Ready));
    });
    assert_eq!(
        post("/servers/a/drain").await.status,
        StatusCode::NO_CONTENT
    );
    let now = world.grid.now();
    assert_eq!(now.servers[&server].state, ServerState::Lost);
    assert_eq!(now.servers[&server].before, Some(ServerState::Draining));
    let viewer = world.send(Scope::Helpdesk, Method::POST, "/servers/a/drain", "");
    viewer.await.problem(Code::Forbidden);
}

#[tokio::test]
async fn without_a_majority_looking_works_and_changing_says_why_not() {
    let world = World::new();
    world.grid.alone.store(true, Ordering::SeqCst);
    let servers: Vec<Server> = world.get(Scope::Viewer, "/servers").await;
    assert!(
        !servers[0].status.current,
        "nobody leads, so nothing is known to be current"
    );
    let answer = world
        .send(Scope::Operator, Method::POST, "/servers/a/cordon", "")
        .await;
    answer.problem(Code::Quorum);
    let answer = world
        .send(Scope::Admin, Method::PUT, "/secrets/x", "value")
        .await;
    assert!(
        answer
            .problem(Code::Quorum)
            .detail
            .contains("may still come about")
    );
}
