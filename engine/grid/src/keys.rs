//! The grid's keys in a backup: sealed by a passphrase, as a person remembers it.
//!
//! Argon2id makes a key of the passphrase, slowly; XChaCha20-Poly1305 seals with it. How slowly is said in front of what
//! is sealed, so that a later version can be slower and still read this one's. The grid's id is bound in: keys of one
//! grid are not taken for another's.

use std::io;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use coppice_schema::ids::GridId;
use coppice_state::secret::Keyring;
use serde::{Deserialize, Serialize};

use crate::authority::{CA_CERTIFICATE, CA_KEY};
use crate::directory::{DirectoryError, create_private, replace};
use crate::private::{self, PrivateFileError};
use crate::vault::{self, random};

const FORM: u8 = 1;
const SALT: usize = 16;
const NONCE: usize = 24;
/// Fewest characters of a passphrase: what is shorter is found by trying, however slow each try is.
pub const PASSPHRASE_MIN: usize = 12;

/// 64 MiB and three passes: what RFC 9106 recommends where memory is scarce.
const COST: Cost = Cost {
    memory: 64 << 10,
    passes: 3,
    lanes: 4,
};
/// Most that an opened backup may make us spend: 1 GiB.
const MEMORY_MAX: u32 = 1 << 20;

/// Why keys were not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key's file.
    #[error("the grid's keys: {0}")]
    File(#[from] PrivateFileError),
    /// Their directory.
    #[error("the grid's keys: {0}")]
    Directory(#[from] DirectoryError),
    /// This server does not have them.
    #[error(
        "this server does not have the key of the grid's authority: ask another that votes, with --server"
    )]
    NotHere,
    /// The passphrase is too short.
    #[error("the passphrase has fewer than {PASSPHRASE_MIN} characters: choose a longer one")]
    Short,
    /// The passphrase is another, or the keys are another grid's.
    #[error(
        "the passphrase does not open the backup's keys: it is another one than the backup was made with"
    )]
    Passphrase,
    /// They are not as they were written.
    #[error("the backup's keys cannot be read: {0}")]
    Unreadable(String),
    /// The system gives no random numbers.
    #[error("cannot draw a salt: {0}")]
    Random(io::Error),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    /// In KiB.
    memory: u32,
    passes: u32,
    lanes: u32,
}

/// What stands in front.
#[derive(Serialize, Deserialize)]
struct Sealed {
    form: u8,
    cost: Cost,
    salt: [u8; SALT],
    nonce: [u8; NONCE],
    #[serde(with = "serde_bytes")]
    sealed: Vec<u8>,
}

/// The keys of a grid, open.
#[derive(Serialize, Deserialize)]
pub struct Keys {
    /// The grid's key.
    #[serde(with = "serde_bytes")]
    grid: Vec<u8>,
    /// The authority's certificate.
    #[serde(with = "serde_bytes")]
    ca: Vec<u8>,
    /// Its key, in the form in which servers keep it.
    #[serde(with = "serde_bytes")]
    ca_key: Vec<u8>,
}

/// The keys in a server's identity directory.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    identity: PathBuf,
    grid: GridId,
}

impl KeyFiles {
    /// Those of `identity`, a directory of a server of `grid`.
    #[must_use]
    pub fn of(identity: PathBuf, grid: GridId) -> Self {
        Self { identity, grid }
    }

    fn read(&self) -> Result<Keys, KeysError> {
        let file = |name: &str| private::read(&self.identity.join(name));
        let ca_key = match file(CA_KEY) {
            Err(PrivateFileError::Missing(_)) => return Err(KeysError::NotHere),
            read => read?,
        };
        let certificate = self.identity.join(CA_CERTIFICATE);
        let ca =
            std::fs::read(&certificate).map_err(|e| private::failed("read", &certificate, e))?;
        Ok(Keys {
            grid: file(vault::FILE)?,
            ca,
            ca_key,
        })
    }

    fn sealed(&self, passphrase: &str) -> Result<Vec<u8>, KeysError> {
        if passphrase.chars().count() < PASSPHRASE_MIN {
            return Err(KeysError::Short);
        }
        let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
        random(&mut salt)
            .and_then(|()| random(&mut nonce))
            .map_err(KeysError::Random)?;
        let open = encode(&self.read()?)?;
        let payload = Payload {
            msg: &open,
            aad: &self.grid.0,
        };
        let sealed = cipher(passphrase, COST, &salt)?
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| KeysError::Unreadable("they are too long".to_owned()))?;
        encode(&Sealed {
            form: FORM,
            cost: COST,
            salt,
            nonce,
            sealed,
        })
    }
}

impl Keyring for KeyFiles {
    fn seal(&self, passphrase: &str) -> Result<Vec<u8>, String> {
        self.sealed(passphrase).map_err(|e| e.to_string())
    }
}

