//! How a machine comes to be a member: by a token that an admin made for it, and a key of its own.

use std::fmt;

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, ServerName};
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

use crate::token::TokenId;

/// What a member is there for.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It carries desktops, and votes where a seat is free.
    #[default]
    Server,
    /// It votes beside two servers, and does nothing else: it has no hypervisor and no keys of the grid.
    Witness,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Server => "server",
            Self::Witness => "witness",
        })
    }
}

/// A token by which one machine may join, as the grid remembers it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinToken {
    /// BLAKE3 of the secret part. The secret has 256 random bits, so a fast hash is enough.
    pub hash: Digest,
    /// As what.
    pub role: Role,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops.
    pub expires: Timestamp,
    /// Digest of the public key that used it, once one did. That key may come again, to finish a join that was cut
    /// off; no other may.
    pub spent: Option<Digest>,
}

/// A machine asks to become a member, and has proven all that it says here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joiner {
    /// The token that it came with.
    pub token: TokenId,
    /// BLAKE3 of the secret that it showed.
    pub proof: Digest,
    /// Digest of its public key.
    pub key: Digest,
    /// What it wants to be called.
    pub name: ServerName,
    /// As what it comes.
    pub role: Role,
    /// Where it answers: `HOST:PORT`.
    pub api: String,
    /// Newest feature level that it can apply.
    pub feature_level: u32,
    /// It says that it is the member of that name, come back without its log: whoever had the place is out.
    #[serde(default)]
    pub again: bool,
}

/// Why a machine does not become a member. Every text is for the person who tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum JoinRefusal {
    /// No such token, or another secret; a token that was revoked is no longer known.
    #[error("the grid does not know the join token {0}: it was revoked, or never was this grid's")]
    Unknown(TokenId),
    /// Its time is over.
    #[error("the join token {0} has expired")]
    Expired(TokenId),
    /// Another machine used it.
    #[error("the join token {token} was used already, {by}")]
    Spent {
        /// Which.
        token: TokenId,
        /// By whom, in words.
        by: String,
    },
    /// It is for something else.
    #[error("the join token {token} is for a {role}")]
    OtherRole {
        /// Which.
        token: TokenId,
        /// What it is for.
        role: Role,
    },
    /// Another member has that name.
    #[error("the grid has a server named {0} already")]
    NameTaken(ServerName),
    /// It cannot apply what the grid agrees on.
    #[error(
        "the grid has feature level {grid}, and this version of the program applies up to {joiner}"
    )]
    TooOld {
        /// The grid's.
        grid: u32,
        /// Its own.
        joiner: u32,
    },
    /// It was a member, and was removed.
    #[error("this machine's key was that of the member {0}, which was removed from the grid")]
    Removed(ServerName),
}

/// A number in raft for the member that the entry at `index` makes, in the grid's life `epoch`. It was never given
/// before and never is again: indices only grow within an epoch, and epochs have numbers of their own.
#[must_use]
pub fn raft_id(epoch: Epoch, index: u64) -> u64 {
    (epoch.number << INDEX_BITS) | joined_at(index)
}

/// The index of the entry by which the member with that number in raft joined.
#[must_use]
pub fn joined_at(raft_id: u64) -> u64 {
    raft_id & ((1 << INDEX_BITS) - 1)
}

/// An index takes decades to grow out of it at ten thousand entries a second.
const INDEX_BITS: u32 = 44;
