//! One authority takes over from another, on a server's disk.
//!
//! `ca.pem` holds the authority that signs, and behind it another that is trusted beside. `ca.cross.pem` holds the
//! signing one's certificate as the former one signed it; servers show it with their own, so that whoever knows the former
//! one only accepts them. A new key lies in `ca.key.next` until its certificate is in `ca.pem`: wherever this is cut off,
//! the next start finishes it.

use std::fs;
use std::io;
use std::path::Path;

use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_schema::units::Timestamp;
use coppice_state::authority::{self, Successor, Wanted};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};

use super::issuer::Authority;
use super::{
    AuthorityError, CA_CERTIFICATE, CA_KEY, CA_LIFE, fingerprint, grid_uri, has_key, moment,
    params, uri, write,
};
use crate::directory::{replace, sync_parent};
use crate::private;
use crate::vault::GridKey;

/// The signing authority's certificate, signed by the former one.
pub(super) const CROSS: &str = "ca.cross.pem";
/// The key of an authority that takes over at this moment.
pub(super) const NEXT_KEY: &str = "ca.key.next";

const END: &str = "-----END CERTIFICATE-----";

/// An authority's certificate is made of these. Its name tells it from the one before it. One more authority may stand
/// between it and a server: the one that takes over from it.
pub(super) fn root(
    grid: GridId,
    pair: &KeyPair,
    now: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let key = Digest::of(&pair.subject_public_key_info()).to_string();
    let key: String = key.chars().take(8).collect();
    let mut params = params(&format!("Coppice grid {grid}, {key}"), now, CA_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.subject_alt_names = vec![uri(&grid_uri(grid))?];
    Ok(params)
}

/// Makes an authority that can take over from the one whose key is in `identity`. Nothing is kept here.
pub(crate) fn succeed(
    identity: &Path,
    grid: GridId,
    now: Timestamp,
    grid_key: &GridKey,
) -> Result<Successor, AuthorityError> {
    let old = Authority::open(identity, grid, now, Some(grid_key))?;
    let issuer = old.issuer()?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let params = root(grid, &pair, now)?;
    let mut cross = params.clone();
    cross.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    cross.not_after = moment(old.until.min(now.after(CA_LIFE)));
    cross.use_authority_key_identifier_extension = true;
    let new = params.self_signed(&pair)?;
    let cross = cross.signed_by(&pair, issuer)?;
    Ok(Successor {
        old: authority::Authority {
            key: old.fingerprint,
            certificate: first(&old.pem),
        },
        new: authority::Authority {
            key: Digest::of(&pair.subject_public_key_info()),
            certificate: new.pem(),
        },
        cross: cross.pem(),
        sealed: grid_key.wrap(pair.serialize_pem().as_bytes()),
    })
}

/// Makes `identity` what is agreed on; whether it was something else.
pub(crate) fn follow(
    identity: &Path,
    grid_key: Option<&GridKey>,
    wanted: &Wanted<'_>,
) -> Result<bool, AuthorityError> {
    let (file, cross_file) = (identity.join(CA_CERTIFICATE), identity.join(CROSS));
    let all = [Some(wanted.signs), wanted.beside];
    let text: String = all
        .into_iter()
        .flatten()
        .map(|authority| first(&authority.certificate))
        .collect();
    let there = read(&file)?.unwrap_or_default();
    let cross = read(&cross_file)?;
    if there == text && cross.as_deref() == wanted.cross {
        return Ok(false);
    }
    let (key, next) = (identity.join(CA_KEY), identity.join(NEXT_KEY));
    let taken_over = fingerprint(there.as_bytes()) != Some(wanted.signs.key);
    let holds = taken_over && has_key(identity);
    let follows = match (grid_key, wanted.sealed) {
        (Some(grid_key), Some(sealed)) if holds => {
            opens(grid_key, sealed, wanted.signs.key)
                .ok_or_else(|| AuthorityError::Sealed(next.clone()))?;
            replace(&next, sealed).map_err(|e| private::failed("write", &next, e))?;
            true
        }
        _ => false,
    };
    if holds && !follows {
        // It is of an authority that does not sign any more.
        remove(&key)?;
    }
    match wanted.cross {
        Some(cross) => write(&cross_file, cross)?,
        None => remove(&cross_file)?,
    }
    write(&file, &text)?;
    if follows {
        take_over(identity)?;
    }
    Ok(true)
}

/// The key that waited becomes the authority's.
pub(super) fn take_over(identity: &Path) -> Result<(), AuthorityError> {
    let (key, next) = (identity.join(CA_KEY), identity.join(NEXT_KEY));
    fs::rename(&next, &key)
        .and_then(|()| sync_parent(&key))
        .map_err(|e| private::failed("write", &key, e).into())
}

fn opens(grid_key: &GridKey, sealed: &[u8], key: Digest) -> Option<()> {
    let pem = String::from_utf8(grid_key.unwrap(sealed)?).ok()?;
    let pair = KeyPair::from_pem(&pem).ok()?;
    (Digest::of(&pair.subject_public_key_info()) == key).then_some(())
}

/// The certificates in `pem`, one by one.
fn each(pem: &str) -> impl Iterator<Item = String> {
    pem.split_inclusive(END)
        .filter(|part| part.ends_with(END))
        .map(|part| format!("{}\n", part.trim_start()))
}

fn first(pem: &str) -> String {
    each(pem).next().unwrap_or_default()
}

pub(super) fn read(file: &Path) -> Result<Option<String>, AuthorityError> {
    match fs::read(file) {
        Ok(bytes) => super::text(file, bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(private::failed("read", file, e).into()),
    }
}

fn remove(file: &Path) -> Result<(), AuthorityError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(private::failed("remove", file, e).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
