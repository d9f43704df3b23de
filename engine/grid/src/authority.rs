//! The grid's certificate authority, and the certificate with which this server shows that it is the grid's.
//!
//! P-256 throughout. The authority lives ten years, a server's certificate ninety days: at each start, and daily while
//! the server runs ([`Renewal`]), it is made anew when less than a third of its life is left, when the server's names changed, or when it is damaged. Its key is new
//! each time. Files in the identity directory: `ca.pem`, `ca.key`, `server.pem`, `server.key`; keys with mode 0600.

mod renewal;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use self::renewal::Renewal;

use crate::directory::{DirectoryError, create_private, replace};
use crate::private::{self, PrivateFileError};
use crate::vault::random;

pub(crate) const CA_CERTIFICATE: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

const DAY: u64 = 24;
const CA_LIFE: Span = Span::hours(3_653 * DAY);
const LIFE: Span = Span::hours(90 * DAY);
/// Certificates begin this much earlier: clients' clocks are not ours.
const EARLIER: Span = Span::hours(1);

/// Why a grid's identity cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key's file.
    #[error("the grid's identity: {0}")]
    Private(#[from] PrivateFileError),
    /// Its directory.
    #[error("the grid's identity: {0}")]
    Directory(#[from] DirectoryError),
    /// The authority's own files.
    #[error("{} is not the certificate of a grid's authority ({why}): put the directory back from a backup of this \
             server", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another grid's.
    #[error("{} is the authority of {found}, not of grid {expected}: put this grid's files there", .file.display())]
    OtherGrid {
        /// The file.
        file: PathBuf,
        /// Which grid it should be of.
        expected: GridId,
        /// Whose it is, in words.
        found: String,
    },
    /// Its time is over.
    #[error("the authority {} is not valid at this time (it is from {from} to {until} in milliseconds since 1970, and \
             now is {now}): set this server's clock, or replace the authority", .file.display())]
    Expired {
        /// The file.
        file: PathBuf,
        /// From when on.
        from: u64,
        /// Until when.
        until: u64,
        /// The time here.
        now: u64,
    },
    /// A name that no certificate can carry.
    #[error("{0:?} cannot stand in a certificate: expected a host name or an address")]
    Name(String),
    /// The library refused.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The library refused.
    #[error("cannot use the server's certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no random numbers.
    #[error("cannot draw a serial number: {0}")]
    Random(io::Error),
}

/// Whose certificate it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// The grid.
    pub grid: GridId,
    /// The server.
    pub server: ServerName,
    /// Host names and addresses under which it answers. `localhost`, the loopback addresses and the server's own name
    /// are added; unspecified addresses (`0.0.0.0`, `::`) are left out, since nobody connects to them.
    pub names: BTreeSet<String>,
}

/// The grid's authority and this server's certificate.
pub struct Identity {
    ca_pem: String,
    ca_fingerprint: Digest,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    expires: Timestamp,
    renewed: bool,
}

impl Identity {
    /// Makes a new authority in `identity` and this server's first certificate.
    ///
    /// # Errors
    /// When an authority is there, or nothing can be written.
    pub fn found(
        identity: &Path,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        create_private(identity)?;
        let (certificate, key) = (identity.join(CA_CERTIFICATE), identity.join(CA_KEY));
        if fs::symlink_metadata(&certificate).is_ok() {
            return Err(PrivateFileError::Exists(certificate).into());
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&format!("Coppice grid {}", subject.grid), now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.subject_alt_names = vec![uri(&grid_uri(subject.grid))?];
        let made = params.self_signed(&pair)?;
        private::create(&key, pair.serialize_pem().as_bytes())?;
        write(&certificate, &made.pem())?;
        Self::open(identity, subject, now)
    }

    /// Reads the identity of a server of a grid, with a new certificate where the old one does not serve any longer.
    ///
    /// # Errors
    /// When the authority is another grid's, is damaged or over, or a key may be read by others.
    pub fn open(
        identity: &Path,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let authority = Authority::open(identity, subject.grid, now)?;
        let wanted = Names::of(subject)?;
        let kept = authority.kept(identity, &wanted, now)?;
        let renewed = kept.is_none();
        let (certificate, key, expires) = match kept {
            Some(kept) => kept,
            None => authority.issue(identity, subject, &wanted, now)?,
        };
        Ok(Self {
            ca_pem: authority.pem,
            ca_fingerprint: authority.fingerprint,
            chain: vec![certificate],
            key,
            expires,
            renewed,
        })
    }

    /// The authority's certificate: what a client needs to trust every server of the grid.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Digest of the authority's public key: what stays the same when its certificate is made anew.
    #[must_use]
    pub fn ca_fingerprint(&self) -> Digest {
        self.ca_fingerprint
    }

    /// Until when this server's certificate is valid.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether opening made a new certificate.
    #[must_use]
    pub fn renewed(&self) -> bool {
        self.renewed
    }

    /// TLS 1.3 with this server's certificate, for clients without one of their own. `protocols` are offered by ALPN,
    /// the first being preferred.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub fn tls(&self, protocols: &[&str]) -> Result<Arc<ServerConfig>, AuthorityError> {
        Renewal::of(self)?.tls(protocols)
    }

