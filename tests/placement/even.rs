//! What moves to level the load.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{FindingKind, Plan, Reason};
use coppice_plans::{check, rebalance};
use coppice_schema::desired::Desired;
use coppice_schema::ids::{DesktopId, Member, ServerId};
use coppice_schema::known::{Phase, ServerState};
use coppice_tests::fleet::{self, Fleet};
use coppice_world::sim::Chance;
use proptest::prelude::*;

use crate::config;

/// A grid by chance, after servers have joined that hold the images.
fn joined(seed: u64) -> (Fleet, Desired) {
    let mut chance = Chance::new(seed);
    let servers = chance.between(2, 8);
    let (mut fleet, desired) = Fleet::by_chance(&mut chance, servers);
    for _ in 0..chance.between(1, 3) {
        fleet.join(fleet::capacity(16, 32, 200));
    }
    for image in ["debian", "win11"] {
        fleet.import(image);
    }
    (fleet, desired)
}

fn ready(fleet: &Fleet) -> usize {
    let ready = |phase: &Phase| matches!(phase, Phase::Available { .. } | Phase::InUse { .. });
    fleet
        .known
        .desktops
        .values()
        .filter(|desktop| ready(&desktop.phase))
        .count()
}

/// Makes the moves, to the end.
fn level(fleet: &mut Fleet, desired: &Desired) -> Result<u32, TestCaseError> {
    let moves = rebalance(desired, &fleet.known, fleet.now);
    fleet.known.ask_to_move(&moves);
    let before = ready(fleet);
    let mut gone = 0;
    for _ in 0..10_000 {
        let plan = fleet.plan(desired);
        prop_assert_eq!(check(&plan, desired, &fleet.known), []);
        gone += moved(&plan);
        if !fleet.step(&plan) {
            // What was to move has moved.
            let left = plan.actions.iter().filter(|action| is_move(&action.reason));
            prop_assert!(
                left.clone().all(|action| !action.waits.is_empty()),
                "{left:?}"
            );
            return Ok(gone);
        }
        prop_assert!(ready(fleet) >= before, "fewer than there were");
    }
    Err(TestCaseError::fail("it does not come to an end"))
}

fn is_move(reason: &Reason) -> bool {
    matches!(reason, Reason::Rebalance { .. })
}

/// Desktops that the plan lets go because another took their place.
fn moved(plan: &Plan) -> u32 {
    let go = plan.actions.iter().filter(|action| {
        let known =
            action.object.desktop().is_some() && action.kind != coppice_plans::plan::Kind::Create;
        known && is_move(&action.reason) && action.waits.is_empty()
    });
    u32::try_from(go.count()).unwrap()
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn what_was_levelled_is_level(seed: u64) {
        let (mut fleet, desired) = joined(seed);
        fleet.carry_out(&desired);
        // What had no place may find one where others left, and changes the load again.
        prop_assume!(fleet.plan(&desired).actions.is_empty());
        let used: BTreeSet<(DesktopId, ServerId)> = fleet.known.desktops.iter()
            .filter(|(_, desktop)| desktop.people() > 0)
            .map(|(id, desktop)| (id.clone(), desktop.server))
            .collect();
        let wanted = rebalance(&desired, &fleet.known, fleet.now).len();
        let gone = level(&mut fleet, &desired)?;
        prop_assert_eq!(usize::try_from(gone).unwrap(), wanted);
        prop_assert_eq!(rebalance(&desired, &fleet.known, fleet.now), Default::default());
        prop_assert_eq!(level(&mut fleet, &desired)?, 0);
        for (id, server) in used {
            prop_assert_eq!(fleet.known.desktops[&id].server, server, "somebody is at {}", id);
        }
    }

    #[test]
    fn only_idle_desktops_move_and_the_fullest_servers_get_emptier(seed: u64) {
        let (mut fleet, desired) = joined(seed);
        fleet.carry_out(&desired);
        let moves = rebalance(&desired, &fleet.known, fleet.now);
        let shares = |fleet: &Fleet| {
            let ids = fleet.known.servers.keys();
            let mut shares: Vec<f64> = ids.map(|id| fleet.share(*id)).collect();
            shares.sort_by(|a, b| b.total_cmp(a));
            shares
        };
        let before = shares(&fleet);
        for (member, to) in &moves {
            let desktop = fleet.known.desktops.get_mut(&member.desktop).unwrap();
            prop_assert_eq!(&desktop.spec.member, member);
            prop_assert_eq!(desktop.people(), 0);
            desktop.server = *to;
        }
        let after = shares(&fleet);
        let larger = before.iter().zip(&after).find(|(before, after)| (**before - **after).abs() > 1e-6);
        match larger {
            Some((before, after)) => prop_assert!(before > after, "{before} -> {after}"),
            None => prop_assert!(moves.is_empty()),
        }
    }

    #[test]
    fn it_is_told_where_it_is_worth_it_and_nowhere_else(seed: u64) {
        let (mut fleet, desired) = joined(seed);
        fleet.known.committed = desired.clone();
        let told = |plan: &Plan| plan.findings.iter().any(|f| matches!(f.kind, FindingKind::Uneven { .. }));
        let moves = rebalance(&desired, &fleet.known, fleet.now);
        let plan = fleet.plan(&desired);
        prop_assert_eq!(told(&plan), !moves.is_empty());
        // Nothing moves by itself.
        prop_assert!(!plan.actions.iter().any(|action| is_move(&action.reason)));
    }
}

