//! The API over a real TLS connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use coppice_portal::api::Code;
use coppice_portal::{Also, Beside, Limits, Listens, serve};
use coppice_schema::units::Span;
use coppice_state::entry::Entry;
use coppice_state::token::{Scope, TokenId};
use coppice_world::clock::Clock;
use coppice_world::hypervisor::ByteStream;
use futures::future::BoxFuture;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt, SinkExt, StreamExt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::world::{World, secret};

struct Port {
    address: std::net::SocketAddr,
    connector: TlsConnector,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Port {
    async fn open(world: &World) -> Self {
        Self::within(world, Limits::default()).await
    }

    async fn within(world: &World, limits: Limits) -> Self {
        Self::beside(world, None, limits).await
    }

    async fn beside(world: &World, beside: Option<Arc<dyn Beside>>, limits: Limits) -> Self {
        Self::also(world, beside, limits, watch::channel(None).1).await
    }

    async fn also(
        world: &World,
        beside: Option<Arc<dyn Beside>>,
        limits: Limits,
        also: Also,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let served = tokio::spawn(serve(
            Listens::on(listener, also),
            Arc::new(tls),
            world.router.clone(),
            beside,
            limits,
            stopped,
        ));
        Self {
            address,
            connector: TlsConnector::from(Arc::new(client)),
            stop,
            served,
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_at(self.address).await
    }

    async fn connect_at(&self, address: std::net::SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, stream).await.unwrap()
    }

    async fn close(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_comes_later_is_answered_until_it_goes() {
    let (open, also) = watch::channel(None);
    let port = Port::also(&World::new(), None, Limits::default(), also).await;
    for _ in 0..2 {
        let come = TcpListener::bind("127.9.9.7:0").await.unwrap();
        let address = come.local_addr().unwrap();
        open.send_replace(Some(Arc::new(come)));
        drop(port.connect_at(address).await);
        drop(port.connect().await);
        open.send_replace(None);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(port.connect().await);
    }
    // Also when nobody is left who could bring another.
    drop(open);
    drop(port.connect().await);
    port.close().await;
}

#[tokio::test]
async fn a_request_is_answered_over_tls_and_the_server_stops_when_told() {
    let world = World::new();
    let port = Port::open(&world).await;
    // Plain text gets no answer, and does no harm.
    let mut plain = TcpStream::connect(port.address).await.unwrap();
    plain
        .write_all(b"GET /api/v1/health HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A reset instead of an alert is fine too.
    drop(plain.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP"));

    let mut stream = port.connect().await;
    let request = format!(
        "GET /api/v1/servers HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        secret(Scope::Viewer)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    assert!(answer.contains("\"name\":\"a\""), "{answer}");
    port.close().await;
}

#[tokio::test]
async fn a_console_carries_bytes_both_ways_until_its_token_is_revoked() {
    let world = World::new();
    world.grow(1, false);
    console(&world, &world).await;
}

#[tokio::test]
async fn a_console_is_passed_on_to_the_server_that_has_the_desktop() {
    let (mut world, other) = (World::new(), World::new());
    let id = other.grow(1, false);
    world.grow(1, false);
    world.gone_elsewhere(&id);
    world.hypervisor.0.lock().unwrap().clear();
    world.reach(&other);
    console(&world, &other).await;
}

#[tokio::test]
async fn a_server_on_its_own_shows_the_screens_of_its_desktops() {
    let world = World::new();
    world.grow(1, false);
    let elsewhere = world.grow(2, false);
    world.gone_elsewhere(&elsewhere);
    world.grid.alone.store(true, Ordering::SeqCst);
    *world.grid.degraded.lock().unwrap() = Some(world.clock.now());
    let screenshot = async |path| world.send(Scope::Helpdesk, Method::GET, path, "").await;
    let taken = screenshot("/desktops/lab-001/screenshot").await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.text());
    // What the silent one has is told to be there.
    let refused = screenshot("/desktops/lab-002/screenshot").await;
    refused.problem(Code::Elsewhere);
    console(&world, &world).await;
}

/// Asks `world` for the console of a desktop of `has`, uses it, and revokes its token there.
async fn console(world: &World, has: &World) {
    let port = Port::open(world).await;
    let mut request = "wss://localhost/api/v1/desktops/lab-001/console?display=vnc"
        .into_client_request()
        .unwrap();
    let bearer = format!("Bearer {}", secret(Scope::Helpdesk));
    request
        .headers_mut()
        .insert("authorization", bearer.parse().unwrap());
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "binary".parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::client_async(request, port.connect().await)
        .await
        .unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "binary");
    let first = socket.next().await.unwrap().unwrap();
    assert_eq!(first, Message::Binary(b"RFB 003.008\n".as_slice().into()));
    let bytes: Vec<u8> = (0..=96).chain(128..=255).collect();
    socket
        .send(Message::Binary(bytes.clone().into()))
        .await
        .unwrap();
    let mut back = Vec::new();
    while back.len() < bytes.len() {
        back.extend_from_slice(&socket.next().await.unwrap().unwrap().into_data());
    }
    assert_eq!(back, bytes);

    let id = TokenId("test-helpdesk".to_owned());
    has.grid.agree(Entry::TokenRevoked {
        id,
        author: "test".to_owned(),
    });
    has.clock.pass(Span::seconds(10));
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close(), "{message:?}");
    }
    port.close().await;
}

