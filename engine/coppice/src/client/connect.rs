//! From a URL to an encrypted stream.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{self, ClientError};
use crate::failure::Failure;
use crate::settings::Settings;

/// Where an API is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// A name or an address, without brackets.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
}

impl Target {
    /// Reads `https://HOST[:PORT]`.
    pub(crate) fn parse(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("{url:?} is no address of a grid: {why}"))
                .hint("--server https://HOST:7443, or export COPPICE_SERVER=https://HOST:7443")
        };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("it must begin with https://"));
        }
        if uri.path().len() > 1 || uri.query().is_some() {
            return Err(wrong("it must end after the host and its port"));
        }
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        Ok(Self {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: uri.port_u16().unwrap_or(7443),
        })
    }

    /// `HOST:PORT`, as a request names it.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Trust in one authority: the grid's.
pub(super) fn trust(settings: &Settings) -> Result<Arc<ClientConfig>, Failure> {
    let path = settings.ca_file()?;
    let what = || format!("cannot use the grid's certificate in {}", path.display());
    let advice = "--ca-file, or COPPICE_CA_FILE, names the file ca.pem that `coppice init` wrote";
    let pem = std::fs::read(path).map_err(|e| Failure::new(what()).because(&e).hint(advice))?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|e| e.to_string())
            .and_then(|c| roots.add(c).map_err(|e| e.to_string()));
        added.map_err(|e| Failure::new(what()).cause(e).hint(advice))?;
    }
    if roots.is_empty() {
        return Err(Failure::new(what())
            .cause("it holds no certificate")
            .hint(advice));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::new("cannot set TLS up").because(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// TLS that checks who answers by `verifier`.
pub(super) fn checked_by(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::new("cannot set TLS up").because(&e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection that tells when the server's machine is gone: what is followed may be silent for long.
pub(super) async fn dial(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    // Without them it works all the same.
    let _ = stream.set_nodelay(true);
    let _ = coppice_portal::keep_alive(&stream);
    Ok(stream)
}

/// A connection to `target`, whose certificate was checked.
pub(super) async fn connect(
    target: &Target,
    tls: Arc<ClientConfig>,
    patience: Duration,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let server = target.to_string();
    let slow = || ClientError::Slow {
        server: target.to_string(),
        after: patience,
    };
    let connecting = dial(target);
    let stream = tokio::time::timeout(patience, connecting)
        .await
        .map_err(|_| slow())?
        .map_err(|e| ClientError::Connect {
            server: server.clone(),
            kind: e.kind(),
            cause: e.to_string(),
        })?;
    let name = ServerName::try_from(target.host.clone()).map_err(|e| ClientError::Connect {
        server: server.clone(),
        kind: io::ErrorKind::InvalidInput,
        cause: e.to_string(),
    })?;
    tokio::time::timeout(patience, TlsConnector::from(tls).connect(name, stream))
        .await
        .map_err(|_| slow())?
        .map_err(|e| handshake_failed(server, &e))
}

/// A server that ends while it is greeted breaks the connection, and says nothing of who it is.
fn handshake_failed(server: String, error: &io::Error) -> ClientError {
    let cause = error::chain(error);
    let broken = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    );
    if broken {
        ClientError::Broken { server, cause }
    } else {
        ClientError::Tls { server, cause }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_server_that_vanishes_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target::parse(&format!("https://{address}")).unwrap();
        let stream = dial(&target).await.unwrap();
        assert!(rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        let idle = rustix::net::sockopt::tcp_keepidle(&stream).unwrap();
        assert_eq!(idle, Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_server_that_ends_while_it_is_greeted_may_come_back_and_a_stranger_may_not() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let tls = Arc::new(tls);
        for (answer, passes) in [(&b""[..], true), (b"SSH-2.0-OpenSSH_9.2\r\n", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let target = Target::parse(&format!("https://{address}")).unwrap();
            let other = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
                // Read, so that what was answered is not lost with the connection.
                let _ = stream.read(&mut [0; 1024]).await;
            };
            let patience = Duration::from_secs(60);
            let (connected, ()) = tokio::join!(connect(&target, Arc::clone(&tls), patience), other);
            assert_eq!(connected.unwrap_err().passes(), passes);
        }
    }

    #[test]
    fn urls_are_read_or_refused_with_the_reason() {
        let read = |url| Target::parse(url).map(|t| t.to_string());
        assert_eq!(
            read("https://grid.example").unwrap(),
            "https://grid.example:7443"
        );
        assert_eq!(read("https://[::1]:1/").unwrap(), "https://[::1]:1");
        for (url, why) in [
            ("http://x:1", "must begin with https"),
            ("https://x/api", "must end after"),
            ("x y", "no URL"),
            ("localhost:7443", "https"),
        ] {
            let failure = Target::parse(url).unwrap_err();
            assert!(failure.what.contains(why), "{url}: {}", failure.what);
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
        }
    }
}
