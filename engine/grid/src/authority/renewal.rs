//! A certificate that is made anew while connections go on.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coppice_schema::units::Timestamp;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use super::{AuthorityError, Identity, Subject};
use crate::tls::{Trust, Trusts, Verifier};
use crate::vault::GridKey;

/// What a running server shows of its identity. Each handshake takes the newest certificate; clones are the same one.
#[derive(Clone)]
pub struct Renewal(Arc<Shown>);

struct Shown(Mutex<Now>);

/// What is shown, and trusted, at present.
#[derive(Clone)]
struct Now {
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
}

impl Now {
    fn of(identity: &Identity) -> Result<Self, AuthorityError> {
        Ok(Self {
            certified: Arc::new(identity.certified()?),
            trust: Arc::new(Trust::of(identity.grid(), identity.ca_pem())?),
        })
    }
}

impl Renewal {
    /// Shows `identity` for now.
    ///
    /// # Errors
    /// When its certificate and key do not fit.
    pub fn of(identity: &Identity) -> Result<Self, AuthorityError> {
        Ok(Self(Arc::new(Shown(Mutex::new(Now::of(identity)?)))))
    }

    /// Opens the identity as at a start, and shows what it holds from now on. Returns it: it may have been renewed.
    ///
    /// # Errors
    /// As [`Identity::open`]; then the former certificate is shown still.
    pub fn look(
        &self,
        directory: &Path,
        subject: &Subject,
        now: Timestamp,
        grid_key: Option<&GridKey>,
    ) -> Result<Identity, AuthorityError> {
        let identity = Identity::open(directory, subject, now, grid_key)?;
        let now = Now::of(&identity)?;
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(identity)
    }

    /// TLS 1.3 between two servers, which show each other their newest certificates: for the side that is called, and
    /// for the one that calls. Each accepts only certificates that the authority of its grid signed for one of its
    /// servers; there may be two authorities at a time, while one takes over from the other. Which server it is, and
    /// whether that is a member still, is looked at once the connection is there. Nothing is resumed: every connection
    /// is looked at anew.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn between_servers(
        &self,
        protocol: &str,
    ) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), AuthorityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(&provider, Arc::clone(&self.0) as _));
        let versions = [&rustls::version::TLS13];
        let mut called = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_cert_resolver(Arc::clone(&self.0) as _);
        called.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        called.send_tls13_tickets = 0;
        let mut calls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::clone(&self.0) as _);
        calls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        calls.enable_sni = false;
        calls.resumption = Resumption::disabled();
        Ok((Arc::new(called), Arc::new(calls)))
    }

    /// TLS 1.3 with the newest certificate, for clients without one of their own. `protocols` are offered by ALPN, the
    /// first being preferred.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn tls(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>, AuthorityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0) as _);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl Shown {
    fn now(&self) -> Now {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }
}

impl Trusts for Shown {
    fn trust(&self) -> Arc<Trust> {
        self.now().trust
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now().certified)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now().certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate")
    }
}
