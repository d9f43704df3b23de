//! The port to the grid's certificate authority, for machines that join.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::units::Timestamp;
use futures::future::BoxFuture;

use crate::authority::Successor;

/// The grid's authority and its key, which are on members' disks and in no state, log or backup.
pub trait Admission: Send + Sync {
    /// The authority's certificate, in PEM; behind it another one, while one takes over from another.
    fn authority(&self) -> String;

    /// Digest of its public key: what a join token carries.
    fn fingerprint(&self) -> Digest;

    /// Until when it is valid.
    fn expires(&self) -> Timestamp;

    /// A new authority that can take over from this one. Nothing is changed by making it.
    ///
    /// # Errors
    /// When no server that has the authority's key answers.
    fn successor(&self) -> BoxFuture<'_, Result<Successor, AdmissionError>>;

    /// The forms in which this server speaks with others, the oldest and the newest.
    fn speaks(&self) -> RangeInclusive<u32>;

    /// Digest of the public key of a signing request in PEM, which that key has signed.
    ///
    /// # Errors
    /// When it is none.
    fn examine(&self, request: &str) -> Result<Digest, AdmissionError>;

    /// A certificate in PEM for the key of `request`, which says that it is the member `server`, reached under `names`.
    fn certify(
        &self,
        request: String,
        server: ServerId,
        names: BTreeSet<String>,
    ) -> BoxFuture<'_, Result<String, AdmissionError>>;

    /// The grid's key, for a machine that becomes a member; `None` where this server has none to give.
    fn grid_key(&self) -> Option<Vec<u8>>;
}

/// Why a machine gets no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// What it sent is no signing request, or names that no certificate can carry.
    #[error("the signing request cannot be used: {0}")]
    Request(String),
    /// No server that has the authority's key answers.
    #[error("no server that has the key of the grid's authority answers: {0}")]
    Unreachable(String),
    /// The authority's files.
    #[error("the grid's authority cannot sign: {0}")]
    Failed(String),
}
