//! The state at the end of the log, in memory, and its snapshots.
//!
//! The state is a value that [`apply()`] moves on; what is durable of it is the last snapshot, and the log since.
//! openraft builds snapshots by count of entries and purges the log only behind a durable one.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use coppice_state::state::FEATURE_LEVEL;
use coppice_state::{Outcome, State, apply};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchSender;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotOf, WatchReceiverOf, WatchSenderOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::types::{GridTypes, LogEntry, LogId, Membership, SnapshotMeta};

/// How many entries change the state at once.
const BATCH: usize = 32;

/// A state, and which entries made it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which entries.
    pub meta: SnapshotMeta,
    /// What they made.
    pub state: Arc<State>,
}

/// The port to where snapshots are kept.
pub trait Snapshots: Send + Sync + 'static {
    /// Keeps `snapshot`; it is durable when this returns without error. Where a newer one is kept already,
    /// nothing happens: a build that took long must not replace what was installed meanwhile.
    fn save(&self, snapshot: Snapshot) -> BoxFuture<'static, io::Result<()>>;
}

/// Told of everything that moves a machine's state, in its order and before anybody else. It holds the machine up, so
/// it is quick, and asks nothing of it.
pub trait Observer: Send + Sync + 'static {
    /// `entry` was applied with that outcome, and `state` is what came of it.
    fn applied(&self, entry: &LogEntry, outcome: &Outcome, state: &State);

    /// `state` took the place of whatever was there.
    fn installed(&self, meta: &SnapshotMeta, state: &State);
}

/// The state as everyone here reads it, and how they learn that it moved.
pub(crate) struct Published<C: GridTypes> {
    state: RwLock<Arc<State>>,
    // In a lock because a runtime's sender need not be shareable.
    moved: Mutex<WatchSenderOf<C, u64>>,
}

impl<C: GridTypes> Published<C> {
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn subscribe(&self) -> WatchReceiverOf<C, u64> {
        self.moved().subscribe()
    }

    /// Changes the state. Readers keep the one they have: it is copied if there are any, its large parts shared.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut state))
    }

    fn replace(&self, state: Arc<State>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn announce(&self) {
        let index = self.state().index;
        self.moved().send_if_greater(index);
    }

    fn moved(&self) -> MutexGuard<'_, WatchSenderOf<C, u64>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Default)]
struct Position {
    applied: Option<LogId>,
    membership: Membership,
}

/// A state that this version cannot apply entries to must not be moved on: whatever came of it would be another state
/// than the other servers have.
fn applicable(state: &State) -> io::Result<()> {
    if state.feature_level <= FEATURE_LEVEL {
        return Ok(());
    }
    let level = state.feature_level;
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the grid has feature level {level}, this version applies up to {FEATURE_LEVEL}: start a newer version"
        ),
    ))
}

/// What openraft applies entries to. Clones are the same machine.
pub struct Machine<C: GridTypes> {
    published: Arc<Published<C>>,
    position: Arc<Mutex<Position>>,
    latest: Arc<Mutex<Option<Snapshot>>>,
    store: Arc<dyn Snapshots>,
    observer: Option<Arc<dyn Observer>>,
}

impl<C: GridTypes> Clone for Machine<C> {
    fn clone(&self) -> Self {
        Self {
            published: Arc::clone(&self.published),
            position: Arc::clone(&self.position),
            latest: Arc::clone(&self.latest),
            store: Arc::clone(&self.store),
            observer: self.observer.clone(),
        }
    }
}

impl<C: GridTypes> Machine<C> {
    /// A machine that stands where `latest` does, or at the beginning.
    pub fn new(store: Arc<dyn Snapshots>, latest: Option<Snapshot>) -> Self {
        let (state, position) = match &latest {
            Some(snapshot) => (
                Arc::clone(&snapshot.state),
                Position {
                    applied: snapshot.meta.last_log_id,
                    membership: snapshot.meta.last_membership.clone(),
                },
            ),
            None => (Arc::default(), Position::default()),
        };
        let (moved, _) = C::watch_channel(state.index);
        Self {
            published: Arc::new(Published {
                state: RwLock::new(state),
                moved: Mutex::new(moved),
            }),
            position: Arc::new(Mutex::new(position)),
            latest: Arc::new(Mutex::new(latest)),
            store,
            observer: None,
        }
    }

