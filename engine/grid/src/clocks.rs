//! How far the clocks of other servers are from this one's, as their answers tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of others' clocks. It passes: it is never agreed on. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Arc<Mutex<BTreeMap<u64, i64>>>);

impl Clocks {
    /// The server with that raft id answered, its clock being `ahead` milliseconds ahead of this one's.
    pub fn note(&self, raft_id: u64, ahead: i64) {
        self.all().insert(raft_id, ahead);
    }

    /// Nothing more is known of that server.
    pub fn forget(&self, raft_id: u64) {
        self.all().remove(&raft_id);
    }

    /// Of each server in milliseconds, by raft id.
    #[must_use]
    pub fn ahead(&self) -> BTreeMap<u64, i64> {
        self.all().clone()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
