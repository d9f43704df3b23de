//! Laws of the plan, over worlds and configurations by chance. What shrinks is the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use coppice_plans::plan::{Action, Base, Memory, Plan};
use coppice_plans::windows::{self, Now};
use coppice_plans::{check, plan};
use coppice_schema::desired::{ClockTime, Days, Power, PowerSchedule, Weekly};
use coppice_schema::ids::DesktopId;
use coppice_schema::known::{Phase, Task};
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
        let phases = known
            .desktops
            .iter()
            .filter(|(id, _)| mine(id))
            .map(|(_, d)| &d.phase);
        let runs = |phase: &&Phase| match phase {
            Phase::Available { .. } | Phase::InUse { .. } | Phase::Provisioning { .. } => true,
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
                | Task::Redefine { .. }
                | Task::Stop { .. }
                | Task::Remove { .. }
                | Task::VerifyImage { .. }
                | Task::DropImage { .. } => false,
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
                0 if there => desktop.phase = Phase::InUse { since: now, users: 1 },
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
    fn a_settled_world_gives_an_empty_plan(seed: u64) {
        let storm = Storm::settled(seed).map_err(TestCaseError::fail)?;
        let (known, now) = storm.known();
        let plan = plan(&known.committed, &known, now);
        prop_assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        prop_assert!(plan.is_settled());
    }
}
