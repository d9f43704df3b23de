//! Desktops: looked at, restarted, regrown, photographed.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use coppice_plans::plan::{GateKind, Verdict};
use coppice_schema::Digest;
use coppice_schema::ids::{Address, DesktopId, Member, ServerName};
use coppice_schema::known::{BrokenReason, KnownDesktop, Phase, Request};
use coppice_state::State;
use coppice_state::entry::Entry;
use serde::Deserialize;

use crate::api::{Code, Desktop, DesktopCopy, DesktopState, GateProblem, Problem};
use crate::auth::Who;
use crate::params::{Asked, Named};
use crate::passing::{self, Place};
use crate::portal::{Portal, Seen};

/// All desktops.
#[utoipa::path(get, path = "/api/v1/desktops", responses((status = 200, body = Vec<Desktop>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<Desktop>> {
    let seen = portal.look().await;
    let overlays = overlays(&portal).await;
    let all = seen.state.desktops.iter();
    axum::Json(
        all.filter_map(|(id, desktop)| show(&seen, id, desktop, &overlays))
            .collect(),
    )
}

/// One desktop.
#[utoipa::path(get, path = "/api/v1/desktops/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Desktop), (status = 404, body = Problem)))]
pub(crate) async fn one(
    portal: Portal,
    Named(id): Named<DesktopId>,
) -> Result<axum::Json<Desktop>, Box<Problem>> {
    let seen = portal.look().await;
    let desktop = find(&seen.state, &id)?;
    let overlays = overlays(&portal).await;
    let shown = show(&seen, &id, desktop, &overlays);
    shown
        .map(axum::Json)
        .ok_or_else(|| Problem::internal("show a desktop", &id))
}

/// Shuts it down and starts it again. Whoever is signed in is signed out.
#[utoipa::path(post, path = "/api/v1/desktops/{id}/restart", params(("id" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem)))]
pub(crate) async fn restart(
    portal: Portal,
    who: Who,
    Named(id): Named<DesktopId>,
) -> Result<StatusCode, Box<Problem>> {
    let member = find(&portal.look_surely().await?.state, &id)?
        .spec
        .member
        .clone();
    ask(&portal, &who, Request::Restart(member)).await
}

/// Query of `regrow`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Regrow {
    /// The gate that a personal desktop asks to be approved.
    #[serde(default)]
    approve: Option<GateKind>,
}

/// Grows it anew from its image: what was written on it is gone. A personal desktop needs `approve=personal-data`.
#[utoipa::path(post, path = "/api/v1/desktops/{id}/regrow",
    params(("id" = String, Path), ("approve" = Option<String>, Query)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn regrow(
    portal: Portal,
    who: Who,
    Named(id): Named<DesktopId>,
    Asked(query): Asked<Regrow>,
) -> Result<StatusCode, Box<Problem>> {
    let state = portal.look_surely().await?.state;
    let desktop = find(&state, &id)?;
    let pool = Address::Pool(id.pool.clone());
    if desktop.personal && query.approve != Some(GateKind::PersonalData) {
        let reason =
            format!("{id} is a personal desktop: what its person keeps on it would be gone");
        let help = format!("if that is meant: coppice desktop regrow {id} --approve personal-data");
        return Err(unapproved(reason, help));
    }
    if state.protections.contains(&pool) {
        return Err(Problem::new(
            Code::Conflict,
            format!("{pool}, of which {id} is, is protected"),
            "set protect = false in the block of its pool, apply, and ask again",
        ));
    }
    ask(&portal, &who, Request::Regrow(desktop.spec.member.clone())).await
}

async fn ask(portal: &Portal, who: &Who, request: Request) -> Result<StatusCode, Box<Problem>> {
    let entry = Entry::Requested {
        request,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Query of `discard`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discard {
    /// The server that holds it.
    server: ServerName,
    /// The gate that asks to be approved.
    #[serde(default)]
    approve: Option<GateKind>,
}

/// Removes what a former life of the grid left of a desktop on one server, with everything on its disk. Needs
/// `approve=personal-data`: nobody knows whose it is.
#[utoipa::path(delete, path = "/api/v1/quarantine/{life}",
    params(("life" = String, Path), ("server" = String, Query), ("approve" = Option<String>, Query)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn discard(
    portal: Portal,
    who: Who,
    Named(member): Named<Member>,
    Asked(query): Asked<Discard>,
) -> Result<StatusCode, Box<Problem>> {
    let state = portal.look_surely().await?.state;
    let name = query.server;
    let there = state.server_named(&name).filter(|(_, server)| {
        let look = server.look.as_deref();
        let present = state.desktops.get(&member.desktop);
        look.is_some_and(|look| look.holds_apart(&member, present))
    });
    let Some((server, _)) = there else {
        return Err(Problem::absent(
            format!("{member} in quarantine on server {name}"),
            "`coppice status` names what is in quarantine, and where",
        ));
    };
    if query.approve != Some(GateKind::PersonalData) {
        let reason = format!(
            "{member} on {name} is from a former life, and may hold what nothing else does: what is on its disk would \
             be gone"
        );
        let help = format!(
            "save what matters; then: coppice desktop discard {member} --on {name} --approve personal-data"
        );
        return Err(unapproved(reason, help));
    }
    ask(&portal, &who, Request::Discard { member, server }).await
}

fn unapproved(reason: String, help: String) -> Box<Problem> {
    Box::new(Problem {
        gates: vec![GateProblem {
            gate: GateKind::PersonalData,
            verdict: Verdict::NeedsApproval,
            reason: reason.clone(),
        }],
        ..*Problem::new(Code::Gate, reason, help)
    })
}

/// A picture of its screen. Any server answers: one that has not the desktop asks the one that has.
#[utoipa::path(get, path = "/api/v1/desktops/{id}/screenshot", params(("id" = String, Path)), responses(
    (status = 200, content_type = "image/png", body = Vec<u8>), (status = 404, body = Problem),
    (status = 421, body = Problem)))]
pub(crate) async fn screenshot(
    portal: Portal,
    who: Who,
    Named(id): Named<DesktopId>,
    request: axum::extract::Request,
) -> Result<Response, Box<Problem>> {
    let desktop = match passing::place(&portal, &id).await? {
        Place::Here(desktop) => desktop,
        Place::There(there) => return there.answer(&portal, request).await,
    };
    tracing::info!(author = %who.author(), desktop = %id, "a screen was looked at");
    let picture = portal.app.hypervisor.screenshot(desktop.spec.uuid).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], picture).into_response())
}

