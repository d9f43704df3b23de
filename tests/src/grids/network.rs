//! What servers send each other, and how it gets there.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coppice_grid::Replica;
use coppice_state::{Agreement, Entry, Outcome, State};
use futures::channel::oneshot;
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend};
use openraft_rt_sim::SimRuntime;

use super::lives::{self, Lives};
use super::plants::{self, Plant};
use super::trace::Event;
use super::{Grid, Simulated};

/// How long a snapshot may take to get there and to be kept.
const SNAPSHOT: Duration = Duration::from_millis(2_500);

/// What a server asks of another.
#[derive(Clone)]
pub enum Request {
    /// Take these entries.
    Append(AppendEntriesRequest<Simulated>),
    /// Vote for me.
    Vote(VoteRequest<Simulated>),
    /// Would you vote for me?
    PreVote(VoteRequest<Simulated>),
    /// Lead.
    Transfer(TransferLeaderRequest<Simulated>),
    /// Take this state.
    Snapshot(VoteOf<Simulated>, SnapshotOf<Simulated, Arc<State>>),
    /// Agree on this for me.
    Propose(Box<Entry>),
    /// Up to which entry must I have applied to read?
    Read,
}

/// What it answers.
pub enum Answer {
    /// To [`Request::Append`].
    Append(AppendEntriesResponse<Simulated>),
    /// To [`Request::Vote`] and [`Request::PreVote`].
    Vote(VoteResponse<Simulated>),
    /// To [`Request::Transfer`].
    Transfer(TransferLeaderResponse<Simulated>),
    /// To [`Request::Snapshot`].
    Snapshot(SnapshotResponse<Simulated>),
    /// To [`Request::Propose`]: what came of it, and an entry by which it was applied.
    Outcome(Outcome, u64),
    /// To [`Request::Read`].
    Index(u64),
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Silence {
    /// Nobody is there; nothing was done.
    Refused,
    /// It was not heard of again.
    Lost,
    /// It could not, in its words.
    Failed(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody is there",
            Self::Lost => "no answer in time",
            Self::Failed(why) => why,
        })
    }
}

impl Request {
    fn kind(&self) -> &'static str {
        match self {
            Self::Append(_) => "append",
            Self::Vote(_) => "vote",
            Self::PreVote(_) => "pre-vote",
            Self::Transfer(_) => "transfer",
            Self::Snapshot(..) => "snapshot",
            Self::Propose(_) => "propose",
            Self::Read => "read",
        }
    }

    /// Raft bears hearing a thing twice. Proposals go over a connection, which does not repeat anything.
    fn may_repeat(&self) -> bool {
        !matches!(self, Self::Propose(_))
    }
}

async fn handle(
    replica: Replica<Simulated>,
    request: Request,
    plant: Option<Plant>,
) -> Result<Answer, String> {
    let raft = replica.raft();
    match request {
        Request::Append(request) => raft.append_entries(request).await.map(Answer::Append),
        Request::Vote(request) => raft.vote(request).await.map(Answer::Vote),
        Request::PreVote(request) => raft.pre_vote(request).await.map(Answer::Vote),
        Request::Transfer(request) => {
            let done = raft.handle_transfer_leader(request).await;
            return done.map(Answer::Transfer).map_err(|e| e.to_string());
        }
        Request::Snapshot(vote, snapshot) => {
            let snapshot = plants::snapshot_on_its_way(plant, snapshot);
            let done = raft.install_full_snapshot(vote, snapshot).await;
            return done.map(Answer::Snapshot).map_err(|e| e.to_string());
        }
        Request::Propose(entry) => {
            let done = replica.propose(*entry).await;
            let done = done.map(|outcome| Answer::Outcome(outcome, replica.local().index));
            return done.map_err(|e| e.to_string());
        }
        Request::Read => {
            let read = plants::read(plant, &replica).await;
            return read
                .map(|state| Answer::Index(state.index))
                .map_err(|e| e.to_string());
        }
    }
    .map_err(|e| e.to_string())
}

