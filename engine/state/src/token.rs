//! Who may use the API. The state holds hashes only: a stolen backup opens nothing.

use std::fmt;

use coppice_schema::Digest;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

/// A token's public part: a name given by a person, unique in the grid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

/// A token as the grid remembers it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// BLAKE3 of the secret part. The secret has 256 random bits, so a fast hash is enough.
    pub hash: Digest,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops.
    pub expires: Option<Timestamp>,
}

/// What a token may do; each includes the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look.
    Viewer,
    /// Look and make plans.
    Planner,
    /// See and restart desktops.
    Helpdesk,
    /// Apply, import images, change servers; not new `libvirt_xml`, which reaches every file of a server.
    Operator,
    /// Everything: tokens and secrets too.
    Admin,
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viewer => "viewer",
            Self::Planner => "planner",
            Self::Helpdesk => "helpdesk",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}
