//! Levelling the load of servers: looked at as a plan, and agreed to.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_plans::plan::{Base, Plan, Reason};
use coppice_schema::ids::{Member, ServerId};
use coppice_schema::known::Request;
use coppice_state::entry::Entry;

use crate::api::{Problem, Rebalance, RebalanceMove, RebalanceRequest};
use crate::apply::{checked, expected, seen_whole};
use crate::auth::Who;
use crate::bodies::Json;
use crate::portal::{Portal, Seen};
use crate::preview::{self, Preview};

/// Which desktops would move to level the load, and why nothing else. Changes nothing.
#[utoipa::path(get, path = "/api/v1/rebalance", responses((status = 200, body = Rebalance)))]
pub(crate) async fn look(portal: Portal) -> Result<axum::Json<Rebalance>, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let (moves, preview) = think(&portal, &seen, false).await?;
    Ok(answer(&seen, &moves, &preview))
}

/// Lets desktops move. The plan is made anew; when it is another one than was looked at, nothing is agreed. What was to
/// move before, and is not named now, stays.
#[utoipa::path(post, path = "/api/v1/rebalance", request_body = RebalanceRequest, responses(
    (status = 200, body = Rebalance), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn apply(
    portal: Portal,
    who: Who,
    Json(request): Json<RebalanceRequest>,
) -> Result<axum::Json<Rebalance>, Box<Problem>> {
    let seen = portal.look_surely().await?;
    let (moves, preview) = think(&portal, &seen, request.stop).await?;
    expected(request.expect_plan, preview.document.plan_id)?;
    let mut base = Base::default();
    let preview = if request.stop {
        preview
    } else {
        seen_whole(&seen.state, &preview.plan)?;
        let preview = checked(preview).await?;
        base.clone_from(&preview.plan.base);
        preview
    };
    let answer = answer(&seen, &moves, &preview);
    let entry = Entry::Rebalanced {
        base,
        moves,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(answer)
}

/// The moves, and the plan that they make of what is committed: that part of it which is about them.
async fn think(
    portal: &Portal,
    seen: &Seen,
    stop: bool,
) -> Result<(BTreeMap<Member, ServerId>, Preview), Box<Problem>> {
    let (desired, known, now) = (
        Arc::clone(&seen.state.committed),
        seen.known(),
        portal.now(),
    );
    preview::aside("make a plan", move || {
        let mut known = known;
        let moves = if stop {
            BTreeMap::new()
        } else {
            coppice_plans::rebalance(&desired, &known, now)
        };
        known.ask_to_move(&moves);
        let mut plan = coppice_plans::plan(&desired, &known, now);
        keep_moves(&mut plan);
        let document = coppice_plans::document::of(&plan, &known, &desired.grid.name, now);
        let preview = Preview {
            plan,
            document,
            desired,
            known,
        };
        (moves, preview)
    })
    .await
}

fn keep_moves(plan: &mut Plan) {
    let moves = |reason: &Reason| matches!(reason, Reason::Rebalance { .. });
    plan.actions.retain(|action| moves(&action.reason));
    plan.actions
        .iter_mut()
        .for_each(|action| action.needs.clear());
    plan.drift.clear();
    plan.under_way.clear();
}

fn answer(
    seen: &Seen,
    moves: &BTreeMap<Member, ServerId>,
    preview: &Preview,
) -> axum::Json<Rebalance> {
    let told = |(member, to): (&Member, &ServerId)| {
        let desktop = seen.state.desktops.get(&member.desktop)?;
        Some(RebalanceMove {
            desktop: member.desktop.clone(),
            from: seen.server_name(desktop.server)?,
            to: seen.server_name(*to)?,
        })
    };
    let before = seen
        .state
        .requests
        .values()
        .filter_map(|request| match request {
            Request::Move { member, to } => told((member, to)),
            Request::Restart(_) | Request::Regrow(_) | Request::Discard { .. } => None,
        });
    axum::Json(Rebalance {
        moves: moves.iter().filter_map(told).collect(),
        before: before.collect(),
        document: preview.document.clone(),
    })
}
