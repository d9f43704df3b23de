//! Rounds of plan and apply against an ideal server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/commits.rs"]
mod commits;
#[path = "rounds/grid.rs"]
mod grid;
#[path = "rounds/life.rs"]
mod life;
#[path = "rounds/phases.rs"]
mod phases;

use coppice_plans::plan::{DriftKind, Finding, FindingKind, Kind, Response};
use coppice_schema::Digest;
use coppice_schema::desired::{Assignment, Cache, Desired, DriftRule, Origin, Power};
use coppice_schema::ids::{Revision, SecretName};
use coppice_schema::known::{KnownDesktop, Phase, PowerState, Request, Task};
use coppice_schema::units::{Share, Size, Span, Timestamp};
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, Outcome, Refusal, State, apply};
use grid::{Grid, TERM, config, pool, root, template};

#[test]
fn a_plan_of_before_a_commit_does_not_finish_the_run_that_it_began() {
    let mut grid = Grid::founded();
    grid.import("1", root());
    let before = grid.plan_for(&grid.state.committed);
    assert!(before.is_settled());
    grid.commit(&config(1));
    let late = Entry::Planned {
        term: 0,
        base: before.base.clone(),
        orders: Vec::new(),
        findings: before.remembered(),
        settled: true,
    };
    grid.propose(late);
    let run = &grid.state.runs[&Revision(1)];
    assert_eq!(run.finished, None);
    grid.settle();
    grid.round();
    assert!(grid.state.runs[&Revision(1)].finished.is_some());
}

#[test]
fn a_pool_grows_and_then_nothing_is_left_to_do() {
    let mut grid = Grid::settled(&config(3));
    assert_eq!(
        grid.phases(),
        [
            "lab-001@1 available",
            "lab-002@1 available",
            "lab-003@1 available"
        ]
    );
    assert!(grid.plan_for(&config(3)).is_settled());
    assert!(grid.plan_for(&config(3)).actions.is_empty());
    grid.round();
    assert!(
        grid.state.runs.values().all(|run| run.finished.is_some()),
        "the run is told to be over"
    );
}

#[test]
fn a_pool_shrinks_from_its_highest_slots() {
    let mut grid = Grid::settled(&config(5));
    grid.commit(&config(2));
    grid.settle();
    assert_eq!(
        grid.phases(),
        ["lab-001@1 available", "lab-002@1 available"]
    );
    assert_eq!(grid.world.len(), 2);
}

#[test]
fn a_new_image_regrows_desktops_within_the_budget() {
    let mut desired = config(4);
    pool(&mut desired).policy.rollout.max_unavailable = Share::Count(1);
    let mut grid = Grid::settled(&desired);
    grid.import("2", Digest::of(b"stored tiny 2"));
    grid.report();
    desired.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
    grid.commit(&desired);
    for _ in 0..40 {
        grid.round();
        let ready = grid.count(|d| matches!(d.phase, Phase::Available { .. }));
        assert!(
            ready >= 3,
            "at least three of four stay: {:?}",
            grid.phases()
        );
    }
    grid.settle();
    assert!(
        grid.state
            .desktops
            .values()
            .all(|desktop| desktop.incarnation.0 == 2)
    );
}

#[test]
fn more_memory_waits_for_a_boot_and_idle_desktops_get_one() {
    let mut desired = config(2);
    let mut grid = Grid::settled(&desired);
    template(&mut desired).memory = Size::mib(128);
    let plan = grid.plan_for(&desired);
    assert!(
        plan.actions
            .iter()
            .any(|action| action.kind == Kind::Update && action.object.desktop().is_some())
    );
    grid.commit(&desired);
    grid.settle();
    for seen in grid.world.values() {
        let domain = seen.domain.as_ref().unwrap();
        assert_eq!(domain.spec.hardware.memory, Size::mib(128));
        assert!(!domain.stale_until_reboot);
    }
    assert!(
        grid.state
            .desktops
            .values()
            .all(|desktop| desktop.incarnation.0 == 1),
        "nothing was regrown"
    );
}

