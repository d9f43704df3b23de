//! What a server is given: no more than it carries, and no more boots at once than it bears.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Kind, Plan, Wait};
use coppice_schema::desired::{
    Desired, Display, Firmware, Network, NetworkTarget, Power, ServerRule,
};
use coppice_schema::known::{Capacity, Feature, PowerState, ServerState, Task};
use coppice_schema::units::{Share, Size};
use coppice_state::Entry;
use grid::{Grid, config, pool, template};

/// Boots at once on the server of these tests: twice its eight processors.
const BOOTS: usize = 16;

/// How many actions of `kind` may be done now, and how many wait for their turn to boot.
fn boots(plan: &Plan, kind: Kind) -> (usize, usize) {
    let turn = Wait::Budget {
        name: "power-on".to_owned(),
    };
    let actions = plan.actions.iter().filter(|action| action.kind == kind);
    let actions: Vec<_> = actions.filter(|action| action.step.is_some()).collect();
    let due = actions.iter().filter(|a| a.waits.is_empty()).count();
    let wait = actions.iter().filter(|a| a.waits == [turn.clone()]).count();
    (due, wait)
}

#[test]
fn so_many_are_made_at_once() {
    let mut grid = Grid::founded();
    grid.commit(&config(20));
    assert_eq!(boots(&grid.plan_for(&config(20)), Kind::Create), (BOOTS, 4));
}

#[test]
fn so_many_are_started_at_once_that_ended_by_themselves() {
    let mut grid = Grid::settled(&config(20));
    for seen in grid.world.values_mut() {
        seen.domain.as_mut().unwrap().power = PowerState::Crashed;
    }
    grid.report();
    assert_eq!(
        boots(&grid.plan_for(&config(20)), Kind::PowerOn),
        (BOOTS, 4)
    );
}

#[test]
fn so_many_are_started_at_once_by_the_pool_s_figures() {
    let mut desired = config(20);
    pool(&mut desired).policy.power = Some(Power::default());
    let mut grid = Grid::settled(&desired);
    pool(&mut desired).policy.power.as_mut().unwrap().spare = 20;
    grid.commit(&desired);
    assert_eq!(boots(&grid.plan_for(&desired), Kind::PowerOn), (BOOTS, 4));
}

#[test]
fn so_many_are_restarted_at_once() {
    let mut desired = config(20);
    pool(&mut desired).policy.rollout.max_unavailable = Share::Percent(100);
    let mut grid = Grid::settled(&desired);
    template(&mut desired).memory = Size::mib(128);
    grid.commit(&desired);
    grid.round();
    assert_eq!(boots(&grid.plan_for(&desired), Kind::Reboot), (BOOTS, 4));
}

/// How many of `desired`'s desktops get a place, and what the others lack.
fn placed(grid: &Grid, desired: &Desired) -> (usize, BTreeSet<String>) {
    let plan = grid.plan_for(desired);
    let made = plan.actions.iter().filter(|a| a.kind == Kind::Create);
    let made: Vec<_> = made.filter(|a| a.object.desktop().is_some()).collect();
    let lacking = made.iter().flat_map(|action| &action.waits).map(|wait| {
        if let Wait::Room { lacking } = wait {
            lacking.clone()
        } else {
            format!("{wait:?}")
        }
    });
    let here = made.iter().filter(|action| action.step.is_some()).count();
    (here, lacking.collect())
}

fn lacks(words: &str) -> BTreeSet<String> {
    BTreeSet::from([format!("s1 {words}")])
}

fn describe(grid: &mut Grid, change: impl FnOnce(&mut Capacity, &mut BTreeSet<String>)) {
    let known = grid.state.servers[&grid.server].clone();
    let (mut capacity, mut labels) = (known.capacity, known.labels);
    change(&mut capacity, &mut labels);
    grid.propose(Entry::ServerDescribed {
        server: grid.server,
        labels,
        capacity,
        api: known.api,
        feature_level: known.feature_level,
    });
}

fn rule(desired: &mut Desired, change: impl FnOnce(&mut ServerRule)) {
    let rule = desired.servers.entry("s*".to_owned()).or_default();
    change(rule);
}

