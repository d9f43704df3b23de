//! `GET openapi.json`: the API's description, made of the handlers themselves.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::{DisplayChoice, EventRecord, ImportLine, Problem, RunStatus};

#[derive(OpenApi)]
#[openapi(
    info(title = "Coppice", description = "Virtual desktops declared in files: the API of a grid.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    paths(
        crate::health::health, document, crate::status::status,
        crate::desktops::list, crate::desktops::one, crate::desktops::restart, crate::desktops::regrow,
        crate::desktops::discard, crate::desktops::screenshot, crate::console::console,
        crate::rebalance::look, crate::rebalance::apply,
        crate::servers::list, crate::servers::cordon, crate::servers::uncordon, crate::servers::remove, crate::upgrade::check,
        crate::servers::drain, crate::servers::undrain,
        crate::images::list, crate::images::remove,
        crate::uploads::begin, crate::uploads::look, crate::uploads::append, crate::uploads::give_up,
        crate::imports::import,
        crate::plans::plan, crate::apply::apply, crate::plans::drift, crate::explain::explain,
        crate::history::history, crate::history::revisions, crate::events::events,
        crate::secrets::list, crate::secrets::set, crate::secrets::remove,
        crate::tokens::list, crate::tokens::create, crate::tokens::revoke,
        crate::backup::make,
        crate::join::list, crate::join::invite, crate::join::terms, crate::join::join,
        crate::pauses::list, crate::pauses::pause, crate::pauses::resume,
    ),
    components(schemas(DisplayChoice, Problem, ImportLine, EventRecord, RunStatus)),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("NAME.SECRET")
            .description(Some(
                "made with `POST tokens`; its scope decides what it may do",
            ))
            .build();
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// This description. Needs no token.
#[utoipa::path(get, path = "/api/v1/openapi.json", operation_id = "openapi", responses(
    (status = 200, content_type = "application/json", body = Object)), security(()))]
pub(crate) async fn document() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(Description::openapi())
}
