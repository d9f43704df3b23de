//! The authority as a server has it: its certificate, and on some its key.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_schema::units::Timestamp;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    AuthorityError, CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY, LIFE, Names, Subject, grid_uri,
    params, parse, signed_by, text, write,
};
use crate::directory::replace;
use crate::private::{self, PrivateFileError};
use crate::vault::GridKey;

pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) fingerprint: Digest,
    issuer: Option<Issuer<'static, KeyPair>>,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
pub(super) struct Kept {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) until: Timestamp,
    /// A third of its life is left, and it says what it should.
    pub(super) fresh: bool,
}

impl Authority {
    pub(super) fn open(
        identity: &Path,
        grid: GridId,
        now: Timestamp,
        grid_key: Option<&GridKey>,
    ) -> Result<Self, AuthorityError> {
        let file = identity.join(CA_CERTIFICATE);
        let pair = key_pair(identity, grid_key)?;
        let pem = match fs::read(&file) {
            Ok(bytes) => text(&file, bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(PrivateFileError::Missing(file).into());
            }
            Err(e) => return Err(private::failed("read", &file, e).into()),
        };
        let damaged = |why: String| AuthorityError::Damaged {
            file: file.clone(),
            why,
        };
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let parsed = parse(&der).ok_or_else(|| damaged("it does not parse".to_owned()))?;
        let other = |pair: &KeyPair| parsed.public_key != pair.subject_public_key_info();
        if pair.as_ref().is_some_and(other) {
            return Err(damaged("its key is another".to_owned()));
        }
        let grids: Vec<_> = parsed.uris.into_iter().collect();
        if grids != [grid_uri(grid)] {
            return Err(AuthorityError::OtherGrid {
                file,
                expected: grid,
                found: grids.join(" and "),
            });
        }
        if now < parsed.from || now > parsed.until {
            return Err(AuthorityError::Expired {
                file,
                from: parsed.from.0,
                until: parsed.until.0,
                now: now.0,
            });
        }
        let fingerprint = Digest::of(&parsed.public_key);
        let issuer = pair
            .map(|pair| Issuer::from_ca_cert_der(&der, pair))
            .transpose()?;
        Ok(Self {
            pem,
            fingerprint,
            issuer,
            der,
        })
    }

    pub(super) fn issues(&self) -> bool {
        self.issuer.is_some()
    }

