//! Every decision of Coppice: what would happen, to whom, and when.
//!
//! One pure function, [`plan()`], is the preview, the reconciler's mind, the drift report and the what-if. It is
//! total: trouble becomes a finding, delay becomes a wait that names what it waits for.

mod base;
pub mod check;
mod configuration;
mod copies;
pub mod document;
mod draft;
mod foreseen;
mod gates;
mod images;
mod language;
pub mod lose;
pub mod loss;
pub mod markdown;
mod needs;
mod place;
pub mod placement;
pub mod plan;
mod pool;
pub mod replicas;
mod review;
mod servers;
mod specs;
mod surplus;
pub mod text;
pub mod windows;

use std::collections::BTreeSet;

use coppice_schema::desired::Desired;
use coppice_schema::known::Known;
use coppice_schema::units::Timestamp;

pub use check::{Violation, check};
pub use lose::what_if;
pub use place::{NoDesktop, ServerLoad, WORTH, place_session, placement, rebalance};
pub use plan::Plan;
pub use review::reviewed;

use draft::Draft;
use plan::Looked;

/// What would happen if `desired` were the committed configuration, given what is `known`, at `now`.
///
/// Pure, deterministic and total. Actions without waits may be done at once, together; those that wait say for
/// what. Planning again after they were done gives an empty plan in finitely many rounds.
#[must_use]
pub fn plan(desired: &Desired, known: &Known, now: Timestamp) -> Plan {
    let foreseen = foreseen::of(desired, known);
    let known = foreseen.as_ref();
    let mut draft = Draft::new(desired, known, now);
    let changes = configuration::compare(desired, known, &mut draft);
    draft.review = review::Review::of(known, &changes);
    servers::survey(known, &mut draft);
    pool::moves(known, &mut draft);
    images::survey(desired, known, &mut draft);
    copies::plan(desired, known, &mut draft);
    images::farewell(known, &changes, &mut draft);
    language::survey(desired, known, &mut draft);
    for (name, pool) in place::largest_first(desired, known) {
        if pool::is_kept(desired, known, name) {
            continue;
        }
        match pool::Yard::new(desired, known, name, pool) {
            Some(yard) => pool::plan(yard, &mut draft),
            None => pool::without_template(name, pool, &mut draft),
        }
    }
    pool::kept_pools(desired, known, &mut draft);
    pool::forgotten_pools(desired, known, &mut draft);
    pool::strays(known, &mut draft);
    replicas::survey(desired, known, &mut draft);
    pool::quarantine(known, &mut draft);
    images::collect(desired, known, &mut draft);
    surplus::collect(desired, known, &mut draft);
    servers::farewell(known, &mut draft);
    review::survey(&mut draft);
    draft.drift_waits();
    needs::note(desired, &mut draft.actions);
    place::uneven(desired, known, &mut draft);
    let loss = loss::survey(desired, known, &mut draft);
    let mut gates = gates::judge(desired, known, &draft);
    gates.extend(loss);
    let looked = known.servers.iter().map(|(id, server)| {
        let look = server.look.as_ref();
        let looked = Looked {
            name: server.name.to_string(),
            boot: look.map_or(0, |look| look.boot),
            sequence: look.map_or(0, |look| look.sequence),
            at: look.map(|look| look.at),
            current: server.current,
        };
        (*id, looked)
    });
    Plan {
        at: now,
        base: base::read(desired, known, &changes, &draft.actions),
        complete: draft.complete(),
        unseen: draft.all_unseen(),
        targets: BTreeSet::new(),
        looked: looked.collect(),
        actions: draft.actions,
        drift: draft.drifts,
        gates,
        findings: draft.findings,
        pools: draft.pools,
        changes,
        under_way: draft.under_way,
        next: draft.next,
    }
}

impl Plan {
    /// Nothing is left to do, nothing is under way, and nothing waits but for a server that is lost: that may never
    /// come back, and nothing else is to wait for it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let of_lost = |wait: &plan::Wait| matches!(wait, plan::Wait::Return { .. });
        let mut actions = self.actions.iter();
        actions.all(|action| action.waits.iter().any(of_lost)) && self.under_way.is_empty()
    }

    /// Keys of everything whose first sight is to be remembered: findings and drift.
    #[must_use]
    pub fn remembered(&self) -> BTreeSet<String> {
        let findings = self.findings.iter().map(plan::Finding::key);
        let drift = self
            .drift
            .iter()
            .map(|drift| draft::drift_key(&drift.object, drift.kind));
        findings.chain(drift).collect()
    }
}
