//! Plans, made to be looked at. Nothing here is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_plans::document::{self, Document};
use coppice_plans::plan::{Action, Plan, Wait};
use coppice_schema::ids::{Address, ServerName};
use coppice_schema::{Bundle, Desired, Diagnostic, Digest, Known, Loaded, Severity, load};

use crate::api::{Code, Problem};
use crate::portal::{Portal, Seen};

/// A configuration without errors.
pub(crate) struct Read {
    pub(crate) desired: Desired,
    pub(crate) texts: Digest,
    /// What is worth knowing about it.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// A plan, what it was made of, and how it is shown.
pub(crate) struct Preview {
    pub(crate) plan: Plan,
    pub(crate) document: Document,
    pub(crate) desired: Arc<Desired>,
    pub(crate) known: Known,
}

/// Reads a configuration; its errors, all of them, make the problem.
pub(crate) async fn read(bundle: Bundle) -> Result<Read, Box<Problem>> {
    let Loaded {
        desired,
        diagnostics,
        digest,
        ..
    } = aside("read the configuration", move || load(&bundle)).await?;
    let bad = diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let errors = bad.count();
    match desired.filter(|_| errors == 0) {
        Some(desired) => Ok(Read {
            desired,
            texts: digest,
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
pub(crate) async fn of_committed(portal: &Portal, seen: &Seen) -> Result<Preview, Box<Problem>> {
    let (desired, known) = (Arc::clone(&seen.state.committed), seen.known());
    make(portal, desired, known, BTreeSet::new()).await
}

/// Whether a run comes to something that nobody has reviewed.
pub(crate) async fn awaits_approval(portal: &Portal, seen: &Seen) -> Result<bool, Box<Problem>> {
    let plan = of_committed(portal, seen).await?.plan;
    let mut waits = plan.actions.iter().flat_map(|action| &action.waits);
    Ok(waits.any(|wait| matches!(wait, Wait::Approval { .. })))
}

/// The plan of a configuration, as it would be carried out once it is applied: what waits for a review waits no more
/// then, also when the configuration is the committed one. With `targets`, the part of it that is about them.
pub(crate) async fn of(
    portal: &Portal,
    seen: &Seen,
    desired: Arc<Desired>,
    targets: BTreeSet<Address>,
) -> Result<Preview, Box<Problem>> {
    let mut known = seen.known();
    known.runs.clear();
    make(portal, desired, known, targets).await
}

/// The same on the grid as it would be without those servers.
pub(crate) async fn without(
    portal: &Portal,
    seen: &Seen,
    desired: Arc<Desired>,
    targets: BTreeSet<Address>,
    servers: BTreeSet<ServerName>,
) -> Result<Preview, Box<Problem>> {
    let mut known = seen.known();
    known.runs.clear();
    let now = portal.now();
    aside("make a plan", move || {
        let mut what_if = coppice_plans::what_if(&desired, &known, &servers, now);
        if !targets.is_empty() {
            what_if.plan = only(what_if.plan, &targets);
        }
        Preview {
            document: document::of_loss(&what_if, &desired.grid.name, now),
            plan: what_if.plan,
            desired,
            known: what_if.known,
        }
    })
    .await
}

async fn make(
    portal: &Portal,
    desired: Arc<Desired>,
    known: Known,
    targets: BTreeSet<Address>,
) -> Result<Preview, Box<Problem>> {
    let now = portal.now();
    aside("make a plan", move || {
        let mut plan = coppice_plans::plan(&desired, &known, now);
        if !targets.is_empty() {
            plan = only(plan, &targets);
        }
        Preview {
            document: document::of(&plan, &known, &desired.grid.name, now),
            plan,
            desired,
            known,
        }
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
fn only(plan: Plan, targets: &BTreeSet<Address>) -> Plan {
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
    let actions: Vec<Action> = kept.map(|(_, action)| moved(action)).collect();
    let about = |object: &Address| targets.iter().any(|target| concerns(target, object));
    let needed: BTreeSet<Address> = actions.iter().map(|action| action.object.clone()).collect();
    Plan {
        complete: false,
        targets: targets.clone(),
        actions,
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
        changes: plan
            .changes
            .into_iter()
            .filter(|(address, _)| about(address) || needed.contains(address))
            .collect(),
        under_way: plan
            .under_way
            .into_iter()
            .filter(|under_way| about(&under_way.object))
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