    fn certified(&self) -> Result<CertifiedKey, AuthorityError> {
        let provider = rustls::crypto::ring::default_provider();
        let key = self.key.clone_key();
        Ok(CertifiedKey::from_der(self.chain.clone(), key, &provider)?)
    }
}

struct Authority {
    pem: String,
    fingerprint: Digest,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

type Issued = (CertificateDer<'static>, PrivateKeyDer<'static>, Timestamp);

impl Authority {
    fn open(identity: &Path, grid: GridId, now: Timestamp) -> Result<Self, AuthorityError> {
        let (file, key) = (identity.join(CA_CERTIFICATE), identity.join(CA_KEY));
        let key = text(&key, private::read(&key)?)?;
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
        let pair = KeyPair::from_pem(&key).map_err(|e| damaged(e.to_string()))?;
        let parsed = parse(&der).ok_or_else(|| damaged("it does not parse".to_owned()))?;
        if parsed.public_key != pair.subject_public_key_info() {
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
        let issuer = Issuer::from_ca_cert_der(&der, pair)?;
        Ok(Self {
            pem,
            fingerprint,
            issuer,
            der,
        })
    }

    /// The certificate on disk, if it serves: ours, for these names, with a third of its life left.
    fn kept(
        &self,
        identity: &Path,
        wanted: &Names,
        now: Timestamp,
    ) -> Result<Option<Issued>, AuthorityError> {
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
            let fits = parsed.public_key == pair.subject_public_key_info()
                && parsed.names == wanted.texts
                && parsed.uris == BTreeSet::from([wanted.uri.clone()])
                && signed_by(&der, &self.der);
            let life = parsed.until.since(parsed.from).0;
            let left = parsed.until.since(now).0;
            let fresh = now >= parsed.from && left.saturating_mul(3) >= life;
            (fits && fresh).then_some((der, key, parsed.until))
        };
        Ok(read())
    }

    fn issue(
        &self,
        identity: &Path,
        subject: &Subject,
        wanted: &Names,
        now: Timestamp,
    ) -> Result<Issued, AuthorityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(subject.server.as_str(), now, LIFE)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = wanted.alternatives.clone();
        let made = params.signed_by(&pair, &self.issuer)?;
        let (file, key) = (identity.join(CERTIFICATE), identity.join(KEY));
        let pem = pair.serialize_pem();
        replace(&key, pem.as_bytes()).map_err(|e| private::failed("write", &key, e))?;
        write(&file, &made.pem())?;
        let read = PrivateKeyDer::from_pem_slice(pem.as_bytes());
        let damaged = |why: String| AuthorityError::Damaged { file, why };
        let key = read.map_err(|e| damaged(e.to_string()))?;
        Ok((made.der().clone(), key, now.after(LIFE)))
    }
}

/// What a server's certificate is to say.
struct Names {
    alternatives: Vec<SanType>,
    /// The same without the URI, as text.
    texts: BTreeSet<String>,
    uri: String,
}

