//! How a pool would stand while its part of the plan is carried out, and at its end.

use std::collections::BTreeMap;

use coppice_schema::ids::DesktopId;
use coppice_schema::known::{KnownDesktop, Phase, Task};
use coppice_schema::units::Span;

use super::power::Target;
use super::{GROWTH_GUESS, Yard};
use crate::draft::Draft;
use crate::plan::{Action, Basis, Estimate, Kind, PoolForecast, Reason, Wait};

/// What took longer from its order to being available was no growth: it was switched off, or used, in between.
const GROWTH_MOST: Span = Span::minutes(10);

/// Puts the pool's forecast into the plan, and how long its desktops take into its actions. `clonable`: there is an
/// image to make desktops of.
pub(crate) fn put(yard: Yard<'_>, clonable: bool, power: Option<&Target>, draft: &mut Draft<'_>) {
    let takes = growth(yard);
    let mine = |action: &Action| {
        let id = action.object.desktop();
        id.is_some_and(|id| id.pool == *yard.name)
    };
    for action in draft.actions.iter_mut().filter(|action| mine(action)) {
        if ends_in_a_boot(action.kind) {
            action.impact.takes = takes;
        }
    }
    let mine: Vec<&Action> = draft.actions.iter().filter(|action| mine(action)).collect();
    let forecast = of(yard, clonable, power, &mine, takes);
    draft.pools.insert(yard.name.clone(), forecast);
}

fn of(
    yard: Yard<'_>,
    clonable: bool,
    power: Option<&Target>,
    actions: &[&Action],
    takes: Estimate<Span>,
) -> PoolForecast {
    let by_desktop: BTreeMap<&DesktopId, &Action> = actions
        .iter()
        .filter_map(|action| Some((action.object.desktop()?, *action)))
        .collect();
    // What waits for a person may never be done.
    let acted = |id: &DesktopId| {
        let action = by_desktop.get(id).copied();
        action.filter(|action| !action.waits.iter().any(Wait::needs_a_person))
    };
    let mut now = 0;
    // Taken away for good or without a budget, and taken away in turn by a change.
    let (mut lost, mut in_turn) = (0, 0);
    let (mut after, mut staying, mut usable) = (0, 0, 0);
    for (id, desktop) in yard.members() {
        let there = is_there(&desktop.phase);
        let action = acted(id);
        now += u32::from(there);
        let off = power.is_some() && matches!(desktop.phase, Phase::Off { .. });
        let goes = action.is_some_and(|action| action.kind == Kind::Delete);
        usable += u32::from((there || off) && !goes);
        match action {
            Some(action) => {
                // Another is ready before it goes.
                let moves = matches!(action.reason, Reason::Rebalance { .. });
                let away = there && takes_away(action.kind) && !moves;
                let turn = away && is_voluntary(&action.reason);
                lost += u32::from(away && !turn);
                in_turn += u32::from(turn);
                after += u32::from(ends_there(action, desktop, clonable));
            }
            None => {
                let stays = stays_or_comes(yard, id, desktop, clonable);
                after += u32::from(stays);
                staying += u32::from(stays && !matches!(desktop.phase, Phase::Deleting { .. }));
            }
        }
    }
    let made = by_desktop.values().filter(|action| {
        let new = action.object.desktop();
        let new = new.filter(|id| !yard.known.desktops.contains_key(*id));
        let started = !matches!(
            action.step.as_ref().map(|step| &step.task),
            Some(Task::Create { start: false, .. })
        );
        action.kind == Kind::Create && started && new.is_some_and(|id| acted(id).is_some())
    });
    after += u32::try_from(made.count()).unwrap_or(u32::MAX);
    let desired = yard.pool.desktops;
    let wanted = power.map_or(desired, |target| target.wanted);
    // A surge goes away again, what leaves comes back only up to the pool's size, and no more run than are to.
    let after = after.min(wanted.max(staying));
    let rules = &yard.pool.policy.rollout;
    let floor = desired.saturating_sub(rules.max_unavailable.of(desired));
    let at_once = in_turn.min(usable.saturating_sub(floor));
    let lowest = now.saturating_sub(lost + at_once).min(after);
    let waves = in_turn.div_ceil(at_once.max(1));
    let each = takes.value.0.saturating_add(rules.healthy_after.0);
    PoolForecast {
        assignment: yard.pool.assignment,
        available_now: now,
        lowest,
        lowest_for: (at_once > 0).then(|| Estimate {
            value: Span(each.saturating_mul(u64::from(waves))),
            basis: Basis::Guess,
        }),
        available_after: after,
        wanted,
        desired,
    }
}

