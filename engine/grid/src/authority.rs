//! The grid's certificate authority, and the certificate with which this server shows that it is the grid's.
//!
//! P-256 throughout. The authority lives ten years, a server's certificate ninety days: at each start, and daily while
//! the server runs ([`Renewal`]), it is made anew when less than a third of its life is left, when the server's names changed, or when it is damaged. Its key is new
//! each time. Files in the identity directory: `ca.pem`, `ca.key`, `server.pem`, `server.key`; keys with mode 0600.
//! `ca.key` is sealed by the grid's key, and only some servers have it: the others ask one of these for certificates
//! ([`Enrolment`]).

mod enrolment;
mod issuer;
mod renewal;
mod succession;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub use self::enrolment::{Enrolment, fingerprint, fingerprints, key_of};
pub use self::renewal::Renewal;

pub(crate) use self::issuer::{adopt_key, has_key, sealed_key};
pub(crate) use self::succession::{follow, succeed};

use self::issuer::Authority;

use crate::directory::{DirectoryError, create_private, replace};
use crate::private::{self, PrivateFileError};
use crate::vault::{GridKey, random};

pub(crate) const CA_CERTIFICATE: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

const GRID_URI: &str = "coppice://grid/";

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
    /// The authority's key, sealed with another grid's.
    #[error("{} cannot be opened with this grid's key: put the directory back from a backup of this server", .0.display())]
    Sealed(PathBuf),
    /// Only a server that has the authority's key can make a certificate, and this is none.
    #[error(
        "this server has no certificate that is valid now, and not the key of the grid's authority to make one: \
             let it join again, which keeps its images and desktops: coppice server rejoin ADDRESS TOKEN"
    )]
    NoKey,
    /// A certificate that does not fit the key that was drawn for it, or that another authority signed.
    #[error("the certificate that the grid gave is not one for this server: {0}")]
    NotOurs(String),
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
    /// Which member.
    pub id: ServerId,
    /// Its name.
    pub server: ServerName,
    /// Host names and addresses under which it answers. `localhost`, the loopback addresses and the server's own name
    /// are added; unspecified addresses (`0.0.0.0`, `::`) are left out, since nobody connects to them.
    pub names: BTreeSet<String>,
}

/// The grid's authority and this server's certificate.
pub struct Identity {
    grid: GridId,
    ca_pem: String,
    ca_fingerprint: Digest,
    ca_expires: Timestamp,
    current: bool,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    expires: Timestamp,
    renewed: bool,
    due: bool,
    issues: bool,
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
        grid_key: &GridKey,
    ) -> Result<Self, AuthorityError> {
        create_private(identity)?;
        let (certificate, key) = (identity.join(CA_CERTIFICATE), identity.join(CA_KEY));
        if fs::symlink_metadata(&certificate).is_ok() {
            return Err(PrivateFileError::Exists(certificate).into());
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let made = succession::root(subject.grid, &pair, now)?.self_signed(&pair)?;
        private::create(&key, &grid_key.wrap(pair.serialize_pem().as_bytes()))?;
        write(&certificate, &made.pem())?;
        Self::open(identity, subject, now, Some(grid_key))
    }

    /// Reads the identity of a server of a grid, with a new certificate where the old one does not serve any longer and
    /// the authority's key is here. A witness has no key of the grid.
    ///
    /// # Errors
    /// When the authority is another grid's, is damaged or over, a key may be read by others, or there is no valid
    /// certificate and nothing to make one with.
    pub fn open(
        identity: &Path,
        subject: &Subject,
        now: Timestamp,
        grid_key: Option<&GridKey>,
    ) -> Result<Self, AuthorityError> {
        let authority = Authority::open(identity, subject.grid, now, grid_key)?;
        let wanted = Names::of(subject)?;
        let kept = authority.kept(identity, &wanted, now)?;
        let due = kept.as_ref().is_none_or(|kept| !kept.fresh);
        let renewed = due && authority.issues();
        let kept = match kept {
            Some(kept) if !renewed => kept,
            Some(_) | None => authority.issue(identity, subject, &wanted, now)?,
        };
        let (certificate, key, expires) = (kept.certificate, kept.key, kept.until);
        let chain = std::iter::once(certificate).chain(authority.cross.clone());
        Ok(Self {
            grid: subject.grid,
            issues: authority.issues(),
            due: due && !renewed,
            ca_pem: authority.pem,
            ca_fingerprint: authority.fingerprint,
            ca_expires: authority.until,
            current: kept.signed,
            chain: chain.collect(),
            key,
            expires,
            renewed,
        })
    }

    /// The authority's certificate, and behind it another while one takes over: what a client needs to trust every server of the grid.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Digest of the authority's public key: what stays the same when its certificate is made anew.
    #[must_use]
    pub fn ca_fingerprint(&self) -> Digest {
        self.ca_fingerprint
    }

    /// Until when the authority's certificate is valid.
    #[must_use]
    pub fn ca_expires(&self) -> Timestamp {
        self.ca_expires
    }

    /// Whether the authority that signs signed this server's certificate: not one that it takes over from.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// Until when this server's certificate is valid.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether a server that has the authority's key is to be asked for a new certificate: this one has not.
    #[must_use]
    pub fn due(&self) -> bool {
        self.due
    }

    /// Whether this server has the authority's key.
    #[must_use]
    pub fn issues(&self) -> bool {
        self.issues
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

    /// Which grid's.
    pub(crate) fn grid(&self) -> GridId {
        self.grid
    }

    fn certified(&self) -> Result<CertifiedKey, AuthorityError> {
        let provider = rustls::crypto::ring::default_provider();
        let key = self.key.clone_key();
        Ok(CertifiedKey::from_der(self.chain.clone(), key, &provider)?)
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
        let uri = server_uri(subject.grid, subject.id);
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
    format!("{GRID_URI}{grid}")
}

fn server_uri(grid: GridId, server: ServerId) -> String {
    format!("{}/servers/{server}", grid_uri(grid))
}

/// Which member of which grid a certificate is of, by what it says; `None` where it is no server's. Whether it may
/// say so is the authority's signature to tell.
#[must_use]
pub fn bearer(certificate: &CertificateDer<'_>) -> Option<(GridId, ServerId)> {
    let mut uris = parse(certificate)?.uris.into_iter();
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return None;
    };
    let (grid, server) = uri.strip_prefix(GRID_URI)?.split_once("/servers/")?;
    let bearer = (grid.parse().ok()?, ServerId(server.parse().ok()?));
    // One way of writing it only.
    (server_uri(bearer.0, bearer.1) == uri).then_some(bearer)
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
