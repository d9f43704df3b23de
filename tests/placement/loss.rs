//! What is said of the loss of servers, against what comes of it.

use std::collections::BTreeSet;

use coppice_plans::loss::{Scarce, Shortfall};
use coppice_plans::plan::{FindingKind, GateKind, Plan, Wait};
use coppice_plans::{check, what_if};
use coppice_schema::desired::{Copies, Desired};
use coppice_schema::ids::ServerName;
use coppice_tests::fleet::{self, Fleet};
use coppice_world::sim::Chance;
use proptest::prelude::*;

use crate::config;

/// What the committed configuration's plan says of the promise: how many may be lost, and what has no place.
fn said(fleet: &mut Fleet, desired: &mut Desired, tolerate: u8) -> Option<(Option<u8>, Shortfall)> {
    desired.grid.tolerate_server_loss = tolerate;
    fleet.known.committed = desired.clone();
    let plan = fleet.plan(desired);
    assert!(
        !plan
            .gates
            .iter()
            .any(|gate| gate.kind == GateKind::ServerLoss),
        "a round is never stopped"
    );
    plan.findings.into_iter().find_map(|finding| {
        let FindingKind::LossNotCarried { carries, short, .. } = finding.kind else {
            return None;
        };
        Some((carries, short))
    })
}

/// Whether every desktop that is wanted finds a place when those are lost.
fn carried(fleet: &Fleet, desired: &Desired, lost: &BTreeSet<ServerName>) -> bool {
    let what_if = what_if(desired, &fleet.known, lost, fleet.now);
    assert_eq!(check(&what_if.plan, desired, &what_if.known), []);
    finds_places(&what_if.plan)
}

fn finds_places(plan: &Plan) -> bool {
    let waits = || plan.actions.iter().flat_map(|action| &action.waits);
    let no_room = |kind: &FindingKind| matches!(kind, FindingKind::NoRoom { .. });
    !waits().any(|wait| matches!(wait, Wait::Room { .. } | Wait::Copy { .. }))
        && !plan.findings.iter().any(|finding| no_room(&finding.kind))
}

/// Every loss of so many servers.
fn losses(fleet: &Fleet, count: u8) -> Vec<BTreeSet<ServerName>> {
    let names: Vec<ServerName> = fleet
        .known
        .servers
        .values()
        .map(|server| server.name.clone())
        .collect();
    let mut all = Vec::new();
    for (n, first) in names.iter().enumerate() {
        if count == 1 || names.len() == 1 {
            all.push(BTreeSet::from([first.clone()]));
        } else {
            let others = names.iter().skip(n + 1);
            all.extend(others.map(|second| BTreeSet::from([first.clone(), second.clone()])));
        }
    }
    all
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn a_promise_that_holds_is_kept_and_a_loss_that_is_named_is_not_carried(seed: u64, tolerate in 1u8..=2) {
        let mut chance = Chance::new(seed);
        let servers = chance.between(1, 7);
        let (mut fleet, mut desired) = Fleet::by_chance(&mut chance, servers);
        match said(&mut fleet, &mut desired, tolerate) {
            None => {
                for lost in losses(&fleet, tolerate) {
                    prop_assert!(carried(&fleet, &desired, &lost), "{lost:?}");
                }
            }
            Some((carries, short)) => {
                prop_assert!(short.scarce != Scarce::Unproven);
                let named: BTreeSet<ServerName> = short.lost.iter().map(|name| name.parse().unwrap()).collect();
                prop_assert_eq!(named.is_empty(), carries.is_none());
                // Rounds would crowd processors; what is promised does not count on that.
                let crowded = short.scarce == Scarce::Processors;
                prop_assert!(crowded || !carried(&fleet, &desired, &named), "{short:?}");
                let carries = carries.unwrap_or(0);
                prop_assert!(carries < tolerate);
                for lost in losses(&fleet, carries).into_iter().filter(|_| carries > 0) {
                    prop_assert!(carried(&fleet, &desired, &lost), "{lost:?}");
                }
            }
        }
    }

    #[test]
    fn of_desktops_of_one_kind_the_answer_is_exact(seed: u64, tolerate in 1u8..=2) {
        let mut chance = Chance::new(seed);
        let sizes: Vec<u64> = (0..chance.between(2, 6)).map(|_| chance.between(1, 12)).collect();
        let mut fleet = Fleet::new(sizes.iter().map(|size| fleet::capacity(64, *size, 4_000)));
        let mut desired = Desired::default();
        fleet.import("debian");
        fleet::template(&mut desired, "debian", 1, fleet::gib(1));
        let all: u64 = sizes.iter().sum();
        let wanted = chance.between(1, all);
        fleet::pool(&mut desired, "lab", "debian", u32::try_from(wanted).unwrap());
        fleet.carry_out(&desired);
        let mut largest = sizes.clone();
        largest.sort_unstable();
        let lost: u64 = largest.iter().rev().take(tolerate.into()).sum();
        let holds = said(&mut fleet, &mut desired, tolerate).is_none();
        prop_assert_eq!(holds, wanted <= all - lost, "{} on {:?}", wanted, sizes);
    }

    #[test]
    fn a_plan_is_refused_only_where_it_makes_the_promise_worse(seed: u64, tolerate in 1u8..=2) {
        let mut chance = Chance::new(seed);
        let servers = chance.between(2, 6);
        let (mut fleet, mut desired) = Fleet::by_chance(&mut chance, servers);
        let rank = |said: &Option<(Option<u8>, Shortfall)>| match said {
            None => tolerate + 1,
            Some((carries, _)) => carries.map_or(0, |carries| carries + 1),
        };
        let before = rank(&said(&mut fleet, &mut desired, tolerate));
        let mut edited = desired.clone();
        for pool in edited.pools.values_mut() {
            pool.desktops = pool.desktops.saturating_add_signed(i32::try_from(chance.below(20)).unwrap() - 10);
        }
        let plan = fleet.plan(&edited);
        let refused = plan.gates.iter().any(|gate| gate.kind == GateKind::ServerLoss);
        let broken = plan.findings.iter().find_map(|finding| {
            let FindingKind::LossNotCarried { carries, short, .. } = &finding.kind else {
                return None;
            };
            Some((*carries, short.clone()))
        });
        let after = rank(&broken);
        prop_assert_eq!(refused, after <= tolerate && after < before, "{} -> {}", before, after);
    }
}

