//! Plans, applies, drift, and explanations.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use coppice_plans::plan::{GateKind, Kind, Verdict};
use coppice_portal::api::{
    ApplyRequest, ApplyResponse, Bundle, Code, Configuration, DriftReport, Explanation,
    PlanRequest, PlanResponse, RevisionInfo, SavedPlan, Status,
};
use coppice_schema::Digest;
use coppice_schema::ids::{GridId, PoolName, Revision};
use coppice_schema::known::Health;
use coppice_state::token::Scope;
use std::sync::Arc;

use crate::rounds::{bundle, of_text};
use crate::world::{Answer, World};

fn request(configuration: Configuration) -> ApplyRequest {
    ApplyRequest {
        configuration,
        approve: Default::default(),
        max_interrupted: None,
        expect_plan: None,
    }
}

fn of(bundle: Bundle) -> ApplyRequest {
    request(Configuration::Bundle(bundle))
}

fn saved(plan: &SavedPlan) -> ApplyRequest {
    request(Configuration::Saved(Box::new(plan.clone())))
}

async fn apply(world: &World, request: &ApplyRequest) -> Answer {
    world.post(Scope::Operator, "/apply", request).await
}

async fn applied(world: &World, request: &ApplyRequest) -> ApplyResponse {
    apply(world, request).await.json(StatusCode::OK)
}

async fn planned(world: &World, bundle: Bundle, save: bool) -> PlanResponse {
    let request = PlanRequest {
        bundle,
        targets: Default::default(),
        save,
        lose: Default::default(),
    };
    world
        .post(Scope::Planner, "/plans", &request)
        .await
        .json(StatusCode::OK)
}

async fn save(world: &World, bundle: Bundle) -> SavedPlan {
    *planned(world, bundle, true).await.saved.unwrap()
}

fn revision(world: &World) -> u64 {
    world.grid.now().revision.0
}

#[tokio::test]
async fn a_plan_says_what_would_be_done_and_does_nothing() {
    let world = World::new();
    world.import_tiny();
    let before = world.grid.now();
    let plan = planned(&world, bundle(3, ""), false).await;
    let creates = plan.document.actions.iter().filter(|group| {
        group.kind == Kind::Create
            && group
                .objects
                .iter()
                .any(|object| object.desktop().is_some())
    });
    assert_eq!(creates.map(|group| group.count).sum::<u32>(), 3);
    assert!(plan.saved.is_none());
    assert_eq!(world.grid.now(), before);
}

#[tokio::test]
async fn an_apply_commits_as_its_token_and_a_second_one_changes_nothing() {
    let world = World::new();
    world.import_tiny();
    let plan = planned(&world, bundle(3, ""), false).await.document;
    let request = ApplyRequest {
        expect_plan: Some(plan.plan_id),
        ..of(bundle(3, ""))
    };
    let first = applied(&world, &request).await;
    assert_eq!((first.revision, first.already), (Revision(1), false));
    assert_eq!(first.document.plan_id, plan.plan_id);
    let again = applied(&world, &of(bundle(3, ""))).await;
    assert_eq!((again.revision, again.already), (Revision(1), true));
    assert_eq!(revision(&world), 1);

    let revisions: Vec<RevisionInfo> = world.get(Scope::Viewer, "/revisions").await;
    assert_eq!(revisions.len(), 1);
    assert_eq!(revisions[0].author, "test-operator");
    assert_eq!(revisions[0].plan, plan.plan_id);

    world.settle(0);
    let again = applied(&world, &of(bundle(3, ""))).await;
    assert!(
        again.already && again.document.actions.is_empty(),
        "{again:?}"
    );
}

#[tokio::test]
async fn the_status_follows_the_run_until_the_grid_is_what_was_asked_for() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(2, ""))).await;
    let status: Status = world.get(Scope::Viewer, "/status").await;
    assert!(!status.settled && status.quorum);
    assert_eq!(status.run.as_ref().unwrap().finished, None);
    assert_eq!((status.pools[0].desired, status.pools[0].available), (2, 0));

    world.settle(0);
    let status: Status = world.get(Scope::Viewer, "/status").await;
    assert!(status.settled, "{status:?}");
    assert_eq!((status.pools[0].desired, status.pools[0].available), (2, 2));
    assert_eq!(status.run.as_ref().unwrap().open_orders, 0);
    assert_eq!(status.servers[0].hypervisor, "fake");

    world.grid.alone.store(true, Ordering::SeqCst);
    let status: Status = world.get(Scope::Viewer, "/status").await;
    assert!(
        !status.settled && !status.quorum,
        "what is not known to be so is not said to be"
    );
}

