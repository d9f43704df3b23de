//! How many desktops a change may take away at once.

use coppice_schema::desired::DriftRule;
use coppice_schema::known::{KnownDesktop, Phase};
use coppice_schema::units::Timestamp;

use super::Yard;
use super::fate::TAKEN;
use crate::draft::Draft;
use crate::images::Published;
use crate::plan::{Applies, Finding, FindingKind, Kind, Severity, Wait};
use crate::specs;

use super::rollback::{self, GivenUp};

/// A pool's budget while a change reaches its desktops.
pub(crate) struct Rollout<'a> {
    /// Desktops that may be taken away now.
    budget: u32,
    /// Desktops that people can have.
    ready: u32,
    /// How a desktop is regrown.
    replacing: Kind,
    /// Below so many the pool must not come.
    floor: u32,
    /// Desktops that are not as the configuration wants them.
    outdated: u32,
    /// Desktops beyond the pool's size.
    surge: u32,
    /// How many are taken away in one go, for numbering waves.
    width: u32,
    /// Taken so far.
    taken: u32,
    /// What the whole of it waits for.
    wait: Option<Wait>,
    /// Which limit it is that the budget comes from.
    limit: &'static str,
    /// The published version was given up for now.
    given_up: Option<GivenUp<'a>>,
}

impl<'a> Rollout<'a> {
    pub(crate) fn survey(
        yard: Yard<'a>,
        image: Option<Published<'a>>,
        draft: &mut Draft<'_>,
    ) -> Self {
        let rules = &yard.pool.policy.rollout;
        let now = draft.now;
        let given_up = image.and_then(|image| rollback::survey(yard, image));
        let size = yard.pool.desktops;
        let width = rules.max_unavailable.of(size);
        let floor = size.saturating_sub(width);
        // By the policy alone: what was reviewed as one kind is that kind to the end.
        let replacing = if floor == size && rules.max_surge.of(size) > 0 {
            Kind::ReplaceCreateFirst
        } else {
            Kind::ReplaceDeleteFirst
        };
        // Switched off by the pool's own figures, or by others who may, one can be had; otherwise it cannot.
        let policy = &yard.pool.policy;
        let enforced = policy.drift.domain.unwrap_or(DriftRule::Enforce);
        let stays_on = policy.power.is_none() && enforced == DriftRule::Enforce;
        let mut seen = Census::default();
        let mut held = 0;
        for (id, desktop) in yard.members() {
            let fallen = stays_on && matches!(desktop.phase, Phase::Off { .. });
            // One that is being restarted looks as it did until its server reports again.
            let ready = is_ready(&desktop.phase) && !fallen && !draft.busy.contains(id);
            // In place of those on servers that are lost, or are being emptied, others are grown: they take no part.
            if super::replaced(yard.known, desktop).is_some() {
                seen.ready += u32::from(ready);
                continue;
            }
            // What is somebody's stays as it is, and is no part of it.
            let changes = !desktop.personal;
            let outdated = changes && image.is_some_and(|image| is_outdated(yard, image, desktop));
            // A roll-out that nobody approved makes no desktops beyond the pool's size.
            held += u32::from(outdated && draft.review.wait(id, replacing, TAKEN).is_some());
            seen.count(desktop, ready, outdated, rules.healthy_after, now, draft);
        }
        let mut budget = seen.ready.saturating_sub(floor);
        let mut limit = "max_unavailable";
        let tried = rules.canary > 0 && given_up.is_none();
        if tried && seen.proven < rules.canary && seen.outdated > 0 {
            // A slot that is empty for a moment is one of those that were taken away for the canary.
            let between = size.saturating_sub(seen.all);
            let left = rules
                .canary
                .saturating_sub(seen.updated + seen.leaving + between);
            if left < budget {
                (budget, limit) = (left, "canary");
            }
        }
        let mut wait = None;
        if let Some(given_up) = &given_up {
            wait = Some(Wait::RolloutStopped {
                failures: given_up.failures,
            });
            draft.finding(given_up.finding(yard));
        } else if seen.outdated > 0 {
            let name = rules.window.as_ref();
            let window = name.and_then(|name| yard.desired.windows.get(name));
            wait = draft.window(name.map_or("", |name| name.as_str()), window);
            let failures = failing(yard, seen.began);
            if failures >= rules.pause_after_failures.max(1) {
                wait = Some(Wait::RolloutStopped { failures });
                draft.finding(Finding {
                    object: yard.address(),
                    kind: FindingKind::RolloutStopped { failures },
                    severity: Severity::Error,
                    remedy: format!(
                        "mend the image or template, or: coppice resume pool.{}",
                        yard.name
                    ),
                });
            }
        }
        let surge = rules
            .max_surge
            .of(size)
            .min(seen.outdated.saturating_sub(held));
        Self {
            budget,
            ready: seen.ready,
            replacing,
            floor,
            outdated: seen.outdated,
            surge,
            width: width.max(1),
            taken: 0,
            wait,
            limit,
            given_up,
        }
    }

