//! Who takes part in the log, and changing it: what the keeper of voters is made of.
//!
//! Only whoever leads changes anything. Each change but the handing over of leadership is made only if who takes part
//! is still what the caller decided by, so that two keepers, or one that was slow, never undo each other.

use std::collections::{BTreeMap, BTreeSet};

use coppice_state::AgreementError;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardToLeader, RaftError};
use openraft::impls::BasicNode;
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::type_config::TypeConfigExt;
use openraft::{ChangeMembers, Instant, ServerState};

use super::{PATIENCE, Replica};
use crate::types::{GridTypes, LONGEST_ELECTION, LogId};

/// Who takes part in the log, and as of which entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// The entry that said so: what a change is compared with.
    pub at: Option<LogId>,
    /// Whose votes count. In the middle of a change, those of before and of after.
    pub voters: BTreeSet<u64>,
    /// Who has the log and no vote.
    pub learners: BTreeSet<u64>,
    /// Where each was when it was added: `HOST:PORT`. The state may know a newer one.
    pub addresses: BTreeMap<u64, String>,
    /// A change of the voters was begun and not ended. Setting the voters, also to what they are to become anyway,
    /// ends it.
    pub changing: bool,
}

/// What becomes of those that voted and are to vote no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Former {
    /// They go on learning.
    Learn,
    /// They get no log any more.
    Leave,
}

/// Why who takes part did not change, or is not known to have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembersError {
    /// Nothing changed: this server does not lead.
    #[error("this server does not lead{}", match .leader { Some(id) => format!("; the one with raft id {id} does"), None => String::new() })]
    NotLeader {
        /// Who does, by raft id, where it is known.
        leader: Option<u64>,
    },
    /// Nothing changed, or a change of the voters was begun and another one came between: who takes part is not what
    /// the caller decided by. Look again, and decide again.
    #[error("who takes part in the log has changed meanwhile")]
    Moved,
    /// Not at this moment: another change is under way, this leadership has just begun, or those that are to vote have
    /// not answered it yet. A change of the voters may have been begun; look again in a moment, and ask again.
    #[error("the log's members cannot be changed at this moment: {0}")]
    NotNow(String),
    /// Nothing changed: a server that does not take part, or in the wrong part.
    #[error("the server with raft id {raft_id} {why}")]
    Unfit {
        /// Which.
        raft_id: u64,
        /// What is in the way.
        why: &'static str,
    },
    /// Nothing changed: nobody would vote.
    #[error("nobody would be left to vote")]
    Nobody,
    /// Leadership was offered, and not taken in time. Whoever stands for election next leads.
    #[error("the server with raft id {0} did not take the lead")]
    NotTaken(u64),
    /// It may have changed, or still change: look at who takes part.
    #[error(transparent)]
    Unknown(#[from] AgreementError),
}

