//! The API on a TLS port, and what is beside it.

mod beside;
mod crowd;
mod keep_alive;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::compat::TokioAsyncReadCompatExt;

use self::crowd::{Crowd, Place};
use crate::auth::Peer;

pub use self::beside::Beside;
pub use self::keep_alive::keep_alive;

/// What a client may take of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Of these, from one network: one IPv4 address, or 64 bits of IPv6. More are closed at once, so that one machine
    /// cannot take all places, which it could without any token.
    pub per_network: usize,
    /// Whether that counts for this machine too; whoever is on it has other ways.
    pub count_loopback: bool,
    /// A handshake takes three round trips, and some arithmetic on slow machines.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head; also how long an idle connection is kept.
    pub head: Duration,
    /// A client that takes nothing for so long is given up.
    pub write: Duration,
    /// What is under way when the server stops has so long to end. Streams and consoles never end by themselves.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            per_network: 64,
            count_loopback: false,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            write: Duration::from_secs(60),
            farewell: Duration::from_secs(5),
        }
    }
}

/// A socket beside the server's own that is there for a while, or none.
pub type Also = watch::Receiver<Option<Arc<TcpListener>>>;

/// Where connections come from.
pub struct Listens {
    own: TcpListener,
    also: Also,
}

impl Listens {
    /// On the server's own socket, and on whatever is in `also`.
    #[must_use]
    pub fn on(own: TcpListener, also: Also) -> Self {
        Self { own, also }
    }

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let other = self.also.borrow_and_update().clone();
            let come = async {
                match &other {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = self.own.accept() => return accepted,
                accepted = come => return accepted,
                Ok(()) = self.also.changed() => {}
            }
        }
    }
}

impl From<TcpListener> for Listens {
    fn from(own: TcpListener) -> Self {
        Self::on(own, watch::channel(None).1)
    }
}

/// Answers on `listens`, within `limits`, until `shutdown` is ready; then what is under way has a few seconds to end.
///
/// Speaks HTTP/1.1 only, whatever `tls` says about protocols: WebSockets need it. Whoever wants what `beside` speaks is
/// given to that, and takes no place from clients once it has shown who it is. A failing connection harms no other;
/// slow clients are given up.
pub async fn serve(
    listens: impl Into<Listens>,
    tls: Arc<ServerConfig>,
    router: Router,
    beside: Option<Arc<dyn Beside>>,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut listens = listens.into();
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let port = Port {
        tls: Arc::new(tls),
        router,
        beside,
        limits: limits.clone(),
    };
    let places = Arc::new(Semaphore::new(limits.connections));
    let crowd = Arc::new(Crowd::new(limits.per_network, limits.count_loopback));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&mut listens, &places, &crowd) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        connections.spawn(port.clone().answer(stream, peer, place, stopping.clone()));
    }
    drop(listens);
    // Whoever listened has ended already if nobody does.
    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.farewell, all_ended).await.is_err() {
        tracing::info!("connections that did not end by themselves are cut");
    }
}

async fn accept(
    listens: &mut Listens,
    places: &Arc<Semaphore>,
    crowd: &Arc<Crowd>,
) -> Option<(TcpStream, SocketAddr, Places)> {
    let permit = Arc::clone(places).acquire_owned().await.ok()?;
    match listens.accept().await {
        Ok((stream, peer)) => {
            let Some(place) = crowd.take(peer.ip()) else {
                // Before the handshake, which costs more than a connection.
                tracing::debug!(%peer, "too many connections from one network: closed");
                return None;
            };
            Some((stream, peer, (permit, place)))
        }
        Err(error) => {
            // Out of file descriptors, mostly: trying again at once would only spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// What a connection takes from others as long as it is there.
type Places = (OwnedSemaphorePermit, Place);

/// What answers on the port.
#[derive(Clone)]
struct Port {
    tls: Arc<ServerConfig>,
    router: Router,
    beside: Option<Arc<dyn Beside>>,
    limits: Limits,
}

type Encrypted = TlsStream<Pin<Box<TimeoutStream<TcpStream>>>>;

impl Port {
    async fn answer(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        place: Places,
        mut stopping: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection is slower than it need be");
        }
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%peer, %error, "it will not be noticed when this peer vanishes");
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.write));
        let handshake = self.handshake(Box::pin(stream));
        let (stream, beside) = match timeout(self.limits.handshake, handshake).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
        };
        if let Some(beside) = beside {
            drop(place);
            let shown = stream.get_ref().1.peer_certificates();
            let shown = shown.unwrap_or_default().to_vec();
            let served = beside.serve(shown, Box::pin(stream.compat()));
            tokio::select! {
                () = served => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            return;
        }
        self.http(stream, peer, stopping).await;
        drop(place);
    }

    /// Shakes hands as whoever connects wants it; with what is beside the API, if that is wanted.
    async fn handshake(
        &self,
        stream: Pin<Box<TimeoutStream<TcpStream>>>,
    ) -> io::Result<(Encrypted, Option<Arc<dyn Beside>>)> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let speaks = |beside: &&Arc<dyn Beside>| {
            let hello = begun.client_hello();
            let mut spoken = hello.alpn().into_iter().flatten();
            spoken.any(|protocol| protocol == beside.protocol().as_bytes())
        };
        let beside = self.beside.as_ref().filter(speaks).cloned();
        let tls = beside
            .as_ref()
            .map_or_else(|| Arc::clone(&self.tls), |beside| beside.tls());
        Ok((begun.into_stream(tls).await?, beside))
    }

    async fn http(&self, stream: Encrypted, peer: SocketAddr, mut stopping: watch::Receiver<bool>) {
        let router = self.router.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            tower::ServiceExt::oneshot(router.clone(), request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_headers(64)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let stop = async { stopping.wait_for(|stop| *stop).await.is_ok() };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended early");
        }
    }
}
