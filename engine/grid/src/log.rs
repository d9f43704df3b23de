//! The log on disk: entries, vote and their bookkeeping in one fjall database, written by one thread.
//!
//! Only that thread writes. It takes everything that was queued while the last sync ran, puts it into one batch,
//! syncs once, and answers everybody (group commit): at 64 clients about 25 entries share a sync. A vote goes
//! through the same queue, so that order on disk is the order of the calls.
//!
//! The state itself is not in the database: it lives in memory and comes back from a snapshot file and the log
//! ([`crate::snapshots`]). So the state is never ahead of the log, and a start needs no third source.

mod mark;
mod open;
mod tail;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};

use fjall::Keyspace;
use futures::channel::oneshot;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::VoteOf;
use openraft::{OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::tail::{Found, Tail};
use self::writer::Op;
use crate::types::{GridTypes, LogEntry, LogId};

/// Why a log cannot be opened. Nothing was changed; every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database does not open.
    #[error("the log {} cannot be opened: {why}. If it is damaged and other servers hold the grid, \
             let this one join them again: coppice server rejoin ADDRESS TOKEN. If it was the only one: coppice restore FILE", .path.display())]
    Unopened {
        /// The log.
        path: PathBuf,
        /// What it says.
        why: String,
    },
    /// The disk is full: opening it writes.
    #[error("the log {} cannot be opened, because its disk is full: {why}. Nothing is lost: make space there, and start \
             again", .path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// What was said.
        why: String,
    },
    /// It ends before the point up to which it was durable.
    #[error("the log {} lost its tail: it ends at {found}, but entries up to {expected} were acknowledged. If \
             other servers hold the grid, let this one join them again: coppice server rejoin ADDRESS TOKEN. If it was the \
             only one: coppice restore FILE; or, to accept the loss, delete {}", .path.display(), .mark.display())]
    TailLost {
        /// The log.
        path: PathBuf,
        /// The file that knows.
        mark: PathBuf,
        /// Where it ends.
        found: String,
        /// Where it ended.
        expected: String,
    },
    /// An entry is missing between others.
    #[error("the log {} has a hole: entry {expected} is missing, the next is {found}. If other servers hold the \
             grid, let this one join them again: coppice server rejoin ADDRESS TOKEN. If it was the only one: coppice \
             restore FILE", .path.display())]
    Hole {
        /// The log.
        path: PathBuf,
        /// The first entry that is missing.
        expected: u64,
        /// What comes instead.
        found: u64,
    },
    /// Something in it does not decode.
    #[error("the log {} cannot be read at {what}: {why}. Either a newer version wrote it: start that one. Or it \
             is damaged: if other servers hold the grid, coppice server rejoin ADDRESS TOKEN; if it was the only one, \
             coppice restore FILE", .path.display())]
    Unreadable {
        /// The log.
        path: PathBuf,
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The mark cannot be read.
    #[error("{} cannot be read ({why}): it says how far the log {} was durable. To go on without that check, delete it", .mark.display(), .path.display())]
    Mark {
        /// The log.
        path: PathBuf,
        /// The mark.
        mark: PathBuf,
        /// Why.
        why: String,
    },
}

/// What the callers and the writer share.
struct Shared {
    tail: Mutex<Tail>,
    /// For reading what is no longer in memory; `None` once closed.
    disk: RwLock<Option<Keyspace>>,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log on disk. Clones are the same log.
pub struct Log<C: GridTypes> {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Op<C>>,
}

impl<C: GridTypes> Clone for Log<C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            queue: self.queue.clone(),
        }
    }
}

impl<C: GridTypes> Log<C> {
    /// The last entry purged and the last one there.
    pub(crate) fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let tail = self.shared.tail();
        (tail.purged, tail.last)
    }

    /// Writes what is queued, notes how far the log is durable and closes the database. Later calls fail.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Op::Close(done))?;
        answer.await.map_err(|_| gone())?
    }

    fn send(&self, op: Op<C>) -> io::Result<()> {
        self.queue.send(op).map_err(|_| gone())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    ciborium::from_reader(bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// The half-open form of a range of indexes.
pub(crate) fn half_open(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl<C: GridTypes> RaftLogReader<C> for Log<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let Found { cold, warm } = self.shared.tail().find(half_open(&range));
        if cold.is_empty() {
            return Ok(warm);
        }
        let shared = Arc::clone(&self.shared);
        let mut entries = C::spawn_blocking(move || {
            let disk = shared.disk.read().unwrap_or_else(PoisonError::into_inner);
            let disk = disk.as_ref().ok_or_else(gone)?;
            disk.range(cold.start.to_be_bytes()..cold.end.to_be_bytes())
                .map(|item| decode::<LogEntry>(&item.value().map_err(io::Error::other)?))
                .collect::<io::Result<Vec<_>>>()
        })
        .await??;
        entries.extend(warm);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<C>>> {
        Ok(self.shared.tail().vote)
    }
}

impl<C: GridTypes> RaftLogStorage<C> for Log<C> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let (last_purged_log_id, last_log_id) = self.bounds();
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.send(Op::Vote(*vote, done))?;
        durable.await.map_err(|_| gone())??;
        self.shared.tail().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.shared.tail().committed = committed;
        self.send(Op::Committed(committed))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        {
            // Readable on return, durable when the callback is called.
            let mut tail = self.shared.tail();
            entries.iter().for_each(|e| tail.push(e.clone()));
        }
        self.send(Op::Append(entries, callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index() + 1);
        self.shared.tail().truncate(from, last);
        let (done, durable) = oneshot::channel();
        self.send(Op::Truncate(from, done))?;
        durable.await.map_err(|_| gone())?
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.tail().purge(upto);
        self.send(Op::Purge(upto))
    }
}
