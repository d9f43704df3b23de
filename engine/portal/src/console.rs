//! A desktop's screen through a WebSocket.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use coppice_schema::desired::Display;
use coppice_schema::ids::DesktopId;
use coppice_schema::units::Span;
use coppice_world::hypervisor::ByteStream;
use futures::future::{Either, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};

use crate::api::{Code, DisplayChoice, Problem};
use crate::auth::Who;
use crate::params::{Asked, Named};
use crate::passing::{self, Place};
use crate::portal::Portal;

/// Bytes read from a display at once.
const CHUNK: usize = 64 << 10;
/// Largest message that a client may send.
const MESSAGE_MAX: usize = 1 << 20;
/// How often it is looked whether the token still counts.
const WELCOME_EVERY: Span = Span::seconds(10);

/// Query of the console.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    #[serde(default)]
    display: DisplayChoice,
}

/// The stream of its display, as binary messages in both directions, unaltered. Text messages are refused. It ends
/// when the display ends, or when the token stops counting. Any server answers: one that has not the desktop passes the
/// bytes on to the one that has.
#[utoipa::path(get, path = "/api/v1/desktops/{id}/console",
    params(("id" = String, Path), ("display" = Option<DisplayChoice>, Query)), responses(
    (status = 101), (status = 404, body = Problem), (status = 409, body = Problem), (status = 421, body = Problem)))]
pub(crate) async fn console(
    portal: Portal,
    who: Who,
    Named(id): Named<DesktopId>,
    Asked(which): Asked<Which>,
    request: Request,
) -> Result<Response, Box<Problem>> {
    let desktop = match passing::place(&portal, &id).await? {
        Place::Here(desktop) => desktop,
        Place::There(there) => return there.answer(&portal, request).await,
    };
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &portal).await;
    let upgrade = upgrade.map_err(|error| {
        Problem::new(
            Code::Request,
            format!("this is a WebSocket, and the request does not ask for one: {error}"),
            "use `coppice desktop console ID`, or a WebSocket client over HTTP/1.1",
        )
    })?;
    let shown = match which.display {
        DisplayChoice::Vnc => Display::Vnc,
        DisplayChoice::Spice => Display::Spice,
    };
    // Before the upgrade: what the hypervisor refuses is still a proper answer then.
    let stream = portal
        .app
        .hypervisor
        .console(desktop.spec.uuid, shown)
        .await?;
    tracing::info!(author = %who.author(), desktop = %id, ?shown, "a console was opened");
    let upgrade = upgrade
        .protocols(["binary"])
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX);
    Ok(upgrade.on_upgrade(async move |socket| {
        carry(&portal, &who, socket, stream).await;
        tracing::info!(author = %who.author(), desktop = %id, "a console was closed");
    }))
}

/// Carries bytes both ways until either side ends.
async fn carry(portal: &Portal, who: &Who, socket: WebSocket, stream: ByteStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_display, mut to_display) = stream.split();

    let down = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n @ 1..) = from_display.read(&mut chunk).await {
            let message = Message::Binary(chunk[..n].to_vec().into());
            if to_client.send(message).await.is_err() {
                break;
            }
        }
        // Failing to say goodbye to whoever left is no news.
        let _ = to_client.send(Message::Close(None)).await;
    };
    let up = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Text(_) | Message::Close(_) => break,
            };
            if to_display.write_all(&bytes).await.is_err() || to_display.flush().await.is_err() {
                break;
            }
        }
    };
    let unwelcome = async {
        while who.still_welcome(portal) {
            portal.app.clock.sleep(WELCOME_EVERY).await;
        }
    };
    let (down, up, unwelcome) = (
        std::pin::pin!(down),
        std::pin::pin!(up),
        std::pin::pin!(unwelcome),
    );
    let both = select(down, up);
    match select(both, unwelcome).await {
        Either::Left(_) | Either::Right(_) => {}
    }
}