impl Names {
    fn of(subject: &Subject) -> Result<Self, AuthorityError> {
        let own = ["localhost", "127.0.0.1", "::1", subject.server.as_str()];
        let all: BTreeSet<String> = own
            .into_iter()
            .map(str::to_owned)
            .chain(subject.names.iter().cloned())
            .collect();
        let uri = format!("{}/server/{}", grid_uri(subject.grid), subject.server);
        let mut alternatives = vec![self::uri(&uri)?];
        let mut texts = BTreeSet::new();
        for name in all {
            let alternative = match name.parse::<IpAddr>() {
                Ok(address) if address.is_unspecified() => continue,
                Ok(address) => {
                    texts.insert(address.to_string());
                    SanType::IpAddress(address)
                }
                // What stands in a server's name and in no host's name is left out: nobody connects to it.
                Err(_) if name == subject.server.as_str() && name.contains('_') => continue,
                Err(_) => {
                    let host = is_host(&name).then(|| name.as_str().try_into().ok());
                    texts.insert(name.clone());
                    SanType::DnsName(host.flatten().ok_or(AuthorityError::Name(name))?)
                }
            };
            alternatives.push(alternative);
        }
        Ok(Self {
            alternatives,
            texts,
            uri,
        })
    }
}

/// Whether a certificate can carry `name`: an address, or a host name.
#[must_use]
pub fn can_be_named(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || is_host(name)
}

/// Until when a certificate is valid; `None` when it does not parse.
#[must_use]
pub fn valid_until(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    parse(certificate).map(|parsed| parsed.until)
}

fn is_host(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// What matters of a certificate.
struct Parsed {
    from: Timestamp,
    until: Timestamp,
    names: BTreeSet<String>,
    uris: BTreeSet<String>,
    public_key: Vec<u8>,
}

fn parse(der: &CertificateDer<'_>) -> Option<Parsed> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let moment = |t: x509_parser::time::ASN1Time| {
        Some(Timestamp(
            u64::try_from(t.timestamp()).ok()?.checked_mul(1_000)?,
        ))
    };
    let mut names = BTreeSet::new();
    let mut uris = BTreeSet::new();
    for name in &certificate
        .subject_alternative_name()
        .ok()??
        .value
        .general_names
    {
        if let GeneralName::DNSName(text) = name {
            names.insert((*text).to_owned());
        } else if let GeneralName::URI(text) = name {
            uris.insert((*text).to_owned());
        } else if let GeneralName::IPAddress(bytes) = name {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            names.insert(v4.or(v6).ok()?.to_string());
        }
    }
    Some(Parsed {
        from: moment(certificate.validity().not_before)?,
        until: moment(certificate.validity().not_after)?,
        names,
        uris,
        public_key: certificate.public_key().raw.to_vec(),
    })
}

fn signed_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let verify = || {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let (_, authority) = X509Certificate::from_der(authority).ok()?;
        certificate
            .verify_signature(Some(authority.public_key()))
            .ok()
    };
    verify().is_some()
}

fn params(name: &str, now: Timestamp, life: Span) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    random(&mut serial).map_err(AuthorityError::Random)?;
    // Positive, and at most 16 bytes long.
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = moment(Timestamp(now.since(Timestamp(EARLIER.0)).0));
    params.not_after = moment(now.after(life));
    Ok(params)
}

/// To the second, as certificates have it.
fn moment(at: Timestamp) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    // Past the year 9999 nothing can be said; the latest that can is as good.
    OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::macros::datetime!(9999-12-31 23:59:59 UTC))
}

fn grid_uri(grid: GridId) -> String {
    format!("coppice://grid/{grid}")
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    let text = text.try_into().map_err(AuthorityError::Make)?;
    Ok(SanType::URI(text))
}

fn text(file: &Path, bytes: Vec<u8>) -> Result<String, AuthorityError> {
    String::from_utf8(bytes).map_err(|e| AuthorityError::Damaged {
        file: file.to_owned(),
        why: e.to_string(),
    })
}

fn write(file: &Path, pem: &str) -> Result<(), AuthorityError> {
    replace(file, pem.as_bytes()).map_err(|e| private::failed("write", file, e).into())
}

#[cfg(test)]
mod tests;
