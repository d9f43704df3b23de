//! Pauses: addresses on which nobody acts.

use axum::http::StatusCode;
use coppice_schema::ids::Address;
use coppice_state::entry::Entry;

use crate::api::{Code, Pause, PauseRequest, Problem};
use crate::auth::Who;
use crate::bodies::Json;
use crate::params::Named;
use crate::portal::Portal;

/// All pauses.
#[utoipa::path(get, path = "/api/v1/pauses", responses((status = 200, body = Vec<Pause>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<Pause>> {
    let state = portal.look().await.state;
    let pauses = state.pauses.iter().map(|(address, until)| Pause {
        address: address.clone(),
        until: *until,
    });
    axum::Json(pauses.collect())
}

/// From now on nobody acts on an address.
#[utoipa::path(post, path = "/api/v1/pauses", request_body = PauseRequest, responses(
    (status = 201, body = Pause), (status = 400, body = Problem)))]
pub(crate) async fn pause(
    portal: Portal,
    who: Who,
    Json(request): Json<PauseRequest>,
) -> Result<(StatusCode, axum::Json<Pause>), Box<Problem>> {
    let PauseRequest { address, until } = request;
    if until.is_some_and(|until| until <= portal.now()) {
        return Err(Problem::new(
            Code::Request,
            format!("the pause of {address} would end before it begins"),
            "give a moment in the future, in milliseconds since 1970",
        ));
    }
    let entry = Entry::Paused {
        address: address.clone(),
        until,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok((StatusCode::CREATED, axum::Json(Pause { address, until })))
}

/// An address may be acted on again.
#[utoipa::path(delete, path = "/api/v1/pauses/{address}", params(("address" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem)))]
pub(crate) async fn resume(
    portal: Portal,
    who: Who,
    Named(address): Named<Address>,
) -> Result<StatusCode, Box<Problem>> {
    let entry = Entry::Resumed {
        address,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
