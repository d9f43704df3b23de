//! `POST apply`: a configuration, or a saved plan, becomes the committed revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_plans::check;
use coppice_plans::document::Document;
use coppice_plans::plan::{Base, Bounds, GateKind, Intent, Plan, Verdict};
use coppice_schema::ids::{Address, GridId, Revision};
use coppice_schema::{Desired, Digest};
use coppice_state::entry::{Commit, Entry, Outcome, StaleObject};
use coppice_state::token::Scope;
use coppice_state::{Refusal, State};

use crate::api::{ApplyRequest, ApplyResponse, Code, Configuration, GateProblem, Problem};
use crate::auth::Who;
use crate::bodies::Json;
use crate::plans::bounds;
use crate::portal::{Portal, Seen, refused};
use crate::preview::{self, Preview};
use crate::seal;

/// What is to be committed.
struct Reviewed {
    desired: Desired,
    texts: Digest,
    /// What a person looked at, if it was kept in a file.
    saved: Option<Saved>,
}

/// What a saved plan said.
struct Saved {
    base: Base,
    bounds: Bounds,
    document: Document,
}

/// Commits a configuration. The plan is made anew on the newest state, and nothing is committed that was not
/// reviewed, approved, and within bounds.
#[utoipa::path(post, path = "/api/v1/apply", request_body = ApplyRequest, responses(
    (status = 200, body = ApplyResponse), (status = 403, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem),
    (status = 422, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn apply(
    portal: Portal,
    who: Who,
    Json(request): Json<ApplyRequest>,
) -> Result<axum::Json<ApplyResponse>, Box<Problem>> {
    let reviewed = review(&portal, request.configuration).await?;
    let seen = portal.look_surely().await?;
    if let Some(Saved { document, base, .. }) = &reviewed.saved {
        if let Some(revision) = seen.state.applied_plans.get(&document.plan_id) {
            return Ok(answer(*revision, true, document.clone()));
        }
        fresh(&seen.state, base)?;
    }

    let goal = goal(&seen.state, &reviewed);
    may_write_xml(&who, &seen.state.committed, &goal)?;
    let preview = preview::of(&portal, &seen, Arc::new(goal), BTreeSet::new()).await?;
    // It is what the grid asks for already, and nobody allows more than they did before.
    let allows = !request.approve.is_empty() || request.max_interrupted.is_some();
    let nothing_to_allow = !allows || preview.plan.actions.is_empty();
    let unchanged = preview.plan.changes.is_empty();
    if unchanged && nothing_to_allow && !preview::awaits_approval(&portal, &seen).await? {
        return Ok(answer(seen.state.revision, true, preview.document));
    }
    expected(request.expect_plan, preview.document.plan_id)?;
    seen_whole(&seen.state, &preview.plan)?;
    gates(&preview.plan, &request.approve)?;
    let asked = reviewed.saved.as_ref().map(|saved| &saved.bounds);
    let bounds = within(
        &preview.plan,
        asked,
        request.max_interrupted,
        request.approve,
    )?;
    let Preview {
        plan,
        document,
        desired: goal,
        ..
    } = checked(preview).await?;

    let (base, changes, document) = match reviewed.saved {
        Some(saved) => (saved.base, saved.document.changes.clone(), saved.document),
        None => (plan.base, plan.changes, document),
    };
    let commit = Commit {
        // What a person looked at: of a saved plan that is the saved one, whatever came up since.
        reviewed: coppice_plans::reviewed(&document, &goal),
        desired: reviewed.desired,
        texts: reviewed.texts,
        base,
        plan: document.plan_id,
        bounds,
        author: who.author(),
        changes,
    };
    commit_it(&portal, &seen, commit, document).await
}

/// What the grid would ask for once it is committed. A saved plan changes what it said, and nothing that others
/// changed since.
fn goal(state: &State, reviewed: &Reviewed) -> Desired {
    let Some(saved) = &reviewed.saved else {
        return reviewed.desired.clone();
    };
    let mut goal = state.committed.as_ref().clone();
    let changes: &BTreeMap<Address, Intent> = &saved.document.changes;
    for address in changes.keys() {
        goal.take(address, &reviewed.desired);
    }
    goal
}

/// Raw XML reaches whatever QEMU reaches: any file of a server as a disk, any program as an argument. Whoever may
/// configure desktops is not root on servers for that; what an admin has committed once stays within their reach.
fn may_write_xml(who: &Who, committed: &Desired, goal: &Desired) -> Result<(), Box<Problem>> {
    if who.scope >= Scope::Admin {
        return Ok(());
    }
    let known: BTreeSet<&String> = committed
        .templates
        .values()
        .filter_map(|template| template.libvirt_xml.as_ref())
        .collect();
    let new = goal.templates.iter().find(|(_, template)| {
        let xml = template.libvirt_xml.as_ref();
        xml.is_some_and(|xml| !known.contains(xml))
    });
    let Some((name, _)) = new else {
        return Ok(());
    };
    Err(Problem::new(
        Code::Forbidden,
        format!(
            "template.{name} has a libvirt_xml that is not in the committed revision: it can reach every file of a \
             server, so it needs the scope {}, and the token {} has the scope {}",
            Scope::Admin,
            who.name,
            who.scope
        ),
        "let an admin read that XML and apply it, or take it out of the template",
    ))
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
                saved: Some(Saved {
                    base: plan.base,
                    bounds: plan.bounds,
                    document: plan.document,
                }),
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
    Err(refused(Refusal::Stale(stale)))
}

pub(crate) fn expected(expected: Option<Digest>, id: Digest) -> Result<(), Box<Problem>> {
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

/// What nobody sees cannot be weighed: the gates of a plan with servers unseen would pass too easily. A grid that
/// remembers no desktops has nothing to lose.
pub(crate) fn seen_whole(state: &State, plan: &Plan) -> Result<(), Box<Problem>> {
    if plan.complete || state.desktops.is_empty() {
        return Ok(());
    }
    let unseen = plan.looked.values().filter(|looked| !looked.current);
    let names: Vec<&str> = unseen.map(|looked| looked.name.as_str()).collect();
    Err(Problem::new(
        Code::Incomplete,
        format!(
            "the plan may be missing the worst: not seen whole: {}",
            names.join(", ")
        ),
        "wait until `coppice status` shows every server as seen, and apply again; \
         `coppice explain server.NAME` says why one is not",
    ))
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
    asked: Option<&Bounds>,
    max_interrupted: Option<u32>,
    approved: BTreeSet<GateKind>,
) -> Result<Bounds, Box<Problem>> {
    let now = bounds(plan);
    let reviewed = asked.unwrap_or(&now);
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
pub(crate) async fn checked(preview: Preview) -> Result<Preview, Box<Problem>> {
    let (preview, violations) = preview::aside("check a plan", move || {
        let violations = check(&preview.plan, &preview.desired, &preview.known);
        (preview, violations)
    })
    .await?;
    if violations.is_empty() {
        return Ok(preview);
    }
    let said: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: not so that {}", violation.object, violation.rule))
        .collect();
    let what = "make a plan that passes its own check; nothing was changed";
    Err(Problem::internal(what, &said.join("; ")))
}

async fn commit_it(
    portal: &Portal,
    seen: &Seen,
    commit: Commit,
    document: Document,
) -> Result<axum::Json<ApplyResponse>, Box<Problem>> {
    match portal.propose(Entry::Committed(Box::new(commit))).await? {
        Outcome::Committed { revision } => Ok(answer(revision, false, document)),
        Outcome::Already { revision } => Ok(answer(revision, true, document)),
        // An agreement that says only "done" has not said which revision: the next one, then.
        Outcome::Done | Outcome::Refused(_) => {
            let next = Revision(seen.state.revision.0 + 1);
            Ok(answer(next, false, document))
        }
    }
}

fn answer(revision: Revision, already: bool, document: Document) -> axum::Json<ApplyResponse> {
    axum::Json(ApplyResponse {
        revision,
        already,
        document,
    })
}
