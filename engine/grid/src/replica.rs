//! One server's copy of the grid's log and state, whatever they are kept on and whatever runs them.

mod answer;
mod forward;
mod members;
mod quorum;

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
use openraft::{Config, Instant, RaftMetrics, ServerState};

pub use self::forward::ENTRY_MOST;
pub use self::members::{Former, Members, MembersError};
pub use self::quorum::ALONE_AFTER;

use self::quorum::Quorum;

use crate::clocks::{self, Clocks};
use crate::link::Link;
use crate::machine::{Machine, Published};
use crate::network::Network;
use crate::types::{GridTypes, Proposal, settings};

/// How long a call waits for a leader and a majority. Longer than two elections on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a call waits before it looks for a leader again.
const PAUSE: Duration = Duration::from_millis(50);

/// openraft, with our state behind it.
pub type Raft<C> = openraft::Raft<C, Machine<C>>;

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

/// How often a leader that knows too few of the voters' clocks asks for them before it goes by its own,
const CLOCKS_TRIED: u32 = 5;
/// and what it waits in between: a connection that failed is tried again after no longer than that.
const CLOCKS_AGAIN: Duration = Duration::from_millis(400);

/// A replica. Clones are the same one.
pub struct Replica<C: GridTypes> {
    id: u64,
    raft: Raft<C>,
    published: Arc<Published<C>>,
    clock: Arc<dyn Clock>,
    clocks: Clocks<C>,
    /// The last time given to an entry. Held while an entry is handed over, so that entries enter the log in the
    /// order of their times.
    stamped: Arc<futures::lock::Mutex<Timestamp>>,
    fate: Fate,
    /// The way to whoever leads, for calls; `None` where there is none.
    link: Option<Arc<dyn Link<C>>>,
    quorum: Quorum,
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
            link: self.link.clone(),
            quorum: self.quorum.clone(),
        }
    }
}

