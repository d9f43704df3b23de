//! Rounds of plan and apply against an ideal server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
mod grid;

use coppice_plans::plan::{DriftKind, Kind, Response, Wait};
use coppice_schema::Digest;
use coppice_schema::desired::{DriftRule, Origin, Power, Refresh, RefreshOn};
use coppice_schema::ids::Revision;
use coppice_schema::known::{GuestState, Phase, PowerState};
use coppice_schema::units::{Share, Size, Span};
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
    let mut grid = Grid::founded();
    assert!(matches!(grid.commit(&config(3)), Outcome::Committed { .. }));
    grid.settle();
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
    let mut grid = Grid::founded();
    grid.commit(&config(5));
    grid.settle();
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
    let mut grid = Grid::founded();
    let mut desired = config(4);
    pool(&mut desired).policy.rollout.max_unavailable = Share::Count(1);
    grid.commit(&desired);
    grid.settle();
    grid.import("2", Digest::of(b"stored tiny 2"));
    grid.report();
    desired.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
    grid.commit(&desired);
    for _ in 0..40 {
        grid.round();
        let ready = grid
            .state
            .desktops
            .values()
            .filter(|d| matches!(d.phase, Phase::Available { .. }))
            .count();
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
    let mut grid = Grid::founded();
    let mut desired = config(2);
    grid.commit(&desired);
    grid.settle();
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
    let mut grid = Grid::founded();
    grid.commit(&config(4));
    grid.settle();
    let members: Vec<_> = grid.world.keys().cloned().collect();
    grid.world
        .get_mut(&members[0])
        .unwrap()
        .domain
        .as_mut()
        .unwrap()
        .power = PowerState::Crashed;
    grid.world.get_mut(&members[1]).unwrap().overlay = None;
    grid.world.get_mut(&members[2]).unwrap().domain = None;
    grid.world
        .get_mut(&members[3])
        .unwrap()
        .domain
        .as_mut()
        .unwrap()
        .spec
        .hardware
        .disk = Size::gib(9);
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
    let mut grid = Grid::founded();
    grid.commit(&config(1));
    grid.settle();
    let member = grid.world.keys().next().unwrap().clone();
    grid.world
        .get_mut(&member)
        .unwrap()
        .domain
        .as_mut()
        .unwrap()
        .spec
        .hardware
        .cpus = 8;
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
    let mut grid = Grid::founded();
    grid.commit(&config(1));
    grid.settle();
    let member = grid.world.keys().next().unwrap().clone();
    for _ in 0..3 {
        grid.world
            .get_mut(&member)
            .unwrap()
            .domain
            .as_mut()
            .unwrap()
            .spec
            .hostname = "mine".to_owned();
        grid.report();
        assert_eq!(
            grid.plan_for(&config(1)).drift[0].response,
            Response::Repaired
        );
        grid.settle();
    }
    grid.world
        .get_mut(&member)
        .unwrap()
        .domain
        .as_mut()
        .unwrap()
        .spec
        .hostname = "mine".to_owned();
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
    let mut grid = Grid::founded();
    let mut desired = config(4);
    pool(&mut desired).policy.power = Some(Power {
        spare: 1,
        ..Power::default()
    });
    grid.commit(&desired);
    grid.settle();
    let on = grid
        .state
        .desktops
        .values()
        .filter(|d| matches!(d.phase, Phase::Available { .. }))
        .count();
    let off = grid
        .state
        .desktops
        .values()
        .filter(|d| matches!(d.phase, Phase::Off { .. }))
        .count();
    assert_eq!((on, off), (1, 3), "{:?}", grid.phases());
    pool(&mut desired).policy.power = Some(Power {
        spare: 3,
        ..Power::default()
    });
    grid.commit(&desired);
    grid.settle();
    let on = grid
        .state
        .desktops
        .values()
        .filter(|d| matches!(d.phase, Phase::Available { .. }))
        .count();
    assert_eq!(on, 3, "{:?}", grid.phases());
}