impl<C: GridTypes> Replica<C> {
    /// Who takes part, as far as the log here says; also of changes that are not agreed on yet.
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let stored = metrics.borrow_watched().membership_config.clone();
        let membership = stored.membership();
        Members {
            at: *stored.log_id(),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            addresses: membership
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone()))
                .collect(),
            changing: membership.get_joint_config().len() > 1,
        }
    }

    /// Adds a learner that answers at `address` (`HOST:PORT`). Returns when that is agreed on; the learner gets the log
    /// from then on, and how far it is [`standing`](coppice_state::Agreement::standing) says. Nothing happens where it takes part already.
    ///
    /// # Errors
    /// When this server does not lead, or who takes part is not `basis` any more.
    pub async fn add_learner(
        &self,
        basis: &Members,
        raft_id: u64,
        address: String,
    ) -> Result<(), MembersError> {
        if basis.voters.contains(&raft_id) || basis.learners.contains(&raft_id) {
            return Ok(());
        }
        let node = BasicNode { addr: address };
        let change = ChangeMembers::AddNodes(BTreeMap::from([(raft_id, node)]));
        self.change(basis, change, true).await
    }

    /// Makes `voters` those who vote, in one joint change. Each must take part already. Those that voted and do no
    /// longer become `former`.
    ///
    /// # Errors
    /// When this server does not lead, who takes part is not `basis` any more, one of them does not take part, or
    /// there are none.
    pub async fn set_voters(
        &self,
        basis: &Members,
        voters: BTreeSet<u64>,
        former: Former,
    ) -> Result<(), MembersError> {
        if voters.is_empty() {
            return Err(MembersError::Nobody);
        }
        let part = |id: &&u64| basis.voters.contains(id) || basis.learners.contains(id);
        if let Some(stranger) = voters.iter().find(|id| !part(id)) {
            let why = "is to vote, and does not take part in the log";
            return Err(unfit(*stranger, why));
        }
        if voters == basis.voters && !basis.changing {
            return Ok(());
        }
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(basis, change, former == Former::Learn).await
    }

    /// Takes a server out of the log, whether it votes or learns. Nothing happens where it does not take part.
    ///
    /// # Errors
    /// When this server does not lead, who takes part is not `basis` any more, or nobody else votes.
    pub async fn remove(&self, basis: &Members, raft_id: u64) -> Result<(), MembersError> {
        let ids = BTreeSet::from([raft_id]);
        if basis.voters.contains(&raft_id) {
            if basis.voters == ids {
                return Err(MembersError::Nobody);
            }
            let change = ChangeMembers::RemoveVoters(ids);
            return self.change(basis, change, false).await;
        }
        if !basis.learners.contains(&raft_id) {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(ids);
        self.change(basis, change, true).await
    }

    /// Hands leadership to another voter, and returns when it leads. Between the two there is no leader for some
    /// milliseconds, in which calls wait. Nothing happens where it leads already.
    ///
    /// # Errors
    /// When this server does not lead, the other does not vote or was not heard of lately, or did not take over in time:
    /// then whoever stands for election next does.
    pub async fn transfer_leader(&self, raft_id: u64) -> Result<(), MembersError> {
        let members = self.members();
        {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            if now.current_leader == Some(raft_id) && raft_id != self.id {
                return Ok(());
            }
            if now.state != ServerState::Leader {
                let leader = now.current_leader;
                return Err(MembersError::NotLeader { leader });
            }
            if raft_id == self.id {
                return Ok(());
            }
            if !members.voters.contains(&raft_id) {
                return Err(unfit(raft_id, "does not vote, so it cannot lead"));
            }
            // A leader that offered its place to nobody writes nothing until others elect one.
            let heard = now.heartbeat.as_ref().and_then(|all| *all.get(&raft_id)?);
            let lately = |at| C::now().saturating_duration_since(at) < LONGEST_ELECTION;
            if !heard.map(|at| *at).is_some_and(lately) {
                return Err(unfit(
                    raft_id,
                    "does not answer, so it cannot take the lead",
                ));
            }
        }
        let sent = self.raft.trigger().transfer_leader(raft_id).await;
        sent.map_err(|fatal| self.closed(&fatal))?;
        let me = self.id;
        let taken = self.wait_for(|m| {
            let leader = m.current_leader.filter(|id| *id != me)?;
            Some(leader)
        });
        match taken.await {
            Ok(leader) if leader == raft_id => Ok(()),
            Ok(_) | Err(AgreementError::NoQuorum(_)) => Err(MembersError::NotTaken(raft_id)),
            Err(closed @ (AgreementError::Closed(_) | AgreementError::TooLarge { .. })) => {
                Err(closed.into())
            }
        }
    }

    async fn change(
        &self,
        basis: &Members,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), MembersError> {
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id: basis.at,
        };
        let changing = self.raft.change_membership_if(change, retain, [unchanged]);
        match C::timeout(PATIENCE, changing).await {
            Ok(result) => self.changed(result),
            Err(_) => {
                let why = format!("the change of the log's members took longer than {PATIENCE:?}");
                Err(AgreementError::NoQuorum(why).into())
            }
        }
    }

    fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    fn changed(
        &self,
        result: Result<ClientWriteResponse<C>, RaftError<C, ClientWriteError<C>>>,
    ) -> Result<(), MembersError> {
        let error = match result {
            Ok(_) => return Ok(()),
            Err(RaftError::Fatal(fatal)) => return Err(self.closed(&fatal).into()),
            Err(RaftError::APIError(error)) => error,
        };
        Err(match error {
            // It leads, but may not be sure of it: too few of those who vote, or are to, have answered lately.
            ClientWriteError::ForwardToLeader(ForwardToLeader {
                leader_id: None, ..
            }) if self.leads() => {
                let why = "too few of those who vote, or are to vote, have answered lately";
                MembersError::NotNow(why.to_owned())
            }
            ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. }) => {
                MembersError::NotLeader { leader: leader_id }
            }
            ClientWriteError::LogEntryDiscarded(_) => {
                AgreementError::NoQuorum(error.to_string()).into()
            }
            ClientWriteError::PreconditionFailed(_) => MembersError::Moved,
            ClientWriteError::ChangeMembershipError(error) => match error {
                ChangeMembershipError::EmptyMembership(_) => MembersError::Nobody,
                ChangeMembershipError::LearnerNotFound(e) => {
                    unfit(e.node_id, "does not take part in the log")
                }
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)
                | ChangeMembershipError::NodeMetadataChanged(_) => {
                    MembersError::NotNow(error.to_string())
                }
            },
        })
    }
}

fn unfit(raft_id: u64, why: &'static str) -> MembersError {
    MembersError::Unfit { raft_id, why }
}
