//! Who may do what, and what everyone is told.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use coppice_portal::api::{Code, HealthReport};
use coppice_portal::{Access, access};
use coppice_schema::units::Span;
use coppice_state::entry::Entry;
use coppice_state::token::{Scope, Token, TokenId};
use serde_json::Value;

use crate::world::{SCOPES, World, secret};

/// The path of a route with every parameter given.
fn filled(path: &str) -> String {
    path.strip_prefix("/api/v1")
        .unwrap()
        .replace("{id}", "lab-001")
        .replace("{life}", "lab-001@1")
        .replace("{name}", "some")
        .replace("{version}", "1")
        .replace("{address}", "pool.lab")
}

fn request(method: &Method, path: &str, token: Option<&str>) -> Request<Body> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"));
    let request = match token {
        Some(token) => request.header(header::AUTHORIZATION, token),
        None => request,
    };
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn every_route_needs_its_scope_and_nothing_less_will_do() {
    for (method, path, needed) in access() {
        let path = filled(&path);
        for scope in SCOPES {
            // Each in a grid of its own: some of these requests change it.
            let world = World::new();
            if path == "/events" {
                continue;
            }
            let answer = world.send(scope, method.clone(), &path, "").await;
            let refused = matches!(
                answer.status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            );
            let allowed = match needed {
                Access::Open => true,
                // Its token is in the body, which is empty here.
                Access::Join => continue,
                Access::Token(needed) => scope >= needed,
            };
            assert_eq!(
                allowed,
                !refused,
                "{method} {path} as {scope}: {}",
                answer.text()
            );
            if refused {
                let problem = answer.problem(Code::Forbidden);
                let Access::Token(needed) = needed else {
                    unreachable!()
                };
                assert!(problem.detail.contains(&needed.to_string()), "{problem:?}");
                assert!(problem.help.contains("coppice token create"), "{problem:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_valid_token_nothing_but_health_and_the_description_answers() {
    let known = secret(Scope::Admin);
    let (name, hex) = known.split_once('.').unwrap();
    let wrong = format!(
        "Bearer {name}.{}",
        hex.replace('0', "1").replace("05", "06")
    );
    let unknown = format!("Bearer nobody.{hex}");
    let short = format!("Bearer {name}.{}", &hex[..62]);
    let basic = format!("Basic {known}");
    let bad = [
        "",
        "Bearer",
        "Bearer ",
        "Bearer .",
        "Bearer a.b",
        &unknown,
        &short,
        &basic,
    ];
    assert_ne!(wrong, format!("Bearer {known}"));
    for (method, path, needed) in access() {
        let path = filled(&path);
        let world = World::new();
        for token in std::iter::once(None)
            .chain(bad.map(Some))
            .chain([Some(wrong.as_str())])
        {
            let answer = world.raw(request(&method, &path, token)).await;
            match needed {
                Access::Open => assert_eq!(answer.status, StatusCode::OK),
                Access::Join => drop(answer.problem(Code::Request)),
                Access::Token(_) => {
                    let problem = answer.problem(Code::Unauthorized);
                    assert!(problem.help.contains("--token-file"), "{problem:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_stops_when_it_expires() {
    let world = World::new();
    let (text, hash) = coppice_portal::mint(&TokenId("brief".to_owned()), [9; 32]);
    let now = coppice_world::clock::Clock::now(world.clock.as_ref());
    world.grid.agree(Entry::TokenCreated {
        id: TokenId("brief".to_owned()),
        token: Token {
            hash,
            scope: Scope::Viewer,
            created: now,
            expires: Some(now.after(Span::minutes(1))),
        },
        author: "test".to_owned(),
    });
    let bearer = format!("Bearer {text}");
    let ask = || world.raw(request(&Method::GET, "/servers", Some(&bearer)));
    assert_eq!(ask().await.status, StatusCode::OK);
    world.clock.pass(Span::minutes(1));
    let problem = ask().await.problem(Code::Unauthorized);
    assert!(problem.detail.contains("expired"), "{problem:?}");
}

#[tokio::test]
async fn too_many_wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let world = World::new();
    let mut codes = Vec::new();
    for _ in 0..60 {
        let answer = world
            .raw(request(&Method::GET, "/status", Some("Bearer a.b")))
            .await;
        codes.push(answer.status.as_u16());
    }
    assert_eq!(codes[0], 401);
    assert_eq!(codes[59], 429, "{codes:?}");
    let answer = world.send(Scope::Viewer, Method::GET, "/servers", "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn the_description_has_exactly_the_routes_that_there_are() {
    let world = World::new();
    let answer = world
        .raw(request(&Method::GET, "/openapi.json", None))
        .await;
    let description: Value = answer.json(StatusCode::OK);
    assert_eq!(description["openapi"], "3.1.0");
    let mut described = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{method} {path} has no words"
            );
            let open = operation.get("security") == Some(&serde_json::json!([{}]));
            described.push((method.to_uppercase(), path.clone(), open));
        }
    }
    let mut real: Vec<_> = access()
        .into_iter()
        .map(|(method, path, access)| {
            (
                method.to_string(),
                path,
                matches!(access, Access::Open | Access::Join),
            )
        })
        .collect();
    described.sort();
    real.sort();
    assert_eq!(described, real);
}

#[tokio::test]
async fn every_type_that_the_description_names_is_in_it() {
    let world = World::new();
    let answer = world
        .raw(request(&Method::GET, "/openapi.json", None))
        .await;
    let text = answer.text();
    let description: Value = answer.json(StatusCode::OK);
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            schemas.contains_key(name),
            "{name} is named and not described"
        );
    }
    for name in [
        "Status",
        "Desktop",
        "Image",
        "PlanRequest",
        "SavedPlan",
        "Problem",
        "EventRecord",
    ] {
        assert!(schemas.contains_key(name), "{name} is not described");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_said_to_be_absent() {
    let world = World::new();
    let answer = world.raw(request(&Method::GET, "/nothing", None)).await;
    assert!(answer.problem(Code::Absent).detail.contains("/nothing"));
    let answer = world.raw(request(&Method::DELETE, "/status", None)).await;
    answer.problem(Code::Method);
    let health: HealthReport = world
        .raw(request(&Method::GET, "/health", None))
        .await
        .json(StatusCode::OK);
    assert_eq!(health.version, "1.2.3");
}

#[tokio::test]
async fn names_that_are_none_are_refused_before_anything_is_done() {
    let world = World::new();
    for path in [
        "/desktops/..%2f..%2fetc",
        "/desktops/lab-7",
        "/explain/nothing",
        "/images/uploads/..%2f..%2f..%2fetc%2fpasswd",
        "/images/uploads/00",
        "/events?after=minus",
        "/events?before=1",
        "/desktops/%ff",
    ] {
        let answer = world.send(Scope::Admin, Method::GET, path, "").await;
        answer.problem(Code::Request);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let world = World::new();
    let large = vec![b' '; (20 << 20) + 1];
    let answer = world
        .send(Scope::Planner, Method::POST, "/plans", large)
        .await;
    answer.problem(Code::TooLarge);
    let deep = "[".repeat(100_000);
    for body in ["", "{", "[]", "\u{0}", r#"{"bundle": 3}"#, &deep] {
        let answer = world
            .send(Scope::Planner, Method::POST, "/plans", body.to_owned())
            .await;
        answer.problem(Code::Request);
    }
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_body_is_given_up() {
    let world = World::new();
    let body = futures::StreamExt::chain(
        futures::stream::iter([Ok::<_, std::io::Error>("{\"bun")]),
        futures::stream::pending(),
    );
    let asked = world.send(
        Scope::Planner,
        Method::POST,
        "/plans",
        Body::from_stream(body),
    );
    let time = async {
        loop {
            world.clock.pass(Span::seconds(10));
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = asked => { answer.problem(Code::Timeout); }
        () = time => {}
    }
}

/// A body that comes byte by byte, never silent for long, and takes ten minutes.
fn trickle(world: &World, bytes: &'static [u8]) -> Body {
    let clock = std::sync::Arc::clone(&world.clock);
    let step = Span(Span::minutes(10).0 / u64::try_from(bytes.len()).unwrap());
    Body::from_stream(futures::stream::unfold(
        (clock, bytes),
        move |(clock, bytes)| async move {
            let (first, rest) = bytes.split_at_checked(1)?;
            clock.pass(step);
            tokio::task::yield_now().await;
            Some((Ok::<_, std::io::Error>(first), (clock, rest)))
        },
    ))
}

#[tokio::test]
async fn an_upload_takes_as_long_as_it_takes_and_any_other_request_two_minutes() {
    let file = b"QFI an image of thirty-two bytes";
    let world = World::new();
    let request = serde_json::json!({"name": "tiny", "version": "1", "size": file.len()});
    let upload: coppice_portal::api::Upload = world
        .post(Scope::Operator, "/images/uploads", &request)
        .await
        .json(StatusCode::CREATED);
    let path = format!("/images/uploads/{}?offset=0", upload.id);
    let sent: coppice_portal::api::Upload = world
        .send(Scope::Operator, Method::PUT, &path, trickle(&world, file))
        .await
        .json(StatusCode::OK);
    assert_eq!(sent.offset, 32);

    let slow = trickle(&world, b"a request that has thirty-two b.");
    let answer = world
        .send(Scope::Planner, Method::POST, "/plans", slow)
        .await;
    let problem = answer.problem(Code::Timeout);
    assert!(
        problem.detail.contains("no answer within"),
        "{}",
        problem.detail
    );
}
