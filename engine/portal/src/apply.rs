//! `POST apply`: a configuration, or a saved plan, becomes the committed revision.

mod changes;

use std::collections::BTreeSet;

use coppice_plans::plan::{Base, Bounds, GateKind, Plan, Verdict};
use coppice_schema::ids::{GridId, Revision};
use coppice_schema::{Desired, Digest};
use coppice_state::State;
use coppice_state::entry::{Commit, Entry, Outcome, StaleObject};

use crate::api::{
    ApplyRequest, ApplyResponse, Code, Configuration, Document, GateProblem, Problem,
};
use crate::auth::Who;
use crate::bodies::Json;
use crate::plans::bounds;
use crate::portal::{Portal, Seen, refused};
use crate::{preview, seal, seam};

/// What a person looked at before saying yes.
struct Reviewed {
    desired: Desired,
    texts: Digest,
    /// The saved plan's part, if it is one.
    saved: Option<(Base, Bounds, Document)>,
}

/// Commits a configuration. The plan is made anew on the newest state, and nothing is committed that was not
/// reviewed, approved, and within bounds.
#[utoipa::path(post, path = "/api/v1/apply", request_body = ApplyRequest, responses(
    (status = 200, body = ApplyResponse), (status = 409, body = Problem), (status = 413, body = Problem),
    (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn apply(
    portal: Portal,
    who: Who,
    Json(request): Json<ApplyRequest>,
) -> Result<axum::Json<ApplyResponse>, Box<Problem>> {
    let reviewed = review(&portal, request.configuration).await?;
    let seen = portal.look_surely().await?;
    if let Some((base, _, document)) = &reviewed.saved {
        let known = seen.state.applied_plans.get(&seam::plan_id(document));
        if let Some(revision) = known {
            return Ok(already(*revision, document.clone()));
        }
        fresh(&seen.state, base)?;
    }

    let (plan, desired, known) = preview::of(&portal, &seen, reviewed.desired).await?;
    let document = seam::document(&plan);
    let id = seam::plan_id(&document);
    expected(request.expect_plan, id)?;
    gates(&plan, &request.approve)?;
    let asked = reviewed.saved.as_ref().map(|(_, bounds, _)| bounds.clone());
    let bounds = within(&plan, asked, request.max_interrupted, request.approve)?;
    let (plan, desired) = checked(plan, desired, known).await?;
    if plan.actions.is_empty() && *seen.state.committed == desired && seen.state.revision.0 > 0 {
        return Ok(already(seen.state.revision, document));
    }

    let (base, id, document) = match reviewed.saved {
        Some((base, _, document)) => (base, seam::plan_id(&document), document),
        None => (plan.base, id, document),
    };
    let commit = Commit {
        changes: changes::between(&seen.state.committed, &desired),
        desired,
        texts: reviewed.texts,
        base,
        plan: id,
        bounds,
        author: who.author(),
    };
    commit_it(&portal, &seen, commit, document).await
}

async fn review(portal: &Portal, configuration: Configuration) -> Result<Reviewed, Box<Problem>> {
    match configuration {
        Configuration::Bundle(bundle) => {
            let read = preview::read(bundle).await?;
            Ok(Reviewed {
                desired: read.desired,
                texts: read.texts,
                saved: None,
            })
        }
        Configuration::Saved(plan) => {
            let grid = portal.app.agreement.local().grid.unwrap_or(GridId([0; 16]));
            seal::verify(portal.app.vault.as_ref(), grid, &plan)?;
            Ok(Reviewed {
                desired: plan.desired,
                texts: plan.texts,
                saved: Some((plan.base, plan.bounds, plan.document)),
            })
        }
    }
}

/// Whether everything that a saved plan read is as it was. The state machine compares again when it commits.
fn fresh(state: &State, base: &Base) -> Result<(), Box<Problem>> {
    let changed = base
        .objects
        .iter()
        .filter(|(address, read)| state.generation(address) != **read);
    let stale: Vec<StaleObject> = changed
        .map(|(address, read)| StaleObject {
            address: address.clone(),
            read: *read,
            now: state.generation(address),
            by: match state.changed_by.get(address) {
                Some(change) => format!("{} in revision {}", change.author, change.revision),
                None => "the grid itself".to_owned(),
            },
        })
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    Err(refused(coppice_state::Refusal::Stale(stale)))
}

fn expected(expected: Option<Digest>, id: Digest) -> Result<(), Box<Problem>> {
    match expected.filter(|expected| *expected != id) {
        None => Ok(()),
        Some(expected) => Err(Problem::new(
            Code::OtherPlan,
            format!(
                "the plan that was shown ({}) is not the one that would be applied now ({}): \
                 the grid or the configuration changed meanwhile",
                expected.short(),
                id.short()
            ),
            "look at the new plan, and apply that one",
        )),
    }
}

/// Every gate passes, or was approved by its name.
fn gates(plan: &Plan, approved: &BTreeSet<GateKind>) -> Result<(), Box<Problem>> {
    let shut: Vec<GateProblem> = plan
        .gates
        .iter()
        .filter(|gate| match gate.verdict {
            Verdict::Pass => false,
            Verdict::NeedsApproval => !approved.contains(&gate.kind),
            Verdict::Denied => true,
        })
        .map(|gate| GateProblem {
            gate: gate.kind,
            verdict: gate.verdict,
            reason: gate.reason.clone(),
        })
        .collect();
    if shut.is_empty() {
        return Ok(());
    }
    let said = shut
        .iter()
        .map(|gate| format!("{}: {}", word(gate.gate), gate.reason));
    let detail = said.collect::<Vec<_>>().join("; ");
    let denied = shut.iter().any(|gate| gate.verdict == Verdict::Denied);
    let help = if denied {
        "wait until it is allowed again, or change the configuration".to_owned()
    } else {
        let flags = shut
            .iter()
            .map(|gate| format!("--approve {}", word(gate.gate)));
        format!(
            "if that is meant, apply with {}",
            flags.collect::<Vec<_>>().join(" ")
        )
    };
    Err(Box::new(Problem {
        gates: shut,
        ..*Problem::new(Code::Gate, detail, help)
    }))
}

fn word(gate: GateKind) -> &'static str {
    match gate {
        GateKind::ServerLoss => "server-loss",
        GateKind::MassDelete => "mass-delete",
        GateKind::PersonalData => "personal-data",
        GateKind::Protected => "protected",
        GateKind::EmptyConfiguration => "empty-configuration",
        GateKind::Freeze => "freeze",
    }
}

