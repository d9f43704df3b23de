//! One server's copy of the grid's log and state, whatever they are kept on and whatever runs them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coppice_schema::units::{Span, Timestamp};
use coppice_state::clocks::entry_time;
use coppice_state::{
    Agreement, AgreementError, Entry, Envelope, Leadership, Outcome, Part, Standing, State,
};
use coppice_world::clock::Clock;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::BasicNode;
use openraft::network::RaftNetworkFactory;
use openraft::raft::ReadPolicy;
use openraft::storage::RaftLogStorage;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{Instant, RaftMetrics, ServerState};

use crate::clocks::Clocks;
use crate::machine::{Machine, Published};
use crate::types::{GridTypes, Proposal, settings};

/// How long a call waits for a leader and a majority. Longer than two elections on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a call waits before it looks for a leader again.
const PAUSE: Duration = Duration::from_millis(50);

type Raft<C> = openraft::Raft<C, Machine<C>>;

/// Why a replica is closed, once it is: the first reason given, so that callers learn the cause and not only that
/// openraft stopped because of it. Clones are the same one.
#[derive(Clone, Default, Debug)]
pub struct Fate(Arc<Mutex<Option<String>>>);

impl Fate {
    /// Gives the reason, if none was given before.
    pub fn close(&self, why: &str) {
        self.lock().get_or_insert_with(|| why.to_owned());
    }

    fn why(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica. Clones are the same one.
pub struct Replica<C: GridTypes> {
    id: u64,
    raft: Raft<C>,
    published: Arc<Published<C>>,
    clock: Arc<dyn Clock>,
    clocks: Clocks,
    /// The last time given to an entry. Held while an entry is handed over, so that entries enter the log in the
    /// order of their times.
    stamped: Arc<futures::lock::Mutex<Timestamp>>,
    fate: Fate,
}

impl<C: GridTypes> Clone for Replica<C> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            raft: self.raft.clone(),
            published: Arc::clone(&self.published),
            clock: Arc::clone(&self.clock),
            clocks: self.clocks.clone(),
            stamped: Arc::clone(&self.stamped),
            fate: self.fate.clone(),
        }
    }
}

/// What a proposal or a read came to within one attempt.
enum Attempt<T> {
    Done(T),
    /// Nothing happened; another attempt may go better.
    Again(String),
    Failed(AgreementError),
}

