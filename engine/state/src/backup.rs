//! A backup: the whole memory of a grid in one file.
//!
//! Eight bytes that say what it is, the BLAKE3 of all that follows, and then: form (u32), feature level of the state
//! (u32), version of the program (a length as u16, and text), length of the body (u64), body (CBOR). Numbers are
//! big-endian. So damage is told from a newer version, whatever that writes.
//!
//! Images and the disks of desktops are in no backup. Keys are, where somebody gave a passphrase for them, sealed by it.

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, ServerName};
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::{FEATURE_LEVEL, State};

/// The newest form of a backup that this version reads and the one it writes.
pub const BACKUP_FORM: u32 = 1;

const MAGIC: &[u8; 8] = b"coppback";

/// What a grid remembered at one place of its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backup {
    /// Version of the program that made it.
    #[serde(skip)]
    pub version: String,
    /// When it was made, by the clock of the server that made it.
    pub made: Timestamp,
    /// That server.
    pub server: ServerName,
    /// Whether a majority said that nothing newer was agreed on.
    pub newest: bool,
    /// Everything. Its term and index say up to where in the log.
    pub state: State,
    /// The grid's keys, sealed by a passphrase.
    pub keys: Option<Vec<u8>>,
}

/// Why a file is no backup to go on from. Every text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("it is not a backup of a grid: name a file that `coppice backup` wrote")]
    Stranger,
    /// It is not as it was written.
    #[error("it is damaged ({0}): take another copy of it, or an older backup")]
    Damaged(String),
    /// A newer version wrote it.
    #[error(
        "it was made by version {version} (form {form}, feature level {level}; this version reads form {BACKUP_FORM} \
         and level {FEATURE_LEVEL}): install that version, or a later one"
    )]
    Newer {
        /// That version.
        version: String,
        /// The file's form.
        form: u32,
        /// Its state's level.
        level: u32,
    },
    /// It holds a state of no grid.
    #[error("it holds no grid: it was made before one was founded")]
    Empty,
}

impl Backup {
    /// The grid.
    #[must_use]
    pub fn grid(&self) -> Option<GridId> {
        self.state.grid
    }

    /// Its life at that time.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// The file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        ciborium::into_writer(self, &mut body)
            .unwrap_or_else(|e| unreachable!("a backup always encodes: {e}"));
        let version: String = self.version.chars().take(200).collect();
        let mut rest = Vec::with_capacity(body.len() + 64);
        rest.extend(BACKUP_FORM.to_be_bytes());
        rest.extend(self.state.feature_level.to_be_bytes());
        rest.extend(
            u16::try_from(version.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        rest.extend(version.as_bytes());
        rest.extend(u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        rest.extend(body);
        let mut file = MAGIC.to_vec();
        file.extend(Digest::of(&rest).0);
        file.extend(rest);
        file
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is none that this version can go on from.
    pub fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |why: &str| BackupError::Damaged(why.to_owned());
        let short = || damaged("it is too short");
        let (magic, bytes) = bytes
            .split_first_chunk::<8>()
            .ok_or(BackupError::Stranger)?;
        if magic != MAGIC {
            return Err(BackupError::Stranger);
        }
        let (digest, rest) = bytes.split_first_chunk::<32>().ok_or_else(short)?;
        if Digest::of(rest) != Digest(*digest) {
            return Err(damaged("its digest does not fit"));
        }
        let (form, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (level, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (form, level) = (u32::from_be_bytes(*form), u32::from_be_bytes(*level));
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (version, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        let version = String::from_utf8_lossy(version).into_owned();
        if form > BACKUP_FORM || level > FEATURE_LEVEL {
            return Err(BackupError::Newer {
                version,
                form,
                level,
            });
        }
        let (length, body) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        if u64::try_from(body.len()).ok() != Some(u64::from_be_bytes(*length)) {
            return Err(damaged("its length does not fit"));
        }
        let read: Self =
            ciborium::from_reader(body).map_err(|e| BackupError::Damaged(e.to_string()))?;
        if read.grid().is_none() {
            return Err(BackupError::Empty);
        }
        Ok(Self { version, ..read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> Backup {
        Backup {
            version: "0.1.0".to_owned(),
            made: Timestamp(5_000),
            server: "s1".parse().unwrap(),
            newest: true,
            state: State {
                grid: Some(GridId([3; 16])),
                index: 70,
                term: 4,
                ..State::default()
            },
            keys: Some(vec![1, 2, 3]),
        }
    }

    #[test]
    fn a_backup_comes_back_and_every_damaged_byte_is_found() {
        let whole = backup().encode();
        assert_eq!(Backup::decode(&whole), Ok(backup()));
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let refused = Backup::decode(&bytes).unwrap_err();
            assert!(
                matches!(refused, BackupError::Damaged(_) | BackupError::Stranger),
                "byte {at}: {refused}"
            );
            assert!(Backup::decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_a_newer_version_wrote_says_which() {
        let mut bytes = backup().encode();
        bytes[43] = 9;
        let digest = Digest::of(&bytes[40..]).0;
        bytes[8..40].copy_from_slice(&digest);
        let refused = Backup::decode(&bytes).unwrap_err();
        assert!(
            matches!(&refused, BackupError::Newer { version, form: 9, .. } if version == "0.1.0"),
            "{refused}"
        );
    }

    #[test]
    fn a_grid_that_was_never_founded_is_nothing_to_go_on_from() {
        let empty = Backup {
            state: State::default(),
            ..backup()
        };
        assert_eq!(Backup::decode(&empty.encode()), Err(BackupError::Empty));
    }
}
