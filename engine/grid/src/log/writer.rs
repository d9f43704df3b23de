//! The one thread that writes the log.

use std::io;
use std::mem;
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};
use futures::channel::oneshot;
use openraft::entry::RaftEntry;
use openraft::impls::Vote;
use openraft::storage::IOFlushed;

use super::mark::{Mark, MarkFile};
use super::{Shared, encode};
use crate::directory::{Directory, describe};
use crate::types::{GridTypes, Leader, LogEntry, LogId};

/// How many calls share a sync at most, so that the first of them is not kept waiting for ever.
const BATCH: usize = 1_024;
/// How many entries are removed in one batch while purging: appends get their turn in between.
const PURGE: u64 = 4_096;
/// How often the mark is written at most.
const MARK_EVERY: Duration = Duration::from_secs(1);

pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";

type Answer = oneshot::Sender<io::Result<()>>;

/// A call to the writer. Calls are carried out in their order.
pub(super) enum Op<C: GridTypes> {
    Append(Vec<LogEntry>, IOFlushed<C>),
    Vote(Vote<Leader>, Answer),
    Committed(Option<LogId>),
    Truncate(u64, Answer),
    Purge(LogId),
    Close(Answer),
}

/// Who waits for a batch.
enum Waiter<C: GridTypes> {
    Appender(IOFlushed<C>),
    Caller(Answer),
}

impl<C: GridTypes> Waiter<C> {
    fn answer(self, result: io::Result<()>) {
        match self {
            Self::Appender(callback) => callback.io_completed(result),
            // A caller that went away has no use for the answer.
            Self::Caller(answer) => drop(answer.send(result)),
        }
    }
}

/// Told once, when the log can no longer be written.
pub(super) type OnFailure = Box<dyn FnOnce(String) + Send>;

pub(super) struct Writer<C: GridTypes> {
    pub(super) db: Database,
    pub(super) log: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) shared: Arc<Shared>,
    /// Keeps the directory locked while anything may be written to it.
    pub(super) directory: Arc<Directory>,
    pub(super) mark_file: MarkFile,
    /// What the mark file says.
    pub(super) marked: Mark,
    /// What it may say: as far as the log is durable.
    pub(super) durable: Mark,
    /// Index of the first entry on disk, or of the one that would be it.
    pub(super) first: u64,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) batch: Batch<C>,
}

/// What is to be written by the next sync.
pub(super) struct Batch<C: GridTypes> {
    writes: OwnedWriteBatch,
    /// How far the log is once it is written.
    end: Mark,
    sync: bool,
    waiters: Vec<Waiter<C>>,
}

impl<C: GridTypes> Batch<C> {
    pub(super) fn new(db: &Database, end: Mark) -> Self {
        Self {
            writes: db.batch(),
            end,
            sync: false,
            waiters: Vec::new(),
        }
    }
}

