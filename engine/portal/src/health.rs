//! `GET health`.

use crate::api::HealthReport;
use crate::portal::Portal;

/// Whether this server answers. Needs no token.
#[utoipa::path(get, path = "/api/v1/health", responses((status = 200, body = HealthReport)), security(()))]
pub(crate) async fn health(portal: Portal) -> axum::Json<HealthReport> {
    axum::Json(HealthReport {
        status: "ok".to_owned(),
        version: portal.app.version.clone(),
    })
}