    /// The version that desktops are made of while the published one is given up.
    pub(crate) fn back(&self) -> Option<Published<'a>> {
        self.given_up.as_ref()?.back
    }

    /// Desktops that leave because the pool became smaller carry no roll-out: `lost` of them are ready now.
    pub(crate) fn without(&mut self, lost: u32) {
        let left = self.ready.saturating_sub(lost);
        self.budget = self.budget.min(left.saturating_sub(self.floor));
    }

    /// How a desktop is regrown: where none may be missing, a new one comes before the old one goes.
    pub(crate) fn replacing(&self) -> Kind {
        self.replacing
    }

    /// Whether a change still has to reach desktops of the pool.
    pub(crate) fn is_under_way(&self) -> bool {
        self.outdated > 0
    }

    /// How many desktops beyond the pool's size there may be.
    pub(crate) fn surge(&self) -> u32 {
        if self.outdated > 0 && self.wait.is_none() {
            self.surge
        } else {
            0
        }
    }

    /// Takes one ready desktop away, or says what it waits for. The number is its wave. One that comes `back` as what
    /// it was is no part of the roll-out, and does not wait with it.
    pub(crate) fn take(&mut self, ready: bool, back: bool) -> (u32, Option<Wait>) {
        let wave = self.taken / self.width;
        self.taken += 1;
        if let Some(wait) = self.wait.as_ref().filter(|_| !back) {
            return (wave, Some(wait.clone()));
        }
        if !ready {
            return (wave, None);
        }
        if self.budget == 0 {
            return (
                wave,
                Some(Wait::Budget {
                    name: self.limit.to_owned(),
                }),
            );
        }
        self.budget -= 1;
        (wave, None)
    }
}

#[derive(Default)]
struct Census {
    all: u32,
    ready: u32,
    outdated: u32,
    updated: u32,
    proven: u32,
    leaving: u32,
    /// When the first desktop of the new form was grown.
    began: Option<Timestamp>,
}

impl Census {
    fn count(
        &mut self,
        desktop: &KnownDesktop,
        ready: bool,
        outdated: bool,
        healthy_after: coppice_schema::units::Span,
        now: Timestamp,
        draft: &mut Draft<'_>,
    ) {
        self.all += 1;
        if matches!(desktop.phase, Phase::Deleting { .. }) {
            self.leaving += 1;
            return;
        }
        // A changed desktop must have been well for a while before it counts again.
        let proven_at = desktop
            .phase
            .since()
            .max(desktop.grown)
            .after(healthy_after);
        let proven = ready && proven_at <= now;
        if outdated {
            self.outdated += 1;
            self.ready += u32::from(ready);
            return;
        }
        if ready && !proven {
            draft.wake(proven_at);
        }
        self.ready += u32::from(proven);
        self.proven += u32::from(proven);
        self.updated += 1;
        self.began = Some(
            self.began
                .map_or(desktop.grown, |began| began.min(desktop.grown)),
        );
    }
}

/// Ready for a person, now or once it is switched on.
pub(crate) fn is_ready(phase: &Phase) -> bool {
    match phase {
        Phase::Available { .. }
        | Phase::InUse { .. }
        | Phase::Off { .. }
        | Phase::Migrating { .. } => true,
        Phase::Provisioning { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    }
}

/// Whether a living desktop has to be regrown to become what is wanted. A personal one is not: no change regrows it.
pub(super) fn is_outdated(yard: Yard<'_>, image: Published<'_>, desktop: &KnownDesktop) -> bool {
    if desktop.personal {
        return false;
    }
    let edits = specs::edits(&desktop.spec, &yard.wanted(image, desktop));
    edits.iter().any(|edit| edit.applies == Applies::Regrow)
}

/// Slots that failed since the roll-out began and have not recovered.
fn failing(yard: Yard<'_>, began: Option<Timestamp>) -> u32 {
    let Some(began) = began else { return 0 };
    let slots = yard
        .known
        .slots
        .iter()
        .filter(|(id, _)| id.pool == *yard.name);
    let failing = slots.filter(|(id, slot)| {
        let well = yard
            .known
            .desktops
            .get(*id)
            .is_some_and(|desktop| is_ready(&desktop.phase));
        slot.failures.count > 0 && slot.failures.last >= began && !well
    });
    u32::try_from(failing.count()).unwrap_or(u32::MAX)
}