impl Keys {
    /// Opens what [`KeyFiles`] sealed for `grid`.
    ///
    /// # Errors
    /// When the passphrase is another, or a newer version sealed them.
    pub fn open(sealed: &[u8], grid: GridId, passphrase: &str) -> Result<Self, KeysError> {
        let unreadable = |e: &dyn std::fmt::Display| KeysError::Unreadable(e.to_string());
        let sealed: Sealed = ciborium::from_reader(sealed).map_err(|e| unreadable(&e))?;
        if sealed.form != FORM {
            let form = sealed.form;
            return Err(unreadable(&format!(
                "a newer version sealed them (form {form})"
            )));
        }
        if sealed.cost.memory > MEMORY_MAX {
            return Err(unreadable(&"opening them would take more than 1 GiB"));
        }
        let payload = Payload {
            msg: &sealed.sealed,
            aad: &grid.0,
        };
        let open = cipher(passphrase, sealed.cost, &sealed.salt)?
            .decrypt(&XNonce::from(sealed.nonce), payload)
            .map_err(|_| KeysError::Passphrase)?;
        ciborium::from_reader(open.as_slice()).map_err(|e| unreadable(&e))
    }

    /// Puts them into a new identity directory.
    ///
    /// # Errors
    /// When keys are there, or cannot be written.
    pub fn put(&self, identity: &Path) -> Result<(), KeysError> {
        create_private(identity)?;
        private::create(&identity.join(vault::FILE), &self.grid)?;
        private::create(&identity.join(CA_KEY), &self.ca_key)?;
        let certificate = identity.join(CA_CERTIFICATE);
        replace(&certificate, &self.ca)
            .map_err(|e| private::failed("write", &certificate, e).into())
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, KeysError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| KeysError::Unreadable(e.to_string()))?;
    Ok(bytes)
}

fn cipher(passphrase: &str, cost: Cost, salt: &[u8]) -> Result<XChaCha20Poly1305, KeysError> {
    let unreadable = |e: argon2::Error| KeysError::Unreadable(e.to_string());
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(unreadable)?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key)
        .map_err(unreadable)?;
    Ok(XChaCha20Poly1305::new(&key.into()))
}

#[cfg(test)]
mod tests {
    use coppice_state::secret::Vault;

    use super::*;
    use crate::{GridKey, Identity, Subject};

    const GRID: GridId = GridId([3; 16]);
    const PHRASE: &str = "a horse in the attic";

    fn identity(at: &Path) {
        let subject = Subject {
            grid: GRID,
            id: coppice_schema::ids::ServerId(1),
            server: "alpha".parse().unwrap(),
            names: Default::default(),
        };
        let now = coppice_schema::units::Timestamp(1_795_000_000_000);
        let key = GridKey::create(at).unwrap();
        Identity::found(at, &subject, now, &key).unwrap();
    }

    #[test]
    fn keys_go_from_one_server_to_another_by_the_passphrase_alone() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        identity(one.path());
        let secret = "ad".parse().unwrap();
        let sealed_secret = GridKey::open(one.path()).unwrap().seal(&secret, b"hunter2");
        let sealed = KeyFiles::of(one.path().to_owned(), GRID)
            .seal(PHRASE)
            .unwrap();

        let there = other.path().join("identity");
        Keys::open(&sealed, GRID, PHRASE)
            .unwrap()
            .put(&there)
            .unwrap();
        let key = GridKey::open(&there).unwrap();
        assert_eq!(key.open(&secret, &sealed_secret).unwrap(), b"hunter2");
        for name in [CA_KEY, CA_CERTIFICATE] {
            let read = |at: &Path| std::fs::read(at.join(name)).unwrap();
            assert_eq!(read(one.path()), read(&there), "{name}");
        }
        // Never over what is there.
        let again = Keys::open(&sealed, GRID, PHRASE).unwrap().put(&there);
        assert!(matches!(again, Err(KeysError::File(_))));

        let wrong = Keys::open(&sealed, GRID, "a horse in the cellar")
            .err()
            .unwrap();
        assert!(matches!(wrong, KeysError::Passphrase), "{wrong}");
        let stranger = Keys::open(&sealed, GridId([4; 16]), PHRASE).err().unwrap();
        assert!(matches!(stranger, KeysError::Passphrase), "{stranger}");
    }

    #[test]
    fn a_short_passphrase_and_a_server_without_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = KeyFiles::of(dir.path().to_owned(), GRID);
        assert!(files.seal("short").unwrap_err().contains("longer"));
        assert!(
            files
                .seal(PHRASE)
                .unwrap_err()
                .contains("another that votes")
        );
    }
}
