//! Bodies of requests: never larger than allowed, never slower than bearable.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use coppice_schema::units::Span;
use coppice_world::clock::Clock;
use futures::StreamExt;
use futures::future::{Either, select};
use serde::de::DeserializeOwned;

use crate::api::{CONFIGURATION_MAX, Code, Problem};
use crate::portal::Portal;

/// How long a client may send nothing in the middle of a body.
const SILENCE_MAX: Span = Span::seconds(30);

/// A body of JSON. At most as large as a configuration.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Portal> for Json<T> {
    type Rejection = Box<Problem>;

    async fn from_request(request: Request, portal: &Portal) -> Result<Self, Box<Problem>> {
        let bytes = read(portal, request.into_body(), CONFIGURATION_MAX).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::new(
                Code::Request,
                format!("the body is not the JSON that this takes: {error}"),
                "GET /api/v1/openapi.json says what it takes; client and server may be of different versions",
            )
        })
    }
}

/// Reads a body whole.
pub(crate) async fn read(portal: &Portal, body: Body, max: usize) -> Result<Vec<u8>, Box<Problem>> {
    let mut parts = Parts::of(portal, body);
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part?;
        if bytes.len() + part.len() > max {
            return Err(Problem::new(
                Code::TooLarge,
                format!("the body has more than {max} bytes"),
                "send less",
            ));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// A body part by part.
pub(crate) struct Parts {
    stream: axum::body::BodyDataStream,
    clock: std::sync::Arc<dyn Clock>,
}

impl Parts {
    pub(crate) fn of(portal: &Portal, body: Body) -> Self {
        Self {
            stream: body.into_data_stream(),
            clock: std::sync::Arc::clone(&portal.app.clock),
        }
    }

    /// The next part; `None` at the end. A client that stops in the middle is an error after a while.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Box<Problem>>> {
        match select(self.stream.next(), self.clock.sleep(SILENCE_MAX)).await {
            Either::Left((part, _)) => Some(part?.map_err(|error| {
                Problem::new(
                    Code::Request,
                    format!("the body broke off: {error}"),
                    "send it again",
                )
            })),
            Either::Right(_) => Some(Err(Problem::new(
                Code::Timeout,
                format!("nothing came for {SILENCE_MAX} in the middle of the body"),
                "send it again over a better connection",
            ))),
        }
    }
}