#[test]
fn what_others_break_is_found_and_mended() {
    let mut grid = Grid::settled(&config(4));
    let members: Vec<_> = grid.world.keys().cloned().collect();
    grid.domain(&members[0]).power = PowerState::Crashed;
    grid.world.get_mut(&members[1]).unwrap().overlay = None;
    grid.world.get_mut(&members[2]).unwrap().domain = None;
    grid.domain(&members[3]).spec.hardware.disk = Size::gib(9);
    grid.report();
    let plan = grid.plan_for(&config(4));
    let kinds: Vec<DriftKind> = plan.drift.iter().map(|drift| drift.kind).collect();
    for kind in [
        DriftKind::PoweredOff,
        DriftKind::OverlayMissing,
        DriftKind::DomainUndefined,
        DriftKind::DomainChanged,
    ] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    grid.settle();
    assert_eq!(
        grid.phases(),
        [
            "lab-001@1 available",
            "lab-002@2 available",
            "lab-003@1 available",
            "lab-004@1 available"
        ]
    );
}

#[test]
fn drift_that_is_only_to_be_told_is_told() {
    let mut grid = Grid::settled(&config(1));
    let member = grid.world.keys().next().unwrap().clone();
    grid.domain(&member).spec.hardware.cpus = 8;
    grid.report();
    let plan = grid.plan_for(&config(1));
    assert_eq!(plan.drift[0].response, Response::Told);
    assert!(plan.actions.is_empty());
    let mut strict = config(1);
    pool(&mut strict).policy.drift.domain = Some(DriftRule::Enforce);
    grid.commit(&strict);
    grid.settle();
    assert_eq!(
        grid.world[&member]
            .domain
            .as_ref()
            .unwrap()
            .spec
            .hardware
            .cpus,
        1
    );
}

#[test]
fn a_field_that_flips_to_and_fro_is_left_to_people() {
    let mut grid = Grid::settled(&config(1));
    let member = grid.world.keys().next().unwrap().clone();
    for _ in 0..3 {
        grid.domain(&member).spec.hostname = "mine".to_owned();
        grid.report();
        assert_eq!(
            grid.plan_for(&config(1)).drift[0].response,
            Response::Repaired
        );
        grid.settle();
    }
    grid.domain(&member).spec.hostname = "mine".to_owned();
    grid.report();
    let plan = grid.plan_for(&config(1));
    assert_eq!(plan.drift[0].response, Response::Contended);
    assert!(plan.actions.is_empty());
    grid.now = grid.now.after(Span::minutes(11));
    assert_eq!(
        grid.plan_for(&config(1)).drift[0].response,
        Response::Repaired
    );
}

#[test]
fn power_policy_keeps_spares_running_and_the_rest_off() {
    let mut desired = config(4);
    pool(&mut desired).policy.power = Some(Power {
        spare: 1,
        ..Power::default()
    });
    let mut grid = Grid::settled(&desired);
    let on = grid.count(|d| matches!(d.phase, Phase::Available { .. }));
    let off = grid.count(|d| matches!(d.phase, Phase::Off { .. }));
    assert_eq!((on, off), (1, 3), "{:?}", grid.phases());
    pool(&mut desired).policy.power = Some(Power {
        spare: 3,
        ..Power::default()
    });
    grid.commit(&desired);
    grid.settle();
    let on = grid.count(|d| matches!(d.phase, Phase::Available { .. }));
    assert_eq!(on, 3, "{:?}", grid.phases());
}

#[test]
fn a_server_that_was_not_confirmed_is_unknown_and_not_empty() {
    let grid = Grid::settled(&config(3));
    let known = grid.state.known(TERM + 1);
    let plan = coppice_plans::plan(&config(5), &known, grid.now);
    assert!(!plan.complete);
    assert!(
        plan.actions
            .iter()
            .filter(|action| action.step.is_some())
            .all(|action| !action.waits.is_empty())
    );
    assert!(
        plan.actions
            .iter()
            .all(|action| action.object.desktop().is_none() || !action.waits.is_empty())
    );
}

#[test]
fn the_same_log_gives_the_same_state() {
    let mut grid = Grid::settled(&config(4));
    grid.commit(&config(1));
    grid.settle();
    let mut replayed = State::default();
    for (index, envelope) in (1u64..).zip(&grid.log) {
        apply(&mut replayed, TERM, index, envelope);
    }
    assert_eq!(replayed.digest(), grid.state.digest());
    let back = State::decode(&grid.state.encode()).unwrap();
    assert_eq!(back, grid.state);
}

