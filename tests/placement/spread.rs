//! Where new desktops go.

use coppice_plans::plan::{Kind, Plan};
use coppice_plans::{check, placement, plan};
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, ServerId};
use coppice_tests::fleet::{self, Fleet};
use coppice_world::sim::Chance;
use proptest::prelude::*;

use crate::config;

/// A grid by chance, and what somebody wants of it next: more desktops, or others.
fn growing(seed: u64) -> (Fleet, Desired) {
    let mut chance = Chance::new(seed);
    let servers = chance.between(1, 12);
    let (fleet, mut desired) = Fleet::by_chance(&mut chance, servers);
    for pool in desired.pools.values_mut() {
        pool.desktops += u32::try_from(chance.below(20)).unwrap();
    }
    (fleet, desired)
}

/// The servers on which the plan makes desktops, in its order.
fn made(plan: &Plan) -> Vec<(Address, Option<ServerId>)> {
    let creates = plan
        .actions
        .iter()
        .filter(|action| action.kind == Kind::Create);
    let of_desktops = creates.filter(|action| action.object.desktop().is_some());
    of_desktops
        .map(|action| (action.object.clone(), action.server))
        .collect()
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn no_plan_breaks_a_rule_and_the_same_inputs_place_alike(seed: u64) {
        let (fleet, desired) = growing(seed);
        let plan = fleet.plan(&desired);
        prop_assert_eq!(check(&plan, &desired, &fleet.known), []);
        prop_assert_eq!(&plan, &fleet.plan(&desired));
    }

    #[test]
    fn the_servers_that_a_batch_gives_are_those_that_weighing_each_anew_gives(seed: u64) {
        let (mut fleet, desired) = growing(seed);
        fleet.known.committed = desired.clone();
        let batch = made(&fleet.plan(&desired));
        // One desktop at a time, each by the trace of a choice, which weighs every server.
        for (object, server) in batch {
            let pool = Address::Pool(object.desktop().unwrap().pool.clone());
            let trace = placement(&desired, &fleet.known, &pool).unwrap();
            let chosen = trace.candidates.iter().find(|candidate| candidate.chosen);
            let name = server.map(|id| fleet.known.servers[&id].name.clone());
            prop_assert_eq!(chosen.map(|chosen| &chosen.server), name.as_ref());
            let mut one = plan(&desired, &fleet.known, fleet.now);
            one.actions.retain(|action| action.object == object);
            one.actions.iter_mut().for_each(|action| action.waits.clear());
            fleet.step(&one);
        }
    }

    #[test]
    fn a_choice_is_of_the_lowest_dominant_share(seed: u64) {
        let (fleet, desired) = growing(seed);
        for pool in desired.pools.keys() {
            let trace = placement(&desired, &fleet.known, &Address::Pool(pool.clone())).unwrap();
            prop_assert_eq!(trace.candidates.len(), fleet.known.servers.len());
            let fit = || trace.candidates.iter().filter(|candidate| candidate.lacks.is_none());
            let lowest = fit().map(|candidate| candidate.shares.dominant()).min();
            let chosen = trace.candidates.iter().find(|candidate| candidate.chosen);
            prop_assert_eq!(chosen.map(|chosen| chosen.dominant), lowest);
            for candidate in &trace.candidates {
                let all = [candidate.shares.cpus, candidate.shares.memory, candidate.shares.disk, candidate.shares.sessions];
                prop_assert_eq!(Some(candidate.dominant), all.into_iter().max());
            }
        }
    }

    #[test]
    fn equal_servers_are_within_one_desktop_of_each_other(seed: u64) {
        let mut chance = Chance::new(seed);
        let servers = usize::try_from(chance.between(2, 30)).unwrap();
        let mut fleet = Fleet::new(vec![fleet::capacity(32, 256, 4_000); servers]);
        let mut desired = Desired::default();
        let mut largest: f64 = 0.0;
        for image in ["debian", "win11"] {
            fleet.import(image);
            let (cpus, memory) = (chance.between(1, 4), chance.between(1, 8));
            fleet::template(&mut desired, image, u32::try_from(cpus).unwrap(), fleet::gib(memory));
            largest = largest.max(f64::from(u32::try_from(cpus).unwrap()) / 32.0).max(f64::from(u32::try_from(memory).unwrap()) / 256.0);
            let desktops = chance.between(1, 300);
            fleet::pool(&mut desired, image, image, u32::try_from(desktops).unwrap());
        }
        fleet.carry_out(&desired);
        let shares: Vec<f64> = fleet.known.servers.keys().map(|id| fleet.share(*id)).collect();
        let most = shares.iter().copied().fold(0.0, f64::max);
        let least = shares.iter().copied().fold(f64::MAX, f64::min);
        // Each went where the share after placing was the lowest, so none is ahead by more than the last one that it got.
        prop_assert!(most - least <= 2.0 * largest + 1e-9, "{shares:?} of {largest}");
        prop_assert!(fleet.known.desktops.len() > 1);
    }
}

#[test]
fn many_desktops_on_equal_servers_are_spread_within_half_a_per_cent() {
    let mut fleet = Fleet::new(vec![fleet::capacity(64, 512, 8_000); 25]);
    let mut desired = Desired::default();
    fleet.import("debian");
    fleet::template(&mut desired, "debian", 1, fleet::gib(2));
    fleet::pool(&mut desired, "lab", "debian", 5_000);
    fleet.carry_out(&desired);
    let shares: Vec<f64> = fleet
        .known
        .servers
        .keys()
        .map(|id| fleet.share(*id))
        .collect();
    let most = shares.iter().copied().fold(0.0, f64::max);
    let mean = shares.iter().sum::<f64>() / 25.0;
    assert!(most / mean <= 1.005, "{shares:?}");
    assert_eq!(fleet.known.desktops.len(), 5_000);
}

#[test]
fn the_largest_desktops_are_placed_first() {
    // Small ones first would leave no server with room for a large one.
    let mut fleet = Fleet::new(vec![fleet::capacity(16, 16, 4_000); 2]);
    let mut desired = Desired::default();
    for (image, memory) in [("a-small", 4), ("z-large", 12)] {
        fleet.import(image);
        fleet::template(&mut desired, image, 1, fleet::gib(memory));
        fleet::pool(&mut desired, image, image, 2);
    }
    fleet.carry_out(&desired);
    assert_eq!(fleet.known.desktops.len(), 4);
}