#[test]
fn a_server_that_was_not_confirmed_is_unknown_and_not_empty() {
    let mut grid = Grid::founded();
    grid.commit(&config(3));
    grid.settle();
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
fn a_related_change_makes_a_plan_stale_and_an_unrelated_one_does_not() {
    let mut grid = Grid::founded();
    grid.commit(&config(3));
    let mut other = config(3);
    other.grid.timezone = "Europe/Berlin".to_owned();
    let stale = {
        let plan = grid.plan_for(&config(4));
        let commit = coppice_state::entry::Commit {
            desired: config(4),
            texts: Digest([0; 32]),
            base: plan.base.clone(),
            plan: Digest([9; 32]),
            reviewed: Vec::new(),
            bounds: Default::default(),
            author: "bob".to_owned(),
            changes: plan.changes.clone(),
        };
        Entry::Committed(Box::new(commit))
    };
    grid.commit(&other);
    let mut grid_after_unrelated = Grid {
        log: grid.log.clone(),
        ..Grid::founded()
    };
    grid_after_unrelated.state = grid.state.clone();
    assert!(matches!(
        grid_after_unrelated.propose(stale.clone()),
        Outcome::Committed { .. }
    ));
    assert_eq!(
        grid_after_unrelated.state.committed.grid.timezone, "Europe/Berlin",
        "what the plan did not touch stays as it was committed"
    );
    grid.commit(&config(7));
    let Outcome::Refused(Refusal::Stale(objects)) = grid.propose(stale) else {
        panic!("must be refused")
    };
    assert_eq!(objects[0].address.to_string(), "pool.lab");
    assert!(objects[0].by.contains("ada"), "{}", objects[0].by);
}

#[test]
fn applying_a_plan_twice_is_applying_it_once() {
    let mut grid = Grid::founded();
    grid.commit(&config(3));
    let entry = grid.log.last().unwrap().entry.clone();
    let before = grid.state.revision;
    assert!(matches!(grid.propose(entry), Outcome::Already { .. }));
    assert_eq!(grid.state.revision, before);
}

#[test]
fn the_same_log_gives_the_same_state() {
    let mut grid = Grid::founded();
    grid.commit(&config(4));
    grid.settle();
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
fn a_protected_pool_outlives_its_block() {
    let mut grid = Grid::founded();
    let mut desired = config(2);
    pool(&mut desired).protect = true;
    grid.commit(&desired);
    grid.settle();
    let mut without = desired.clone();
    without.pools.clear();
    grid.commit(&without);
    grid.settle();
    assert_eq!(grid.phases().len(), 2);
    pool(&mut desired).protect = false;
    grid.commit(&desired);
    grid.commit(&without);
    grid.settle();
    assert!(grid.phases().is_empty());
}

#[test]
fn a_desktop_that_is_being_restarted_is_not_there_for_the_budget() {
    let mut grid = Grid::founded();
    let mut desired = config(2);
    pool(&mut desired).policy.rollout.max_unavailable = Share::Count(1);
    grid.commit(&desired);
    grid.settle();
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

#[test]
fn a_guest_that_does_not_tell_keeps_the_people_that_it_had() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    pool(&mut desired).policy.refresh = Some(Refresh {
        on: Some(RefreshOn::Logoff),
        ..Refresh::default()
    });
    grid.commit(&desired);
    grid.settle();
    let says = |users| GuestState::Answers {
        hostname: "lab-01".to_owned(),
        users,
    };
    let mut shrunk = desired.clone();
    pool(&mut shrunk).desktops = 0;
    // What the guest says, and how many people a removal waits for then.
    for (said, waited_for) in [
        (says(Some(2)), 2),
        (says(None), 2),
        (GuestState::Silent, 1),
        (says(None), 1),
    ] {
        let seen = grid.world.values_mut().next().unwrap();
        seen.domain.as_mut().unwrap().guest = said.clone();
        grid.report();
        assert!(grid.plan_for(&desired).actions.is_empty(), "{said:?}");
        let plan = grid.plan_for(&shrunk);
        let removal = plan.actions.iter().find(|a| a.kind == Kind::Delete);
        let users = waited_for;
        let wait = Wait::Logoff { users, until: None };
        assert_eq!(removal.unwrap().waits, [wait], "{said:?}");
    }
    let seen = grid.world.values_mut().next().unwrap();
    seen.domain.as_mut().unwrap().guest = says(Some(0));
    grid.report();
    let plan = grid.plan_for(&desired);
    assert_eq!(plan.actions[0].kind, Kind::ReplaceDeleteFirst);
    assert!(plan.actions[0].waits.is_empty());
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
