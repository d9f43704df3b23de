//! The twin of the log and the snapshots in memory, with a disk that can lose what was not synced.
//!
//! Everything written goes to a cache at once and becomes durable when a sync, which takes a while, ends. A crash
//! keeps what is durable and, of the rest, a prefix of random length; the write at which it breaks off may be kept in
//! part. So do real disks and journals. It runs on any of openraft's runtimes, and on a simulated one a run repeats
//! itself for the same seed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use openraft::entry::RaftEntry;
use openraft::impls::Vote;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::VoteOf;
use openraft::{OptionalSend, RaftLogReader};

use crate::log::half_open;
use crate::machine::{Snapshot, Snapshots};
use crate::types::{GridTypes, Leader, LogEntry, LogId};

/// What a log holds.
#[derive(Clone, Default)]
struct Image {
    vote: Option<Vote<Leader>>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, LogEntry>,
}

#[derive(Clone)]
enum Write {
    Vote(Vote<Leader>),
    Committed(Option<LogId>),
    Append(Vec<LogEntry>),
    Truncate(u64),
    Purge(LogId),
}

impl Image {
    fn write(&mut self, write: &Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(*vote),
            Write::Committed(committed) => self.committed = *committed,
            Write::Append(entries) => {
                let each = entries.iter().map(|e| (e.index(), e.clone()));
                self.entries.extend(each);
            }
            Write::Truncate(from) => drop(self.entries.split_off(from)),
            Write::Purge(upto) => {
                self.purged = self.purged.max(Some(*upto));
                self.entries = self.entries.split_off(&(upto.index() + 1));
            }
        }
    }

    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value().map(|(_, e)| e.log_id());
        last.max(self.purged)
    }
}

enum Waiter<C: GridTypes> {
    Appender(IOFlushed<C>),
    Caller(oneshot::Sender<()>),
}

impl<C: GridTypes> Waiter<C> {
    fn answer(self) {
        match self {
            Self::Appender(callback) => callback.io_completed(Ok(())),
            Self::Caller(answer) => drop(answer.send(())),
        }
    }
}

struct Disk<C: GridTypes> {
    durable: Image,
    cache: Image,
    /// Written, not durable: `cache` is `durable` after these.
    pending: VecDeque<Write>,
    issued: u64,
    synced: u64,
    waiters: Vec<(u64, Waiter<C>)>,
    syncing: bool,
    snapshot: Option<Snapshot>,
    /// Raised by a crash: what an earlier life still tries to write goes nowhere.
    life: u64,
    random: u64,
    slowest: Duration,
    lying: bool,
}

/// What a crash took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Writes that were not durable and are gone.
    pub writes: usize,
    /// Whether the first of them was kept in part.
    pub torn: bool,
}

/// A disk in memory. Clones are the same disk.
pub struct MemoryDisk<C: GridTypes> {
    disk: Arc<Mutex<Disk<C>>>,
}

impl<C: GridTypes> Clone for MemoryDisk<C> {
    fn clone(&self) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
        }
    }
}

