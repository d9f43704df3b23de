//! What was reviewed: kept from a plan when it is applied, and held against what its run comes to.
//!
//! A run does what was in the plan that a person applied, and what follows from that. Something that the
//! configuration asks for and that arose only later waits for approval, if it disrupts anyone or loses data. Repairs,
//! people's own requests, refresh and power never wait for it, and without a run under way nothing does.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, PoolName, Revision, Slot};
use coppice_schema::known::{KnownDesktop, Phase};
use coppice_schema::review::{KnownRun, Reviewed};

use crate::document::Document;
use crate::draft::Draft;
use crate::plan::{Applies, Finding, FindingKind, Intent, Kind, Reason, Risk, Severity, Wait};

/// What somebody who applies the plan that `document` shows has reviewed, `desired` being what it makes of the
/// configuration.
///
/// More than the lines of the plan: hardware that is written for the next boot means that boot, and desktops that a
/// roll-out makes, or keeps, beyond the pool's size go at its end.
#[must_use]
pub fn reviewed(document: &Document, desired: &Desired) -> Vec<Reviewed> {
    let mut all: BTreeMap<(PoolName, Kind, Risk), (BTreeSet<Slot>, u32)> = BTreeMap::new();
    let mut moving: BTreeMap<(PoolName, Kind, Risk), u32> = BTreeMap::new();
    for group in &document.actions {
        let Address::Pool(pool) = &group.subject else {
            continue;
        };
        if let Reason::Rebalance { .. } = &group.reason {
            // Others were grown in their place, and go when these stay after all.
            if group.kind != Kind::Create {
                let key = (pool.clone(), Kind::Delete, Risk::Disruptive);
                let count = u32::try_from(group.objects.len()).unwrap_or(u32::MAX);
                *moving.entry(key).or_default() += count;
            }
            continue;
        }
        let desktops = group.objects.iter().filter_map(Address::desktop);
        let slots = desktops.map(|id| id.slot);
        let at_boot = group
            .edits
            .iter()
            .any(|edit| edit.applies == Applies::NextBoot);
        let (kind, risk) = if group.kind == Kind::Update && at_boot {
            (Kind::Reboot, Risk::Disruptive)
        } else {
            (group.kind, group.risk)
        };
        if risk < Risk::Disruptive {
            continue;
        }
        let key = (pool.clone(), kind, risk);
        all.entry(key).or_default().0.extend(slots);
        if let Some(block) = desired.pools.get(pool) {
            let surge = block.policy.rollout.max_surge.of(block.desktops);
            let key = (pool.clone(), Kind::Delete, Risk::Disruptive);
            all.entry(key).or_default().1 = surge;
        }
    }
    for (key, count) in moving {
        all.entry(key).or_default().1 += count;
    }
    all.into_iter()
        .filter(|(_, (slots, extra))| !slots.is_empty() || *extra > 0)
        .map(|((pool, kind, risk), (slots, extra))| Reviewed {
            pool,
            kind,
            risk,
            slots: Reviewed::ranges(slots),
            extra,
        })
        .collect()
}

/// What the plan that is being made is held to.
#[derive(Default)]
pub(crate) struct Review<'a> {
    runs: Vec<(Revision, &'a KnownRun)>,
}

impl<'a> Review<'a> {
    /// A plan that would be committed is reviewed by that; the committed revision's rounds are held to what was.
    pub(crate) fn of(known: &'a Known, changes: &BTreeMap<Address, Intent>) -> Self {
        if !changes.is_empty() {
            return Self::default();
        }
        let runs = known.runs.iter();
        Self {
            runs: runs.map(|(revision, run)| (*revision, run)).collect(),
        }
    }

    /// What such an action on a desktop waits for, if it was not reviewed for any run under way. A desktop that was
    /// grown anew in its slot meanwhile is the same to whoever reviewed it.
    pub(crate) fn wait(&self, id: &DesktopId, kind: Kind, risk: Risk) -> Option<Wait> {
        let revision = self.runs.last()?.0;
        let named = self
            .about(&id.pool, kind, risk)
            .any(|(_, reviewed)| reviewed.names(id.slot));
        (!named).then_some(Wait::Approval { revision })
    }

    /// How many pooled desktops beyond those named may be removed from a pool that is to become smaller. They are
    /// interchangeable, and which are worth least shows only then: one that was named, and is to stay now, lends its
    /// place to another.
    pub(crate) fn spare(
        &self,
        pool: &PoolName,
        going: &BTreeSet<&DesktopId>,
        known: &Known,
    ) -> u32 {
        let each = self.about(pool, Kind::Delete, Risk::Disruptive);
        let each = each.map(|(run, reviewed)| {
            let stays = |(id, desktop): &(&DesktopId, &KnownDesktop)| {
                let leaves = matches!(desktop.phase, Phase::Deleting { .. });
                let anew = desktop.grown > run.started;
                reviewed.names(id.slot) && !leaves && !anew && !going.contains(*id)
            };
            let stay = crate::pool::members(known, pool).filter(stays).count();
            u32::try_from(stay)
                .unwrap_or(u32::MAX)
                .saturating_add(reviewed.extra)
        });
        each.max().unwrap_or(0)
    }

    /// When the first run began.
    pub(crate) fn since(&self) -> Option<coppice_schema::units::Timestamp> {
        self.runs.iter().map(|(_, run)| run.started).min()
    }

    fn about<'s>(
        &'s self,
        pool: &'s PoolName,
        kind: Kind,
        risk: Risk,
    ) -> impl Iterator<Item = (&'a KnownRun, &'a Reviewed)> + use<'a, 's> {
        let all = self
            .runs
            .iter()
            .flat_map(|(_, run)| run.reviewed.iter().map(move |reviewed| (*run, reviewed)));
        all.filter(move |(_, reviewed)| {
            reviewed.pool == *pool && reviewed.kind == kind && reviewed.risk >= risk
        })
    }
}

/// Says of every pool how much of it waits for approval.
pub(crate) fn survey(draft: &mut Draft<'_>) {
    let mut held: BTreeMap<PoolName, u32> = BTreeMap::new();
    for action in &draft.actions {
        let approval = |wait: &Wait| matches!(wait, Wait::Approval { .. });
        if let (Address::Desktop(id), true) = (&action.object, action.waits.iter().any(approval)) {
            *held.entry(id.pool.clone()).or_default() += 1;
        }
    }
    for (pool, actions) in held {
        draft.finding(Finding {
            object: Address::Pool(pool),
            kind: FindingKind::Unreviewed { actions },
            severity: Severity::Warning,
            remedy: "look at it with coppice plan, and let it go on with coppice apply".to_owned(),
        });
    }
}
