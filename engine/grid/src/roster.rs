//! Who is a member of the grid, as far as is known here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::known::ServerState;
use coppice_state::State;
use futures::future::{Either, select};
use openraft::async_runtime::WatchSender;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};
use serde::{Deserialize, Serialize};

use crate::machine::Published;
use crate::types::GridTypes;

/// What a server that joins a grid is told of it: what it goes by until it has a state of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// The grid.
    pub grid: GridId,
    /// Its life.
    pub epoch: Epoch,
    /// Which member the new server is.
    pub server: ServerId,
    /// Its number in raft.
    pub raft_id: u64,
    /// The members, the new one among them or not.
    pub members: BTreeMap<ServerId, Member>,
}

/// A member, as the others reach it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its number in raft.
    pub raft_id: u64,
    /// Where it answers: `HOST:PORT`.
    pub address: String,
}

/// What is known here of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is a member.
    Member(Member),
    /// It is none that is known here, but may have joined since: ids are indexes of the log, and this one has not come
    /// to its yet. It may bring what is missing here, and nothing else.
    Later,
    /// It is none, and never will be: ids are not used twice.
    Gone,
}

/// What the roster is made from, and changes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct List {
    epoch: Epoch,
    feature_level: u32,
    members: BTreeMap<ServerId, Member>,
}

/// The members. Clones are the same roster.
pub(crate) struct Roster<C: GridTypes>(Arc<Shared<C>>);

struct Shared<C: GridTypes> {
    me: Introduction,
    published: Arc<Published<C>>,
    // In a lock because a runtime's sender need not be shareable.
    list: Mutex<WatchSenderOf<C, Arc<List>>>,
}

impl<C: GridTypes> Clone for Roster<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: GridTypes> Roster<C> {
    /// The roster of a server that was told `me`, and knows what is `published`. Follows the state as long as it is
    /// there.
    pub(crate) fn new(me: Introduction, published: Arc<Published<C>>) -> Self {
        let moved = published.subscribe();
        let (sender, _) = C::watch_channel(Arc::new(list(&me, &published.state())));
        let roster = Self(Arc::new(Shared {
            me,
            published,
            list: Mutex::new(sender),
        }));
        let shared = Arc::downgrade(&roster.0);
        drop(C::spawn(async move {
            let mut moved = moved;
            while moved.changed().await.is_ok() {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                shared.refresh();
            }
        }));
        roster
    }

    /// What this server was told when it joined.
    pub(crate) fn me(&self) -> &Introduction {
        &self.0.me
    }

    /// The grid's life.
    pub(crate) fn epoch(&self) -> Epoch {
        self.now().epoch
    }

    /// What all members can apply.
    pub(crate) fn feature_level(&self) -> u32 {
        self.now().feature_level
    }

    /// What is known here of `server`.
    pub(crate) fn verdict(&self, server: ServerId) -> Verdict {
        let state = self.0.published.state();
        let given = self.0.me.members.get(&server);
        if let Some(known) = state.servers.get(&server) {
            // Its record stays, for whoever asks who that was; it is out at once all the same.
            if known.state == ServerState::Removed {
                Verdict::Gone
            } else {
                Verdict::Member(member(known))
            }
        } else if server.0 <= state.index {
            Verdict::Gone
        } else {
            given.map_or(Verdict::Later, |known| Verdict::Member(known.clone()))
        }
    }

    /// The member with that raft id.
    pub(crate) fn by_raft_id(&self, raft_id: u64) -> Option<(ServerId, Member)> {
        let now = self.now();
        let mut members = now.members.into_iter();
        members.find(|(_, member)| member.raft_id == raft_id)
    }

    /// Resolves, with the reason, as soon as `server` may not stay connected. `lately`: also one that is not known yet
    /// may.
    pub(crate) async fn left(self, server: ServerId, lately: bool) -> String {
        let mut listed = self.0.subscribe();
        let mut moved = self.0.published.subscribe();
        let epoch = self.epoch();
        loop {
            match self.verdict(server) {
                Verdict::Member(_) if self.epoch() == epoch || epoch.number == 0 => {
                    if listed.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Verdict::Member(_) => return "the grid began another life".to_owned(),
                Verdict::Later if lately => {
                    let either = select(Box::pin(listed.changed()), Box::pin(moved.changed()));
                    let ended = match either.await {
                        Either::Left((result, _)) => result.is_err(),
                        Either::Right((result, _)) => result.is_err(),
                    };
                    if ended {
                        return std::future::pending().await;
                    }
                }
                Verdict::Later | Verdict::Gone => {
                    return format!("server {server} is no member of this grid");
                }
            }
        }
    }

    fn now(&self) -> List {
        list(&self.0.me, &self.0.published.state())
    }
}

impl<C: GridTypes> Shared<C> {
    fn subscribe(&self) -> WatchReceiverOf<C, Arc<List>> {
        self.sender().subscribe()
    }

    fn refresh(&self) {
        let now = list(&self.me, &self.published.state());
        self.sender().send_if_modified(|known| {
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }

    fn sender(&self) -> MutexGuard<'_, WatchSenderOf<C, Arc<List>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The members by `state`, and those of whom a server was told when it joined and whom its state does not know yet.
fn list(me: &Introduction, state: &State) -> List {
    let known = state.servers.iter();
    let known = known.filter(|(_, server)| server.state != ServerState::Removed);
    let known = known.map(|(id, known)| (*id, member(known)));
    let given = me.members.iter().filter(|(id, _)| id.0 > state.index);
    let given = given.map(|(id, given)| (*id, given.clone()));
    let founded = state.grid.is_some();
    List {
        epoch: if founded { state.epoch } else { me.epoch },
        feature_level: state.feature_level,
        members: given.chain(known).collect(),
    }
}

fn member(server: &coppice_state::state::Server) -> Member {
    Member {
        raft_id: server.raft_id,
        address: server.api.clone(),
    }
}
