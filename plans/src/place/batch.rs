//! Desktops that are alike, placed one after the other.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use coppice_schema::ids::ServerId;

use super::{Ledger, Need};
use crate::placement::Lack;

/// The servers that can take such desktops, the lightest on top.
///
/// Nothing here goes stale: what a server carries only grows while a plan is made, so a weight that is in the heap is at
/// most the present one, and is corrected when it comes to the top.
pub(crate) struct Batch<'n> {
    need: Need<'n>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// Taken off the top last: its weight is another now.
    last: Option<usize>,
}

impl<'n> Batch<'n> {
    pub(crate) fn new(need: Need<'n>, ledger: &Ledger<'_>) -> Self {
        let fit = ledger.hosts.iter().enumerate();
        let fit = fit.filter(|(_, host)| host.lacks(&need).is_none());
        let heap = fit.map(|(place, host)| Reverse((host.weight(need.takes), place)));
        Self {
            heap: heap.collect(),
            need,
            last: None,
        }
    }

    /// The best server for the next one, as long as one fits. It counts once [`Ledger::take`] says so.
    pub(crate) fn next(&mut self, ledger: &Ledger<'_>) -> Option<ServerId> {
        let weigh = |place: usize| Some(ledger.hosts.get(place)?.weight(self.need.takes));
        if let Some(place) = self.last.take() {
            self.heap
                .extend(weigh(place).map(|weight| Reverse((weight, place))));
        }
        while let Some(Reverse((weight, place))) = self.heap.pop() {
            let now = weigh(place)?;
            if now != weight {
                self.heap.push(Reverse((now, place)));
                continue;
            }
            let host = ledger.hosts.get(place)?;
            if host.full(self.need.takes).is_none() {
                self.last = Some(place);
                return Some(host.id);
            }
        }
        None
    }

    /// What each server lacks, by its name; of those that lack nothing, nothing.
    pub(crate) fn lacking(&self, ledger: &Ledger<'_>) -> BTreeSet<(String, Lack)> {
        let hosts = ledger.hosts.iter();
        let each =
            hosts.filter_map(|host| Some((host.server.name.to_string(), host.lacks(&self.need)?)));
        each.collect()
    }
}