    /// The certificate on disk, if it serves: ours, for this server, and not over.
    pub(super) fn kept(
        &self,
        identity: &Path,
        wanted: &Names,
        now: Timestamp,
    ) -> Result<Option<Kept>, AuthorityError> {
        let (file, key) = (identity.join(CERTIFICATE), identity.join(KEY));
        let key = match private::read(&key) {
            Ok(key) => key,
            Err(PrivateFileError::Missing(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let pem = match fs::read(&file) {
            Ok(pem) => pem,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(private::failed("read", &file, e).into()),
        };
        // What is damaged, or was cut short between the two files, is made anew: nothing is lost by it.
        let read = || {
            let der = CertificateDer::from_pem_slice(&pem).ok()?;
            let pair = KeyPair::from_pem(std::str::from_utf8(&key).ok()?).ok()?;
            let key = PrivateKeyDer::from_pem_slice(&key).ok()?;
            let parsed = parse(&der)?;
            let ours = parsed.public_key == pair.subject_public_key_info()
                && parsed.uris == BTreeSet::from([wanted.uri.clone()])
                && signed_by(&der, &self.der);
            let life = parsed.until.since(parsed.from).0;
            let left = parsed.until.since(now).0;
            let lasts = now >= parsed.from && left.saturating_mul(3) >= life;
            (ours && left > 0).then_some(Kept {
                certificate: der,
                key,
                until: parsed.until,
                fresh: lasts && parsed.names == wanted.texts,
            })
        };
        Ok(read())
    }

    /// Makes this server a new certificate, and keeps it.
    pub(super) fn issue(
        &self,
        identity: &Path,
        subject: &Subject,
        wanted: &Names,
        now: Timestamp,
    ) -> Result<Kept, AuthorityError> {
        let issuer = self.issuer.as_ref().ok_or(AuthorityError::NoKey)?;
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let made = server(subject, wanted, now)?.signed_by(&pair, issuer)?;
        let (file, key) = (identity.join(CERTIFICATE), identity.join(KEY));
        let pem = pair.serialize_pem();
        replace(&key, pem.as_bytes()).map_err(|e| private::failed("write", &key, e))?;
        write(&file, &made.pem())?;
        let read = PrivateKeyDer::from_pem_slice(pem.as_bytes());
        let damaged = |why: String| AuthorityError::Damaged { file, why };
        let key = read.map_err(|e| damaged(e.to_string()))?;
        Ok(Kept {
            certificate: made.der().clone(),
            key,
            until: now.after(LIFE),
            fresh: true,
        })
    }

    /// Makes a certificate for the key of another server's request; what the request says beside that key counts for
    /// nothing.
    pub(super) fn certify(
        &self,
        request: CertificateSigningRequestParams,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let issuer = self.issuer.as_ref().ok_or(AuthorityError::NoKey)?;
        let params = server(subject, &Names::of(subject)?, now)?;
        let ours = CertificateSigningRequestParams { params, ..request };
        Ok(ours.signed_by(issuer)?.pem())
    }
}

fn server(
    subject: &Subject,
    wanted: &Names,
    now: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(subject.server.as_str(), now, LIFE)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = wanted.alternatives.clone();
    Ok(params)
}

/// The authority's key, where it is here. One that an earlier version left unsealed is sealed.
fn key_pair(
    identity: &Path,
    grid_key: Option<&GridKey>,
) -> Result<Option<KeyPair>, AuthorityError> {
    let file = identity.join(CA_KEY);
    let kept = match private::read(&file) {
        Ok(kept) => kept,
        Err(PrivateFileError::Missing(_)) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let plain = kept.starts_with(b"-----");
    let opened = match grid_key {
        Some(_) | None if plain => kept,
        Some(grid_key) => grid_key
            .unwrap(&kept)
            .ok_or_else(|| AuthorityError::Sealed(file.clone()))?,
        None => return Err(AuthorityError::Sealed(file)),
    };
    if let Some(grid_key) = grid_key.filter(|_| plain) {
        replace(&file, &grid_key.wrap(&opened)).map_err(|e| private::failed("write", &file, e))?;
    }
    let pem = text(&file, opened)?;
    let damaged = |why: rcgen::Error| AuthorityError::Damaged {
        file,
        why: why.to_string(),
    };
    KeyPair::from_pem(&pem).map(Some).map_err(damaged)
}

/// Whether the authority's key is in `identity`.
pub(crate) fn has_key(identity: &Path) -> bool {
    identity.join(CA_KEY).exists()
}

/// The authority's key as it lies in `identity`: sealed.
pub(crate) fn sealed_key(identity: &Path) -> Result<Vec<u8>, AuthorityError> {
    match private::read(&identity.join(CA_KEY)) {
        Ok(sealed) if !sealed.starts_with(b"-----") => Ok(sealed),
        // It is sealed at the next start.
        Ok(_) | Err(PrivateFileError::Missing(_)) => Err(AuthorityError::NoKey),
        Err(e) => Err(e.into()),
    }
}

/// Keeps the authority's key, as another server had it, if it is that of the authority in `identity`.
pub(crate) fn adopt_key(
    identity: &Path,
    grid_key: &GridKey,
    sealed: &[u8],
) -> Result<(), AuthorityError> {
    let wrong = |why: &str| AuthorityError::NotOurs(why.to_owned());
    let opened = grid_key.unwrap(sealed);
    let opened = opened.ok_or_else(|| AuthorityError::Sealed(identity.join(CA_KEY)))?;
    let pem = String::from_utf8(opened).map_err(|_| wrong("the authority's key is no text"))?;
    let pair = KeyPair::from_pem(&pem)?;
    let file = identity.join(CA_CERTIFICATE);
    let authority = fs::read(&file).map_err(|e| private::failed("read", &file, e))?;
    let mine = super::fingerprint(&authority);
    if mine != Some(Digest::of(&pair.subject_public_key_info())) {
        return Err(wrong("the authority's key is another's"));
    }
    Ok(private::create(&identity.join(CA_KEY), sealed)?)
}