impl<C: GridTypes> Replica<C> {
    /// Starts server `id` on `log` and `machine`. What the log holds is applied as far as it is known to be agreed;
    /// the rest follows when a leader is known, see [`caught_up`](Self::caught_up). Whoever keeps the log says in `fate`
    /// why it can no longer be written.
    ///
    /// # Errors
    /// When the log or the machine cannot be read.
    pub async fn start(
        id: u64,
        log: impl RaftLogStorage<C>,
        machine: Machine<C>,
        network: impl RaftNetworkFactory<
            C,
            Network: openraft::network::NetSnapshot<C, SnapshotData = Arc<State>>,
        >,
        clock: Arc<dyn Clock>,
        fate: Fate,
    ) -> Result<Self, AgreementError> {
        let settings = settings().map_err(|e| AgreementError::Closed(e.to_string()))?;
        let published = machine.published();
        let raft = Raft::<C>::new(id, settings, network, log, machine)
            .await
            .map_err(|e| closed(&e))?;
        let replica = Self {
            id,
            raft,
            published,
            clock,
            clocks: Clocks::default(),
            stamped: Arc::default(),
            fate,
        };
        // A single voter has nobody to wait for: without this it would sit out an election timeout.
        if replica.raft.voter_ids().eq([id]) {
            replica
                .raft
                .trigger()
                .elect(false)
                .await
                .map_err(|e| closed(&e))?;
        }
        Ok(replica)
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft<C> {
        &self.raft
    }

    /// Makes this server the only voter of a new log. Nothing happens where a log is.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn initialize(&self, address: String) -> Result<(), AgreementError> {
        let members = BTreeMap::from([(self.id, BasicNode { addr: address })]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(e))) => {
                Err(AgreementError::Closed(e.to_string()))
            }
            Err(RaftError::Fatal(e)) => Err(closed(&e)),
        }
    }

    /// Waits until everything that was agreed before this call is applied here.
    ///
    /// # Errors
    /// When no leader is found in time.
    pub async fn caught_up(&self) -> Result<Arc<State>, AgreementError> {
        self.read().await
    }

    /// Builds a snapshot of everything applied and waits until it is durable.
    ///
    /// # Errors
    /// When it cannot be written, which also closes this replica.
    pub async fn snapshot(&self) -> Result<(), AgreementError> {
        let target = self.raft.metrics().borrow_watched().last_applied;
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(|e| closed(&e))?;
        self.wait_for(|m| (m.snapshot >= target).then_some(()))
            .await
    }

    /// Stops. The log is as durable as it was; nothing is lost by not calling it.
    pub async fn stop(&self, why: &str) {
        self.fate.close(why);
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %e, "agreement did not stop cleanly");
        }
    }

    /// Resolves with the reason when this replica can no longer agree on anything: its storage failed, or it was
    /// stopped. The process should end then and be started again.
    pub fn failed(&self) -> BoxFuture<'static, String> {
        let replica = self.clone();
        async move {
            let mut metrics = replica.raft.metrics();
            loop {
                if let Err(fatal) = &metrics.borrow_watched().running_state {
                    return replica.why(fatal);
                }
                if metrics.changed().await.is_err() {
                    return replica.why(&Fatal::<C>::Stopped);
                }
            }
        }
        .boxed()
    }

    /// Waits until `wanted` finds something in the metrics.
    async fn wait_for<T>(
        &self,
        wanted: impl Fn(&RaftMetrics<C>) -> Option<T> + Send + Sync,
    ) -> Result<T, AgreementError>
    where
        T: Send,
    {
        let mut metrics = self.raft.metrics();
        let waiting = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if let Err(fatal) = &now.running_state {
                        return Err(self.closed(fatal));
                    }
                    if let Some(found) = wanted(&now) {
                        return Ok(found);
                    }
                }
                if metrics.changed().await.is_err() {
                    return Err(self.closed(&Fatal::Stopped));
                }
            }
        };
        C::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            Err(AgreementError::NoQuorum(format!(
                "nothing within {PATIENCE:?}"
            )))
        })
    }

    /// Tries until something comes of it or patience ends.
    fn attempt<'a, T: Send + 'a>(
        &'a self,
        attempt: impl Fn() -> BoxFuture<'a, Attempt<T>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, AgreementError>> {
        async move {
            let reason = Mutex::new("no answer".to_owned());
            let trying = async {
                loop {
                    match attempt().await {
                        Attempt::Done(value) => return Ok(value),
                        Attempt::Failed(error) => return Err(error),
                        Attempt::Again(why) => {
                            *reason.lock().unwrap_or_else(PoisonError::into_inner) = why;
                        }
                    }
                    C::sleep(PAUSE).await;
                }
            };
            let result = C::timeout(PATIENCE, trying).await;
            result.unwrap_or_else(|_| {
                let reason = reason.into_inner().unwrap_or_else(PoisonError::into_inner);
                Err(AgreementError::NoQuorum(format!(
                    "{reason}, within {PATIENCE:?}"
                )))
            })
        }
        .boxed()
    }

    async fn propose_once(&self, entry: Entry) -> Attempt<Outcome> {
        let answers = {
            let mut stamped = self.stamped.lock().await;
            let last = self.published.state().time;
            let mine = self.clock.now().max(*stamped);
            let at = entry_time(last, mine, &self.voters_ahead());
            let proposal = Proposal(Envelope { at, entry });
            let handed = self.raft.client_write_many([proposal]).await;
            *stamped = at;
            handed
        };
        let answer = match answers {
            Ok(mut answers) => answers.next().await,
            Err(fatal) => Some(Err(fatal)),
        };
        match answer {
            Some(Ok(Ok(written))) => Attempt::Done(written.response),
            Some(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                Attempt::Again(leaderless(&forward))
            }
            Some(Ok(Err(
                error @ (ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            ))) => Attempt::Failed(AgreementError::NoQuorum(error.to_string())),
            Some(Err(fatal)) => Attempt::Failed(self.closed(&fatal)),
            None => Attempt::Failed(self.closed(&Fatal::Stopped)),
        }
    }

    /// What is known of others' clocks: whoever hears their answers notes it here.
    #[must_use]
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// How far the clocks of the other voters are ahead of this server's, as far as that is known.
    fn voters_ahead(&self) -> Vec<i64> {
        let known = self.clocks.ahead();
        let voters = self.raft.voter_ids().filter(|id| *id != self.id);
        voters.filter_map(|id| known.get(&id).copied()).collect()
    }

    async fn read_once(&self) -> Attempt<Arc<State>> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Attempt::Done(self.published.state()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Attempt::Again(leaderless(&forward))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) => {
                Attempt::Again(e.to_string())
            }
            Err(RaftError::Fatal(fatal)) => Attempt::Failed(self.closed(&fatal)),
        }
    }

    fn why(&self, fatal: &Fatal<C>) -> String {
        self.fate.why().unwrap_or_else(|| fatal.to_string())
    }

    fn closed(&self, fatal: &Fatal<C>) -> AgreementError {
        AgreementError::Closed(self.why(fatal))
    }
}

