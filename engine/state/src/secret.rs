//! Secrets: sealed before they are proposed, so that state, log and backups hold ciphertext only.

use coppice_schema::Digest;
use coppice_schema::ids::SecretName;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

/// A sealed secret. The key is on the members' disks and never in here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Secret {
    /// Raised whenever it is set; plans show it, never the value.
    pub version: u64,
    /// Nonce and ciphertext, in the sealing room's own form.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
    /// When it was set.
    pub set: Timestamp,
}

impl Secret {
    /// Its value went with the grid's key: a restore without keys keeps the name alone, so that it is asked for.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.sealed.is_empty()
    }
}

/// The port to the grid's key, which is on the members' disks and in no state, log or backup.
pub trait Vault: Send + Sync {
    /// Seals a secret's value so that only members of this grid can open it.
    fn seal(&self, name: &SecretName, value: &[u8]) -> Vec<u8>;

    /// Opens what [`seal`](Self::seal) gave.
    ///
    /// # Errors
    /// When it was sealed for another name, by another grid, or was changed.
    fn open(&self, name: &SecretName, sealed: &[u8]) -> Result<Vec<u8>, VaultError>;

    /// A keyed digest of `bytes`: shows that this grid wrote them. `purpose` keeps uses apart.
    fn tag(&self, purpose: &'static str, bytes: &[u8]) -> Digest;
}

/// The port to the grid's keys as a whole, for a backup.
pub trait Keyring: Send + Sync {
    /// This server's copy of the grid's keys, sealed by a passphrase. Takes about a second, by intention: so does each
    /// guess of it.
    ///
    /// # Errors
    /// In words, when this server does not have them all.
    fn seal(&self, passphrase: &str) -> Result<Vec<u8>, String>;
}

/// A sealed secret that this grid cannot open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "secret {0} cannot be opened with this grid's key: it was sealed by another grid, or changed"
)]
pub struct VaultError(pub SecretName);
