//! Connections between servers, in the real world: TCP, and TLS 1.3 with the certificates of both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::link::LinkError;
use crate::tls;
use crate::wire::{Dial, Rejection};

/// Bytes that nobody acknowledges for so long end their connection: a machine that lost its power says no goodbye.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// A connection on which nothing is said is asked after so long whether the other machine is there,
const IDLE: Duration = Duration::from_secs(15);
/// again after so long,
const INTERVAL: Duration = Duration::from_secs(5);
/// and so often.
const PROBES: u32 = 3;

/// Calls other servers.
pub(crate) struct Caller(TlsConnector);

impl Caller {
    pub(crate) fn new(calls: Arc<ClientConfig>) -> Self {
        Self(calls.into())
    }
}

impl Dial for Caller {
    fn dial(
        &self,
        address: String,
    ) -> BoxFuture<'static, Result<(ServerId, ByteStream), LinkError>> {
        let connector = self.0.clone();
        async move {
            let unreachable = |e: &io::Error| LinkError::Unreachable(format!("{address}: {e}"));
            let stream = TcpStream::connect(&address)
                .await
                .map_err(|e| unreachable(&e))?;
            attend(&stream).map_err(|e| unreachable(&e))?;
            // Not looked at by whoever is there, and not sent; TLS wants one.
            let name = ServerName::try_from("coppice")
                .map_err(|e| LinkError::Unreachable(format!("{address}: {e}")))?;
            let stream =
                connector
                    .connect(name, stream)
                    .await
                    .map_err(|e| match tls::distrust(&e) {
                        Some(why) => LinkError::Distrusted(Rejection::Certificate(why)),
                        None => match tls::alert(&e) {
                            Some(why) => LinkError::Rejected(Rejection::Certificate(why)),
                            None => unreachable(&e),
                        },
                    })?;
            let (_, session) = stream.get_ref();
            let server = tls::shown(session.peer_certificates().unwrap_or_default());
            let Some(server) = server else {
                let why = "it is no server's".to_owned();
                return Err(LinkError::Distrusted(Rejection::Certificate(why)));
            };
            Ok((server, Box::pin(stream.compat()) as ByteStream))
        }
        .boxed()
    }
}

/// Small messages go at once, and a vanished machine is noticed.
fn attend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    let most = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, most)?;
    Ok(())
}
