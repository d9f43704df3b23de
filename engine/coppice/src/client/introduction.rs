//! The way to a grid that this machine knows by nothing but a join token.
//!
//! First it is asked, of whoever answers, for the certificate of the grid's authority; nothing is told. Only if its key
//! is the one that the token names does the machine connect again, and then to a server that the authority vouches for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coppice_grid::authority;
use coppice_portal::api::{JoinSecret, JoinTerms};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Client, ClientError, Target, connect};
use crate::failure::Failure;

/// A grid that has shown that it is the one that made a token.
pub(crate) struct Introduced {
    /// What it said of itself.
    pub(crate) terms: JoinTerms,
    /// The way to its servers.
    pub(crate) client: Client,
    /// This machine's address on the way there.
    pub(crate) from: IpAddr,
}

/// Why nothing may be said to whoever answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotIntroduced {
    /// There is no connection, or no understanding.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A grid, and not the one that made the token.
    #[error("the grid at {0} is not the one that made this token")]
    OtherGrid(Target),
    /// The grid, which has had another authority since.
    #[error("the token is of an authority that the grid at {0} had before")]
    OldToken(Target),
    /// Of our own making.
    #[error("{}", .0.what)]
    Ours(Failure),
}

impl Introduced {
    /// Asks whoever answers at `target`, and checks what it says by `token`.
    pub(crate) async fn at(
        target: Target,
        token: &JoinSecret,
        timeout: Duration,
    ) -> Result<Self, NotIntroduced> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let anyone = connect::checked_by(Arc::new(Anyone(Arc::clone(&provider))))
            .map_err(NotIntroduced::Ours)?;
        let from = reach(&target, timeout).await?;
        let stranger = Client::over(target.clone(), anyone, timeout);
        let terms: JoinTerms = stranger.get("/join").await?;
        // While one authority takes over from another, both are told, and servers show what the old one vouches for too.
        let each = CertificateDer::pem_slice_iter(terms.authority.as_bytes());
        let mut each = each.map_while(Result::ok);
        let named = each.find(|der| authority::key_of(der) == Some(token.authority));
        let Some(named) = named else {
            return Err(if terms.former.contains(&token.authority) {
                NotIntroduced::OldToken(target)
            } else {
                NotIntroduced::OtherGrid(target)
            });
        };
        let vouched = vouched(named, provider).map_err(NotIntroduced::Ours)?;
        let tls = connect::checked_by(Arc::new(vouched)).map_err(NotIntroduced::Ours)?;
        let client = Client::over(target, tls, timeout);
        Ok(Self {
            terms,
            client,
            from,
        })
    }
}

/// This machine's address on the way to `target`.
async fn reach(target: &Target, timeout: Duration) -> Result<IpAddr, ClientError> {
    let server = target.to_string();
    let dialled = tokio::time::timeout(timeout, connect::dial(target)).await;
    let stream = dialled.map_err(|_| ClientError::Slow {
        server: server.clone(),
        after: timeout,
    })?;
    stream
        .and_then(|stream| stream.local_addr())
        .map(|address| address.ip())
        .map_err(|e| ClientError::Connect {
            server,
            kind: e.kind(),
            cause: e.to_string(),
        })
}

fn vouched(
    authority: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
) -> Result<Vouched, Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new("the certificate of the grid's authority cannot be used").because(e)
    };
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(|e| failed(&e))?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| failed(&e))?;
    Ok(Vouched(inner))
}

/// Whoever answers: nothing is told to it.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A server of the grid, under whatever name it was reached: the token vouches for the authority, and that for the
/// server.
#[derive(Debug)]
struct Vouched(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Vouched {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Which every server's certificate has.
        let own =
            ServerName::try_from("localhost").map_err(|e| rustls::Error::General(e.to_string()))?;
        self.0
            .verify_server_cert(end_entity, intermediates, &own, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