#[tokio::test]
async fn the_errors_of_a_configuration_come_all_at_once() {
    let world = World::new();
    let text = "pool \"lab\" {\n  desktop = 3\n}\ntemplate \"x\" {\n  cpus = \"many\"\n}\n";
    for path in ["/plans", "/apply"] {
        let answer = if path == "/plans" {
            let request = PlanRequest {
                bundle: of_text(text),
                targets: Default::default(),
                save: false,
                lose: Default::default(),
            };
            world.post(Scope::Operator, path, &request).await
        } else {
            apply(&world, &of(of_text(text))).await
        };
        let problem = answer.problem(Code::Invalid);
        let lines: Vec<usize> = problem.diagnostics.iter().map(|d| d.line).collect();
        assert!(lines.contains(&2) && lines.contains(&5), "{problem:?}");
    }
    assert_eq!(revision(&world), 0);
}

#[tokio::test]
async fn a_plan_other_than_the_reviewed_one_is_not_applied() {
    let world = World::new();
    world.import_tiny();
    let plan = planned(&world, bundle(3, ""), false).await.document;
    let request = ApplyRequest {
        expect_plan: Some(plan.plan_id),
        ..of(bundle(4, ""))
    };
    apply(&world, &request).await.problem(Code::OtherPlan);
    assert_eq!(revision(&world), 0);
}

#[tokio::test]
async fn a_saved_plan_is_applied_once() {
    let world = World::new();
    world.import_tiny();
    let plan = save(&world, bundle(3, "")).await;
    // As a file has it: through text and back.
    let plan: SavedPlan =
        serde_json::from_str(&serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    let first = applied(&world, &saved(&plan)).await;
    assert_eq!((first.revision, first.already), (Revision(1), false));
    world.settle(0);
    let again = applied(&world, &saved(&plan)).await;
    assert_eq!((again.revision, again.already), (Revision(1), true));
}

#[tokio::test]
async fn a_saved_plan_that_was_changed_is_refused() {
    let world = World::new();
    world.import_tiny();
    let good = save(&world, bundle(3, "")).await;
    let lab: PoolName = "lab".parse().unwrap();
    let changes: [fn(&mut SavedPlan, &PoolName); 8] = [
        |plan, lab| plan.desired.pools.get_mut(lab).unwrap().desktops = 4,
        |plan, _| plan.texts = Digest([1; 32]),
        |plan, _| plan.base.objects.clear(),
        |plan, _| plan.bounds.sessions_interrupted += 1,
        |plan, _| plan.document.changes.clear(),
        |plan, _| plan.seal = Digest([0; 32]),
        |plan, _| plan.grid = GridId([6; 16]),
        |plan, _| plan.format = 2,
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut plan = good.clone();
        change(&mut plan, &lab);
        assert_ne!(plan, good, "{n}");
        apply(&world, &saved(&plan)).await.problem(Code::Seal);
    }
    assert_eq!(revision(&world), 0);
}

#[tokio::test]
async fn a_saved_plan_is_stale_when_what_it_read_has_changed_and_only_then() {
    let world = World::new();
    world.import_tiny();
    let other = "pool \"other\" {\n template = template.small\n desktops = 1\n}\n";
    applied(&world, &of(bundle(1, ""))).await;
    world.settle(0);

    let mine = save(&world, bundle(2, "")).await;
    applied(&world, &of(bundle(1, other))).await;
    // Somebody added another pool: no matter, and it stays.
    applied(&world, &saved(&mine)).await;
    let committed = world.grid.now().committed.clone();
    let sizes: Vec<u32> = committed.pools.values().map(|pool| pool.desktops).collect();
    assert_eq!(
        sizes,
        [2, 1],
        "lab as in the saved plan, other as in the later apply"
    );

    world.settle(0);
    let mine = save(&world, bundle(3, other)).await;
    applied(&world, &of(bundle(4, other))).await;
    let problem = apply(&world, &saved(&mine)).await.problem(Code::Stale);
    assert_eq!(problem.stale[0].address.to_string(), "pool.lab");
    assert!(problem.stale[0].by.contains("test-operator"), "{problem:?}");
}

#[tokio::test]
async fn a_gate_is_opened_by_its_own_name_only() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(6, ""))).await;
    world.settle(0);

    let problem = apply(&world, &of(bundle(1, ""))).await.problem(Code::Gate);
    assert_eq!(problem.gates[0].gate, GateKind::MassDelete);
    assert_eq!(problem.gates[0].verdict, Verdict::NeedsApproval);
    assert!(
        problem.help.contains("--approve mass-delete"),
        "{problem:?}"
    );
    let all_but = [
        GateKind::Protected,
        GateKind::PersonalData,
        GateKind::EmptyConfiguration,
    ];
    let request = ApplyRequest {
        approve: all_but.into(),
        ..of(bundle(1, ""))
    };
    apply(&world, &request).await.problem(Code::Gate);
    assert_eq!(revision(&world), 1);

    let request = ApplyRequest {
        approve: [GateKind::MassDelete].into(),
        ..of(bundle(1, ""))
    };
    assert_eq!(applied(&world, &request).await.revision, Revision(2));
    let run = &world.grid.now().runs[&Revision(2)];
    assert_eq!(run.bounds.approved, [GateKind::MassDelete].into());
}