/// What the run may do: what was reviewed, unless a person said another number of sessions.
fn within(
    plan: &Plan,
    asked: Option<Bounds>,
    max_interrupted: Option<u32>,
    approved: BTreeSet<GateKind>,
) -> Result<Bounds, Box<Problem>> {
    let now = bounds(plan);
    let reviewed = asked.unwrap_or_else(|| now.clone());
    let limit = max_interrupted.unwrap_or(reviewed.sessions_interrupted);
    if now.sessions_interrupted > limit {
        return Err(Problem::new(
            Code::Bounds,
            format!(
                "it would interrupt {} sessions, and {limit} may be",
                now.sessions_interrupted
            ),
            format!(
                "wait until people have logged off, or allow it with --max-interrupted {}",
                now.sessions_interrupted
            ),
        ));
    }
    Ok(Bounds {
        sessions_interrupted: limit,
        bytes_copied: reviewed.bytes_copied.max(now.bytes_copied),
        approved,
    })
}

/// A plan that fails its check is our own mistake: nothing is committed.
async fn checked(
    plan: Plan,
    desired: Desired,
    known: coppice_schema::Known,
) -> Result<(Plan, Desired), Box<Problem>> {
    let (plan, desired, faults) = preview::aside("check a plan", move || {
        let faults = seam::faults(&plan, &desired, &known);
        (plan, desired, faults)
    })
    .await?;
    if faults.is_empty() {
        return Ok((plan, desired));
    }
    Err(Problem::internal(
        "make a plan that passes its own check",
        &faults.join("; "),
    ))
}

async fn commit_it(
    portal: &Portal,
    seen: &Seen,
    commit: Commit,
    document: Document,
) -> Result<axum::Json<ApplyResponse>, Box<Problem>> {
    match portal.propose(Entry::Committed(Box::new(commit))).await? {
        Outcome::Committed { revision } => Ok(axum::Json(ApplyResponse {
            revision,
            already: false,
            document,
        })),
        Outcome::Already { revision } => Ok(already(revision, document)),
        // An agreement that says only "done" has not said which revision: the newest one, then.
        Outcome::Done | Outcome::Refused(_) => Ok(axum::Json(ApplyResponse {
            revision: Revision(seen.state.revision.0 + 1),
            already: false,
            document,
        })),
    }
}

fn already(revision: Revision, document: Document) -> axum::Json<ApplyResponse> {
    axum::Json(ApplyResponse {
        revision,
        already: true,
        document,
    })
}