#[test]
fn five_hundred_servers_of_which_two_may_be_lost() {
    let mut fleet = Fleet::new(vec![fleet::capacity(16, 40, 1_000); 500]);
    let mut desired = Desired::default();
    for image in ["debian", "win11"] {
        fleet.import(image);
        fleet::template(
            &mut desired,
            image,
            1,
            fleet::gib(if image == "debian" { 2 } else { 4 }),
        );
        fleet::pool(&mut desired, image, image, 100);
    }
    fleet.carry_out(&desired);
    assert_eq!(said(&mut fleet, &mut desired, 2), None);
}

#[test]
fn one_copy_of_an_image_is_none_when_its_server_is_lost() {
    let mut fleet = Fleet::new(vec![fleet::capacity(16, 64, 1_000); 3]);
    let mut desired = Desired::default();
    fleet.import("debian");
    fleet::template(&mut desired, "debian", 1, fleet::gib(1));
    fleet::pool(&mut desired, "lab", "debian", 3);
    let debian = fleet::name("debian");
    let block: &mut coppice_schema::desired::Image = desired.images.get_mut(&debian).unwrap();
    block.copies = Copies::Count(1);
    for server in fleet.known.servers.values_mut().skip(1) {
        server.look.as_mut().unwrap().images.clear();
    }
    fleet.carry_out(&desired);
    let (carries, short) = said(&mut fleet, &mut desired, 1).unwrap();
    assert_eq!((carries, short.scarce), (Some(0), Scarce::Copies));
    assert_eq!(short.lost, BTreeSet::from(["s001".to_owned()]));
    // Where it is to be on all, what a plan comes to counts, and until then what is.
    fleet.known.committed.grid.tolerate_server_loss = 0;
    desired.images.get_mut(&debian).unwrap().copies = Copies::All;
    let plan = fleet.plan(&desired);
    assert!(
        plan.gates.is_empty()
            && !plan
                .findings
                .iter()
                .any(|f| matches!(f.kind, FindingKind::LossNotCarried { .. }))
    );
    assert!(said(&mut fleet, &mut desired, 1).is_some());
}