#[tokio::test]
async fn an_empty_configuration_is_never_applied_by_accident() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(1, ""))).await;
    world.settle(0);
    let problem = apply(&world, &of(Bundle::default()))
        .await
        .problem(Code::Gate);
    assert!(
        problem
            .gates
            .iter()
            .any(|gate| gate.gate == GateKind::EmptyConfiguration)
    );
    assert!(!world.grid.now().committed.pools.is_empty());
    let request = ApplyRequest {
        approve: [GateKind::EmptyConfiguration].into(),
        ..of(Bundle::default())
    };
    applied(&world, &request).await;
    assert!(world.grid.now().committed.pools.is_empty());
}

#[tokio::test]
async fn more_interrupted_sessions_than_were_allowed_stop_an_apply() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(1, ""))).await;
    world.settle(2);
    // Somebody asked for a restart of a desktop that two people are at: that would cut them off now.
    let restart = "/desktops/lab-001/restart";
    let asked = world
        .send(Scope::Helpdesk, axum::http::Method::POST, restart, "")
        .await;
    assert_eq!(asked.status, StatusCode::NO_CONTENT);
    let more = bundle(2, "");
    let plan = planned(&world, more.clone(), false).await.document;
    let interrupted = plan.summary.impact.sessions_interrupted.value;
    assert!(interrupted > 0, "{plan:?}");
    let request = ApplyRequest {
        max_interrupted: Some(interrupted - 1),
        ..of(more.clone())
    };
    let problem = apply(&world, &request).await.problem(Code::Bounds);
    assert!(
        problem
            .help
            .contains(&format!("--max-interrupted {interrupted}")),
        "{problem:?}"
    );
    assert_eq!(revision(&world), 1);
    let request = ApplyRequest {
        max_interrupted: Some(interrupted),
        ..of(more)
    };
    applied(&world, &request).await;
    let run = &world.grid.now().runs[&Revision(2)];
    assert_eq!(run.bounds.sessions_interrupted, interrupted);
}

#[tokio::test]
async fn nothing_is_committed_on_what_was_not_seen() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(2, ""))).await;
    world.settle(0);
    let server = world.grid.server();
    world.grid.edit(|state| {
        let look = state
            .servers
            .get_mut(&server)
            .unwrap()
            .look
            .as_mut()
            .unwrap();
        Arc::make_mut(look).hypervisor = Health::Away("connection refused".to_owned());
    });
    let problem = apply(&world, &of(bundle(3, "")))
        .await
        .problem(Code::Incomplete);
    assert!(problem.detail.ends_with(": a"), "{problem:?}");
    assert_eq!(revision(&world), 1);
    let status: Status = world.get(Scope::Viewer, "/status").await;
    assert_eq!(
        status.servers[0].hypervisor_away.as_deref(),
        Some("connection refused")
    );
    assert!(!status.settled && !status.servers[0].current);
    let told: Explanation = world.get(Scope::Viewer, "/explain/server.a").await;
    assert!(
        told.trace
            .iter()
            .any(|line| line.contains("connection refused")),
        "{told:?}"
    );
}

#[tokio::test]
async fn without_a_majority_nothing_is_committed() {
    let world = World::new();
    world.grid.alone.store(true, Ordering::SeqCst);
    apply(&world, &of(bundle(1, "")))
        .await
        .problem(Code::Quorum);
    world.grid.alone.store(false, Ordering::SeqCst);
    assert_eq!(revision(&world), 0);
}

