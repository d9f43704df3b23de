//! Opening the log: whatever is wrong with it is found here, before anybody acts on it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock, mpsc};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use openraft::entry::RaftEntry;
use openraft::impls::Vote;
use serde::de::DeserializeOwned;

use super::mark::{Mark, MarkFile};
use super::tail::Tail;
use super::writer::{Batch, COMMITTED, OnFailure, Op, PURGED, VOTE, Writer};
use super::{Log, LogError, Shared, decode, encode};
use crate::directory::{Directory, is_full};
use crate::types::{GridTypes, Leader, LogEntry, LogId};

impl<C: GridTypes> Log<C> {
    /// Opens the log of `directory`, creating an empty one where none is. Blocks: it reads all of it.
    ///
    /// `on_failure` is called, from another thread, when the log can no longer be written.
    pub(crate) fn open(
        directory: &Arc<Directory>,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self, LogError> {
        let path = directory.log();
        let opening = Opening { path: &path };
        let (db, log, meta) = opening.database()?;
        let (mut tail, first) = opening.scan(&log, &meta)?;
        let mark_file = MarkFile::at(directory.mark());
        let marked = mark_file.read().map_err(|e| LogError::Mark {
            path: path.clone(),
            mark: mark_file.path().to_owned(),
            why: e.to_string(),
        })?;
        let found = Mark {
            last: tail.last.map(|id| id.index()),
            term: tail.vote.map_or(0, |vote| vote.leader_id.term),
        };
        let marked = marked.unwrap_or_default();
        if marked.last > found.last || marked.term > found.term {
            return Err(LogError::TailLost {
                path: path.clone(),
                mark: mark_file.path().to_owned(),
                found: place(found),
                expected: place(marked),
            });
        }
        opening
            .harden(&db, &log, &meta, marked, &tail)
            .and_then(|()| mark_file.write(found))
            .map_err(|e| opening.unopened(&e))?;
        tail.shrink(found.last.unwrap_or_default());
        let shared = Arc::new(Shared {
            tail: Mutex::new(tail),
            disk: RwLock::new(Some(log.clone())),
        });
        let writer = Writer::<C> {
            batch: Batch::new(&db, found),
            db,
            log,
            meta,
            shared: Arc::clone(&shared),
            directory: Arc::clone(directory),
            mark_file,
            marked: found,
            durable: found,
            first,
            on_failure: Some(Box::new(on_failure) as OnFailure),
        };
        let (queue, calls) = mpsc::channel::<Op<C>>();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&calls))
            .map_err(|e| opening.unopened(&e))?;
        Ok(Self { shared, queue })
    }
}

struct Opening<'a> {
    path: &'a Path,
}

impl Opening<'_> {
    fn database(&self) -> Result<(Database, Keyspace, Keyspace), LogError> {
        // Nothing reaches the journal but our own batches, each with its own durability.
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
        let open = || {
            let db = Database::builder(self.path).worker_threads(1).open()?;
            let log = db.keyspace("log", options)?;
            let meta = db.keyspace("meta", options)?;
            Ok::<_, fjall::Error>((db, log, meta))
        };
        // Some damage it does not report but gives up on.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(opened) => opened.map_err(|e| self.unopened(&io::Error::other(e))),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("it gave up").replace('\n', " ");
                Err(self.unopened(&io::Error::other(text)))
            }
        }
    }

    /// Reads everything: what does not decode or is missing is found now, and not when a follower asks for it.
    fn scan(&self, log: &Keyspace, meta: &Keyspace) -> Result<(Tail, u64), LogError> {
        let mut tail = Tail::default();
        tail.vote = self.value::<Vote<Leader>>(meta, VOTE)?;
        tail.committed = self.value::<Option<LogId>>(meta, COMMITTED)?.flatten();
        if let Some(purged) = self.value::<LogId>(meta, PURGED)? {
            tail.purge(purged);
        }
        let first = tail.purged.map_or(0, |id| id.index() + 1);
        let mut next = first;
        let mut lowest = first;
        for item in log.iter() {
            let read = item.into_inner();
            let (key, value) = read.map_err(|e| self.unopened(&io::Error::other(e)))?;
            let index = <[u8; 8]>::try_from(key.as_ref())
                .map(u64::from_be_bytes)
                .map_err(|_| self.unreadable("a key", "it is not an index"))?;
            if index < first {
                // Purged, but not removed yet when the process ended; the next purge takes it along.
                lowest = lowest.min(index);
                continue;
            }
            if index != next {
                return Err(LogError::Hole {
                    path: self.path.to_owned(),
                    expected: next,
                    found: index,
                });
            }
            let name = || format!("entry {index}");
            let entry: LogEntry =
                decode(&value).map_err(|e| self.unreadable(&name(), &e.to_string()))?;
            if entry.index() != index {
                return Err(self.unreadable(&name(), "it holds another entry"));
            }
            tail.push(entry);
            tail.shrink(index);
            next += 1;
        }
        Ok((tail, lowest))
    }

    /// Makes what was found durable. A process that was killed, or whose disk was full, may have left entries
    /// that can be read but were never synced. They count from now on, so they are written again: syncing alone
    /// does not bring back a page whose write failed once.
    fn harden(
        &self,
        db: &Database,
        log: &Keyspace,
        meta: &Keyspace,
        marked: Mark,
        tail: &Tail,
    ) -> io::Result<()> {
        let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
        if let Some(vote) = tail.vote {
            batch.insert(meta, VOTE, encode(&vote)?);
        }
        let from = marked.last.map_or(0, |last| last + 1);
        for item in log.range(from.to_be_bytes()..) {
            let (key, value) = item.into_inner().map_err(io::Error::other)?;
            batch.insert(log, key, value);
        }
        batch.commit().map_err(io::Error::other)?;
        db.persist(PersistMode::SyncAll).map_err(io::Error::other)
    }

    fn value<T: DeserializeOwned>(
        &self,
        meta: &Keyspace,
        name: &str,
    ) -> Result<Option<T>, LogError> {
        let bytes = meta.get(name).map_err(io::Error::other);
        let bytes = bytes.map_err(|e| self.unopened(&e))?;
        bytes
            .map(|bytes| decode(&bytes))
            .transpose()
            .map_err(|e| self.unreadable(name, &e.to_string()))
    }

    fn unopened(&self, error: &io::Error) -> LogError {
        let (path, why) = (self.path.to_owned(), error.to_string());
        if is_full(error) {
            LogError::Full { path, why }
        } else {
            LogError::Unopened { path, why }
        }
    }

    fn unreadable(&self, what: &str, why: &str) -> LogError {
        LogError::Unreadable {
            path: self.path.to_owned(),
            what: what.to_owned(),
            why: why.to_owned(),
        }
    }
}

fn place(mark: Mark) -> String {
    match mark.last {
        Some(last) => format!("entry {last} with a vote in term {}", mark.term),
        None => format!("its beginning with a vote in term {}", mark.term),
    }
}
