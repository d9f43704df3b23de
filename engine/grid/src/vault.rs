//! The grid's key, on a member's disk, and what is done with it.

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use coppice_schema::Digest;
use coppice_schema::ids::SecretName;
use coppice_state::secret::{Vault, VaultError};

use crate::directory::{DirectoryError, create_private};
use crate::private::{self, PrivateFileError};

pub(crate) const FILE: &str = "grid.key";
const KEY: usize = 32;
const NONCE: usize = 24;
/// First byte of everything sealed: how the rest is to be read.
const FORM: u8 = 1;

/// Why the grid's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file.
    #[error("the grid's key: {0}")]
    File(#[from] PrivateFileError),
    /// Its directory.
    #[error("the grid's key: {0}")]
    Directory(#[from] DirectoryError),
    /// It is not a key.
    #[error("{} is not a grid's key: it has {found} bytes, not {KEY}. Put it back from a backup of this server", .file.display())]
    Length {
        /// The file.
        file: std::path::PathBuf,
        /// How long it is.
        found: usize,
    },
    /// There is another one.
    #[error("{} is the key of another grid: name an empty directory", .0.display())]
    Other(std::path::PathBuf),
    /// The system gives no random numbers.
    #[error("cannot draw a key: {0}")]
    Random(std::io::Error),
}

/// The grid's key: 32 random bytes in a file that only its owner reads, on every member and in no state, log or
/// backup. Everything is done with keys derived from it, one for each purpose.
pub struct GridKey {
    bytes: [u8; KEY],
    cipher: XChaCha20Poly1305,
    wrapping: XChaCha20Poly1305,
    nonces: [u8; KEY],
    tags: [u8; KEY],
}

impl fmt::Debug for GridKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GridKey")
    }
}

impl GridKey {
    /// Draws a new key and keeps it in `identity`, the directory for keys and certificates.
    ///
    /// # Errors
    /// When one is there, or cannot be written.
    pub fn create(identity: &Path) -> Result<Self, KeyError> {
        create_private(identity)?;
        let mut key = [0; KEY];
        random(&mut key).map_err(KeyError::Random)?;
        private::create(&identity.join(FILE), &key)?;
        Ok(Self::from_bytes(&key))
    }

    /// The key kept in `identity`.
    ///
    /// # Errors
    /// When it is missing, not a key, or others may read it.
    pub fn open(identity: &Path) -> Result<Self, KeyError> {
        let file = identity.join(FILE);
        let bytes = private::read(&file)?;
        let key = <[u8; KEY]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length {
            file,
            found: bytes.len(),
        })?;
        Ok(Self::from_bytes(&key))
    }

    /// Keeps a key that a member gave in `identity`. Nothing happens where it is kept already.
    ///
    /// # Errors
    /// When another key is there, it is none, or it cannot be written.
    pub fn adopt(identity: &Path, key: &[u8]) -> Result<Self, KeyError> {
        let file = identity.join(FILE);
        let key = <[u8; KEY]>::try_from(key).map_err(|_| KeyError::Length {
            file: file.clone(),
            found: key.len(),
        })?;
        create_private(identity)?;
        match private::read(&file) {
            Ok(kept) if kept == key => {}
            Ok(_) => return Err(KeyError::Other(file)),
            Err(PrivateFileError::Missing(_)) => private::create(&file, &key)?,
            Err(e) => return Err(e.into()),
        }
        Ok(Self::from_bytes(&key))
    }

    /// The key itself, for a machine that becomes a member, and for nobody else.
    #[must_use]
    pub fn for_member(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Seals another key, so that the file that holds it is worth nothing without this one.
    pub(crate) fn wrap(&self, key: &[u8]) -> Vec<u8> {
        self.seal_with(&self.wrapping, &[], key)
    }

    /// Opens what [`wrap`](Self::wrap) gave; `None` when that was another grid's, or is damaged.
    pub(crate) fn unwrap(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        open_with(&self.wrapping, &[], sealed)
    }

    fn from_bytes(key: &[u8; KEY]) -> Self {
        let cipher = blake3::derive_key("coppice 2026 grid key: secrets", key);
        let wrapping = blake3::derive_key("coppice 2026 grid key: authority", key);
        Self {
            bytes: *key,
            wrapping: XChaCha20Poly1305::new(&wrapping.into()),
            cipher: XChaCha20Poly1305::new(&cipher.into()),
            nonces: blake3::derive_key("coppice 2026 grid key: nonces", key),
            tags: blake3::derive_key("coppice 2026 grid key: tags", key),
        }
    }
}

