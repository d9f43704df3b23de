//! How a server without the authority's key comes to a certificate: it draws a key, shows what can be known of it, and
//! a server that has the authority's key signs that.

use std::path::Path;

use coppice_schema::Digest;
use coppice_schema::units::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::issuer::Authority;
use super::{
    AuthorityError, CA_CERTIFICATE, CERTIFICATE, KEY, Subject, parse, signed_by, text, write,
};
use crate::directory::{create_private, replace};
use crate::private::{self, PrivateFileError};
use crate::vault::GridKey;

/// A key that waits for its certificate. It is kept from its first moment on, so that whoever is cut off asks again
/// with the same one.
pub struct Enrolment {
    pair: KeyPair,
    request: String,
}

impl Enrolment {
    /// The key kept in `identity`, or a new one.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn begin(identity: &Path) -> Result<Self, AuthorityError> {
        create_private(identity)?;
        let file = identity.join(KEY);
        let pair = match private::read(&file) {
            Ok(kept) => {
                let damaged = |why: rcgen::Error| AuthorityError::Damaged {
                    file: file.clone(),
                    why: why.to_string(),
                };
                KeyPair::from_pem(&text(&file, kept)?).map_err(damaged)?
            }
            Err(PrivateFileError::Missing(_)) => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                replace(&file, pair.serialize_pem().as_bytes())
                    .map_err(|e| private::failed("write", &file, e))?;
                pair
            }
            Err(e) => return Err(e.into()),
        };
        let request = CertificateParams::default()
            .serialize_request(&pair)?
            .pem()?;
        Ok(Self { pair, request })
    }

    /// The signing request, in PEM: it proves that the key is ours.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.request
    }

    /// Digest of the public key.
    #[must_use]
    pub fn key(&self) -> Digest {
        Digest::of(&self.pair.subject_public_key_info())
    }

    /// Keeps what the grid gave: its authority's certificate and this server's.
    ///
    /// # Errors
    /// When they do not belong together and to this key, or cannot be written.
    pub fn finish(
        &self,
        identity: &Path,
        authority: &str,
        certificate: &str,
    ) -> Result<(), AuthorityError> {
        let wrong = |why: &str| AuthorityError::NotOurs(why.to_owned());
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        let der = read(certificate).map_err(|e| wrong(&e.to_string()))?;
        let mut authorities = CertificateDer::pem_slice_iter(authority.as_bytes());
        let parsed = parse(&der).ok_or_else(|| wrong("it does not parse"))?;
        if parsed.public_key != self.pair.subject_public_key_info() {
            return Err(wrong("it is for another key"));
        }
        // While one takes over from another, either may have.
        if !authorities.any(|one| one.is_ok_and(|one| signed_by(&der, &one))) {
            return Err(wrong("the grid's authority did not sign it"));
        }
        write(&identity.join(CA_CERTIFICATE), authority)?;
        write(&identity.join(CERTIFICATE), certificate)
    }

    /// Digest of the public key of a signing request, which must be signed by that key.
    ///
    /// # Errors
    /// When it is none.
    pub fn examine(request: &str) -> Result<Digest, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        Ok(Digest::of(&request.public_key.subject_public_key_info()))
    }

    /// Signs a request for `subject` with the authority's key kept in `identity`; the certificate, in PEM.
    ///
    /// # Errors
    /// When that key is not here, or the request is none.
    pub fn certify(
        identity: &Path,
        grid_key: &GridKey,
        request: &str,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        let authority = Authority::open(identity, subject.grid, now, Some(grid_key))?;
        authority.certify(request, subject, now)
    }
}

/// Digest of the public key of the authority that signs, by which a machine that joins knows the grid; `None` when `pem` holds no
/// certificate.
#[must_use]
pub fn fingerprint(pem: &[u8]) -> Option<Digest> {
    fingerprints(pem).into_iter().next()
}

/// The same of each that is trusted: there are two while one takes over from another.
#[must_use]
pub fn fingerprints(pem: &[u8]) -> Vec<Digest> {
    let each = CertificateDer::pem_slice_iter(pem).map_while(Result::ok);
    each.map_while(|der| key_of(&der)).collect()
}

/// The same of one.
#[must_use]
pub fn key_of(authority: &CertificateDer<'_>) -> Option<Digest> {
    parse(authority).map(|parsed| Digest::of(&parsed.public_key))
}
