//! Secrets: their values come in, are sealed at once, and never go out.

use axum::body::Body;
use axum::http::StatusCode;
use coppice_schema::ids::SecretName;
use coppice_state::State;
use coppice_state::entry::Entry;

use crate::api::{Code, Problem, SECRET_MAX, SecretInfo};
use crate::auth::Who;
use crate::bodies;
use crate::params::Named;
use crate::portal::Portal;

/// Names and versions.
#[utoipa::path(get, path = "/api/v1/secrets", responses((status = 200, body = Vec<SecretInfo>)))]
pub(crate) async fn list(portal: Portal) -> axum::Json<Vec<SecretInfo>> {
    let state = portal.look().await.state;
    axum::Json(
        state
            .secrets
            .keys()
            .filter_map(|name| info(&state, name))
            .collect(),
    )
}

/// Sets a secret to the body's bytes, at most 64 KiB.
#[utoipa::path(put, path = "/api/v1/secrets/{name}", params(("name" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, body = SecretInfo), (status = 413, body = Problem)))]
pub(crate) async fn set(
    portal: Portal,
    who: Who,
    Named(name): Named<SecretName>,
    body: Body,
) -> Result<axum::Json<SecretInfo>, Box<Problem>> {
    let value = bodies::read(&portal, body, SECRET_MAX).await?;
    if value.is_empty() {
        return Err(Problem::new(
            Code::Request,
            format!("the value of secret {name} is empty"),
            "send its value as the body",
        ));
    }
    let sealed = portal.app.vault.seal(&name, &value);
    let entry = Entry::SecretSet {
        name: name.clone(),
        sealed,
        author: who.author(),
    };
    portal.propose(entry).await?;
    // What was just agreed on is applied here, so nobody else need be asked.
    let state = portal.app.agreement.local();
    let info = info(&state, &name);
    info.map(axum::Json).ok_or_else(|| {
        Problem::absent(
            format!("secret {name} any more"),
            "somebody removed it meanwhile",
        )
    })
}

/// Removes a secret.
#[utoipa::path(delete, path = "/api/v1/secrets/{name}", params(("name" = String, Path)), responses(
    (status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(crate) async fn remove(
    portal: Portal,
    who: Who,
    Named(name): Named<SecretName>,
) -> Result<StatusCode, Box<Problem>> {
    let entry = Entry::SecretRemoved {
        name,
        author: who.author(),
    };
    portal.propose(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn info(state: &State, name: &SecretName) -> Option<SecretInfo> {
    let secret = state.secrets.get(name)?;
    Some(SecretInfo {
        name: name.clone(),
        version: secret.version,
        set: secret.set,
    })
}
