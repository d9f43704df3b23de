//! A certificate that is made anew while connections go on.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coppice_schema::units::Timestamp;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{AuthorityError, Identity, Subject};
use crate::vault::GridKey;

/// What a running server shows of its identity. Each handshake takes the newest certificate; clones are the same one.
#[derive(Clone)]
pub struct Renewal(Arc<Shown>);

struct Shown(Mutex<Arc<CertifiedKey>>);

impl Renewal {
    /// Shows `identity` for now.
    ///
    /// # Errors
    /// When its certificate and key do not fit.
    pub fn of(identity: &Identity) -> Result<Self, AuthorityError> {
        let certified = Arc::new(identity.certified()?);
        Ok(Self(Arc::new(Shown(Mutex::new(certified)))))
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
        let certified = Arc::new(identity.certified()?);
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(identity)
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

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's certificate")
    }
}
