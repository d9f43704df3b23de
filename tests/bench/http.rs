//! Requests on one connection, as real clients make them: HTTP/1.1 over TLS to a grid, gRPC to etcd.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who does not answer within this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may ask a grid.
#[derive(Clone)]
pub(crate) struct Credentials {
    tls: Arc<ClientConfig>,
    token: String,
}

impl Credentials {
    pub(crate) fn new(ca: &[u8], token: &str) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate = certificate.map_err(|e| e.to_string())?;
            roots.add(certificate).map_err(|e| e.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            token: token.trim().to_owned(),
        })
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn dial(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// A connection to a server of a grid.
pub(crate) struct Api {
    sender: http1::SendRequest<Full<Bytes>>,
    address: SocketAddr,
    token: String,
}

impl Api {
    pub(crate) async fn connect(
        address: SocketAddr,
        credentials: &Credentials,
    ) -> Result<Self, String> {
        let connecting = async {
            let stream = dial(address).await?;
            let name = ServerName::from(address.ip());
            let stream = TlsConnector::from(Arc::clone(&credentials.tls)).connect(name, stream);
            let stream = TokioIo::new(stream.await.map_err(|e| e.to_string())?);
            http1::handshake(stream).await.map_err(|e| e.to_string())
        };
        let (sender, connection) = in_time(connecting).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            address,
            token: credentials.token.clone(),
        })
    }

    /// The answer's body, if it is a success.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<serde_json::Value, String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|e| e.to_string())?;
        let asking = async {
            self.sender.ready().await.map_err(|e| e.to_string())?;
            let answer = self.sender.send_request(request).await;
            whole(answer.map_err(|e| e.to_string())?).await
        };
        let bytes = in_time(asking).await?;
        serde_json::from_slice(&bytes).map_err(|e| e.to_string())
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, String> {
    let status = answer.status();
    let collected = answer.into_body().collect().await;
    let bytes = collected.map_err(|e| e.to_string())?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)))
}

/// A connection to a gRPC server, without TLS.
pub(crate) struct Grpc {
    sender: http2::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Grpc {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, String> {
        let connecting = async {
            let stream = TokioIo::new(dial(address).await?);
            let shake = http2::handshake(TokioExecutor::new(), stream);
            shake.await.map_err(|e| e.to_string())
        };
        let (sender, connection) = in_time(connecting).await?;
        tokio::spawn(connection);
        Ok(Self { sender, address })
    }

    /// Calls `method` with a message, and returns the one that comes back.
    pub(crate) async fn call(&mut self, method: &str, message: &[u8]) -> Result<Bytes, String> {
        let length = u32::try_from(message.len()).map_err(|e| e.to_string())?;
        // Not compressed, so long, and the message.
        let mut body = vec![0];
        body.extend(length.to_be_bytes());
        body.extend(message);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{method}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let asking = async {
            self.sender.ready().await.map_err(|e| e.to_string())?;
            let answer = self.sender.send_request(request).await;
            let answer = answer.map_err(|e| e.to_string())?;
            let early = answer.headers().clone();
            let collected = answer.into_body().collect().await;
            let collected = collected.map_err(|e| e.to_string())?;
            let trailers = collected.trailers().cloned().unwrap_or(early);
            match trailers.get("grpc-status").map(|status| status.as_bytes()) {
                Some(b"0") => Ok(collected.to_bytes()),
                _ => Err(format!("{method} failed: {trailers:?}")),
            }
        };
        let bytes = in_time(asking).await?;
        if bytes.len() < 5 {
            return Err(format!("{method} answered nothing"));
        }
        Ok(bytes.slice(5..))
    }
}
