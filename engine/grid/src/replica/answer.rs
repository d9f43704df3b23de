//! The other end of a [`Link`](crate::link::Link): what a replica answers to another.

use coppice_state::Agreement;
use openraft::errors::RaftError;
use openraft::type_config::alias::SnapshotOf;

use super::{Here, Replica, forward};
use crate::link::{Answer, Handed, Question};
use crate::types::GridTypes;

impl<C: GridTypes> Replica<C> {
    /// Answers another replica. Never fails: what cannot be answered is answered so.
    pub async fn answer(&self, question: Question<C>) -> Answer<C> {
        let closed = |error: RaftError<C>| Answer::Unknown(self.why(&error.unwrap_fatal()));
        match question {
            Question::Append(request) => {
                let answered = self.raft.append_entries(request).await;
                answered.map_or_else(closed, Answer::Append)
            }
            Question::Vote(request) => {
                let answered = self.raft.vote(request).await;
                answered.map_or_else(closed, Answer::Vote)
            }
            Question::PreVote(request) => {
                let answered = self.raft.pre_vote(request).await;
                answered.map_or_else(closed, Answer::Vote)
            }
            Question::Lead(request) => {
                let answered = self.raft.handle_transfer_leader(request).await;
                answered.map_or_else(|fatal| Answer::Unknown(self.why(&fatal)), Answer::Lead)
            }
            Question::Snapshot(Handed { vote, meta, state }) => {
                let snapshot = SnapshotOf::<C, _> {
                    meta,
                    snapshot: state,
                };
                let answered = self.raft.install_full_snapshot(vote, snapshot).await;
                answered.map_or_else(|fatal| Answer::Unknown(self.why(&fatal)), Answer::Snapshot)
            }
            Question::Propose(entry) => match self.propose_here(*entry).await {
                Here::Done((outcome, index)) => Answer::Proposed { outcome, index },
                Here::Elsewhere(other) => Answer::Elsewhere(forward::leaderless(&other)),
                Here::Again(why) => Answer::Elsewhere(why),
                Here::Failed(error) => Answer::Unknown(error.to_string()),
            },
            Question::Standing => {
                let standing = self.standing();
                // Only whoever leads hears of the others.
                match standing.majority {
                    Some(_) => Answer::Standing(standing),
                    None => Answer::Elsewhere("this server does not lead".to_owned()),
                }
            }
            Question::Clock => Answer::Clock(self.clock.now()),
            Question::Read => match self.read_here().await {
                Here::Done(index) => Answer::Read(index),
                Here::Elsewhere(other) => Answer::Elsewhere(forward::leaderless(&other)),
                Here::Again(why) => Answer::Elsewhere(why),
                Here::Failed(error) => Answer::Elsewhere(error.to_string()),
            },
        }
    }
}