impl GridKey {
    fn seal_with(&self, cipher: &XChaCha20Poly1305, aad: &[u8], value: &[u8]) -> Vec<u8> {
        // Drawn, and mixed with what is sealed: should the system's random numbers ever repeat, or fail, a nonce
        // still repeats only for the same value of the same name.
        let mut drawn = [0; NONCE];
        if let Err(e) = random(&mut drawn) {
            tracing::warn!(error = %e, "no random numbers; a nonce is derived instead");
        }
        let mut hash = blake3::Hasher::new_keyed(&self.nonces);
        hash.update(&drawn);
        hash.update(aad);
        hash.update(&[0]);
        hash.update(value);
        let mut nonce = [0; NONCE];
        hash.finalize_xof().fill(&mut nonce);
        let payload = Payload { msg: value, aad };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .unwrap_or_else(|_| unreachable!("only more than 256 GiB cannot be sealed"));
        let mut bytes = vec![FORM];
        bytes.extend(nonce);
        bytes.extend(sealed);
        bytes
    }
}

fn open_with(cipher: &XChaCha20Poly1305, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (&form, rest) = sealed.split_first()?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
    let payload = Payload { msg: sealed, aad };
    let opened = cipher.decrypt(&XNonce::from(*nonce), payload);
    opened.ok().filter(|_| form == FORM)
}

impl Vault for GridKey {
    /// XChaCha20-Poly1305 with the name as associated data: a value sealed for one name does not open as another's.
    fn seal(&self, name: &SecretName, value: &[u8]) -> Vec<u8> {
        self.seal_with(&self.cipher, name.as_str().as_bytes(), value)
    }

    fn open(&self, name: &SecretName, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let opened = open_with(&self.cipher, name.as_str().as_bytes(), sealed);
        opened.ok_or_else(|| VaultError(name.clone()))
    }

    fn tag(&self, purpose: &'static str, bytes: &[u8]) -> Digest {
        let mut hash = blake3::Hasher::new_keyed(&self.tags);
        // The purpose's own digest has a fixed length: no purpose and bytes read as another purpose and bytes.
        hash.update(&Digest::of(purpose.as_bytes()).0);
        hash.update(bytes);
        Digest(*hash.finalize().as_bytes())
    }
}

/// Fills `bytes` from the system's random numbers.
pub(crate) fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_opens_again_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let key = GridKey::create(dir.path()).unwrap();
        let sealed = key.seal(&name("ad-bind"), b"correct horse");
        let again = GridKey::open(dir.path()).unwrap();
        assert_eq!(
            again.open(&name("ad-bind"), &sealed).unwrap(),
            b"correct horse"
        );
        assert!(again.open(&name("other"), &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(again.open(&name("ad-bind"), &changed).is_err(), "byte {at}");
            assert!(
                again.open(&name("ad-bind"), &sealed[..at]).is_err(),
                "cut at {at}"
            );
        }
        let stranger = tempfile::tempdir().unwrap();
        let stranger = GridKey::create(stranger.path()).unwrap();
        assert!(stranger.open(&name("ad-bind"), &sealed).is_err());
        assert_ne!(key.seal(&name("ad-bind"), b"correct horse"), sealed);
    }

    #[test]
    fn a_tag_is_of_one_key_purpose_and_text() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = GridKey::create(one.path()).unwrap();
        let tag = key.tag("plan", b"text");
        assert_eq!(GridKey::open(one.path()).unwrap().tag("plan", b"text"), tag);
        assert_ne!(key.tag("plan", b"texts"), tag);
        assert_ne!(key.tag("other", b"text"), tag);
        assert_ne!(
            GridKey::create(other.path()).unwrap().tag("plan", b"text"),
            tag
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        GridKey::create(dir.path()).unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = GridKey::open(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains("0640") && refused.contains("chmod 600"),
            "{refused}"
        );
    }

    #[test]
    fn a_key_is_never_overwritten_and_a_broken_one_never_used() {
        let dir = tempfile::tempdir().unwrap();
        GridKey::create(dir.path()).unwrap();
        assert!(matches!(
            GridKey::create(dir.path()),
            Err(KeyError::File(PrivateFileError::Exists(_)))
        ));
        let file = dir.path().join(FILE);
        fs::write(&file, [1; 31]).unwrap();
        assert!(matches!(
            GridKey::open(dir.path()),
            Err(KeyError::Length { found: 31, .. })
        ));
        fs::remove_file(&file).unwrap();
        assert!(matches!(
            GridKey::open(dir.path()),
            Err(KeyError::File(PrivateFileError::Missing(_)))
        ));
    }
}