#[tokio::test]
async fn a_display_that_is_not_there_is_refused_before_the_upgrade() {
    let world = World::new();
    world.grow(1, false);
    let port = Port::open(&world).await;
    let mut request = "wss://localhost/api/v1/desktops/lab-001/console?display=spice"
        .into_client_request()
        .unwrap();
    let bearer = format!("Bearer {}", secret(Scope::Helpdesk));
    request
        .headers_mut()
        .insert("authorization", bearer.parse().unwrap());
    let refused = tokio_tungstenite::client_async(request, port.connect().await).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(response.status(), 409);
    port.close().await;
}

/// Says what it is, to whoever speaks it.
struct Parrot(Arc<ServerConfig>);

impl Beside for Parrot {
    fn protocol(&self) -> &'static str {
        "parrot"
    }

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }

    fn serve(
        &self,
        _: Vec<CertificateDer<'static>>,
        mut stream: ByteStream,
    ) -> BoxFuture<'static, ()> {
        async move {
            stream.write_all(b"parrot").await.unwrap();
            stream.flush().await.unwrap();
            // Until the other side, or the whole port, ends.
            drop(stream.read(&mut [0]).await);
        }
        .boxed()
    }
}

#[tokio::test]
async fn whoever_speaks_something_else_is_given_to_what_is_beside_the_api() {
    let world = World::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut tls = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"parrot".to_vec()];
    let parrot = Arc::new(Parrot(Arc::new(tls)));
    // One place: what is beside takes none.
    let port = Port::beside(&world, Some(parrot), one_place(|_| {})).await;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"parrot".to_vec()];
    let stream = TcpStream::connect(port.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let mut heard = connector.connect(name, stream).await.unwrap();
    let mut said = [0; 6];
    tokio::io::AsyncReadExt::read_exact(&mut heard, &mut said)
        .await
        .unwrap();
    assert_eq!(&said, b"parrot");
    let mut asked = port.connect().await;
    let request = "GET /api/v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut asked, request.as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut asked, &mut answer)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    port.close().await;
    // The port's end is the parrot's too, although nobody hung up.
    drop(tokio::io::AsyncReadExt::read(&mut heard, &mut said).await);
}

/// Room for one connection, so that nobody is answered before the one who came first was given up; and time for
/// everything but `one`.
fn one_place(one: impl FnOnce(&mut Limits)) -> Limits {
    let hour = Duration::from_secs(3_600);
    let mut limits = Limits {
        connections: 1,
        per_network: 1,
        count_loopback: false,
        handshake: hour,
        head: hour,
        write: hour,
        farewell: Duration::ZERO,
    };
    one(&mut limits);
    limits
}

