//! `GET health`.

use crate::api::HealthReport;
use crate::portal::Portal;

/// Whether this server answers. Needs no token.
#[utoipa::path(get, path = "/api/v1/health", responses((status = 200, body = HealthReport)), security(()))]
pub(crate) async fn health(portal: Portal) -> axum::Json<HealthReport> {
    let alone = portal.app.agreement.degraded().is_some();
    axum::Json(HealthReport {
        status: if alone { "degraded" } else { "ok" }.to_owned(),
        version: portal.app.version.clone(),
    })
}
