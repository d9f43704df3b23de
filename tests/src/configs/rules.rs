//! Rules by chance: windows, what servers carry, and what pools say about their desktops' lives.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{
    Assignment, ClockTime, Cron, Days, Desired, DriftRule, Opening, Policy, Pool, Power,
    PowerSchedule, Recurrence, Refresh, ServerRule, Weekly, Window,
};
use coppice_schema::ids::WindowName;
use coppice_schema::units::{Size, Span};
use coppice_world::sim::Chance;

use super::{name, number};

/// A window in which roll-outs may go on.
const OPEN: &str = "nights";
/// A window within which disruptive work is refused.
const FROZEN: &str = "exams";
/// Labels that servers may have. The first server always has all of them.
const LABELS: [&str; 2] = ["ssd", "quiet"];
const EVERY_DAY: Days = Days(0x7f);
const DAY: u64 = 24 * 60;
/// Minutes of a freeze at most.
const FROZEN_MOST: u64 = 4 * 60;

fn clock(minute: u64) -> ClockTime {
    ClockTime(u16::try_from(minute % DAY).unwrap_or(0))
}

/// Some time of every day, between so many minutes.
fn hours(chance: &mut Chance, least: u64, most: u64) -> Weekly {
    let (from, length) = (chance.below(DAY), chance.between(least, most));
    Weekly {
        days: EVERY_DAY,
        from: clock(from),
        to: clock(from + length),
    }
}

/// A minute of every day, as a line of cron.
fn cron(chance: &mut Chance) -> Cron {
    let (minute, hour) = (chance.below(60), chance.below(24));
    let small = |n: u64| u8::try_from(n).unwrap_or(0);
    Cron {
        text: format!("{minute} {hour} * * *"),
        minutes: BTreeSet::from([small(minute)]),
        hours: BTreeSet::from([small(hour)]),
        days: (1..=31).collect(),
        months: (1..=12).collect(),
        weekdays: (0..7).collect(),
        either_day: false,
    }
}

fn opening(chance: &mut Chance, least: u64, most: u64) -> Opening {
    if chance.per_mille(500) {
        return Opening::Weekly(hours(chance, least, most));
    }
    Opening::Cron {
        cron: cron(chance),
        duration: Span::minutes(chance.between(least, most)),
    }
}

pub(super) fn windows(chance: &mut Chance) -> BTreeMap<WindowName, Window> {
    // Longer than any freeze: a window that is open only while another denies never lets anything through.
    let open = Window {
        opening: opening(chance, FROZEN_MOST + 10, 12 * 60),
        deny: false,
    };
    let mut windows = BTreeMap::from([(name(OPEN), open)]);
    if chance.per_mille(300) {
        let opening = opening(chance, 1, FROZEN_MOST);
        windows.insert(
            name(FROZEN),
            Window {
                opening,
                deny: true,
            },
        );
    }
    windows
}

/// Whatever they say, the first server can carry every desktop.
pub(super) fn servers(chance: &mut Chance) -> BTreeMap<String, ServerRule> {
    let labels = |all: &[&str]| all.iter().map(|l| (*l).to_owned()).collect();
    let first = ServerRule {
        labels: labels(&LABELS),
        ..ServerRule::default()
    };
    let every = ServerRule {
        labels: labels(
            LABELS
                .get(..1)
                .filter(|_| chance.per_mille(500))
                .unwrap_or_default(),
        ),
        keep_free_memory: Size::gib(chance.below(200)),
        ..ServerRule::default()
    };
    let second = ServerRule {
        cordon: chance.per_mille(300),
        ..ServerRule::default()
    };
    let all = [("s1", first), ("s*", every), ("s2", second)];
    all.into_iter()
        .map(|(pattern, rule)| (pattern.to_owned(), rule))
        .collect()
}

/// Makes every desktop somebody's, with copies on other servers.
pub(super) fn copied(chance: &mut Chance, desired: &mut Desired) {
    desired.grid.fence_after = Span::seconds(chance.between(10, 300));
    for pool in desired.pools.values_mut() {
        pool.assignment = Assignment::Personal;
        pool.policy.refresh = None;
        pool.servers = BTreeSet::new();
        pool.copies = number(chance, 1, 2);
        pool.max_copy_age = Some(Span::minutes(chance.between(1, 10)));
    }
}

/// Gives a pool rules of its own.
pub(super) fn rule(chance: &mut Chance, pool: &mut Pool) {
    if chance.per_mille(200) {
        pool.assignment = Assignment::Personal;
        // Not in all, so that some wait for their servers.
        pool.copies = number(chance, 0, 2);
        let some = pool.copies > 0 && chance.per_mille(500);
        pool.max_copy_age = some.then(|| Span::minutes(chance.between(1, 60)));
    }
    if chance.per_mille(200) {
        pool.slots = Some(pool.desktops + number(chance, 0, 2));
    }
    if chance.per_mille(200) {
        let label = chance.pick(&LABELS).copied().unwrap_or("ssd");
        pool.servers = BTreeSet::from([label.to_owned()]);
    }
    pool.protect = chance.per_mille(100);
    policy(chance, pool.assignment, &mut pool.policy);
    fit(pool);
}

fn policy(chance: &mut Chance, assignment: Assignment, policy: &mut Policy) {
    // Regrowing by a trigger is refused for desktops that people keep.
    if assignment == Assignment::Pooled && chance.per_mille(250) {
        policy.refresh = Some(refresh(chance));
    }
    if chance.per_mille(250) {
        policy.power = Some(power(chance));
    }
    if chance.per_mille(150) {
        policy.rollout.window = Some(name(OPEN));
    }
    if chance.per_mille(100) {
        policy.drift.image = DriftRule::Ignore;
    }
}

fn refresh(chance: &mut Chance) -> Refresh {
    let mut refresh = Refresh::default();
    match chance.below(4) {
        0 => refresh.every = Some(Span::hours(chance.between(6, 48))),
        1 => refresh.max_age = Some(Span::hours(chance.between(6, 48))),
        2 => refresh.at = Some(Recurrence::Cron(cron(chance))),
        _ => {
            refresh.at = Some(Recurrence::Weekly {
                days: EVERY_DAY,
                at: clock(chance.below(DAY)),
            });
        }
    }
    refresh
}

fn power(chance: &mut Chance) -> Power {
    let figures = |chance: &mut Chance| {
        let spare = number(chance, 0, 3);
        let more = number(chance, 0, 2);
        (spare, chance.per_mille(500).then_some(spare + more))
    };
    let (spare, powered_on_max) = figures(chance);
    let mut power = Power {
        spare,
        powered_on_max,
        schedules: BTreeMap::new(),
    };
    if chance.per_mille(500) {
        let (spare, powered_on_max) = figures(chance);
        let schedule = PowerSchedule {
            hours: hours(chance, 1, 12 * 60),
            spare,
            powered_on_max: powered_on_max.or(power.powered_on_max.map(|most| most.max(spare))),
        };
        power.schedules.insert("lessons".to_owned(), schedule);
    }
    power
}

/// Makes a pool whose size was changed as valid as `resolve` wants it.
pub(super) fn fit(pool: &mut Pool) {
    pool.slots = pool.slots.map(|slots| slots.max(pool.desktops));
    if let Some(power) = &mut pool.policy.power {
        power.spare = power.spare.min(pool.desktops);
        for schedule in power.schedules.values_mut() {
            schedule.spare = schedule.spare.min(pool.desktops);
        }
    }
}
