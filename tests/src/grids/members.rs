//! Servers come and go, as whoever leads decides: added as learners, promoted, replaced, removed. No number is used twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::BasicNode;
use openraft::{ChangeMembers, RaftMetrics};

use super::forward::Access;
use super::lives::Life;
use super::{Grid, Simulated};

/// Servers there may be, with those that were removed and still run.
const MOST: usize = 9;

impl Grid {
    /// A server that takes itself for the leader.
    #[must_use]
    pub fn leader(&self) -> Option<(Life, Access)> {
        let numbers = self.numbers();
        let all = numbers.iter().filter_map(|number| self.access(*number));
        let mut leaders = all.filter(|(_, access)| access.replica.raft().is_leader());
        leaders.next_back()
    }

    /// Whoever takes part in the log, as far as `access` knows: voters and learners.
    #[must_use]
    pub fn members(access: &Access) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let metrics = access.replica.raft().metrics();
        let now: &RaftMetrics<Simulated> = &metrics.borrow_watched();
        let membership = now.membership_config.membership();
        (
            membership.voter_ids().collect(),
            membership.learner_ids().collect(),
        )
    }

    /// One change of who takes part, asked of a server that leads.
    pub(super) fn change_members(self: &Arc<Self>) {
        let Some((life, access)) = self.leader() else {
            return;
        };
        let (voters, learners) = Self::members(&access);
        let voters_now: Vec<u64> = voters.iter().copied().collect();
        let learners_now: Vec<u64> = learners.iter().copied().collect();
        let (what, voter, learner) = self.draw(|chance| {
            (
                chance.below(5),
                chance.pick(&voters_now).copied(),
                chance.pick(&learners_now).copied(),
            )
        });
        let change: ChangeMembers<u64, BasicNode> = match (what, voter, learner) {
            (0..2, ..) if self.numbers().len() < MOST => {
                let number = self.newcomer();
                self.deed(format!("{number} comes"));
                ChangeMembers::AddNodes([(number, BasicNode::default())].into())
            }
            (2, _, Some(learner)) if voters.len() < 5 => {
                self.deed(format!("{learner} is to vote"));
                ChangeMembers::AddVoterIds([learner].into())
            }
            (3, Some(voter), Some(learner)) => {
                self.deed(format!("{learner} is to vote instead of {voter}"));
                let mut then = voters;
                then.remove(&voter);
                then.insert(learner);
                ChangeMembers::ReplaceAllVoters(then)
            }
            (4, Some(voter), _) if voters.len() > 3 => {
                self.deed(format!("{voter} is to go"));
                let mut then = voters;
                then.remove(&voter);
                ChangeMembers::ReplaceAllVoters(then)
            }
            (4, _, Some(learner)) => {
                self.deed(format!("learner {learner} is to go"));
                ChangeMembers::RemoveNodes([learner].into())
            }
            _ => return,
        };
        self.tally(|tally| tally.changes += 1);
        // Half of those that no longer vote learn on.
        let stays = self.draw(|chance| chance.per_mille(500));
        self.in_life(life, async move {
            let raft = access.replica.raft();
            drop(raft.change_membership(change, stays).await);
        });
    }
}
