//! The newest part of the log, in memory.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::entry::RaftEntry;
use openraft::impls::Vote;

use crate::types::{Leader, LogEntry, LogId};

/// Durable entries kept in memory for readers: followers that are nearly caught up read no disk.
const CAPACITY: usize = 4_096;

/// What the log is, as its callers see it: appended entries count from the moment they are queued.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Without gaps, ending with the last entry.
    entries: VecDeque<LogEntry>,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote<Leader>>,
    pub(super) committed: Option<LogId>,
}

/// Where a range of entries is found.
pub(super) struct Found {
    /// These indexes are on disk only; they come first.
    pub(super) cold: Range<u64>,
    /// The rest.
    pub(super) warm: Vec<LogEntry>,
}

impl Tail {
    pub(super) fn push(&mut self, entry: LogEntry) {
        let follows = |before: &LogEntry| before.index() + 1 == entry.index();
        if !self.entries.back().is_none_or(follows) {
            self.entries.clear();
        }
        self.last = Some(entry.log_id());
        self.entries.push_back(entry);
    }

    /// Drops entries that are durable and many: those with an index up to `durable`.
    pub(super) fn shrink(&mut self, durable: u64) {
        while self.entries.len() > CAPACITY
            && self.entries.front().is_some_and(|e| e.index() <= durable)
        {
            self.entries.pop_front();
        }
    }

    /// Drops the entries from index `from` on. `last` is the one before; a log that ends earlier stays as it is.
    pub(super) fn truncate(&mut self, from: u64, last: Option<LogId>) {
        while self.entries.back().is_some_and(|e| e.index() >= from) {
            self.entries.pop_back();
        }
        self.last = self.last.min(last).max(self.purged);
    }

    /// Drops the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(Some(upto));
        while self
            .entries
            .front()
            .is_some_and(|e| e.index() <= upto.index())
        {
            self.entries.pop_front();
        }
    }

    pub(super) fn find(&self, wanted: Range<u64>) -> Found {
        let next = |id: &Option<LogId>| id.map_or(0, |id| id.index() + 1);
        let low = wanted.start.max(next(&self.purged));
        let high = wanted.end.min(next(&self.last)).max(low);
        let base = self
            .entries
            .front()
            .map_or_else(|| next(&self.last), RaftEntry::index);
        let warm = self
            .entries
            .iter()
            .skip_while(|e| e.index() < low)
            .take_while(|e| e.index() < high)
            .cloned()
            .collect();
        Found {
            cold: low..high.min(base).max(low),
            warm,
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt;

    use super::*;

    fn entry(index: u64) -> LogEntry {
        LogEntry::new_blank(LogId::new(Leader::new_committed(1, 1), index))
    }

    fn indexes(found: &Found) -> Vec<u64> {
        found.warm.iter().map(RaftEntry::index).collect()
    }

    #[test]
    fn a_range_is_split_between_disk_and_memory() {
        let mut tail = Tail::default();
        (0..5_000).for_each(|i| tail.push(entry(i)));
        tail.shrink(4_999);
        let found = tail.find(900..906);
        assert_eq!(
            (found.cold.clone(), indexes(&found)),
            (900..904, vec![904, 905])
        );
        tail.purge(entry(4_990).log_id());
        let found = tail.find(0..u64::MAX);
        assert!(found.cold.is_empty());
        assert_eq!(indexes(&found), (4_991..5_000).collect::<Vec<_>>());
    }

    #[test]
    fn truncating_beyond_the_end_changes_nothing() {
        let mut tail = Tail::default();
        (0..4).for_each(|i| tail.push(entry(i)));
        tail.truncate(12, Some(entry(11).log_id()));
        assert_eq!(tail.last, Some(entry(3).log_id()));
        tail.truncate(2, Some(entry(1).log_id()));
        assert_eq!(tail.last, Some(entry(1).log_id()));
        assert_eq!(indexes(&tail.find(0..u64::MAX)), vec![0, 1]);
    }
}
