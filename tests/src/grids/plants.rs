//! Bugs put in on purpose: a simulation that does not find them finds nothing.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, PoisonError};

use coppice_grid::memory::MemoryLog;
use coppice_grid::types::{LogEntry, LogId};
use coppice_state::State;
use coppice_world::clock::Clock;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::VoteOf;
use openraft::{EntryPayload, OptionalSend, RaftLogReader};

use super::Simulated;
use super::lives::WallClock;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Disks acknowledge before they sync.
    LyingDisk,
    /// A vote is forgotten in a crash.
    VoteForgotten,
    /// Whoever believes to lead answers reads without asking anybody.
    ReadUnasked,
    /// A snapshot loses a part on its way.
    SnapshotLosesPart,
    /// What an entry does depends on the clock of the server that takes it.
    OwnTime,
    /// A disk is replaced by an empty one, and the server keeps its number.
    WipedDisk,
    /// A leader that restarts goes on leading without an election.
    LeaderRestore,
    /// A proposal that was not answered is sent again.
    Resent,
}

impl Plant {
    /// Every bug.
    pub const ALL: [Self; 8] = [
        Self::LyingDisk,
        Self::VoteForgotten,
        Self::ReadUnasked,
        Self::SnapshotLosesPart,
        Self::OwnTime,
        Self::WipedDisk,
        Self::LeaderRestore,
        Self::Resent,
    ];
}

/// A snapshot as it arrives.
#[must_use]
pub fn snapshot_on_its_way(plant: Option<Plant>, state: Arc<State>) -> Arc<State> {
    if plant != Some(Plant::SnapshotLosesPart) {
        return state;
    }
    let mut state = state.as_ref().clone();
    state.secrets.pop_last();
    Arc::new(state)
}

/// A server's log, for one life.
#[derive(Clone)]
pub struct PlantedLog {
    log: MemoryLog<Simulated>,
    plant: Option<Plant>,
    server: u64,
    /// A vote that is nowhere else.
    vote: Arc<Mutex<Option<VoteOf<Simulated>>>>,
}

impl PlantedLog {
    /// `log` with the bug in it.
    #[must_use]
    pub fn new(log: MemoryLog<Simulated>, plant: Option<Plant>, server: u64) -> Self {
        Self {
            log,
            plant,
            server,
            vote: Arc::default(),
        }
    }

    fn written(&self, mut entry: LogEntry) -> LogEntry {
        if self.plant == Some(Plant::OwnTime)
            && let EntryPayload::Normal(proposal) = &mut entry.payload
        {
            proposal.0.at = WallClock(self.server).now();
        }
        entry
    }
}

impl RaftLogReader<Simulated> for PlantedLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        self.log.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Simulated>>> {
        let unwritten = *self.vote.lock().unwrap_or_else(PoisonError::into_inner);
        match unwritten {
            Some(vote) => Ok(Some(vote)),
            None => self.log.read_vote().await,
        }
    }
}

impl RaftLogStorage<Simulated> for PlantedLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Simulated>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Simulated>) -> io::Result<()> {
        if self.plant == Some(Plant::VoteForgotten) {
            *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
            return Ok(());
        }
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Simulated>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|e| self.written(e)).collect();
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(upto).await
    }
}
