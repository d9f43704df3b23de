//! Plans, made to be looked at. Nothing here is carried out.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Action, Plan};
use coppice_schema::ids::Address;
use coppice_schema::{Desired, Known};

use crate::api::{Bundle, Code, Diagnostic, Problem, Severity};
use crate::portal::{Portal, Seen};
use crate::seam::{self, Loaded};

/// A configuration without errors.
pub(crate) struct Read {
    pub(crate) desired: Desired,
    pub(crate) texts: coppice_schema::Digest,
    /// What is worth knowing about it.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Reads a configuration; its errors, all of them, make the problem.
pub(crate) async fn read(bundle: Bundle) -> Result<Read, Box<Problem>> {
    let Loaded {
        desired,
        texts,
        diagnostics,
    } = aside("read the configuration", move || seam::load(&bundle)).await?;
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    match desired.filter(|_| errors == 0) {
        Some(desired) => Ok(Read {
            desired,
            texts,
            diagnostics,
        }),
        None => Err(Box::new(Problem {
            diagnostics,
            ..*Problem::new(
                Code::Invalid,
                format!("the configuration has {errors} errors"),
                "correct them; `coppice validate` finds them without a grid",
            )
        })),
    }
}

/// The plan of what is committed: what would be done now, drift and findings among it.
pub(crate) async fn of_committed(portal: &Portal, seen: &Seen) -> Result<Plan, Box<Problem>> {
    let state = std::sync::Arc::clone(&seen.state);
    let (known, now) = (seen.known(), portal.now());
    aside("make a plan", move || {
        seam::plan(&state.committed, &known, now)
    })
    .await
}

/// The plan of a configuration. Also gives back what it was made of.
pub(crate) async fn of(
    portal: &Portal,
    seen: &Seen,
    desired: Desired,
) -> Result<(Plan, Desired, Known), Box<Problem>> {
    let (known, now) = (seen.known(), portal.now());
    aside("make a plan", move || {
        let plan = seam::plan(&desired, &known, now);
        (plan, desired, known)
    })
    .await
}

/// Thinks aside from the threads that answer requests. A panic there is our fault, and takes nobody with it.
pub(crate) async fn aside<T: Send + 'static>(
    what: &'static str,
    think: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<Problem>> {
    let thought = tokio::task::spawn_blocking(think).await;
    thought.map_err(|error| Problem::internal(what, &error))
}

/// Sessions that the plan would end at once.
pub(crate) fn interrupted(plan: &Plan) -> u32 {
    let each = plan
        .actions
        .iter()
        .map(|action| action.impact.sessions_interrupted.value);
    each.fold(0, u32::saturating_add)
}

/// Bytes that the plan would move.
pub(crate) fn copied(plan: &Plan) -> u64 {
    let each = plan
        .actions
        .iter()
        .map(|action| action.impact.bytes_copied.value.0);
    each.fold(0, u64::saturating_add)
}

/// The part of a plan that is about `targets`, with what must be done before it. Never complete.
pub(crate) fn only(plan: Plan, targets: &BTreeSet<Address>) -> Plan {
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    let mut open: Vec<usize> = (0..plan.actions.len())
        .filter(|n| {
            targets
                .iter()
                .any(|target| concerns(target, &plan.actions[*n].object))
        })
        .collect();
    while let Some(n) = open.pop() {
        if n < plan.actions.len() && wanted.insert(n) {
            open.extend(&plan.actions[n].needs);
        }
    }
    let places: BTreeMap<usize, usize> = wanted
        .iter()
        .enumerate()
        .map(|(to, from)| (*from, to))
        .collect();
    let moved = |action: Action| Action {
        needs: action
            .needs
            .iter()
            .filter_map(|need| places.get(need).copied())
            .collect(),
        ..action
    };
    let kept = plan
        .actions
        .into_iter()
        .enumerate()
        .filter(|(n, _)| wanted.contains(n));
    let about = |object: &Address| targets.iter().any(|target| concerns(target, object));
    Plan {
        complete: false,
        actions: kept.map(|(_, action)| moved(action)).collect(),
        drift: plan
            .drift
            .into_iter()
            .filter(|drift| about(&drift.object))
            .collect(),
        findings: plan
            .findings
            .into_iter()
            .filter(|finding| about(&finding.object))
            .collect(),
        pools: plan
            .pools
            .into_iter()
            .filter(|(name, _)| about(&Address::Pool(name.clone())))
            .collect(),
        ..plan
    }
}

/// Whether what is about `object` is about `target` too: a pool's desktops are part of it, and everything is part
/// of the grid.
pub(crate) fn concerns(target: &Address, object: &Address) -> bool {
    match (target, object) {
        (Address::Grid, _) => true,
        (Address::Pool(pool), Address::Desktop(id)) => id.pool == *pool,
        _ => target == object,
    }
}