    /// This machine, whose every step `observer` is told of.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    pub(crate) fn published(&self) -> Arc<Published<C>> {
        Arc::clone(&self.published)
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as it is, with its position. Between two calls to `apply` they belong together.
    fn view(&self) -> Snapshot {
        let position = self.position();
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: position.applied,
                last_membership: position.membership.clone(),
            },
            state: self.published.state(),
        }
    }

    fn step(&self, state: &mut State, entry: LogEntry) -> io::Result<Outcome> {
        applicable(state)?;
        let id = entry.log_id;
        let (term, index) = (id.leader_id.term, id.index());
        let outcome = match &entry.payload {
            EntryPayload::Normal(proposal) => apply(state, term, index, &proposal.0),
            EntryPayload::Blank | EntryPayload::Membership(_) => {
                state.term = term;
                state.index = index;
                Outcome::Done
            }
        };
        if let Some(observer) = &self.observer {
            observer.applied(&entry, &outcome, state);
        }
        let mut position = self.position();
        position.applied = Some(id);
        if let EntryPayload::Membership(membership) = entry.payload {
            position.membership = Membership::new(Some(id), membership);
        }
        Ok(outcome)
    }

    async fn keep(&self, snapshot: Snapshot) -> io::Result<()> {
        self.store.save(snapshot.clone()).await?;
        let mut latest = self.latest();
        let older = |kept: &Snapshot| kept.meta.last_log_id <= snapshot.meta.last_log_id;
        if latest.as_ref().is_none_or(older) {
            *latest = Some(snapshot);
        }
        Ok(())
    }
}

/// Takes the view when it is made; the state may move on while the snapshot is written.
pub struct Builder<C: GridTypes> {
    machine: Machine<C>,
    view: Snapshot,
}

impl<C: GridTypes> RaftSnapshotBuilder<C> for Builder<C> {
    type SnapshotData = Arc<State>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<C, Arc<State>>> {
        self.machine.keep(self.view.clone()).await?;
        Ok(SnapshotOf::<C, Arc<State>> {
            meta: self.view.meta.clone(),
            snapshot: Arc::clone(&self.view.state),
        })
    }
}

impl<C: GridTypes> RaftStateMachine<C> for Machine<C> {
    // A state is shared, not copied, and lives in memory anyway; a network encodes it when it sends one.
    type SnapshotData = Arc<State>;
    type SnapshotBuilder = Builder<C>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let position = self.position().clone();
        Ok((position.applied, position.membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        // As long as somebody reads the state, a change is made on a copy of it: one for many entries, and not so many
        // that a reader waits long.
        let mut batches = entries.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            self.published.change(|state| {
                for next in batch {
                    let (entry, responder) = next?;
                    let outcome = self.step(state, entry)?;
                    answers.extend(responder.map(|responder| (responder, outcome)));
                }
                Ok::<_, io::Error>(())
            })?;
        }
        self.published.announce();
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<C> {
        Builder {
            view: self.view(),
            machine: self.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, state: Arc<State>) -> io::Result<()> {
        applicable(&state)?;
        let snapshot = Snapshot {
            meta: meta.clone(),
            state: Arc::clone(&state),
        };
        self.keep(snapshot).await?;
        if let Some(observer) = &self.observer {
            observer.installed(meta, &state);
        }
        self.published.replace(state);
        *self.position() = Position {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.published.announce();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<C, Arc<State>>>> {
        Ok(self.latest().clone().map(|s| SnapshotOf::<C, Arc<State>> {
            meta: s.meta,
            snapshot: s.state,
        }))
    }
}
