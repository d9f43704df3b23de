//! Agreement's way to the other replicas.
//!
//! [`Network`] is openraft's network over any [`Link`]. What one asks and the other cannot be asked, or does not answer,
//! is "unreachable" or "lost" to openraft, never a vote or an acknowledgement.

mod alone;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coppice_state::State;
use futures::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend};

pub use self::alone::{Alone, Nowhere};

use crate::link::{Answer, Handed, Lane, Link, LinkError, Question, Target};
use crate::types::GridTypes;

/// How much longer entries may take than signs of life: the other side has to make them durable first, and a disk
/// that is slow for a moment is no reason to send everything again.
const TO_DISK: Duration = Duration::from_millis(750);

/// All replicas, over `link`.
pub struct Network<C: GridTypes> {
    link: Arc<dyn Link<C>>,
}

impl<C: GridTypes> Network<C> {
    /// Over `link`.
    #[must_use]
    pub fn over(link: Arc<dyn Link<C>>) -> Self {
        Self { link }
    }

    fn peer(&self, raft_id: u64, node: &C::Node, entries: Lane) -> Peer<C> {
        Peer {
            link: Arc::clone(&self.link),
            to: Target {
                raft_id,
                address: node.addr.clone(),
            },
            entries,
        }
    }
}

impl<C: GridTypes> RaftNetworkFactory<C> for Network<C> {
    type Network = Peer<C>;

    async fn new_client(&mut self, target: u64, node: &C::Node) -> Peer<C> {
        self.peer(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &C::Node) -> Peer<C> {
        self.peer(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &C::Node) -> Peer<C> {
        self.peer(target, node, Lane::Log)
    }
}

/// One other replica.
pub struct Peer<C: GridTypes> {
    link: Arc<dyn Link<C>>,
    to: Target,
    /// The lane of its entries.
    entries: Lane,
}

impl<C: GridTypes> Peer<C> {
    async fn ask(
        &self,
        lane: Lane,
        question: Question<C>,
        within: Duration,
    ) -> Result<Answer<C>, RPCError<C>> {
        let answer = self.link.ask(&self.to, lane, &question, within).await;
        answer.map_err(|error| self.failed(&error))
    }

    /// In openraft's words. "Unreachable" makes it wait before it tries again.
    fn failed(&self, error: &LinkError) -> RPCError<C> {
        let told = AnyError::error(format!("raft id {}: {error}", self.to.raft_id));
        match error {
            LinkError::Unreachable(_)
            | LinkError::Rejected(_)
            | LinkError::Distrusted(_)
            | LinkError::TooLarge { .. } => Unreachable::new(&told).into(),
            LinkError::Lost(_) => NetworkError::new(&told).into(),
        }
    }

    /// It answered something else than it was asked. A closed replica does.
    fn beside(&self, answer: &Answer<C>) -> RPCError<C> {
        let raft_id = self.to.raft_id;
        let told = AnyError::error(format!("raft id {raft_id} answers beside: {answer:?}"));
        Unreachable::new(&told).into()
    }
}

impl<C: GridTypes> RaftNetworkV2<C> for Peer<C> {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let whole = request.entries.len();
        loop {
            let within = if request.entries.is_empty() {
                option.soft_ttl()
            } else {
                option.soft_ttl() + TO_DISK
            };
            let last = request.entries.last().map(|entry| entry.log_id);
            let sent = request.entries.len();
            let question = Question::Append(request);
            let answered = self.link.ask(&self.to, self.entries, &question, within);
            match answered.await {
                Ok(Answer::Append(AppendEntriesResponse::Success)) if sent < whole => {
                    return Ok(AppendEntriesResponse::PartialSuccess(last));
                }
                Ok(Answer::Append(answer)) => return Ok(answer),
                Ok(answer) => return Err(self.beside(&answer)),
                // Many small entries make a large question: half of them now, the rest later.
                Err(LinkError::TooLarge { .. }) if sent > 1 => {
                    let Question::Append(again) = question else {
                        unreachable!("it was made above");
                    };
                    request = again;
                    request.entries.truncate(sent / 2);
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let question = Question::Vote(request);
        let answer = self.ask(Lane::Votes, question, option.soft_ttl()).await?;
        if let Answer::Vote(answer) = answer {
            return Ok(answer);
        }
        Err(self.beside(&answer))
    }

    // Not left to its default, which grants.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let question = Question::PreVote(request);
        let answer = self.ask(Lane::Votes, question, option.soft_ttl()).await?;
        if let Answer::Vote(answer) = answer {
            return Ok(answer);
        }
        Err(self.beside(&answer))
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, Arc<State>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let question = Question::Snapshot(Handed {
            vote,
            meta: snapshot.meta,
            state: snapshot.snapshot,
        });
        let asking = self.ask(Lane::Snapshot, question, option.soft_ttl());
        let asking = std::pin::pin!(asking);
        match select(asking, std::pin::pin!(cancel)).await {
            Either::Left((answer, _)) => {
                let answer = answer?;
                if let Answer::Snapshot(answer) = answer {
                    return Ok(answer);
                }
                Err(self.beside(&answer).into())
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let question = Question::Lead(request);
        let answer = self.ask(Lane::Votes, question, option.soft_ttl()).await?;
        if let Answer::Lead(answer) = answer {
            return Ok(answer);
        }
        Err(self.beside(&answer))
    }
}
