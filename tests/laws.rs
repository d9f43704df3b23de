//! Laws of the plan, over worlds and configurations by chance. What shrinks is the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Action, Memory, Plan, Reason, Risk, Wait};
use coppice_plans::{check, document, plan, reviewed};
use coppice_schema::ids::{Address, Revision};
use coppice_schema::known::Task;
use coppice_schema::review::{KnownRun, Reviewed};
use coppice_schema::units::{Span, Timestamp};
use coppice_schema::{Desired, Known};
use coppice_tests::configs;
use coppice_tests::storm::Storm;
use coppice_world::sim::Chance;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// What is known of a grid in the middle of a storm, a configuration that somebody may want of it, and the time.
fn known(seed: u64) -> (Known, Desired, Timestamp) {
    let storm = Storm::raged(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    let (known, now) = storm.known();
    let desired = configs::edited(&mut Chance::new(seed), &known.committed, 5);
    (known, desired, now)
}

/// The same value, built by inserting in another order and by way of its bytes.
fn rebuilt(known: &Known) -> Known {
    let text = serde_json::to_string(known).unwrap();
    let mut known: Known = serde_json::from_str(&text).unwrap();
    let backwards =
        |map: &mut BTreeMap<_, _>| *map = std::mem::take(map).into_iter().rev().collect();
    backwards(&mut known.desktops);
    known.servers = std::mem::take(&mut known.servers)
        .into_iter()
        .rev()
        .collect();
    known
}

/// Actions that would be ordered now.
fn due(plan: &Plan) -> impl Iterator<Item = &Action> {
    plan.actions
        .iter()
        .filter(|a| a.waits.is_empty() && a.step.is_some())
}

/// The same grid when `desired` has just been committed, by somebody who had looked at `reviewed`.
fn committed(known: &Known, desired: &Desired, reviewed: Vec<Reviewed>, now: Timestamp) -> Known {
    let run = KnownRun {
        started: now,
        reviewed,
    };
    Known {
        committed: desired.clone(),
        runs: BTreeMap::from([(Revision(1), run)]),
        ..known.clone()
    }
}

/// Without a run there is nothing to hold anything to.
fn preview(known: &Known, desired: &Desired, now: Timestamp) -> Plan {
    let known = Known {
        runs: BTreeMap::new(),
        ..known.clone()
    };
    plan(desired, &known, now)
}

fn awaits_approval(action: &Action) -> bool {
    action
        .waits
        .iter()
        .any(|wait| matches!(wait, Wait::Approval { .. }))
}

/// What is done because the configuration asks for it, and hurts.
fn is_to_be_reviewed(action: &Action) -> bool {
    let configured = matches!(
        action.reason,
        Reason::CannotUpdateInPlace { .. }
            | Reason::ImageVersion { .. }
            | Reason::RemovedFromConfig
            | Reason::Scale { .. }
            | Reason::PendingHardware
    );
    configured && action.risk >= Risk::Disruptive
}

fn is_repair(action: &Action) -> bool {
    matches!(
        action.reason,
        Reason::Drift { .. } | Reason::Broken { .. } | Reason::Requested
    )
}

proptest! {
    // The storms try new worlds; here the same ones every time, so that a failure is the change's own.
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 0,
        rng_seed: RngSeed::Fixed(2026),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_same_inputs_give_the_same_plan(seed: u64) {
        let (known, desired, now) = known(seed);
        prop_assert_eq!(plan(&desired, &known, now), plan(&desired, &known, now));
    }

    #[test]
    fn the_order_of_the_inputs_does_not_matter(seed: u64) {
        let (known, desired, now) = known(seed);
        prop_assert_eq!(plan(&desired, &known, now), plan(&desired, &rebuilt(&known), now));
    }

    #[test]
    fn the_checker_accepts_every_plan(seed: u64, later in 0u64..86_400_000) {
        let (known, desired, now) = known(seed);
        for wanted in [&desired, &known.committed, &Desired::default()] {
            let plan = plan(wanted, &known, now.after(Span(later)));
            prop_assert_eq!(check(&plan, wanted, &known), []);
        }
    }

    #[test]
    fn unknown_is_never_taken_as_absent(seed: u64) {
        let (mut known, desired, now) = known(seed);
        // Nothing of what any server shows can be believed, and nothing is shown any more.
        for server in known.servers.values_mut() {
            server.current = false;
            if let Some(look) = &mut server.look {
                look.members.clear();
                look.images.clear();
            }
        }
        for wanted in [&desired, &known.committed, &Desired::default()] {
            let plan = plan(wanted, &known, now);
            prop_assert!(!plan.complete || known.servers.is_empty());
            for action in due(&plan) {
                let Some(step) = &action.step else { continue };
                prop_assert!(!matches!(step.task, Task::Remove { .. }), "{:?}", action);
                prop_assert!(!matches!(step.memory, Memory::Grown { .. }), "{:?}", action);
            }
        }
    }

    #[test]
    fn what_nobody_reviewed_waits_and_a_repair_never_does(seed: u64) {
        let (known, desired, now) = known(seed);
        let bound = committed(&known, &desired, Vec::new(), now);
        let (free, held) = (preview(&bound, &desired, now), plan(&desired, &bound, now));
        for action in due(&held).filter(|action| is_to_be_reviewed(action)) {
            // Telling a server again, and the boot of a repair, go on with something that had begun.
            let begun = matches!(&action.step, Some(step) if step.memory == Memory::Unchanged);
            prop_assert!(begun, "{action:?}");
        }
        for action in held.actions.iter().filter(|action| awaits_approval(action)) {
            prop_assert!(is_to_be_reviewed(action), "{action:?}");
        }
        for repair in due(&free).filter(|action| is_repair(action)) {
            let mut same = held.actions.iter().filter(|a| (&a.object, a.kind) == (&repair.object, repair.kind));
            prop_assert!(same.any(|a| a.reason == repair.reason && !awaits_approval(a)), "{repair:?}");
        }
    }

    #[test]
    fn what_was_reviewed_waits_for_no_approval(seed: u64) {
        let (known, desired, now) = known(seed);
        let shown = preview(&known, &desired, now);
        let document = document::of(&shown, &known, "grid", now);
        let bound = committed(&known, &desired, reviewed(&document, &desired), now);
        let held = plan(&desired, &bound, now);
        let asks: Vec<&Action> = held.actions.iter().filter(|action| awaits_approval(action)).collect();
        prop_assert_eq!(asks, Vec::<&Action>::new());
        // An edit that nobody has applied is reviewed by applying it, whatever run is under way.
        let edit = plan(&desired, &committed(&known, &known.committed, Vec::new(), now), now);
        prop_assert!(edit.changes.is_empty() || !edit.actions.iter().any(awaits_approval));
    }

    #[test]
    fn the_checker_finds_what_nobody_reviewed(seed: u64) {
        let (known, desired, now) = known(seed);
        let free = preview(&committed(&known, &desired, Vec::new(), now), &desired, now);
        let hurts = |action: &&Action| {
            let begun = matches!(&action.step, Some(step) if matches!(step.task, Task::Remove { .. }) && step.memory == Memory::Unchanged);
            let repaired = action.object.desktop().is_some_and(|id| known.repairs.contains_key(id));
            is_to_be_reviewed(action) && !begun && !(repaired && action.reason == Reason::PendingHardware)
        };
        let pool = |object: &Address| match object.desktop() {
            Some(id) => Address::Pool(id.pool.clone()),
            None => object.clone(),
        };
        let hurt: BTreeSet<_> = due(&free).filter(hurts).map(|action| pool(&action.object)).collect();
        let violations = check(&free, &desired, &committed(&known, &desired, Vec::new(), now));
        let found: BTreeSet<_> = violations.iter().map(|violation| pool(&violation.object)).collect();
        prop_assert_eq!(hurt, found);
    }

    #[test]
    fn a_settled_world_gives_an_empty_plan(seed: u64) {
        let storm = Storm::settled(seed).map_err(TestCaseError::fail)?;
        let (known, now) = storm.known();
        let plan = plan(&known.committed, &known, now);
        prop_assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        prop_assert!(plan.is_settled());
        // Nothing is done, so nothing becomes more or less: a forecast that only hopes would differ.
        for (name, pool) in &plan.pools {
            let after = (pool.lowest, pool.available_after);
            prop_assert_eq!(after, (pool.available_now, pool.available_now), "pool {}", name);
        }
    }
}