#[test]
fn memory_is_a_limit_and_some_of_it_can_be_kept_free() {
    let grid = Grid::founded();
    let mut desired = config(3);
    // Of the server's 64 GiB.
    template(&mut desired).memory = Size::gib(30);
    let little = lacks("has too little free memory");
    assert_eq!(placed(&grid, &desired), (2, little.clone()));
    rule(&mut desired, |rule| rule.keep_free_memory = Size::gib(5));
    assert_eq!(placed(&grid, &desired), (1, little));
}

#[test]
fn a_server_that_is_closed_gets_nothing() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    let closed = (0, lacks("takes no new desktops"));
    rule(&mut desired, |rule| rule.cordon = true);
    assert_eq!(placed(&grid, &desired), closed);
    assert_eq!(placed(&grid, &config(1)).0, 1);
    for state in [
        ServerState::Cordoned,
        ServerState::Draining,
        ServerState::Reconciling,
    ] {
        let (server, author) = (grid.server, "ada".to_owned());
        grid.propose(Entry::ServerSet {
            server,
            state,
            author,
        });
        assert_eq!(placed(&grid, &config(1)), closed, "{state:?}");
    }
}

#[test]
fn labels_must_match_whoever_gave_them() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    pool(&mut desired).servers = BTreeSet::from(["gpu".to_owned()]);
    assert_eq!(placed(&grid, &desired), (0, lacks("has other labels")));
    let mut by_rule = desired.clone();
    rule(&mut by_rule, |rule| {
        rule.labels.insert("gpu".to_owned());
    });
    assert_eq!(placed(&grid, &by_rule).0, 1);
    describe(&mut grid, |_, labels| {
        labels.insert("gpu".to_owned());
    });
    assert_eq!(placed(&grid, &desired).0, 1);
}

#[test]
fn a_server_without_a_feature_gets_no_desktop_that_needs_it() {
    let mut uefi = config(1);
    template(&mut uefi).firmware = Firmware::Uefi;
    let mut secure = config(1);
    template(&mut secure).firmware = Firmware::UefiSecure;
    let mut spice = config(1);
    template(&mut spice).displays = BTreeSet::from([Display::Spice]);
    for (feature, desired, words) in [
        (Feature::Uefi, uefi, "has no uefi"),
        (Feature::SecureBoot, secure, "has no secureboot"),
        (Feature::Spice, spice, "has no spice"),
    ] {
        let mut grid = Grid::founded();
        assert_eq!(placed(&grid, &desired).0, 1);
        describe(&mut grid, |capacity, _| {
            capacity.missing.insert(feature);
        });
        assert_eq!(placed(&grid, &desired), (0, lacks(words)));
        assert_eq!(placed(&grid, &config(1)).0, 1);
    }
}

#[test]
fn a_server_s_own_word_for_a_network_wins() {
    let bridge = |name: &str| NetworkTarget::Bridge {
        bridge: name.to_owned(),
        vlan: None,
    };
    let mut grid = Grid::founded();
    let mut desired = config(1);
    let target = bridge("br-lab");
    desired
        .networks
        .insert("lab".parse().unwrap(), Network { target });
    template(&mut desired).networks = vec!["lab".parse().unwrap()];
    let networks = |grid: &Grid| {
        let plan = grid.plan_for(&desired);
        let mut steps = plan.actions.into_iter().filter_map(|action| action.step);
        let Task::Create { spec, .. } = steps.next().unwrap().task else {
            panic!("nothing is made")
        };
        spec.hardware.networks
    };
    assert_eq!(networks(&grid), [bridge("br-lab")]);
    describe(&mut grid, |capacity, _| {
        capacity.networks = BTreeMap::from([("lab".parse().unwrap(), bridge("br7"))]);
    });
    assert_eq!(networks(&grid), [bridge("br7")]);
}

#[test]
fn a_server_that_has_not_said_what_it_carries_is_waited_for() {
    let mut grid = Grid::founded();
    let (server, author) = (grid.server, "ada".to_owned());
    let state = ServerState::Joining;
    grid.propose(Entry::ServerSet {
        server,
        state,
        author,
    });
    let plan = grid.plan_for(&config(1));
    let waits: Vec<_> = plan.actions.iter().flat_map(|a| &a.waits).collect();
    let server = "s1".to_owned();
    assert_eq!(waits, [&Wait::Observation { server }]);
}
