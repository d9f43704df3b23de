//! The port to whatever makes replicas agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_schema::ids::{Epoch, ServerId};
use coppice_schema::units::{Span, Timestamp};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Outcome};
use crate::state::State;

/// A replicated log with a [`State`] at its end.
///
/// Guarantees: an outcome is returned only after the entry is durable on a majority and applied here; entries are
/// applied in one order everywhere; a state handed out never changes. A call that fails may still have happened,
/// unless the error says otherwise: entries are made so that proposing one again does no harm.
pub trait Agreement: Send + Sync {
    /// Agrees on `entry` and returns what applying it gave. On a server that does not lead, the request is
    /// forwarded.
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>>;

    /// The state after everything that was agreed before this call.
    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>>;

    /// The state as applied here; it may lag behind the grid, and never goes back.
    fn local(&self) -> Arc<State>;

    /// Wakes with the applied index after entries were applied. Several may be reported as one; after the stream
    /// is made, none is missed.
    fn watch(&self) -> BoxStream<'static, u64>;

    /// Who leads, as far as is known here.
    fn leadership(&self) -> Leadership;

    /// Who votes, and how far each is, as far as is known here. Only whoever leads hears of the others.
    fn standing(&self) -> Standing;

    /// Since when no majority has answered this server, as was found out by asking. `None`: one does, or nobody asks.
    fn degraded(&self) -> Option<Timestamp> {
        None
    }

    /// Servers that were met and are of another life of this grid, with that life.
    fn apart(&self) -> BTreeMap<ServerId, Epoch> {
        BTreeMap::new()
    }

    /// [`Self::standing`] as whoever leads sees it, or as far as is known here where that one does not answer at once.
    fn standing_as_led(&self) -> BoxFuture<'_, Standing> {
        let standing = self.standing();
        Box::pin(async move { standing })
    }
}

/// How a grid's replicas stand. What is in it passes: it is never agreed on, and a new leader knows nothing yet.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Index of the last entry in the log here, agreed on or not.
    pub last: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// How long ago a majority last answered whoever leads; `None` where this server does not lead.
    pub majority: Option<Span>,
    /// Those that take part in the log, by raft id.
    pub parts: BTreeMap<u64, Part>,
    /// How far the clocks are ahead of this server's, in milliseconds, by raft id: its own with 0, and those of which
    /// that is known.
    pub clocks: BTreeMap<u64, i64>,
}

/// How often whoever leads asks every replica whether it is there.
pub const HEARTBEAT: Span = Span(250);

/// So long without an answer, and a server is shown as silent.
pub const SUSPECT: Span = Span(3 * HEARTBEAT.0);

/// Whoever answered within that time is there: a few signs of life may be late.
pub const THERE: Span = Span(6 * HEARTBEAT.0);

/// Whoever has no more entries fewer than the leader is caught up: the rest comes while it votes.
pub const BEHIND: u64 = 250;

/// One replica's part in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its vote counts.
    pub voter: bool,
    /// How long ago it last answered the leader. `None`: never in this leadership, or this server does not lead.
    pub heard: Option<Span>,
    /// Index of the last entry that it is known to have on its disk.
    pub holds: Option<u64>,
}

impl Part {
    /// Whether it is there, by the last answer that the leader heard.
    #[must_use]
    pub fn there(&self) -> bool {
        self.heard.is_some_and(|heard| heard <= THERE)
    }

    /// Whether it is caught up with a log that goes to the entry `last`; where that is not known, it is not.
    #[must_use]
    pub fn caught_up(&self, last: u64) -> bool {
        let behind = self.holds.map(|holds| last.saturating_sub(holds));
        behind.is_some_and(|behind| behind <= BEHIND)
    }
}

/// Who leads a grid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leadership {
    /// This server, in that term.
    Here {
        /// The term.
        term: u64,
    },
    /// Another server, by its raft id.
    There {
        /// Its raft id.
        raft_id: u64,
        /// The term.
        term: u64,
    },
    /// Nobody that is known here.
    Nobody,
}

/// Why nothing could be agreed, or not be known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// No leader, or no majority, within the time allowed. The entry may still be agreed on later.
    #[error("no majority of the grid's voters answered: {0}")]
    NoQuorum(String),
    /// This server is shutting down, or its storage failed. The entry may have been agreed on.
    #[error("this server's copy of the grid's state is closed: {0}")]
    Closed(String),
    /// The entry was not proposed, here or anywhere: it is larger than any that is passed from server to server.
    #[error("{bytes} bytes are more than the {most} that can be agreed on at once")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        most: u64,
    },
}