impl<C: GridTypes> MemoryDisk<C> {
    /// An empty disk. A sync takes up to `slowest`; how long, and what a crash keeps, is drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64, slowest: Duration) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                durable: Image::default(),
                cache: Image::default(),
                pending: VecDeque::new(),
                issued: 0,
                synced: 0,
                waiters: Vec::new(),
                syncing: false,
                snapshot: None,
                life: 0,
                random: seed,
                slowest,
                lying: false,
            })),
        }
    }

    /// This disk, as it is where the log begins after `snapshot`.
    #[must_use]
    pub fn holding(self, snapshot: Snapshot) -> Self {
        {
            let mut disk = self.lock();
            disk.durable.purged = snapshot.meta.last_log_id;
            disk.cache.purged = snapshot.meta.last_log_id;
            disk.snapshot = Some(snapshot);
        }
        self
    }

    /// Entries that are written and not durable yet.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let entries = |write: &Write| match write {
            Write::Append(entries) => entries.len(),
            Write::Vote(_) | Write::Committed(_) | Write::Truncate(_) | Write::Purge(_) => 0,
        };
        self.lock().pending.iter().map(entries).sum()
    }

    /// From now on a sync takes up to `slowest`.
    pub fn set_slowest(&self, slowest: Duration) {
        self.lock().slowest = slowest;
    }

    /// This disk, from now on doing one sync in eight and saying that it did all, as some real ones do. Whoever tests with a
    /// disk that crashes can show with it that the test would notice.
    #[must_use]
    pub fn lying(self) -> Self {
        self.lock().lying = true;
        self
    }

    /// The log on this disk, for the present life.
    #[must_use]
    pub fn log(&self) -> MemoryLog<C> {
        MemoryLog {
            life: self.lock().life,
            disk: self.clone(),
        }
    }

    /// The snapshots on this disk, for the present life.
    #[must_use]
    pub fn snapshots(&self) -> MemorySnapshots<C> {
        MemorySnapshots {
            life: self.lock().life,
            disk: self.clone(),
        }
    }

    /// The newest snapshot on this disk.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.lock().snapshot.clone()
    }

    /// The power goes. Nobody who waits for a sync is answered; logs handed out before accept nothing any more.
    pub fn crash(&self) -> Lost {
        let mut disk = self.lock();
        let disk = &mut *disk;
        disk.life += 1;
        let waiting = disk.pending.len();
        // Half of the time nothing more than what is durable.
        let kept = if disk.draw(2) == 0 {
            0
        } else {
            disk.draw(waiting + 1)
        };
        for write in disk.pending.drain(..kept) {
            disk.durable.write(&write);
        }
        let mut torn = false;
        if let Some(Write::Append(entries)) = disk.pending.front().cloned() {
            let part = disk.draw(entries.len() + 1);
            torn = part > 0;
            disk.durable.write(&Write::Append(entries[..part].to_vec()));
        }
        disk.pending.clear();
        disk.waiters.clear();
        disk.syncing = false;
        disk.issued = 0;
        disk.synced = 0;
        disk.cache = disk.durable.clone();
        Lost {
            writes: waiting - kept,
            torn,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk<C>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the cache. With a waiter, a sync is begun if none is under way.
    fn write(&self, life: u64, write: Write, waiter: Option<Waiter<C>>) -> io::Result<()> {
        let mut disk = self.lock();
        if disk.life != life {
            return Err(gone());
        }
        disk.cache.write(&write);
        disk.pending.push_back(write);
        disk.issued += 1;
        if let Some(waiter) = waiter {
            let at = disk.issued;
            disk.waiters.push((at, waiter));
            if !disk.syncing {
                disk.syncing = true;
                drop(C::spawn(self.clone().sync(life)));
            }
        }
        Ok(())
    }

    /// Syncs until nobody waits: what is written while a sync runs is the next one's.
    async fn sync(self, life: u64) {
        loop {
            let (upto, pause) = {
                let mut disk = self.lock();
                (disk.issued, disk.pause())
            };
            C::sleep(pause).await;
            let answered = {
                let mut disk = self.lock();
                if disk.life != life {
                    return;
                }
                let done = if disk.lying && disk.draw(8) > 0 {
                    disk.synced
                } else {
                    upto
                };
                while disk.synced < done {
                    let Some(write) = disk.pending.pop_front() else {
                        break;
                    };
                    disk.durable.write(&write);
                    disk.synced += 1;
                }
                let waiters = std::mem::take(&mut disk.waiters);
                let (answered, waiting) = waiters.into_iter().partition(|(at, _)| *at <= upto);
                disk.waiters = waiting;
                disk.syncing = !disk.waiters.is_empty();
                let more = disk.syncing;
                (answered, more)
            };
            let (answered, more): (Vec<_>, bool) = answered;
            for (_, waiter) in answered {
                waiter.answer();
            }
            if !more {
                return;
            }
        }
    }
}

impl<C: GridTypes> Disk<C> {
    /// A number below `below`; 0 for 0. SplitMix64: small, and the same everywhere.
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
        usize::try_from(z % below).unwrap_or_default()
    }

    fn pause(&mut self) -> Duration {
        let most = usize::try_from(self.slowest.as_micros()).unwrap_or(usize::MAX);
        let micros = self.draw(most.saturating_add(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    }
}

/// Snapshots on a [`MemoryDisk`].
pub struct MemorySnapshots<C: GridTypes> {
    disk: MemoryDisk<C>,
    life: u64,
}

impl<C: GridTypes> Snapshots for MemorySnapshots<C> {
    fn save(&self, snapshot: Snapshot) -> BoxFuture<'static, io::Result<()>> {
        let (disk, life) = (self.disk.clone(), self.life);
        async move {
            let pause = disk.lock().pause();
            C::sleep(pause).await;
            let mut disk = disk.lock();
            if disk.life != life {
                return Err(gone());
            }
            let older = |kept: &Snapshot| kept.meta.last_log_id <= snapshot.meta.last_log_id;
            if disk.snapshot.as_ref().is_none_or(older) {
                disk.snapshot = Some(snapshot);
            }
            Ok(())
        }
        .boxed()
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the disk's owner crashed")
}

/// A log on a [`MemoryDisk`]. Clones are the same log.
pub struct MemoryLog<C: GridTypes> {
    disk: MemoryDisk<C>,
    life: u64,
}

impl<C: GridTypes> Clone for MemoryLog<C> {
    fn clone(&self) -> Self {
        Self {
            disk: self.disk.clone(),
            life: self.life,
        }
    }
}

impl<C: GridTypes> MemoryLog<C> {
    fn read<T>(&self, read: impl FnOnce(&Image) -> T) -> io::Result<T> {
        let disk = self.disk.lock();
        if disk.life != self.life {
            return Err(gone());
        }
        Ok(read(&disk.cache))
    }

    async fn write_through(&self, write: Write) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.disk
            .write(self.life, write, Some(Waiter::Caller(done)))?;
        durable.await.map_err(|_| gone())
    }
}

impl<C: GridTypes> RaftLogReader<C> for MemoryLog<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let range = half_open(&range);
        self.read(|image| image.entries.range(range).map(|(_, e)| e.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<C>>> {
        self.read(|image| image.vote)
    }
}

impl<C: GridTypes> RaftLogStorage<C> for MemoryLog<C> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        self.read(|image| LogState {
            last_purged_log_id: image.purged,
            last_log_id: image.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> io::Result<()> {
        self.write_through(Write::Vote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.disk
            .write(self.life, Write::Committed(committed), None)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.read(|image| image.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        self.disk.write(
            self.life,
            Write::Append(entries),
            Some(Waiter::Appender(callback)),
        )
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index() + 1);
        self.write_through(Write::Truncate(from)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.disk.write(self.life, Write::Purge(upto), None)
    }
}