impl Grid {
    /// Sends `request` and waits for its answer, by the clock of whoever calls.
    pub async fn call(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        request: Request,
        patience: Duration,
    ) -> Result<Answer, Silence> {
        let (sender, answer) = oneshot::channel();
        // Kept to the end: a lost message is silence, not an error at once.
        let sender = Arc::new(Mutex::new(Some(sender)));
        let mut copies = self.send(from, to);
        if !request.may_repeat() {
            copies.truncate(1);
        }
        for delay in copies {
            let (grid, sender) = (Arc::clone(self), Arc::clone(&sender));
            let request = request.clone();
            drop(lives::spawn(None, async move {
                SimRuntime::sleep(delay).await;
                grid.deliver(from, to, request, sender);
            }));
        }
        let answered = Lives::timeout(patience, answer).await;
        drop(sender);
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Silence::Lost),
        }
    }

    fn deliver(self: &Arc<Self>, from: u64, to: u64, request: Request, sender: Sender) {
        let there = self.reached(from, to);
        self.note(Event::Message {
            kind: request.kind(),
            from,
            to,
            taken: there.is_some(),
        });
        let Some((life, replica)) = there else {
            answer(&sender, Err(Silence::Refused));
            return;
        };
        let grid = Arc::clone(self);
        let plant = self.plant;
        drop(lives::spawn(Some(life), async move {
            let answered = handle(replica, request, plant).await;
            let answered = answered.map_err(Silence::Failed);
            drop(lives::spawn(None, async move {
                let Some(delay) = grid.send(to, from).into_iter().next() else {
                    return;
                };
                SimRuntime::sleep(delay).await;
                if !grid.is_cut(to, from) {
                    answer(&sender, answered);
                }
            }));
        }));
    }
}

type Sender = Arc<Mutex<Option<oneshot::Sender<Result<Answer, Silence>>>>>;

fn answer(sender: &Sender, answer: Result<Answer, Silence>) {
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sender) = sender {
        // Whoever asked may have stopped waiting.
        drop(sender.send(answer));
    }
}

/// A server's network.
pub struct Network {
    /// The grid it is part of.
    pub grid: Arc<Grid>,
    /// Whose.
    pub server: u64,
}

/// A connection to another server.
pub struct Connection {
    grid: Arc<Grid>,
    from: u64,
    to: u64,
}

impl RaftNetworkFactory<Simulated> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Connection {
        Connection {
            grid: Arc::clone(&self.grid),
            from: self.server,
            to: target,
        }
    }
}

impl Connection {
    async fn ask(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<Answer, RPCError<Simulated>> {
        let answer = self
            .grid
            .call(self.from, self.to, request, option.hard_ttl());
        answer.await.map_err(|silence| match silence {
            Silence::Refused => {
                RPCError::Unreachable(Unreachable::new(&AnyError::error(Silence::Refused)))
            }
            Silence::Lost | Silence::Failed(_) => {
                RPCError::Network(NetworkError::new(&AnyError::error(silence)))
            }
        })
    }
}

fn confused() -> AnyError {
    AnyError::error("an answer to another question")
}

impl RaftNetworkV2<Simulated> for Connection {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Simulated>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Simulated>, RPCError<Simulated>> {
        match self.ask(Request::Append(request), &option).await? {
            Answer::Append(answer) => Ok(answer),
            _ => Err(NetworkError::new(&confused()).into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Simulated>,
        option: RPCOption,
    ) -> Result<VoteResponse<Simulated>, RPCError<Simulated>> {
        match self.ask(Request::Vote(request), &option).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(NetworkError::new(&confused()).into()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Simulated>,
        option: RPCOption,
    ) -> Result<VoteResponse<Simulated>, RPCError<Simulated>> {
        match self.ask(Request::PreVote(request), &option).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(NetworkError::new(&confused()).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Simulated>,
        snapshot: SnapshotOf<Simulated, Arc<State>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Simulated>, StreamingError<Simulated>> {
        let request = Request::Snapshot(vote, snapshot);
        let call = self.grid.call(self.from, self.to, request, SNAPSHOT);
        match call.await {
            Ok(Answer::Snapshot(answer)) => Ok(answer),
            Ok(_) => Err(NetworkError::new(&confused()).into()),
            Err(silence) => Err(StreamingError::Unreachable(Unreachable::new(
                &AnyError::error(silence),
            ))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Simulated>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Simulated>, RPCError<Simulated>> {
        match self.ask(Request::Transfer(request), &option).await? {
            Answer::Transfer(answer) => Ok(answer),
            _ => Err(NetworkError::new(&confused()).into()),
        }
    }
}
