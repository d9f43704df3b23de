//! No way to anybody: the network of a grid of one server, and of its founding. Whoever asks for another
//! server gets "unreachable", which openraft takes as a server that is down, never as a vote or an acknowledgement.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use coppice_state::State;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend};

use crate::types::GridTypes;

/// No connection to anybody.
#[derive(Clone, Copy, Debug)]
pub struct Alone<C>(PhantomData<fn() -> C>);

impl<C> Alone<C> {
    /// The network of a grid of one server.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<C> Default for Alone<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// A server that cannot be reached.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere(u64);

impl Nowhere {
    fn unreachable<C: GridTypes>(self) -> Unreachable<C> {
        Unreachable::new(&AnyError::error(format!(
            "no connection to the server with raft id {}: this grid has one server",
            self.0
        )))
    }
}

impl<C: GridTypes> RaftNetworkFactory<C> for Alone<C> {
    type Network = Nowhere;

    async fn new_client(&mut self, target: u64, _node: &C::Node) -> Nowhere {
        Nowhere(target)
    }
}

impl<C: GridTypes> RaftNetworkV2<C> for Nowhere {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        Err(self.unreachable().into())
    }

    // Not left to its default, which grants.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<C>,
        _option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<C>,
        _snapshot: SnapshotOf<C, Arc<State>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        Err(self.unreachable().into())
    }
}
