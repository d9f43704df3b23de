//! Every request that the API knows, and the scope that it needs. What is not in this table does not exist.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use coppice_schema::units::Span;
use coppice_state::token::Scope;
use futures::FutureExt;
use futures::future::{Either, select};

use crate::api::{Code, PREFIX, Problem};
use crate::portal::{App, Portal};
use crate::{
    apply, auth, authority, backup, console, desktops, events, explain, health, history, images,
    imports, join, openapi, pauses, plans, rebalance, secrets, servers, status, tokens, upgrade,
    uploads,
};

/// What only the server has that a desktop is on.
const SCREENS: [&str; 2] = ["/desktops/{id}/screenshot", "/desktops/{id}/console"];

/// How long an answer may take to begin.
const ANSWER_WITHIN: Span = Span::seconds(120);

/// Who may send a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Anyone.
    Open,
    /// Whoever has a join token, which is in the body.
    Join,
    /// Whoever has a token of at least that scope.
    Token(Scope),
}

struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<Portal>,
    /// Its answer begins when its body has been read, however long that takes.
    slow: bool,
}

fn table() -> Vec<Route> {
    let open = |path, handler| route(Method::GET, path, Access::Open, handler);
    let read = |path, scope, handler| route(Method::GET, path, Access::Token(scope), handler);
    let write = |path, scope, handler| route(Method::POST, path, Access::Token(scope), handler);
    let replace = |path, scope, handler| route(Method::PUT, path, Access::Token(scope), handler);
    let remove = |path, scope, handler| route(Method::DELETE, path, Access::Token(scope), handler);
    vec![
        open("/health", get(health::health)),
        open("/openapi.json", get(openapi::document)),
        read("/status", Scope::Viewer, get(status::status)),
        read("/desktops", Scope::Viewer, get(desktops::list)),
        read("/desktops/{id}", Scope::Viewer, get(desktops::one)),
        write(
            "/desktops/{id}/restart",
            Scope::Helpdesk,
            post(desktops::restart),
        ),
        write(
            "/desktops/{id}/regrow",
            Scope::Operator,
            post(desktops::regrow),
        ),
        remove(
            "/quarantine/{life}",
            Scope::Operator,
            delete(desktops::discard),
        ),
        read(SCREENS[0], Scope::Helpdesk, get(desktops::screenshot)),
        read(SCREENS[1], Scope::Helpdesk, get(console::console)),
        read("/rebalance", Scope::Viewer, get(rebalance::look)),
        write("/rebalance", Scope::Operator, post(rebalance::apply)),
        read("/servers", Scope::Viewer, get(servers::list)),
        write(
            "/servers/{name}/cordon",
            Scope::Operator,
            post(servers::cordon),
        ),
        write(
            "/servers/{name}/uncordon",
            Scope::Operator,
            post(servers::uncordon),
        ),
        remove("/servers/{name}", Scope::Operator, delete(servers::remove)),
        read("/upgrade", Scope::Viewer, get(upgrade::check)),
        write(
            "/servers/{name}/drain",
            Scope::Operator,
            post(servers::drain),
        ),
        write(
            "/servers/{name}/undrain",
            Scope::Operator,
            post(servers::undrain),
        ),
        read("/images", Scope::Viewer, get(images::list)),
        write("/images/uploads", Scope::Operator, post(uploads::begin)),
        read("/images/uploads/{id}", Scope::Operator, get(uploads::look)),
        Route {
            slow: true,
            ..replace(
                "/images/uploads/{id}",
                Scope::Operator,
                put(uploads::append),
            )
        },
        remove(
            "/images/uploads/{id}",
            Scope::Operator,
            delete(uploads::give_up),
        ),
        write(
            "/images/uploads/{id}/import",
            Scope::Operator,
            post(imports::import),
        ),
        remove(
            "/images/{name}/versions/{version}",
            Scope::Operator,
            delete(images::remove),
        ),
        write("/plans", Scope::Planner, post(plans::plan)),
        write("/apply", Scope::Operator, post(apply::apply)),
        read("/drift", Scope::Viewer, get(plans::drift)),
        read("/explain/{address}", Scope::Viewer, get(explain::explain)),
        read("/history", Scope::Viewer, get(history::history)),
        read("/revisions", Scope::Viewer, get(history::revisions)),
        read("/events", Scope::Viewer, get(events::events)),
        read("/secrets", Scope::Admin, get(secrets::list)),
        replace("/secrets/{name}", Scope::Admin, put(secrets::set)),
        remove("/secrets/{name}", Scope::Admin, delete(secrets::remove)),
        read("/tokens", Scope::Admin, get(tokens::list)),
        write("/tokens", Scope::Admin, post(tokens::create)),
        remove("/tokens/{name}", Scope::Admin, delete(tokens::revoke)),
        read("/join-tokens", Scope::Admin, get(join::list)),
        write("/join-tokens", Scope::Admin, post(join::invite)),
        open("/join", get(join::terms)),
        route(Method::POST, "/join", Access::Join, post(join::join)),
        read("/authority", Scope::Viewer, get(authority::look)),
        write("/authority/rotate", Scope::Admin, post(authority::rotate)),
        write("/authority/finish", Scope::Admin, post(authority::finish)),
        read("/pauses", Scope::Viewer, get(pauses::list)),
        write("/pauses", Scope::Operator, post(pauses::pause)),
        remove("/pauses/{address}", Scope::Operator, delete(pauses::resume)),
        write("/backup", Scope::Admin, post(backup::make)),
    ]
}

