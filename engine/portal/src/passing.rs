//! Requests for a desktop's screen, passed on to the server that has the desktop.
//!
//! Everything else is answered by any server, from the state that all share; a screen is only where its desktop runs. The
//! request goes there as it came, with its token, as HTTP on a stream between the two servers, and is judged there
//! again. It is passed on once: where the two do not agree on where the desktop is, the client is told so.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::Response;
use coppice_schema::ids::{DesktopId, ServerId};
use coppice_schema::known::KnownDesktop;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{Purpose, Serves};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::api::{Code, Problem};
use crate::desktops;
use crate::portal::{App, Portal};
use crate::routes;

/// What of a request is passed on: the rest says nothing to whoever has the desktop.
const PASSED: [HeaderName; 7] = [
    header::AUTHORIZATION,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// What takes requests that other servers pass on: for screens of desktops that are here, and for nothing else. For
/// streams of [`Purpose::Consoles`].
pub fn passed_on(app: App) -> Arc<dyn Serves> {
    Arc::new(Screens(routes::screens(app)))
}

struct Screens(Router);

impl Serves for Screens {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let router = self.0.clone();
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                tower::ServiceExt::oneshot(router.clone(), request)
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream.compat()), service)
                .with_upgrades();
            if let Err(error) = served.await {
                tracing::debug!(%from, %error, "a request that was passed on ended early");
            }
        }
        .boxed()
    }
}

/// Where a desktop is.
pub(crate) enum Place {
    /// This server has it.
    Here(Box<KnownDesktop>),
    /// Another has.
    There(There),
}

/// Another server.
pub(crate) struct There {
    desktop: DesktopId,
    server: ServerId,
    /// Its name and where its API answers, for people.
    name: String,
}

/// Where the desktop `id` is.
pub(crate) async fn place(portal: &Portal, id: &DesktopId) -> Result<Place, Box<Problem>> {
    let seen = portal.look().await;
    let desktop = desktops::find(&seen.state, id)?;
    if desktop.server == portal.app.server {
        return Ok(Place::Here(Box::new(desktop.clone())));
    }
    let server = seen.state.servers.get(&desktop.server);
    let name = server.map(|server| format!("{} ({})", server.name, server.api));
    let there = There {
        desktop: id.clone(),
        server: desktop.server,
        name: name.unwrap_or_else(|| desktop.server.to_string()),
    };
    if portal.passed_on {
        return Err(Problem::new(
            Code::Elsewhere,
            format!("desktop {id} is on server {} by now", there.name),
            "it has moved a moment ago: try again",
        ));
    }
    Ok(Place::There(there))
}

impl There {
    /// What that server answers to `request`.
    pub(crate) async fn answer(
        self,
        portal: &Portal,
        mut request: Request,
    ) -> Result<Response, Box<Problem>> {
        let stream = portal.app.peers.connect(self.server, Purpose::Consoles);
        let stream = stream.await.map_err(|error| self.silent(&error))?;
        let (mut asks, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream.compat()))
                .await
                .map_err(|error| self.silent(&error))?;
        tokio::spawn(connection.with_upgrades());
        let client = hyper::upgrade::on(&mut request);
        let answer = asks.send_request(passed(&request)).await;
        let mut answer = answer.map_err(|error| self.silent(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let desktop = hyper::upgrade::on(&mut answer);
            tokio::spawn(carry(self.desktop, client, desktop));
        } else {
            // How it was framed on that stream is nothing to the client.
            answer.headers_mut().remove(header::CONNECTION);
            answer.headers_mut().remove(header::TRANSFER_ENCODING);
        }
        Ok(answer.map(Body::new))
    }

    fn silent(&self, error: &dyn std::error::Error) -> Box<Problem> {
        let (desktop, name) = (&self.desktop, &self.name);
        Problem::new(
            Code::Elsewhere,
            format!(
                "desktop {desktop} is on server {name}, which cannot be asked from here: {error}"
            ),
            "look with `coppice server list` whether it is there, or ask it, with --server",
        )
    }
}

/// The same request for another server.
fn passed(request: &Request) -> Request {
    let mut passed = Request::new(Body::empty());
    *passed.method_mut() = request.method().clone();
    *passed.uri_mut() = request.uri().clone();
    for name in PASSED {
        for value in request.headers().get_all(&name) {
            passed.headers_mut().append(&name, value.clone());
        }
    }
    passed
}

/// Carries bytes both ways until either side ends, and then ends the other.
async fn carry(id: DesktopId, client: OnUpgrade, desktop: OnUpgrade) {
    let (client, desktop) = match futures::future::try_join(client, desktop).await {
        Ok(both) => both,
        Err(error) => {
            return tracing::debug!(desktop = %id, %error, "a console came to nothing");
        }
    };
    let io = |upgraded: Upgraded| split(TokioIo::new(upgraded));
    let ((mut from_client, mut to_client), (mut from_desktop, mut to_desktop)) =
        (io(client), io(desktop));
    // How it ended is told by its end: whoever is left is not kept waiting.
    let ended = tokio::select! {
        ended = copy(&mut from_client, &mut to_desktop) => ended,
        ended = copy(&mut from_desktop, &mut to_client) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(desktop = %id, %error, "a console that was passed on broke");
    }
    let _ = futures::future::join(to_client.shutdown(), to_desktop.shutdown()).await;
}
