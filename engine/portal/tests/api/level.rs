//! Many servers: where desktops go, what a loss would come to, and levelling the load.

use axum::http::StatusCode;
use coppice_portal::api::{
    ApplyRequest, Bundle, Code, Configuration, Explanation, PlanRequest, PlanResponse, Rebalance,
    RebalanceRequest,
};
use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::Request;
use coppice_schema::units::Size;
use coppice_state::token::Scope;

use crate::rounds::bundle;
use crate::world::World;

/// Six desktops on server `a`, which has as much memory as ten need; with `joined`, server `b` is there too and empty.
async fn school(joined: bool) -> World {
    let world = World::new();
    world.import_tiny();
    world.grid.edit(|state| {
        for server in state.servers.values_mut() {
            server.capacity.memory = Size::mib(960);
        }
    });
    let request = ApplyRequest {
        configuration: Configuration::Bundle(bundle(6, "")),
        approve: Default::default(),
        max_interrupted: None,
        expect_plan: None,
    };
    world.post(Scope::Operator, "/apply", &request).await.text();
    world.settle(0);
    if joined {
        world.grid.edit(|state| {
            let mut other = state.servers[&world_server(state)].clone();
            other.name = "b".parse().unwrap();
            other.raft_id = 2;
            let mut look = other.look.as_deref().unwrap().clone();
            look.members.clear();
            other.look = Some(look.into());
            state.servers.insert(ServerId(1_000), other);
        });
    }
    world
}

fn world_server(state: &coppice_state::State) -> ServerId {
    *state.servers.keys().next().unwrap()
}

fn losing(servers: &[&str], save: bool) -> PlanRequest {
    PlanRequest {
        bundle: Bundle::default(),
        targets: Default::default(),
        save,
        lose: servers.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

#[tokio::test]
async fn the_load_is_levelled_by_a_plan_that_was_looked_at() {
    let world = school(false).await;
    let level: Rebalance = world.get(Scope::Viewer, "/rebalance").await;
    assert!(level.moves.is_empty() && level.document.is_empty());

    let world = school(true).await;
    let found: Rebalance = world.get(Scope::Viewer, "/rebalance").await;
    assert!((2..=3).contains(&found.moves.len()), "{found:?}");
    assert!(
        found
            .moves
            .iter()
            .all(|one| (one.from.as_str(), one.to.as_str()) == ("a", "b"))
    );
    assert!(!found.document.is_empty());
    assert!(
        world.grid.now().requests.is_empty(),
        "looking changes nothing"
    );

    let other = RebalanceRequest {
        expect_plan: Some(Digest([9; 32])),
        stop: false,
    };
    world
        .post(Scope::Operator, "/rebalance", &other)
        .await
        .problem(Code::OtherPlan);
    assert!(world.grid.now().requests.is_empty());

    let shown = RebalanceRequest {
        expect_plan: Some(found.document.plan_id),
        stop: false,
    };
    world
        .post(Scope::Viewer, "/rebalance", &shown)
        .await
        .problem(Code::Forbidden);
    let agreed: Rebalance = world
        .post(Scope::Operator, "/rebalance", &shown)
        .await
        .json(StatusCode::OK);
    assert_eq!(agreed, found);
    let state = world.grid.now();
    let asked = state.requests.iter().map(|(id, request)| {
        assert!(matches!(
            request,
            Request::Move {
                to: ServerId(1_000),
                ..
            }
        ));
        id
    });
    let named = found.moves.iter().map(|one| &one.desktop);
    assert!(asked.eq(named), "what was shown, and nothing else");

    let stop = RebalanceRequest {
        expect_plan: None,
        stop: true,
    };
    world
        .post(Scope::Viewer, "/rebalance", &stop)
        .await
        .problem(Code::Forbidden);
    let stopped: Rebalance = world
        .post(Scope::Operator, "/rebalance", &stop)
        .await
        .json(StatusCode::OK);
    assert_eq!(stopped.before, agreed.moves);
    assert!(stopped.moves.is_empty() && stopped.document.is_empty());
    assert!(world.grid.now().requests.is_empty(), "all of them stay");
}

#[tokio::test]
async fn a_loss_is_thought_through_on_what_is_committed() {
    let world = school(true).await;
    let request = losing(&["a"], false);
    let answer: PlanResponse = world
        .post(Scope::Planner, "/plans", &request)
        .await
        .json(StatusCode::OK);
    let lost = answer.document.lost.unwrap();
    assert!(lost.servers.contains("a"));
    let lab = &lost.pools[&"lab".parse().unwrap()];
    assert_eq!((lab.pooled, lab.without_place), (6, 0));
    assert_eq!(lab.regrown.get("b"), Some(&6));
    assert!(
        world
            .grid
            .now()
            .desktops
            .values()
            .all(|desktop| desktop.people() == 0)
    );
    assert_eq!(world.grid.now().desktops.len(), 6, "nothing is done");

    // The files as they are edited, where they are sent.
    let edited = PlanRequest {
        bundle: bundle(12, ""),
        ..losing(&["a"], false)
    };
    let answer: PlanResponse = world
        .post(Scope::Planner, "/plans", &edited)
        .await
        .json(StatusCode::OK);
    assert!(!answer.document.changes.is_empty());
    assert!(answer.document.lost.is_some());

    world
        .post(Scope::Planner, "/plans", &losing(&["z"], false))
        .await
        .problem(Code::Absent);
    world
        .post(Scope::Planner, "/plans", &losing(&["a"], true))
        .await
        .problem(Code::Incomplete);
}

#[tokio::test]
async fn where_a_desktop_goes_is_explained() {
    let world = school(true).await;
    let pool: Explanation = world.get(Scope::Viewer, "/explain/pool.lab").await;
    let placement = pool.placement.unwrap();
    let names: Vec<&str> = placement
        .candidates
        .iter()
        .map(|c| c.server.as_str())
        .collect();
    assert_eq!(names, ["b", "a"], "the best first");
    assert!(placement.candidates[0].chosen && !placement.candidates[1].chosen);
    assert!(placement.candidates[0].dominant < placement.candidates[1].dominant);
    let desktop: Explanation = world.get(Scope::Viewer, "/explain/desktop.lab-001").await;
    let here: Vec<bool> = desktop
        .placement
        .unwrap()
        .candidates
        .iter()
        .map(|c| c.here)
        .collect();
    assert_eq!(here, [false, true]);
    let image: Explanation = world.get(Scope::Viewer, "/explain/image.tiny").await;
    assert_eq!(image.placement, None);
}