/// A person can have it now, or has it.
fn is_there(phase: &Phase) -> bool {
    matches!(phase, Phase::Available { .. } | Phase::InUse { .. })
}

fn takes_away(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::ReplaceCreateFirst
            | Kind::ReplaceDeleteFirst
            | Kind::Delete
            | Kind::Reboot
            | Kind::PowerOff
    )
}

fn ends_in_a_boot(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Create
            | Kind::ReplaceCreateFirst
            | Kind::ReplaceDeleteFirst
            | Kind::Reboot
            | Kind::PowerOn
    )
}

/// The roll-out's budget holds for it.
fn is_voluntary(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::CannotUpdateInPlace { .. }
            | Reason::ImageVersion { .. }
            | Reason::Refresh { .. }
            | Reason::PendingHardware
    )
}

/// Whether people can have a desktop once `action` was done to it.
fn ends_there(action: &Action, desktop: &KnownDesktop, clonable: bool) -> bool {
    match action.kind {
        Kind::ReplaceCreateFirst | Kind::ReplaceDeleteFirst => clonable,
        Kind::Reboot | Kind::PowerOn | Kind::Create | Kind::Migrate => true,
        // What is defined again after it was lost is started, where the pool's desktops are to run.
        Kind::Update => matches!(
            desktop.phase,
            Phase::Available { .. }
                | Phase::InUse { .. }
                | Phase::Provisioning { .. }
                | Phase::Broken { .. }
        ),
        // Told again to leave; its slot is filled again.
        Kind::Delete => clonable && matches!(desktop.phase, Phase::Deleting { .. }),
        Kind::PowerOff
        | Kind::Forget
        | Kind::Adopt
        | Kind::Move
        | Kind::CopyImage
        | Kind::Drain => false,
    }
}

/// Whether people can have a desktop to which this plan does nothing, once what is under way is done.
fn stays_or_comes(yard: Yard<'_>, id: &DesktopId, desktop: &KnownDesktop, clonable: bool) -> bool {
    let mut orders = yard.known.orders.values();
    let order = orders.find(|order| {
        order
            .task
            .member()
            .is_some_and(|member| member.desktop == *id)
    });
    match (&desktop.phase, order.map(|order| &order.task)) {
        (Phase::Unknown { .. }, _) | (_, Some(Task::Stop { .. })) => false,
        (Phase::Deleting { .. }, _) => clonable,
        (
            Phase::Available { .. }
            | Phase::InUse { .. }
            | Phase::Provisioning { .. }
            | Phase::Migrating { .. },
            _,
        ) => true,
        (Phase::Off { .. } | Phase::Broken { .. }, Some(task)) => {
            matches!(task, Task::Start { .. } | Task::Restart { .. })
        }
        (Phase::Off { .. } | Phase::Broken { .. }, None) => false,
    }
}

/// How long a desktop of the pool takes from its order to its first answer: the middle one of those that are
/// there, or a guess.
fn growth(yard: Yard<'_>) -> Estimate<Span> {
    let mut measured: Vec<Span> = yard
        .members()
        .filter_map(|(_, desktop)| Some(desktop.wear.ready?.since(desktop.grown)))
        .filter(|took| (Span(1)..=GROWTH_MOST).contains(took))
        .collect();
    measured.sort();
    match measured.get(measured.len() / 2) {
        Some(took) => Estimate {
            value: *took,
            basis: Basis::Measured,
        },
        None => Estimate {
            value: GROWTH_GUESS,
            basis: Basis::Guess,
        },
    }
}
