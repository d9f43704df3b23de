//! The grid's certificate authority.

use coppice_schema::Digest;
use coppice_schema::ids::ServerName;
use coppice_schema::units::Timestamp;
use coppice_state::authority::Step;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET authority`, and the answer to `POST authority/rotate` and `POST authority/finish`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuthorityInfo {
    /// What a client is to trust, in PEM: the certificate of the authority that signs, and behind it another while one
    /// takes over.
    pub certificates: String,
    /// BLAKE3 of the signing one's public key: what join tokens carry.
    #[schema(value_type = String)]
    pub fingerprint: Digest,
    /// Until when it is valid.
    #[schema(value_type = u64)]
    pub expires: Timestamp,
    /// Another takes over; absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<AuthorityRotation>,
}

/// One authority takes over from another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuthorityRotation {
    /// BLAKE3 of the new one's public key.
    #[schema(value_type = String)]
    pub new: Digest,
    /// `trust`: every server comes to trust the new one. `show`: every server gets a certificate of it.
    #[schema(value_type = String)]
    pub step: Step,
    /// When it began.
    #[schema(value_type = u64)]
    pub begun: Timestamp,
    /// Who began it.
    pub author: String,
    /// Servers that this step waits for.
    #[schema(value_type = Vec<String>)]
    pub waits_for: Vec<ServerName>,
    /// Those of them that are away, or were never started: the old one is dropped without them if an admin says so.
    #[schema(value_type = Vec<String>)]
    pub away: Vec<ServerName>,
}
