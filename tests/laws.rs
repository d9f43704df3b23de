//! Laws of the plan, over worlds and configurations by chance. What shrinks is the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Action, Base, Memory, Plan, Reason, Risk, Wait};
use coppice_plans::windows::{self, Now};
use coppice_plans::{check, document, plan, reviewed};
use coppice_schema::desired::{ClockTime, Days, Power, PowerSchedule, Weekly};
use coppice_schema::ids::{Address, DesktopId, Revision};
use coppice_schema::known::{Phase, Task};
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

/// What is to be done when every server of the storm of `seed` has told what it sees, in one order or the other. What
/// the plan was made of is left out: it is numbered by the log, and tells when each server looked.
fn plan_of_reports(seed: u64, backwards: bool) -> Plan {
    let mut storm = Storm::raged(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    storm.look(backwards);
    let (known, now) = storm.known();
    let plan = plan(&known.committed, &known, now);
    Plan {
        base: Base::default(),
        looked: BTreeMap::new(),
        ..plan
    }
}

/// The pools that run only some of their desktops, and in each how many would run: those that do, and those that
/// would be started at once. Also how many of them are used.
fn running<'a>(
    known: &'a Known,
    plan: &'a Plan,
) -> impl Iterator<Item = (&'a Power, bool, u32, u32)> {
    known.committed.pools.iter().filter_map(|(name, pool)| {
        let power = pool.policy.power.as_ref()?;
        let mine = |id: &DesktopId| id.pool == *name;
        // What is being stopped counts as it will be.
        let stopped = |id: &DesktopId| {
            let mut orders = known.orders.values();
            orders
                .any(|order| matches!(&order.task, Task::Stop { member } if member.desktop == *id))
        };
        let phases = known
            .desktops
            .iter()
            .filter(|(id, _)| mine(id) && !stopped(id))
            .map(|(_, d)| &d.phase);
        let runs = |phase: &&Phase| match phase {
            Phase::Available { .. }
            | Phase::InUse { .. }
            | Phase::Provisioning { .. }
            | Phase::Migrating { .. } => true,
            Phase::Off { .. }
            | Phase::Broken { .. }
            | Phase::Unknown { .. }
            | Phase::Deleting { .. } => false,
        };
        let starts = due(plan)
            .filter_map(|action| action.step.as_ref())
            .filter(|step| match &step.task {
                Task::Create { spec, start } => *start && mine(&spec.member.desktop),
                Task::Start { member } => {
                    let phase = known.desktops.get(&member.desktop).map(|d| &d.phase);
                    mine(&member.desktop) && matches!(phase, Some(Phase::Off { .. }))
                }
                Task::Restart { .. }
                | Task::Restore { .. }
                | Task::Redefine { .. }
                | Task::Stop { .. }
                | Task::Remove { .. }
                | Task::Receive { .. }
                | Task::Send { .. }
                | Task::Enter { .. }
                | Task::Stay { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. }
                | Task::CopyImage { .. } => false,
            });
        let used = phases
            .clone()
            .filter(|phase| matches!(phase, Phase::InUse { .. }));
        let (started, used) = (starts.count(), used.count());
        let all = phases.filter(runs).count() + started;
        let number = |n: usize| u32::try_from(n).unwrap();
        Some((power, started > 0, number(all), number(used)))
    })
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
    fn the_order_in_which_servers_report_does_not_matter(seed: u64) {
        prop_assert_eq!(plan_of_reports(seed, false), plan_of_reports(seed, true));
    }

    #[test]
    fn no_more_are_started_than_may_run(seed: u64, people: u64) {
        let (mut known, _, now) = known(seed);
        let mut chance = Chance::new(people);
        for desktop in known.desktops.values_mut() {
            let there = matches!(desktop.phase, Phase::Available { .. } | Phase::Off { .. });
            match chance.below(3) {
                0 if there => desktop.phase = Phase::InUse { since: now, users: 1, viewers: 0 },
                1 if there => desktop.phase = Phase::Off { since: now },
                _ => {}
            }
        }
        let lessons = PowerSchedule {
            hours: Weekly { days: Days(0x7f), from: ClockTime(8 * 60), to: ClockTime(20 * 60) },
            spare: 2,
            powered_on_max: Some(2),
        };
        let power = Power {
            spare: 3,
            powered_on_max: Some(3),
            schedules: BTreeMap::from([("lessons".to_owned(), lessons)]),
        };
        for pool in known.committed.pools.values_mut() {
            pool.policy.power = Some(power.clone());
        }
        let zone = windows::zone(&known.committed.grid.timezone);
        for hour in 0..24 {
            let now = now.after(Span::hours(hour));
            let plan = plan(&known.committed, &known, now);
            for (power, starts, all, used) in running(&known, &plan) {
                let open = |hours| matches!(windows::weekly_state(hours, &zone, now), Now::Open { .. });
                let schedule = power.schedules.values().find(|schedule| open(&schedule.hours));
                let (spare, most) = match schedule {
                    Some(now) => (now.spare, now.powered_on_max.or(power.powered_on_max)),
                    None => (power.spare, power.powered_on_max),
                };
                let most = (used + spare).min(most.unwrap_or(u32::MAX)).max(used);
                prop_assert!(!starts || all <= most, "{} run of {}: {:?}", all, most, power);
            }
        }
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