#[test]
fn a_desktop_that_is_being_restarted_is_not_there_for_the_budget() {
    let mut desired = config(2);
    pool(&mut desired).policy.rollout.max_unavailable = Share::Count(1);
    let mut grid = Grid::settled(&desired);
    template(&mut desired).memory = Size::mib(128);
    grid.commit(&desired);
    grid.round();
    // The order to restart the first is given, and its server has not reported since.
    let plan = grid.plan_for(&desired);
    let restarts: Vec<_> = plan
        .actions
        .iter()
        .filter(|action| action.kind == Kind::Reboot)
        .cloned()
        .collect();
    let (now, later): (Vec<_>, Vec<_>) = restarts
        .into_iter()
        .partition(|action| action.waits.is_empty());
    assert_eq!((now.len(), later.len()), (1, 1), "one of two at a time");
    grid.order(&now[0]);
    let plan = grid.plan_for(&desired);
    assert!(
        plan.actions.iter().all(|action| !action.waits.is_empty()),
        "{:#?}",
        plan.actions
    );
}

/// The pool's one desktop.
fn only(grid: &Grid) -> &KnownDesktop {
    grid.state.desktops.values().next().unwrap()
}

#[test]
fn time_does_not_go_back() {
    let mut grid = Grid::founded();
    let late = grid.now;
    grid.now = Timestamp(late.0 - 1);
    grid.propose(Entry::Tick);
    assert_eq!(grid.state.time, late);
}

#[test]
fn each_setting_of_a_secret_is_a_new_version() {
    let mut grid = Grid::founded();
    let name: SecretName = "ad-bind".parse().unwrap();
    for version in 1..=2 {
        grid.propose(Entry::SecretSet {
            name: name.clone(),
            sealed: vec![1],
            author: "ada".to_owned(),
        });
        assert_eq!(grid.state.secrets[&name].version, version);
    }
}

/// Whether a plan for `desired` is refused when `meanwhile` happened after it was made.
fn stale(grid: &mut Grid, desired: &Desired, meanwhile: impl FnOnce(&mut Grid)) -> bool {
    let plan = grid.plan_for(desired);
    meanwhile(grid);
    let outcome = grid.commit_plan(desired, plan);
    match outcome {
        Outcome::Refused(Refusal::Stale(_)) => true,
        Outcome::Committed { .. } => false,
        Outcome::Done | Outcome::Already { .. } | Outcome::Refused(_) => panic!("{outcome:?}"),
    }
}

#[test]
fn what_a_pool_refers_to_is_part_of_its_plan() {
    let mut grid = Grid::settled(&config(1));
    let mut other = config(1);
    template(&mut other).memory = Size::mib(128);
    let changed = |grid: &mut Grid| {
        grid.commit(&other);
    };
    assert!(stale(&mut grid, &config(2), changed), "its template");
    let mut grid = Grid::settled(&config(1));
    let imported = |grid: &mut Grid| grid.import("2", Digest::of(b"stored tiny 2"));
    assert!(stale(&mut grid, &config(2), imported), "its image");
    let mut grid = Grid::settled(&config(1));
    assert!(!stale(&mut grid, &config(2), |_| ()), "nothing");
}

#[test]
fn a_plan_that_destroys_a_person_s_disk_is_about_that_disk() {
    let regrown = |grid: &mut Grid| {
        let member = grid.world.keys().next_back().unwrap().clone();
        let author = "ada".to_owned();
        let request = Request::Regrow(member);
        grid.propose(Entry::Requested { request, author });
        grid.settle();
    };
    let mut grid = Grid::settled(&personal(2));
    assert!(stale(&mut grid, &personal(1), regrown));
    // Pooled ones come and go by themselves.
    let mut grid = Grid::settled(&config(2));
    assert!(!stale(&mut grid, &config(1), regrown));
}

#[test]
fn what_was_asked_of_a_desktop_is_forgotten_when_it_is_ordered() {
    for request in [Request::Restart, Request::Regrow] {
        let mut grid = Grid::settled(&config(1));
        let request = request(only(&grid).spec.member.clone());
        let author = "ada".to_owned();
        grid.propose(Entry::Requested { request, author });
        assert_eq!(grid.state.requests.len(), 1);
        let plan = grid.plan_for(&config(1));
        grid.order(&plan.actions[0]);
        assert!(grid.state.requests.is_empty());
        assert_eq!(grid.state.desktops.len(), 1);
    }
}

