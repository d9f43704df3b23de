//! Which certificates one server accepts of another.

use std::fmt;
use std::io;
use std::sync::Arc;

use coppice_schema::ids::{GridId, ServerId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, SignatureScheme,
};

use crate::authority::{AuthorityError, bearer};

/// Whom a grid's authority, or for a while two, vouches for.
pub(crate) struct Trust {
    grid: GridId,
    roots: RootCertStore,
}

impl Trust {
    /// The authorities in `pem`.
    pub(crate) fn of(grid: GridId, pem: &str) -> Result<Self, AuthorityError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let authority = authority.map_err(|e| Error::General(e.to_string()))?;
            roots.add(authority)?;
        }
        Ok(Self { grid, roots })
    }
}

/// Where the present trust is found: it changes while a server runs.
pub(crate) trait Trusts: Send + Sync {
    /// As it is now.
    fn trust(&self) -> Arc<Trust>;
}

/// Accepts the certificates of the grid's servers, of whoever calls and whoever is called.
pub(crate) struct Verifier {
    trusts: Arc<dyn Trusts>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(crate) fn new(provider: &CryptoProvider, trusts: Arc<dyn Trusts>) -> Self {
        Self {
            trusts,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Both sides of a connection have the same kind of certificate, and it is good for both.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let trust = self.trusts.trust();
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.roots,
            intermediates,
            now,
            algorithms,
        )?;
        match bearer(certificate) {
            Some((grid, _)) if grid == trust.grid => Ok(()),
            Some((grid, _)) => Err(not(&format!("a server of grid {grid}"))),
            None => Err(not("no server of a grid")),
        }
    }
}

fn not(whose: &str) -> Error {
    let told = io::Error::other(format!("it is the certificate of {whose}"));
    CertificateError::Other(OtherError(Arc::new(told))).into()
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the grid's servers")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // Servers know each other by their numbers: addresses change, and names are for clients.
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A server has one certificate, and shows it whatever it is asked for.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Which server showed `certificates` in a handshake that accepted them.
pub(crate) fn shown(certificates: &[CertificateDer<'_>]) -> Option<ServerId> {
    let (_, server) = bearer(certificates.first()?)?;
    Some(server)
}

/// What the other side had against our certificate, where that is why a connection broke.
pub(crate) fn alert(error: &io::Error) -> Option<String> {
    let Some(Error::AlertReceived(alert)) = tls(error) else {
        return None;
    };
    // An authority of the same name has another key.
    let stranger = [AlertDescription::UnknownCA, AlertDescription::DecryptError];
    Some(if stranger.contains(alert) {
        "another authority signed it than the one of the grid that answers there. If that took over while this server was \
         away, this one joins again, once `coppice serve` is stopped on it: coppice server rejoin ADDRESS TOKEN"
            .to_owned()
    } else if *alert == AlertDescription::CertificateExpired {
        "by the clock there it is over, or not yet begun: set both servers' clocks".to_owned()
    } else {
        format!("it says {alert:?}")
    })
}

/// What we have against the other side's certificate, where that is why a handshake failed.
pub(crate) fn distrust(error: &io::Error) -> Option<String> {
    let Some(Error::InvalidCertificate(why)) = tls(error) else {
        return None;
    };
    let stranger = [
        CertificateError::UnknownIssuer,
        CertificateError::BadSignature,
    ];
    let untimely = [CertificateError::Expired, CertificateError::NotValidYet];
    Some(if stranger.contains(why) {
        "another authority signed it than this grid's. If that took over while one of the two was away, that one joins \
         again: coppice server rejoin ADDRESS TOKEN"
            .to_owned()
    } else if untimely.contains(why) || is_untimely(why) {
        "by the clock here it is over, or not yet begun: set both servers' clocks".to_owned()
    } else {
        why.to_string()
    })
}

fn is_untimely(why: &CertificateError) -> bool {
    matches!(
        why,
        CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }
    )
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}