fn route(
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<Portal>,
) -> Route {
    Route {
        method,
        path,
        access,
        handler,
        slow: false,
    }
}

/// Every request that the API knows: its method, its path with `{parameters}`, and who may send it.
#[must_use]
pub fn access() -> Vec<(Method, String, Access)> {
    let each = |route: Route| {
        (
            route.method,
            format!("{PREFIX}{}", route.path),
            route.access,
        )
    };
    table().into_iter().map(each).collect()
}

/// The whole API.
pub fn router(app: App) -> Router {
    routed(Portal::new(app), table())
}

/// What is only where its desktop is: requests for it come from other servers too.
pub(crate) fn screens(app: App) -> Router {
    let mut portal = Portal::new(app);
    portal.passed_on = true;
    let mut table = table();
    table.retain(|route| SCREENS.contains(&route.path));
    routed(portal, table)
}

fn routed(portal: Portal, table: Vec<Route>) -> Router {
    let mut router = Router::new();
    for Route {
        path,
        access,
        handler,
        slow,
        ..
    } in table
    {
        let handler = if slow {
            handler
        } else {
            handler.route_layer(middleware::from_fn_with_state(portal.clone(), in_time))
        };
        let handler = match access {
            Access::Open | Access::Join => handler,
            Access::Token(scope) => handler.route_layer(middleware::from_fn_with_state(
                (portal.clone(), scope),
                auth::guard,
            )),
        };
        router = router.route(&format!("{PREFIX}{path}"), handler);
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(sheltered))
        .with_state(portal)
}

/// What a witness answers: that it has no API.
pub fn witness() -> Router {
    Router::new()
        .fallback(no_api)
        .layer(middleware::from_fn(sheltered))
}

async fn no_api() -> Box<Problem> {
    Problem::new(
        Code::Elsewhere,
        "this is a witness of the grid: it votes, and has no API",
        "ask another server of the grid: --server https://HOST:PORT, or COPPICE_SERVER",
    )
}

/// Answers in time, if only to say that it could not.
async fn in_time(State(portal): State<Portal>, request: Request, next: Next) -> Response {
    match select(std::pin::pin!(next.run(request)), portal.app.clock.sleep(ANSWER_WITHIN)).await {
        Either::Left((response, _)) => response,
        Either::Right(_) => Problem::new(
            Code::Timeout,
            format!("there was no answer within {ANSWER_WITHIN}; what was asked for may still come about"),
            "look with `coppice status` whether it did, and try again",
        )
        .into_response(),
    }
}

/// A mistake of ours in one request is an answer too; and no answer is kept by anyone in between.
async fn sheltered(request: Request, next: Next) -> Response {
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::internal("answer", &"a panic").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn no_such_path(request: Request) -> Box<Problem> {
    let path: String = request.uri().path().chars().take(80).collect();
    Problem::new(
        Code::Absent,
        format!("there is nothing at {path}"),
        "GET /api/v1/openapi.json says what there is; client and server may be of different versions",
    )
}

async fn no_such_method(request: Request) -> Box<Problem> {
    let path: String = request.uri().path().chars().take(80).collect();
    Problem::new(
        Code::Method,
        format!("{} is not a method of {path}", request.method()),
        "GET /api/v1/openapi.json says which are",
    )
}