/// Two servers with twenty desktops each, and one that has joined.
fn school() -> (Fleet, Desired) {
    let mut fleet = Fleet::new(vec![fleet::capacity(32, 32, 1_000); 2]);
    let mut desired = Desired::default();
    fleet.import("debian");
    fleet::template(&mut desired, "debian", 1, fleet::gib(1));
    fleet::pool(&mut desired, "lab", "debian", 40);
    fleet.carry_out(&desired);
    fleet.join(fleet::capacity(32, 32, 1_000));
    fleet.import("debian");
    (fleet, desired)
}

fn on(fleet: &Fleet, server: u64) -> usize {
    let here = fleet
        .known
        .desktops
        .values()
        .filter(|desktop| desktop.server == ServerId(server));
    here.count()
}

#[test]
fn a_server_that_joined_gets_its_share() {
    let (mut fleet, desired) = school();
    level(&mut fleet, &desired).unwrap();
    let each = [on(&fleet, 1), on(&fleet, 2), on(&fleet, 3)];
    assert_eq!(each.iter().sum::<usize>(), 40);
    // A tenth of 32 is three: so far apart is not worth a move.
    assert!(
        each.iter().max().unwrap() - each.iter().min().unwrap() <= 4,
        "{each:?}"
    );
}

#[test]
fn as_many_move_at_once_as_a_roll_out_may_take_away() {
    let (mut fleet, desired) = school();
    let moves = rebalance(&desired, &fleet.known, fleet.now);
    assert!(moves.len() > 4);
    fleet.known.ask_to_move(&moves);
    let plan = fleet.plan(&desired);
    let made = plan
        .actions
        .iter()
        .filter(|action| action.kind == coppice_plans::plan::Kind::Create);
    assert_eq!((made.count(), moved(&plan)), (4, 0));
    fleet.step(&plan);
    assert_eq!(moved(&fleet.plan(&desired)), 4);
}

/// Asks one desktop to move, and does `meanwhile` before the plan is made.
fn meanwhile(deed: impl FnOnce(&mut Fleet, &Member)) -> Plan {
    let (mut fleet, desired) = school();
    let moves = rebalance(&desired, &fleet.known, fleet.now);
    let one: BTreeMap<Member, ServerId> = moves.into_iter().take(1).collect();
    fleet.known.ask_to_move(&one);
    deed(&mut fleet, one.keys().next().unwrap());
    fleet.plan(&desired)
}

