//! The grid's memory as a file.

use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use coppice_state::backup::Backup;

use crate::api::{BackupRequest, Code, Problem};
use crate::auth::Who;
use crate::bodies::Json;
use crate::portal::Portal;
use crate::preview;

/// Everything that the grid remembers, as one file that `coppice restore` goes on from: the newest that was agreed on, or
/// with `stale` what this server last heard. With a passphrase, the grid's keys are in it, sealed by that.
#[utoipa::path(post, path = "/api/v1/backup", request_body = BackupRequest, responses(
    (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
    (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(crate) async fn make(
    portal: Portal,
    who: Who,
    Json(request): Json<BackupRequest>,
) -> Result<Response, Box<Problem>> {
    let seen = if request.stale {
        portal.look().await
    } else {
        portal.look_surely().await?
    };
    let mine = portal.app.server;
    let server = seen
        .server_name(mine)
        .ok_or_else(|| Problem::internal("name this server", &mine))?;
    let ring = Arc::clone(&portal.app.keys);
    // A second of work by intention.
    let seal = move || {
        let sealed = request.passphrase.map(|passphrase| ring.seal(&passphrase));
        sealed.transpose()
    };
    let keys = preview::aside("seal the keys", seal).await?;
    let keys = keys.map_err(|why| {
        Problem::new(
            Code::Conflict,
            format!("the keys cannot be put into a backup: {why}"),
            "a backup without them restores everything but the values of secrets, and gives clients a new authority",
        )
    })?;
    tracing::info!(author = %who.author(), index = seen.state.index, keys = keys.is_some(), "a backup was made");
    let backup = Backup {
        version: portal.app.version.clone(),
        made: portal.now(),
        server,
        newest: seen.quorum,
        state: seen.state.as_ref().clone(),
        keys,
    };
    let file = preview::aside("write the backup", move || backup.encode()).await?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], file).into_response())
}
