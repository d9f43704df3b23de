//! Plans and drift, to be looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_plans::plan::{Bounds, Plan};
use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_schema::units::Size;

use crate::api::{Code, DriftReport, PlanRequest, PlanResponse, Problem, SAVED_FORMAT, SavedPlan};
use crate::bodies::Json;
use crate::portal::Portal;
use crate::{explain, preview, seal};

/// What would happen if a configuration were applied now. Changes nothing.
#[utoipa::path(post, path = "/api/v1/plans", request_body = PlanRequest, responses(
    (status = 200, body = PlanResponse), (status = 413, body = Problem), (status = 422, body = Problem)))]
pub(crate) async fn plan(
    portal: Portal,
    Json(request): Json<PlanRequest>,
) -> Result<axum::Json<PlanResponse>, Box<Problem>> {
    let PlanRequest {
        bundle,
        targets,
        save,
        lose,
    } = request;
    if save && !lose.is_empty() {
        return Err(Problem::new(
            Code::Incomplete,
            "a plan for the loss of servers cannot be applied, so it is not saved",
            "leave out the servers, or do not save it",
        ));
    }
    if save && !targets.is_empty() {
        return Err(Problem::new(
            Code::Incomplete,
            "a plan for some targets only cannot be applied, so it is not saved",
            "leave out the targets, or do not save it",
        ));
    }
    let committed = bundle.texts.is_empty() && !lose.is_empty();
    let read = if committed {
        None
    } else {
        Some(preview::read(bundle).await?)
    };
    let seen = portal.look_surely().await?;
    if let Some(name) = lose
        .iter()
        .find(|name| seen.state.server_named(name).is_none())
    {
        return Err(Problem::absent(
            format!("server {name}"),
            "`coppice server list` shows all of them",
        ));
    }
    let (desired, texts, diagnostics) = match read {
        Some(read) => (Arc::new(read.desired), read.texts, read.diagnostics),
        None => (
            Arc::clone(&seen.state.committed),
            Digest([0; 32]),
            Vec::new(),
        ),
    };
    let preview = if lose.is_empty() {
        preview::of(&portal, &seen, desired, targets.clone()).await?
    } else {
        preview::without(&portal, &seen, desired, targets.clone(), lose).await?
    };
    for target in &targets {
        let (state, desired) = (&seen.state, preview.desired.as_ref());
        let absent = |asked| explain::word(state, asked, target) == "absent";
        let mut actions = preview.plan.actions.iter();
        let touched = actions.any(|action| preview::concerns(target, &action.object));
        if absent(&state.committed) && absent(desired) && !touched {
            return Err(Problem::absent(
                target,
                "neither the configuration nor the grid has it: check the name; \
                 addresses look like pool.lab or desktop.lab-007",
            ));
        }
    }
    let saved = if save {
        let unsealed = SavedPlan {
            format: SAVED_FORMAT,
            grid: seen.state.grid.unwrap_or(GridId([0; 16])),
            bounds: bounds(&preview.plan),
            desired: preview.desired.as_ref().clone(),
            texts,
            base: preview.plan.base,
            document: preview.document.clone(),
            seal: Digest([0; 32]),
        };
        let sealed = seal::seal(portal.app.vault.as_ref(), unsealed)?;
        Some(Box::new(sealed))
    } else {
        None
    };
    Ok(axum::Json(PlanResponse {
        document: preview.document,
        diagnostics,
        saved,
    }))
}

/// What other hands changed, and what is done about it. Changes nothing.
#[utoipa::path(get, path = "/api/v1/drift", responses((status = 200, body = DriftReport)))]
pub(crate) async fn drift(portal: Portal) -> Result<axum::Json<DriftReport>, Box<Problem>> {
    let seen = portal.look().await;
    let preview = preview::of_committed(&portal, &seen).await?;
    Ok(axum::Json(DriftReport {
        complete: preview.plan.complete,
        drift: preview.plan.drift,
        document: preview.document,
    }))
}

/// What may happen in a run without asking again: what the plan says.
pub(crate) fn bounds(plan: &Plan) -> Bounds {
    Bounds {
        sessions_interrupted: preview::interrupted(plan),
        bytes_copied: Size(preview::copied(plan)),
        approved: BTreeSet::new(),
    }
}