fn personal(desktops: u32) -> Desired {
    let mut desired = config(desktops);
    pool(&mut desired).assignment = Assignment::Personal;
    desired
}

#[test]
fn a_personal_desktop_whose_order_came_to_nothing_is_left_to_people() {
    let mut grid = Grid::settled(&personal(1));
    let member = only(&grid).spec.member.clone();
    let author = "ada".to_owned();
    let request = Request::Restart(member);
    grid.propose(Entry::Requested { request, author });
    let plan = grid.plan_for(&personal(1));
    grid.order(&plan.actions[0]);
    let stamp = *grid.state.orders.keys().next().unwrap();
    let why = "no such thing".to_owned();
    grid.propose(Entry::Withdrawn { stamp, why });
    let plan = grid.plan_for(&personal(1));
    assert_eq!(plan.actions, []);
    assert_eq!(plan.findings.len(), 1);
}

#[test]
fn a_personal_disk_keeps_what_its_guest_was_told_is_written() {
    let cache = |desired: &Desired| only(&Grid::settled(desired)).spec.hardware.cache;
    assert_eq!(cache(&personal(1)), Cache::None);
    assert_eq!(cache(&config(1)), Cache::Writeback);
}

#[test]
fn an_image_that_has_clones_stays_whatever_is_kept() {
    let mut desired = config(1);
    desired.images.values_mut().next().unwrap().keep = 0;
    let mut grid = Grid::settled(&desired);
    grid.import("2", Digest::of(b"stored tiny 2"));
    grid.report();
    desired.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
    grid.commit(&desired);
    let drops = |grid: &Grid| {
        let plan = grid.plan_for(&desired);
        let tasks = plan.actions.into_iter().filter_map(|action| action.step);
        let drops = tasks.filter(|step| matches!(step.task, Task::DropImage { .. }));
        drops.count()
    };
    assert_eq!(drops(&grid), 0);
    // The clone goes, and nothing keeps the version any more.
    let plan = grid.plan_for(&desired);
    grid.order(&plan.actions[0]);
    grid.carry_out();
    grid.report();
    grid.acknowledge();
    assert!(grid.state.desktops.is_empty());
    assert_eq!(drops(&grid), 1);
}

#[test]
fn a_personal_desktop_beyond_its_disk_limit_is_told_and_kept() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    pool(&mut desired).assignment = Assignment::Personal;
    template(&mut desired).disk_limit = Some(Size::gib(1));
    grid.commit(&desired);
    grid.settle();
    let overlay = grid.world.values_mut().next().unwrap();
    overlay.overlay.as_mut().unwrap().over_limit = true;
    grid.report();
    let plan = grid.plan_for(&desired);
    let limit = Some(Size::gib(1));
    let told = |finding: &Finding| finding.kind == FindingKind::OverLimit { limit };
    assert!(plan.findings.iter().any(told), "{:#?}", plan.findings);
    grid.settle();
    assert_eq!(grid.phases(), ["lab-001@1 available"]);
}

#[test]
fn the_last_admin_token_stays_whoever_revokes_first() {
    let mut grid = Grid::founded();
    let make = |grid: &mut Grid, id: &str, expires: Option<Span>| {
        let token = Token {
            hash: Digest::of(id.as_bytes()),
            scope: Scope::Admin,
            created: grid.now,
            expires: expires.map(|span| grid.now.after(span)),
        };
        let id = TokenId(id.to_owned());
        let author = "ada".to_owned();
        grid.propose(Entry::TokenCreated { id, token, author });
    };
    make(&mut grid, "over", Some(Span(0)));
    make(&mut grid, "second", None);
    let mut revoke = |id: &str| {
        let id = TokenId(id.to_owned());
        let author = "ada".to_owned();
        let at = grid.now;
        let entry = Entry::TokenRevoked { id, author };
        let index = grid.state.index + 1;
        apply(&mut grid.state, TERM, index, &Envelope { at, entry })
    };
    // Both were checked while both were there.
    assert_eq!(revoke("second"), Outcome::Done);
    let refused = revoke("admin");
    assert!(
        matches!(&refused, Outcome::Refused(Refusal::LastAdmin(what)) if what.contains("admin")),
        "{refused:?}"
    );
    assert!(grid.state.tokens.contains_key(&TokenId("admin".to_owned())));
}