#[tokio::test]
async fn a_plan_for_a_target_leaves_the_rest_out_and_cannot_be_saved() {
    let world = World::new();
    world.import_tiny();
    let both = bundle(
        2,
        "pool \"other\" {\n template = template.small\n desktops = 1\n}\n",
    );
    let target = "pool.other".parse().unwrap();
    let mut request = PlanRequest {
        bundle: both,
        targets: [target].into(),
        save: false,
        lose: Default::default(),
    };
    let plan: PlanResponse = world
        .post(Scope::Planner, "/plans", &request)
        .await
        .json(StatusCode::OK);
    assert!(!plan.document.complete);
    let subjects: Vec<String> = plan
        .document
        .actions
        .iter()
        .map(|group| group.subject.to_string())
        .collect();
    // What the pool refers to is new too, and comes with it; the other pool does not.
    let expected = ["image.tiny", "template.small", "pool.other", "pool.other"];
    assert_eq!(subjects, expected);
    let desktops = plan.document.actions.last().unwrap();
    let needs: Vec<String> = desktops.needs.iter().map(ToString::to_string).collect();
    assert_eq!(needs, expected[..3]);
    assert_eq!(plan.document.targets.len(), 1);
    assert!(plan.document.unseen.is_empty(), "every server was seen");
    request.save = true;
    world
        .post(Scope::Planner, "/plans", &request)
        .await
        .problem(Code::Incomplete);
}

#[tokio::test]
async fn drift_is_told_with_what_others_changed() {
    let world = World::new();
    world.import_tiny();
    applied(&world, &of(bundle(1, ""))).await;
    world.settle(0);
    let drift: DriftReport = world.get(Scope::Viewer, "/drift").await;
    assert!(drift.complete && drift.drift.is_empty(), "{drift:?}");
    world.lose_overlay();
    let drift: DriftReport = world.get(Scope::Viewer, "/drift").await;
    assert_eq!(drift.drift[0].object.to_string(), "desktop.lab-001");
    assert_eq!(drift.document.drift.len(), 1);
}

#[tokio::test]
async fn an_explanation_says_why_nothing_happens() {
    let world = World::new();
    // The image is not there yet.
    applied(&world, &of(bundle(2, ""))).await;
    let told: Explanation = world.get(Scope::Viewer, "/explain/pool.lab").await;
    assert_eq!(told.state, "configured");
    let about_image = format!("{:?} {:?}", told.waits, told.findings);
    assert!(
        about_image.contains("tiny") || about_image.contains("Image"),
        "{told:?}"
    );
    assert!(
        told.trace
            .iter()
            .any(|line| line == "2 desktops are wanted, and 0 are there"),
        "{told:?}"
    );
    assert!(
        told.trace
            .iter()
            .any(|line| line.contains("test-operator in revision 1")),
        "{told:?}"
    );

    world.import_tiny();
    world.settle(0);
    let told: Explanation = world.get(Scope::Viewer, "/explain/desktop.lab-001").await;
    assert_eq!(told.state, "available");
    assert!(
        told.trace
            .iter()
            .any(|line| line.contains("on server a, a clone of tiny@1")),
        "{told:?}"
    );
    let absent = world
        .send(
            Scope::Viewer,
            axum::http::Method::GET,
            "/explain/pool.none",
            "",
        )
        .await;
    absent.problem(Code::Absent);
}

#[tokio::test]
async fn raw_xml_is_committed_by_an_admin_and_then_stays() {
    let world = World::new();
    world.import_tiny();
    let with = |xml: &str, desktops: u32| {
        let mut bundle = bundle(desktops, "");
        let text = &mut bundle.texts[0].text;
        *text = text.replace(
            "image   = image.tiny",
            &format!("image = image.tiny\nlibvirt_xml = \"{xml}\""),
        );
        of(bundle)
    };
    let problem = apply(&world, &with("<a/>", 1))
        .await
        .problem(Code::Forbidden);
    assert!(problem.detail.contains("template.small"), "{problem:?}");
    assert!(problem.detail.contains("scope admin"), "{problem:?}");
    assert!(problem.help.contains("admin"), "{problem:?}");
    let first = with("<a/>", 1);
    let answer = world.post(Scope::Admin, "/apply", &first).await;
    answer.json::<ApplyResponse>(StatusCode::OK);
    // What is there already is nobody's risk that was not taken; another text is.
    applied(&world, &with("<a/>", 2)).await;
    apply(&world, &with("<b/>", 2))
        .await
        .problem(Code::Forbidden);
    applied(&world, &of(bundle(2, ""))).await;
    // A plan that an admin's eyes never saw does not carry it either.
    let Configuration::Bundle(sneaky) = with("<c/>", 2).configuration else {
        panic!("a bundle")
    };
    let plan = save(&world, sneaky).await;
    apply(&world, &saved(&plan)).await.problem(Code::Forbidden);
}
