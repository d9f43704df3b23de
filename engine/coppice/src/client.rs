//! The way to a grid: its HTTPS API, checked against the grid's own authority and nothing else.

mod connect;
mod error;
mod introduction;
mod stream;
mod websocket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coppice_portal::api::{PREFIX, Problem};
use coppice_schema::units::Timestamp;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::settings::Settings;

pub(crate) use connect::Target;
pub(crate) use error::{ClientError, refused};
pub(crate) use introduction::{Introduced, NotIntroduced};
pub(crate) use stream::Lines;

/// What a request may carry.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Most bytes of an answer that is read into memory: screenshots and plans of large grids fit well.
const ANSWER_MAX: usize = 256 << 20;

/// A grid's API, as one person with one token may use it.
#[derive(Clone)]
pub(crate) struct Client {
    target: Target,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
    timeout: Duration,
}

impl Client {
    /// A client for the server, authority and token that were named.
    ///
    /// # Errors
    /// When one of them is missing, unreadable or malformed. Nothing is sent yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        let token = settings.token()?;
        Self::with_token(settings, Some(token))
    }

    /// A client that does not say who it is.
    pub(crate) fn anonymous(settings: &Settings) -> Result<Self, Failure> {
        Self::with_token(settings, None)
    }

    fn with_token(settings: &Settings, token: Option<String>) -> Result<Self, Failure> {
        Ok(Self {
            target: Target::parse(&settings.server)?,
            tls: connect::trust(settings)?,
            token,
            timeout: settings.timeout,
        })
    }

    /// A client that says nothing of itself, over TLS as it is given.
    fn over(target: Target, tls: Arc<rustls::ClientConfig>, timeout: Duration) -> Self {
        let token = None;
        Self {
            target,
            tls,
            token,
            timeout,
        }
    }

    /// The server's URL.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Until when the server's certificate is valid; `None` when that cannot be read in it.
    pub(crate) async fn valid_until(&self) -> Result<Option<Timestamp>, ClientError> {
        let tls = Arc::clone(&self.tls);
        let stream = connect::connect(&self.target, tls, self.timeout).await?;
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        Ok(shown.and_then(coppice_grid::authority::valid_until))
    }

    /// Asks for something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, empty()).await
    }

    /// Asks for something to be done, and reads the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ClientError::Answer {
            what: format!("write the request for {path}"),
            cause: e.to_string(),
        })?;
        self.json(Method::POST, path, full(bytes)).await
    }

    /// Asks for a file to be made.
    pub(crate) async fn post_for_bytes(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Bytes, ClientError> {
        let bytes = serde_json::to_vec(body).map_err(|e| ClientError::Answer {
            what: format!("write the request for {path}"),
            cause: e.to_string(),
        })?;
        self.bytes(Method::POST, path, full(bytes)).await
    }

    /// Asks for something to be done; there is nothing to read.
    pub(crate) async fn act(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.bytes(method, path, empty()).await.map(drop)
    }

    /// Sends `body` as it is and reads the answer.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        self.json(Method::PUT, path, full(body)).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, body).await?;
        read_json(path, &bytes)
    }

    /// The whole answer as bytes, within the time allowed.
    pub(crate) async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Bytes, ClientError> {
        let work = async {
            let response = self.send(method, path, body).await?;
            let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
            let collected = limited.collect().await.map_err(|e| ClientError::Broken {
                server: self.target.to_string(),
                cause: e.to_string(),
            })?;
            Ok(collected.to_bytes())
        };
        self.in_time(work).await
    }

    /// Sends a body that takes as long as it takes.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Body,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::PUT, path, body).await?;
        let bytes = self.in_time(self.collect(response)).await?;
        read_json(path, &bytes)
    }

    /// An answer that comes in lines of JSON, for as long as it comes.
    pub(crate) async fn lines(&self, method: Method, path: &str) -> Result<Lines, ClientError> {
        let response = self.in_time(self.send(method, path, empty())).await?;
        Ok(Lines::new(self.target.to_string(), response.into_body()))
    }

    /// The headers of an answer, within the time allowed.
    pub(crate) async fn head(&self, path: &str) -> Result<hyper::HeaderMap, ClientError> {
        let response = self.in_time(self.send(Method::GET, path, empty())).await?;
        Ok(response.headers().clone())
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let collected = response
            .into_body()
            .collect()
            .await
            .map_err(|e| self.broken(&e))?;
        Ok(collected.to_bytes())
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        ClientError::Broken {
            server: self.target.to_string(),
            cause: error::chain(error),
        }
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Slow {
                    server: self.target.to_string(),
                    after: self.timeout,
                })
            })
    }

    /// One request on a connection of its own; an answer that is a problem becomes an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = connect::connect(&self.target, self.tls.clone(), self.timeout).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(&e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection ended");
            }
        });
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{PREFIX}{path}"))
            .header(HOST, self.target.authority())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(body).map_err(|e| ClientError::Answer {
            what: format!("make the request for {path}"),
            cause: e.to_string(),
        })?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.problem(path, response).await)
    }

    async fn problem(&self, path: &str, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        let bytes = match self.collect(response).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => ClientError::Problem(Box::new(problem)),
            Err(_) => ClientError::Answer {
                what: format!("understand the answer to {path}"),
                cause: other_answer(status, &bytes),
            },
        }
    }
}

/// Whatever answered is no grid, or a much newer one.
fn other_answer(status: StatusCode, bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    format!(
        "status {status}, and no description of the problem: {}",
        text.trim()
    )
}

fn read_json<T: DeserializeOwned>(path: &str, bytes: &Bytes) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|e| ClientError::Answer {
        what: format!("understand the answer to {path}"),
        cause: e.to_string(),
    })
}

/// No body.
pub(crate) fn empty() -> Body {
    full(Vec::new())
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A name as part of a path: what is not a plain letter is escaped.
pub(crate) fn segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(segment("lab-007"), "lab-007");
        assert_eq!(segment("../a b?c#d%"), "..%2Fa%20b%3Fc%23d%25");
    }
}
