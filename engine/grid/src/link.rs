//! The port to the other replicas: one question, one answer.
//!
//! Whatever runs under it, TLS or a simulation, the network of agreement ([`Network`](crate::network::Network)) and the
//! forwarding of calls to whoever leads are the same code above it, and [`Replica::answer`](crate::Replica::answer) is
//! the same code at its other end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::units::Timestamp;
use coppice_state::{Entry, Outcome, Standing, State};
use futures::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::VoteOf;
use serde::{Deserialize, Serialize};

use crate::types::{GridTypes, SnapshotMeta};
use crate::wire::Rejection;

/// The way to the other replicas.
pub trait Link<C: GridTypes>: Send + Sync + 'static {
    /// Asks `to`, and waits for the answer for about `within`; a large question may take longer. A call that is
    /// dropped may still reach the other side.
    ///
    /// Questions on one lane may overtake those on another. On [`Lane::Log`], [`Lane::Heartbeat`] and
    /// [`Lane::Snapshot`] one is under way at a time.
    fn ask<'a>(
        &'a self,
        to: &'a Target,
        lane: Lane,
        question: &'a Question<C>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer<C>, LinkError>>;
}

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its raft id.
    pub raft_id: u64,
    /// Where it was when it became a member of the log: `HOST:PORT`. Whoever knows a newer address uses that.
    pub address: String,
}

/// What must not wait for what: each lane has connections of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Entries on their way to a follower.
    Log,
    /// Signs of life.
    Heartbeat,
    /// Snapshots on their way to a learner that is far behind.
    Snapshot,
    /// Elections.
    Votes,
    /// Proposals and reads on their way to whoever leads.
    Calls,
}

/// What one replica asks another.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "", rename_all = "snake_case")]
// Hidden, since rustdoc 1.95 gives up on which of its auto traits follow from those of `C`.
#[doc(hidden)]
pub enum Question<C: GridTypes> {
    /// Here are entries, or none as a sign of life.
    Append(AppendEntriesRequest<C>),
    /// Give me your vote.
    Vote(VoteRequest<C>),
    /// Would you give me your vote?
    PreVote(VoteRequest<C>),
    /// Take the lead.
    Lead(TransferLeaderRequest<C>),
    /// Here is a snapshot.
    Snapshot(Handed<C>),
    /// Agree on this.
    Propose(Box<Entry>),
    /// How far must one have applied to see all that is agreed on by now?
    Read,
    /// Who takes part in the log, and how far is each?
    Standing,
    /// What does your clock show?
    Clock,
}

impl<C: GridTypes> Question<C> {
    /// Whether asking twice comes to the same as asking once, for raft or for readers.
    #[must_use]
    pub fn repeats(&self) -> bool {
        match self {
            Self::Append(_)
            | Self::Vote(_)
            | Self::PreVote(_)
            | Self::Lead(_)
            | Self::Snapshot(_)
            | Self::Read
            | Self::Standing
            | Self::Clock => true,
            Self::Propose(_) => false,
        }
    }

    /// Whether it may be asked on `lane`.
    #[must_use]
    pub fn fits(&self, lane: Lane) -> bool {
        match self {
            Self::Append(_) => matches!(lane, Lane::Log | Lane::Heartbeat),
            Self::Vote(_) | Self::PreVote(_) | Self::Lead(_) => lane == Lane::Votes,
            Self::Snapshot(_) => lane == Lane::Snapshot,
            Self::Propose(_) | Self::Read | Self::Standing | Self::Clock => lane == Lane::Calls,
        }
    }
}

impl<C: GridTypes> fmt::Debug for Question<C> {
    /// Its kind: its content may be a whole configuration, or a secret's ciphertext.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "append",
            Self::Vote(_) => "vote",
            Self::PreVote(_) => "pre-vote",
            Self::Lead(_) => "lead",
            Self::Snapshot(_) => "snapshot",
            Self::Propose(_) => "propose",
            Self::Read => "read",
            Self::Standing => "standing",
            Self::Clock => "clock",
        })
    }
}

/// A snapshot that is handed over.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Handed<C: GridTypes> {
    /// By whose leadership.
    pub vote: VoteOf<C>,
    /// Which entries it covers.
    pub meta: SnapshotMeta,
    /// What they made. On a wire it follows by itself, since it may be large.
    #[serde(skip)]
    pub state: Arc<State>,
}

/// What the other replica answers.
#[derive(Serialize, Deserialize)]
#[serde(bound = "", rename_all = "snake_case")]
pub enum Answer<C: GridTypes> {
    /// To entries.
    Append(AppendEntriesResponse<C>),
    /// To a call for votes.
    Vote(VoteResponse<C>),
    /// To the lead being handed over.
    Lead(TransferLeaderResponse<C>),
    /// To a snapshot: it is installed, or another leads.
    Snapshot(SnapshotResponse<C>),
    /// It is agreed on.
    Proposed {
        /// What applying it gave.
        outcome: Outcome,
        /// Its index: whoever applied up to it sees it.
        index: u64,
    },
    /// Whoever applied up to this index sees all that was agreed on before the question.
    Read(u64),
    /// Who takes part, as whoever leads sees it.
    Standing(Standing),
    /// What its clock shows.
    Clock(Timestamp),
    /// Nothing happened: this one does not lead, or cannot reach a majority. Why, in words.
    Elsewhere(String),
    /// It may have happened, or may still. Why that is not known, in words.
    Unknown(String),
}

impl<C: GridTypes> fmt::Debug for Answer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append(answer) => write!(f, "append: {answer}"),
            Self::Vote(answer) => write!(f, "vote: {answer}"),
            Self::Lead(answer) => write!(f, "lead: {answer:?}"),
            Self::Snapshot(answer) => write!(f, "snapshot: {answer}"),
            Self::Proposed { index, .. } => write!(f, "proposed at {index}"),
            Self::Read(index) => write!(f, "read at {index}"),
            Self::Standing(_) => f.write_str("standing"),
            Self::Clock(_) => f.write_str("clock"),
            Self::Elsewhere(why) => write!(f, "elsewhere: {why}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// The question was not asked: there is no way to the other replica at this moment.
    #[error("{0}")]
    Unreachable(String),
    /// The question was not asked: the other replica will have nothing to do with this one.
    #[error("the server there rejects this one: {0}")]
    Rejected(Rejection),
    /// The question was not asked: this replica will have nothing to do with the other one.
    #[error("the server there is not accepted here: {0}")]
    Distrusted(Rejection),
    /// The question was not asked: it is larger than any that may be.
    #[error("{bytes} bytes are more than the {most} that go from server to server at once")]
    TooLarge {
        /// How large.
        bytes: u64,
        /// How large it may be.
        most: u64,
    },
    /// The question was asked, at least in part, and no answer came: what it asks for may happen, or have happened.
    #[error("{0}")]
    Lost(String),
}