fn closed<C: GridTypes>(fatal: &Fatal<C>) -> AgreementError {
    AgreementError::Closed(fatal.to_string())
}

fn leaderless<C: GridTypes>(forward: &ForwardToLeader<C>) -> String {
    match forward.leader_id {
        Some(id) => format!("the server with raft id {id} leads, and there is no connection to it"),
        None => "no leader is known".to_owned(),
    }
}

impl<C: GridTypes> Agreement for Replica<C> {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        self.attempt(move || self.propose_once(entry.clone()).boxed())
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        self.attempt(move || self.read_once().boxed())
    }

    fn local(&self) -> Arc<State> {
        self.published.state()
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        stream::unfold(self.published.subscribe(), |mut moved| async move {
            moved.changed().await.ok()?;
            let index = *moved.borrow_watched();
            Some((index, moved))
        })
        .boxed()
    }

    fn leadership(&self) -> Leadership {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let term = now.current_term;
        match (now.current_leader, now.state) {
            (Some(id), ServerState::Leader) if id == self.id => Leadership::Here { term },
            (Some(raft_id), _) if raft_id != self.id => Leadership::There { raft_id, term },
            (Some(_) | None, _) => Leadership::Nobody,
        }
    }

    fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let since = |at: InstantOf<C>| span(C::now().saturating_duration_since(at));
        let me = self.id;
        let leads = now.state == ServerState::Leader;
        let last = now.last_log_index.unwrap_or(0);
        let part = |id: u64, voter: bool| {
            if id == me {
                let heard = leads.then_some(Span(0));
                let holds = Some(last);
                return Part {
                    voter,
                    heard,
                    holds,
                };
            }
            let heard = now.heartbeat.as_ref().and_then(|all| *all.get(&id)?);
            let matched = now
                .replication
                .as_ref()
                .and_then(|all| all.get(&id)?.as_ref());
            Part {
                voter,
                heard: heard.map(|at| since(*at)),
                holds: matched.map(|log_id| log_id.index()),
            }
        };
        let membership = now.membership_config.membership();
        let voters = membership.voter_ids().map(|id| (id, part(id, true)));
        let learners = membership.learner_ids().map(|id| (id, part(id, false)));
        Standing {
            last,
            applied: now.last_applied.as_ref().map_or(0, |log_id| log_id.index()),
            majority: now.last_quorum_acked.map(|at| since(*at)),
            parts: learners.chain(voters).collect(),
            clocks: self.clocks.ahead().into_iter().chain([(me, 0)]).collect(),
        }
    }
}

fn span(duration: Duration) -> Span {
    Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
