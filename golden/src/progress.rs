//! How long work says how far it is, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coppice_schema::units::Size;

/// Least time between two reports of one phase. Ten a second look smooth, and cost nothing.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// The source is read, to know it by its digest.
    Hashing,
    /// The source becomes a raw file.
    Converting,
    /// The source is read again, to see that it did not change in between.
    Rehashing,
    /// The raw file's chunks are hashed and its zeros become holes.
    Indexing,
    /// Stored chunks are read back.
    Verifying,
    /// Chunks come from other servers.
    Copying,
}

/// How far one phase is. `done` only grows within a phase, and its last report has `done` equal to `total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done.
    pub done: Size,
    /// Bytes to do.
    pub total: Size,
}

/// A request to stop, shared between who does the work and who may lose interest.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// One that nobody has used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop. It does within about a tenth of a second and cleans up behind itself.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reports one phase: its begin, its end, and at most ten times a second in between.
pub(crate) struct Reporter<'a> {
    sink: &'a mut dyn FnMut(Progress),
    phase: Phase,
    done: u64,
    total: u64,
    last: Instant,
}

impl<'a> Reporter<'a> {
    pub(crate) fn begin(sink: &'a mut dyn FnMut(Progress), phase: Phase, total: u64) -> Self {
        sink(Progress {
            phase,
            done: Size(0),
            total: Size(total),
        });
        Self {
            sink,
            phase,
            done: 0,
            total,
            last: Instant::now(),
        }
    }

    /// `bytes` more are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.set(self.done.saturating_add(bytes));
    }

    /// `bytes` are done in all; less than before counts as no news.
    pub(crate) fn set(&mut self, bytes: u64) {
        self.done = bytes.clamp(self.done, self.total.max(self.done));
        if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            (self.sink)(Progress {
                phase: self.phase,
                done: Size(self.done),
                total: Size(self.total),
            });
        }
    }

    pub(crate) fn finish(self) {
        (self.sink)(Progress {
            phase: self.phase,
            done: Size(self.total),
            total: Size(self.total),
        });
    }
}