fn begun(plan: &Plan) -> usize {
    let moves = plan.actions.iter().filter(|action| {
        is_move(&action.reason) && action.kind == coppice_plans::plan::Kind::Create
    });
    moves.count()
}

#[test]
fn a_roll_out_and_a_server_that_is_emptied_go_first() {
    assert_eq!(begun(&meanwhile(|_, _| {})), 1);
    // It is as it is to be, and the others are not yet: one more of the new version would be no canary.
    let changing = meanwhile(|fleet, member| {
        for desktop in fleet.known.desktops.values_mut() {
            if desktop.spec.member != *member {
                desktop.spec.image = coppice_schema::Digest([9; 32]);
            }
        }
    });
    assert_eq!(begun(&changing), 0);
    let emptied = meanwhile(|fleet, member| {
        let here = fleet.known.desktops[&member.desktop].server;
        let other = if here == ServerId(1) {
            ServerId(2)
        } else {
            ServerId(1)
        };
        fleet.known.servers.get_mut(&other).unwrap().state = ServerState::Draining;
    });
    assert_eq!(begun(&emptied), 0);
    assert!(
        emptied
            .actions
            .iter()
            .any(|action| action.kind == coppice_plans::plan::Kind::Create)
    );
}

#[test]
fn what_is_regrown_meanwhile_or_used_stays() {
    let (mut fleet, desired) = school();
    let moves = rebalance(&desired, &fleet.known, fleet.now);
    fleet.known.ask_to_move(&moves);
    let all: Vec<Member> = moves.keys().cloned().collect();
    for member in &all {
        fleet.sit(&member.desktop);
    }
    let plan = fleet.plan(&desired);
    assert_eq!(moved(&plan), 0);
    assert!(
        !plan.actions.iter().any(|action| action.waits.is_empty()),
        "nothing is grown for those that stay"
    );
    // Another life of the same slot was never asked to move.
    for member in &all {
        let desktop = fleet.known.desktops.get_mut(&member.desktop).unwrap();
        desktop.phase = Phase::Available { since: fleet.now };
        desktop.incarnation = coppice_schema::ids::Incarnation(2);
        desktop.spec.member = member.desktop.member(desktop.incarnation);
        desktop.spec.uuid =
            member
                .desktop
                .uuid(fleet.known.grid, fleet.known.epoch, desktop.incarnation);
    }
    assert_eq!(fleet.plan(&desired).actions, []);
}

#[test]
fn a_pool_without_a_free_slot_stays_where_it_is() {
    let (fleet, mut desired) = school();
    let lab = fleet::name("lab");
    let pool: &mut coppice_schema::desired::Pool = desired.pools.get_mut(&lab).unwrap();
    pool.slots = Some(40);
    assert_eq!(
        rebalance(&desired, &fleet.known, fleet.now),
        Default::default()
    );
}

#[test]
fn what_was_to_move_and_cannot_any_more_stays() {
    let (mut fleet, desired) = school();
    let moves = rebalance(&desired, &fleet.known, fleet.now);
    fleet.known.ask_to_move(&moves);
    let edited = |edit: &dyn Fn(&mut Desired)| {
        let mut desired = desired.clone();
        edit(&mut desired);
        let plan = fleet.plan(&desired);
        plan.actions
            .iter()
            .filter(|action| is_move(&action.reason))
            .count()
    };
    assert!(edited(&|_| {}) > 0);
    let lab = fleet::name("lab");
    assert_eq!(
        edited(&|desired| desired.pools.get_mut(&lab).unwrap().slots = Some(40)),
        0
    );
    let rule = coppice_schema::desired::ServerRule {
        cordon: true,
        ..Default::default()
    };
    assert_eq!(
        edited(&|desired| drop(desired.servers.insert("*".to_owned(), rule.clone()))),
        0
    );
    let label = || ["gpu".to_owned()].into();
    assert_eq!(
        edited(&|desired| desired.pools.get_mut(&lab).unwrap().servers = label()),
        0
    );
}
