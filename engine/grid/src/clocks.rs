//! How far the clocks of other servers are from this one's.
//!
//! Whoever leads gives entries their time, and keeps it near the middle of the voters' clocks
//! ([`entry_time`](coppice_state::clocks::entry_time)). So every server asks the voters what their clocks show: whoever
//! leads next knows it already. What is remembered is what the other clock shows as time passes here, not the difference
//! of two wall clocks: when somebody sets this server's clock, that is known at its next entry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coppice_schema::units::Timestamp;
use coppice_state::{Agreement, Leadership};
use futures::future::join_all;
use openraft::Instant;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use crate::link::{Answer, Lane, Question, Target};
use crate::replica::Replica;
use crate::types::GridTypes;

/// How often others are asked.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// An answer that took longer says too little.
const WITHIN: Duration = Duration::from_millis(500);

/// What is known of others' clocks. It passes: it is never agreed on. Clones are the same.
pub(crate) struct Clocks<C: GridTypes>(Arc<Mutex<Seen<C>>>);

struct Seen<C: GridTypes> {
    /// What each clock showed, by raft id, and when.
    others: BTreeMap<u64, (Timestamp, InstantOf<C>)>,
    /// The time of the last entry, and when it was first seen.
    grid: Option<(Timestamp, InstantOf<C>)>,
}

impl<C: GridTypes> Clone for Clocks<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: GridTypes> Default for Clocks<C> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Seen {
            others: BTreeMap::new(),
            grid: None,
        })))
    }
}

impl<C: GridTypes> fmt::Debug for Clocks<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all().others.iter()).finish()
    }
}

impl<C: GridTypes> Clocks<C> {
    /// The clock of the server with that raft id showed `time` at `moment`.
    pub(crate) fn note(&self, raft_id: u64, time: Timestamp, moment: InstantOf<C>) {
        self.all().others.insert(raft_id, (time, moment));
    }

    /// How far each is ahead of a clock that shows `mine` now, in milliseconds, by raft id.
    pub(crate) fn ahead(&self, mine: Timestamp) -> BTreeMap<u64, i64> {
        let now = C::now();
        let all = self.all();
        let others = all.others.iter();
        others
            .map(|(id, seen)| (*id, ahead_of::<C>(mine, *seen, now)))
            .collect()
    }

    /// As [`ahead`](Self::ahead), of those of `ids` whose clock is known.
    pub(crate) fn ahead_among(&self, ids: impl Iterator<Item = u64>, mine: Timestamp) -> Vec<i64> {
        let now = C::now();
        let all = self.all();
        let known = ids.filter_map(|id| all.others.get(&id));
        known.map(|seen| ahead_of::<C>(mine, *seen, now)).collect()
    }

    /// Whether the clock of that server is known.
    pub(crate) fn knows(&self, raft_id: u64) -> bool {
        self.all().others.contains_key(&raft_id)
    }

    /// How far the time of the grid, whose last entry is of `last`, is ahead of a clock that shows `mine` now, in
    /// milliseconds: since that entry was seen, time passed.
    pub(crate) fn reckon(&self, last: Timestamp, mine: Timestamp) -> i64 {
        let now = C::now();
        let mut all = self.all();
        let seen = all.grid.filter(|(known, _)| *known == last);
        let seen = *all.grid.insert(seen.unwrap_or((last, now)));
        ahead_of::<C>(mine, seen, now)
    }

    fn keep_only(&self, members: &BTreeMap<u64, String>) {
        let mut all = self.all();
        all.others.retain(|id, _| members.contains_key(id));
    }

    fn all(&self) -> MutexGuard<'_, Seen<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ahead_of<C: GridTypes>(
    mine: Timestamp,
    (showed, moment): (Timestamp, InstantOf<C>),
    now: InstantOf<C>,
) -> i64 {
    let since = now.saturating_duration_since(moment);
    let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let shows = showed.0.saturating_add(since);
    shows.cast_signed().saturating_sub(mine.0.cast_signed())
}

/// Asks for ever what others' clocks show: those of voters, and, on whoever leads, all members'. Dropping it is safe
/// at any point.
pub(crate) async fn watch<C: GridTypes>(replica: &Replica<C>) {
    loop {
        let leads = matches!(replica.leadership(), Leadership::Here { .. });
        ask_members(replica, leads).await;
        replica.reckon();
        C::sleep(ASK_EVERY).await;
    }
}

/// Asks the voters once, and `learners` too.
pub(crate) async fn ask_members<C: GridTypes>(replica: &Replica<C>, learners: bool) {
    let members = replica.members();
    replica.clocks().keep_only(&members.addresses);
    let asked = members
        .addresses
        .iter()
        .filter(|(id, _)| **id != replica.raft_id() && (learners || members.voters.contains(id)));
    join_all(asked.map(|(id, address)| ask(replica, *id, address))).await;
}

async fn ask<C: GridTypes>(replica: &Replica<C>, raft_id: u64, address: &str) {
    let Some(link) = replica.link() else {
        return;
    };
    let to = Target {
        raft_id,
        address: address.to_owned(),
    };
    let asked = C::now();
    let answer = link.ask(&to, Lane::Calls, &Question::Clock, WITHIN).await;
    let took = C::now().saturating_duration_since(asked);
    // Whoever does not answer, or is of a version that does not know the question, keeps what is known.
    if let Ok(Answer::Clock(time)) = answer
        && took <= WITHIN
    {
        // It was read somewhere on the way.
        replica.clocks().note(raft_id, time, asked + took / 2);
    }
}