impl<C: GridTypes> Writer<C> {
    /// Writes until the log is closed or cannot be written.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Op<C>>) {
        match self.work(queue) {
            Ok(close) => {
                let marked = self.write_mark();
                self.release();
                // Closed first, answered then: whoever asked may open it again.
                drop(self);
                if let Some(close) = close {
                    drop(close.send(marked));
                }
            }
            Err(error) => self.fail(queue, &error),
        }
    }

    /// Returns who asked for the end, if anybody did.
    fn work(&mut self, queue: &mpsc::Receiver<Op<C>>) -> io::Result<Option<Answer>> {
        let mut last_mark = Instant::now();
        loop {
            let first = if self.marked == self.durable {
                queue
                    .recv()
                    .map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(MARK_EVERY.saturating_sub(last_mark.elapsed()))
            };
            match first {
                Ok(op) => {
                    let more: Vec<_> = queue.try_iter().take(BATCH - 1).collect();
                    for op in std::iter::once(op).chain(more) {
                        if let Op::Close(answer) = op {
                            self.commit()?;
                            return Ok(Some(answer));
                        }
                        self.take(op)?;
                    }
                    self.commit()?;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if self.marked != self.durable && last_mark.elapsed() >= MARK_EVERY {
                self.write_mark()?;
                last_mark = Instant::now();
            }
        }
    }

    fn take(&mut self, op: Op<C>) -> io::Result<()> {
        match op {
            Op::Append(entries, callback) => {
                // First the one who waits: an error below must reach it too.
                self.batch.waiters.push(Waiter::Appender(callback));
                self.batch.sync = true;
                for entry in entries {
                    let index = entry.index();
                    self.batch
                        .writes
                        .insert(&self.log, index.to_be_bytes(), encode(&entry)?);
                    self.batch.end.last = Some(index);
                    self.first = self.first.min(index);
                }
            }
            Op::Vote(vote, answer) => {
                self.batch.waiters.push(Waiter::Caller(answer));
                self.batch.sync = true;
                self.batch.writes.insert(&self.meta, VOTE, encode(&vote)?);
                self.batch.end.term = vote.leader_id.term;
            }
            Op::Committed(committed) => {
                self.batch
                    .writes
                    .insert(&self.meta, COMMITTED, encode(&committed)?);
            }
            Op::Truncate(from, answer) => self.truncate(from, answer)?,
            Op::Purge(upto) => self.purge(upto)?,
            Op::Close(answer) => self.batch.waiters.push(Waiter::Caller(answer)),
        }
        Ok(())
    }

    /// In batches of its own: writes of one batch have no order among themselves, so one key must not be written
    /// and removed in it.
    fn truncate(&mut self, from: u64, answer: Answer) -> io::Result<()> {
        self.commit()?;
        self.batch.waiters.push(Waiter::Caller(answer));
        self.batch.sync = true;
        let end = self.batch.end.last.map_or(0, |last| last + 1);
        let next = from.min(end).max(self.first);
        let kept = next.checked_sub(1);
        if self.marked.last > kept {
            // Lowered first: a crash in between must not look like a lost tail.
            let lowered = Mark {
                last: kept,
                ..self.marked
            };
            self.mark_file.write(lowered)?;
            self.marked = lowered;
        }
        for index in next..end {
            self.batch.writes.remove(&self.log, index.to_be_bytes());
        }
        self.batch.end.last = kept;
        self.commit()
    }

    fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto_index = upto.index();
        // Beyond the last there is nothing to remove: a log that begins with a snapshot has millions of such indexes.
        let last = self.batch.end.last.unwrap_or_default();
        self.batch.writes.insert(&self.meta, PURGED, encode(&upto)?);
        self.batch.end.last = self.batch.end.last.max(Some(upto_index));
        // Not synced for its own sake; but entries must not go before the word that they are gone is written,
        // and the journal keeps that order.
        self.commit()?;
        while self.first <= upto_index.min(last) {
            let end = self.first.saturating_add(PURGE).min(upto_index + 1);
            for index in self.first..end {
                self.batch.writes.remove(&self.log, index.to_be_bytes());
            }
            self.first = end;
            self.commit()?;
        }
        self.first = self.first.max(upto_index + 1);
        Ok(())
    }

    fn commit(&mut self) -> io::Result<()> {
        let next = Batch::new(&self.db, self.batch.end);
        let batch = mem::replace(&mut self.batch, next);
        let mode = batch.sync.then_some(PersistMode::SyncAll);
        match batch.writes.durability(mode).commit() {
            Ok(()) => {
                if batch.sync {
                    self.durable = batch.end;
                }
                self.shared
                    .tail()
                    .shrink(self.durable.last.unwrap_or_default());
                for waiter in batch.waiters {
                    waiter.answer(Ok(()));
                }
                Ok(())
            }
            Err(error) => {
                self.batch.waiters = batch.waiters;
                Err(io::Error::other(error))
            }
        }
    }

    fn write_mark(&mut self) -> io::Result<()> {
        if self.marked != self.durable {
            self.mark_file.write(self.durable)?;
            self.marked = self.durable;
        }
        Ok(())
    }

    /// Says why to everyone who waits and whoever calls from now on. The database accepts nothing more after a
    /// failed write, and must not: what it then reads back may never reach the disk.
    fn fail(mut self, queue: &mpsc::Receiver<Op<C>>, error: &io::Error) {
        let why = describe(error);
        tracing::error!(error = %why, "the log cannot be written");
        self.directory.failed_to_write("the log", error);
        if let Some(tell) = self.on_failure.take() {
            tell(why.clone());
        }
        let refused = || io::Error::other(why.clone());
        for waiter in mem::take(&mut self.batch.waiters) {
            waiter.answer(Err(refused()));
        }
        self.release();
        while let Ok(op) = queue.recv() {
            match op {
                Op::Append(_, callback) => callback.io_completed(Err(refused())),
                Op::Vote(_, answer) | Op::Truncate(_, answer) => drop(answer.send(Err(refused()))),
                Op::Committed(_) | Op::Purge(_) => {}
                Op::Close(answer) => {
                    // As above: whoever asked may open the directory again.
                    drop(self);
                    drop(answer.send(Err(refused())));
                    return;
                }
            }
        }
    }

    /// Lets readers' hold on the database go, so that it closes with this thread.
    fn release(&self) {
        *self
            .shared
            .disk
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}
