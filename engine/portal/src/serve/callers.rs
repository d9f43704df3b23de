//! Other servers of the grid, on the port on which the API answers. They say in the TLS handshake that they are.

use std::fmt;
use std::io;
use std::sync::Arc;

use coppice_world::hypervisor::ByteStream;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// What becomes of a connection that another server opened, with the certificates that it showed.
type Take =
    dyn Fn(Vec<CertificateDer<'static>>, ByteStream) -> BoxFuture<'static, ()> + Send + Sync;

/// What takes the connections that other servers open.
#[derive(Clone)]
pub struct Callers {
    /// What they say in the handshake that they speak (ALPN).
    pub protocol: &'static str,
    /// What they are told in it. It must ask for their certificates.
    pub tls: Arc<ServerConfig>,
    /// Serves one connection to its end.
    pub take: Arc<Take>,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "callers that speak {}", self.protocol)
    }
}

impl Callers {
    pub(super) async fn take<S>(&self, stream: TlsStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().unwrap_or_default();
        let shown = shown.iter().map(|c| c.clone().into_owned()).collect();
        (self.take)(shown, Box::pin(stream.compat())).await;
    }
}

/// The two ways in.
pub(super) struct Doors {
    pub(super) api: Arc<ServerConfig>,
    pub(super) callers: Option<Callers>,
}

impl Doors {
    /// Shakes hands as whoever calls wants to; with callers where it is another server.
    pub(super) async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Option<&Callers>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let callers = self.callers.as_ref().filter(|callers| {
            let hello = begun.client_hello();
            let mut offered = hello.alpn().into_iter().flatten();
            offered.any(|protocol| protocol == callers.protocol.as_bytes())
        });
        let tls = callers.map_or(&self.api, |callers| &callers.tls);
        let stream = begun.into_stream(Arc::clone(tls)).await?;
        Ok((stream, callers))
    }
}