/// What a proposal or a read came to on this server.
enum Here<C: GridTypes, T> {
    Done(T),
    /// Nothing happened: this server does not lead.
    Elsewhere(ForwardToLeader<C>),
    /// Nothing happened; another attempt may go better.
    Again(String),
    Failed(AgreementError),
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
        Self::start_with(settings, id, log, machine, network, clock, fate).await
    }

    async fn start_with(
        settings: Arc<Config>,
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
            link: None,
            quorum: Quorum::default(),
        };
        // What the metrics say at first is that nothing is there, and everybody else goes by them.
        let found = replica.raft.with_raft_state(move |state| {
            let effective = state.membership_state.effective();
            (*effective.log_id(), effective.voter_ids().eq([id]))
        });
        let (at, alone) = found.await.map_err(|e| closed(&e))?;
        replica
            .wait_for(|m| (*m.membership_config.log_id() >= at).then_some(()))
            .await?;
        // A single voter has nobody to wait for: without this it would sit out an election timeout.
        if alone {
            let stood = replica.raft.trigger().elect(false).await;
            stood.map_err(|e| closed(&e))?;
        }
        Ok(replica)
    }

    /// As [`start`](Self::start), one of several: `link` is the way to the others, for agreement and for calls that
    /// only whoever leads can answer.
    ///
    /// # Errors
    /// When the log or the machine cannot be read.
    pub async fn linked(
        id: u64,
        log: impl RaftLogStorage<C>,
        machine: Machine<C>,
        link: Arc<dyn Link<C>>,
        clock: Arc<dyn Clock>,
        fate: Fate,
    ) -> Result<Self, AgreementError> {
        let settings = settings().map_err(|e| AgreementError::Closed(e.to_string()))?;
        Self::linked_with(settings, id, log, machine, link, clock, fate).await
    }

    /// As [`linked`](Self::linked), with other settings than a grid has: a simulation makes snapshots more often.
    ///
    /// # Errors
    /// When the log or the machine cannot be read.
    pub async fn linked_with(
        settings: Arc<Config>,
        id: u64,
        log: impl RaftLogStorage<C>,
        machine: Machine<C>,
        link: Arc<dyn Link<C>>,
        clock: Arc<dyn Clock>,
        fate: Fate,
    ) -> Result<Self, AgreementError> {
        let network = Network::over(Arc::clone(&link));
        let replica = Self::start_with(settings, id, log, machine, network, clock, fate);
        let mut replica = replica.await?;
        replica.link = Some(link);
        Ok(replica)
    }

    /// This replica's number.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.id
    }

    /// Raft itself: for whoever brings it what other servers sent, and changes who takes part.
    #[must_use]
    pub fn raft(&self) -> &Raft<C> {
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
            // All metrics move with every entry, these seldom, and they end when it does.
            let mut moved = replica.raft.server_metrics();
            loop {
                let ended = moved.changed().await.is_err();
                if let Err(fatal) = &replica.raft.metrics().borrow_watched().running_state {
                    return replica.why(fatal);
                }
                if ended {
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

    /// Here, if this server leads: what applying `entry` gave, and its index.
    async fn propose_here(&self, entry: Entry) -> Here<C, (Outcome, u64)> {
        // One that just started, with a clock that is wrong, would take the grid's time with it.
        for _ in 0..CLOCKS_TRIED {
            if self.knows_time() || !matches!(self.leadership(), Leadership::Here { .. }) {
                break;
            }
            clocks::ask_members(self, false).await;
            if !self.knows_time() {
                C::sleep(CLOCKS_AGAIN).await;
            }
        }
        let answers = {
            let mut stamped = self.stamped.lock().await;
            let last = self.published.state().time.max(*stamped);
            let mine = self.clock.now();
            let at = entry_time(last, mine, &self.others_ahead(last, mine));
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
            Some(Ok(Ok(written))) => Here::Done((written.response, written.log_id.index())),
            Some(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                // It did not enter the log, and what this server's clock showed binds nobody, itself neither.
                *self.stamped.lock().await = Timestamp::default();
                Here::Elsewhere(forward)
            }
            Some(Ok(Err(
                error @ (ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            ))) => Here::Failed(AgreementError::NoQuorum(error.to_string())),
            Some(Err(fatal)) => Here::Failed(self.closed(&fatal)),
            None => Here::Failed(self.closed(&Fatal::Stopped)),
        }
    }

    /// What is known of others' clocks.
    pub(crate) fn clocks(&self) -> &Clocks<C> {
        &self.clocks
    }

    pub(crate) fn link(&self) -> Option<&dyn Link<C>> {
        self.link.as_deref()
    }

    /// How far the clocks of the other voters are ahead of one that shows `mine`, as far as that is known. Where two
    /// could differ and nobody would know which is right, the grid's own time since its `last` entry is a third.
    fn others_ahead(&self, last: Timestamp, mine: Timestamp) -> Vec<i64> {
        let voters = self.raft.voter_ids().filter(|id| *id != self.id);
        let mut ahead = self.clocks.ahead_among(voters, mine);
        let reckoned = self.clocks.reckon(last, mine);
        if ahead.len() % 2 == 1 {
            ahead.push(reckoned);
        }
        ahead
    }

    /// Notes when the last entry was seen.
    pub(crate) fn reckon(&self) {
        let last = self.published.state().time;
        self.clocks.reckon(last, self.clock.now());
    }

    /// Whether a majority of the voters' clocks is known, this server's among them.
    fn knows_time(&self) -> bool {
        let (mut voters, mut known) = (0, 0);
        for id in self.raft.voter_ids() {
            voters += 1;
            known += usize::from(id == self.id || self.clocks.knows(id));
        }
        known * 2 > voters
    }

    /// Here, if this server leads: the index up to which one must have applied to see all that is agreed on.
    async fn read_here(&self) -> Here<C, u64> {
        let found = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        match found {
            Ok((upto, _)) => Here::Done(upto.log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Here::Elsewhere(forward)
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) => {
                Here::Again(e.to_string())
            }
            Err(RaftError::Fatal(fatal)) => Here::Failed(self.closed(&fatal)),
        }
    }

    /// Waits until everything up to `index` is applied here.
    async fn applied(&self, index: u64) -> Arc<State> {
        let mut moved = self.published.subscribe();
        loop {
            let state = self.published.state();
            // The watch ends with the machine, and this replica holds that.
            if state.index >= index || moved.changed().await.is_err() {
                return state;
            }
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

impl<C: GridTypes> Agreement for Replica<C> {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        if let Err(error) = forward::fits(&entry) {
            return futures::future::ready(Err(error)).boxed();
        }
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

    fn degraded(&self) -> Option<Timestamp> {
        self.quorum.lost()
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

    fn standing_as_led(&self) -> BoxFuture<'_, Standing> {
        self.standing_of_leader().boxed()
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
        // Of one voter the majority is itself: what it hears of learners, or does not, says nothing about that.
        let by_itself = leads && membership.voter_ids().all(|id| id == me);
        let answered = now.last_quorum_acked.map(|at| since(*at));
        Standing {
            last,
            applied: now.last_applied.as_ref().map_or(0, |log_id| log_id.index()),
            majority: by_itself.then_some(Span(0)).or(answered),
            parts: learners.chain(voters).collect(),
            clocks: self
                .clocks
                .ahead(self.clock.now())
                .into_iter()
                .chain([(me, 0)])
                .collect(),
        }
    }
}

fn span(duration: Duration) -> Span {
    Span(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