pub(crate) fn find<'a>(state: &'a State, id: &DesktopId) -> Result<&'a KnownDesktop, Box<Problem>> {
    let help = "`coppice desktop list` shows all of them";
    let desktop = state.desktops.get(id);
    desktop.ok_or_else(|| Problem::absent(format!("desktop {id}"), help))
}

/// Where the overlays are that this server has. Only its own disk can say; without its answer they are unknown.
async fn overlays(portal: &Portal) -> BTreeMap<Member, String> {
    match portal.app.disks.overlays().await {
        Ok(overlays) => overlays
            .into_iter()
            .filter_map(|overlay| Some((overlay.mark?.member, overlay.path.display().to_string())))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "desktops are listed without their overlays");
            BTreeMap::new()
        }
    }
}

fn show(
    seen: &Seen,
    id: &DesktopId,
    desktop: &KnownDesktop,
    overlays: &BTreeMap<Member, String>,
) -> Option<Desktop> {
    let (reason, users) = match &desktop.phase {
        Phase::Broken { reason, .. } => (Some(why(reason)), None),
        Phase::InUse { users, .. } => (None, Some(*users)),
        Phase::Provisioning { .. }
        | Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => (None, None),
    };
    Some(Desktop {
        id: id.clone(),
        name: desktop.spec.hostname.clone(),
        pool: id.pool.clone(),
        slot: id.slot,
        server: seen.server_name(desktop.server)?,
        state: DesktopState::from(&desktop.phase),
        uuid: desktop.spec.uuid,
        image: image(&seen.state, &desktop.spec.image),
        root: desktop.spec.image,
        overlay: overlays.get(&desktop.spec.member).cloned(),
        since: desktop.phase.since(),
        incarnation: desktop.incarnation,
        reason,
        users,
        copies: copies(seen, desktop),
    })
}

/// The copies of it that are on servers which take part, the newest first.
pub(crate) fn copies(seen: &Seen, desktop: &KnownDesktop) -> Vec<DesktopCopy> {
    let others = seen.state.servers.values();
    let others = others.filter(|server| server.state.takes_part());
    let mut copies: Vec<DesktopCopy> = others
        .filter_map(|server| {
            let copy = server.look.as_ref()?.replicas.get(&desktop.spec.member)?;
            Some(DesktopCopy {
                server: server.name.clone(),
                taken: copy.taken,
            })
        })
        .collect();
    copies.sort_by(|a, b| b.taken.cmp(&a.taken).then_with(|| a.server.cmp(&b.server)));
    copies
}

/// What an image is called that has this root.
pub(crate) fn image(state: &State, root: &Digest) -> String {
    let versions = state
        .images
        .iter()
        .flat_map(|(name, versions)| versions.iter().map(move |version| (name, version)));
    let named = versions
        .filter(|(_, (_, version))| version.root == *root)
        .map(|(name, (version, _))| format!("{name}@{version}"))
        .next();
    named.unwrap_or_else(|| root.to_string())
}

/// What is wrong with a desktop, in words.
pub(crate) fn why(reason: &BrokenReason) -> String {
    match reason {
        BrokenReason::DomainMissing => "its domain is gone".to_owned(),
        BrokenReason::OverlayMissing => "its overlay is gone".to_owned(),
        BrokenReason::OverlayBad => "its overlay cannot be used".to_owned(),
        BrokenReason::Crashed => "it ended without being asked".to_owned(),
        BrokenReason::Paused(why) => format!("it stands still: {why}"),
        BrokenReason::NotReady => "it did not become ready in time".to_owned(),
        BrokenReason::Refused(why) => format!("an order for it failed for good: {why}"),
    }
}