/// Demands that the one place becomes free while `first` is still there.
async fn given_up<T>(port: Port, first: T) {
    let request = async {
        let mut stream = port.connect().await;
        stream
            .write_all(
                b"GET /api/v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            )
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), request)
        .await
        .expect("the first client was never given up");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(first);
    port.close().await;
}

#[tokio::test]
async fn a_client_that_never_ends_its_handshake_is_given_up() {
    let world = World::new();
    let limits = one_place(|limits| limits.handshake = Duration::from_millis(300));
    let port = Port::within(&world, limits).await;
    let silent = TcpStream::connect(port.address).await.unwrap();
    given_up(port, silent).await;
}

#[tokio::test]
async fn a_client_that_never_ends_the_head_of_its_request_is_given_up() {
    let world = World::new();
    let limits = one_place(|limits| limits.head = Duration::from_millis(300));
    let port = Port::within(&world, limits).await;
    let mut slow = port.connect().await;
    slow.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: lo")
        .await
        .unwrap();
    given_up(port, slow).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let world = World::new();
    let limits = one_place(|limits| limits.write = Duration::from_millis(300));
    let port = Port::within(&world, limits).await;
    let mut deaf = port.connect().await;
    // Answers far larger than what the system keeps for a client.
    let one = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for _ in 0..400 {
        deaf.write_all(one).await.unwrap();
    }
    given_up(port, deaf).await;
}

#[tokio::test]
async fn more_clients_than_there_are_places_for_wait_for_their_turn() {
    let world = World::new();
    let port = Port::within(&world, one_place(|_| {})).await;
    let first = port.connect().await;
    {
        let mut second = std::pin::pin!(port.connect());
        // The first has its place: whoever comes now is not even spoken to.
        let early = tokio::time::timeout(Duration::from_millis(200), second.as_mut()).await;
        assert!(early.is_err());
        drop(first);
        drop(second.await);
    }
    port.close().await;
}

#[tokio::test]
async fn one_network_leaves_places_for_others() {
    let world = World::new();
    let limits = Limits {
        per_network: 2,
        count_loopback: true,
        ..Limits::default()
    };
    let port = Port::within(&world, limits).await;
    let (first, second) = (port.connect().await, port.connect().await);
    let refused = |mut stream: TcpStream| async move {
        let mut answer = Vec::new();
        // Closed without a word; a reset says the same.
        drop(stream.read_to_end(&mut answer).await);
        answer.is_empty()
    };
    let third = TcpStream::connect(port.address).await.unwrap();
    assert!(refused(third).await);
    drop(first);
    // The place is free once the server has seen that: until then the next one is refused.
    let name = ServerName::try_from("localhost").unwrap();
    loop {
        let stream = TcpStream::connect(port.address).await.unwrap();
        if port.connector.connect(name.clone(), stream).await.is_ok() {
            break;
        }
    }
    drop(second);
    port.close().await;
}

/// What the kernel waits for on the server's end of `client`'s connection: 2 is the next question whether it is there.
fn timer(port: &Port, client: std::net::SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = [port.address, client].map(|end| format!(":{:04X}", end.port()));
    let row = table.lines().map(|line| line.split_whitespace().collect());
    let mut rows = row.filter(|row: &Vec<&str>| {
        row.len() > 5 && row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1])
    });
    rows.next().map(|row| row[5][..2].to_owned())
}

#[tokio::test]
async fn a_client_that_vanished_is_asked_for() {
    let world = World::new();
    let port = Port::open(&world).await;
    let client = port.connect().await;
    let address = client.get_ref().0.local_addr().unwrap();
    let asked = async {
        // What was sent for the handshake is acknowledged first.
        while timer(&port, address).as_deref() != Some("02") {
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(60), asked).await;
    assert!(
        asked.is_ok(),
        "nobody will ask: {:?}",
        timer(&port, address)
    );
    drop(client);
    port.close().await;
}
