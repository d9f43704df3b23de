//! Who is a member of the grid, as far as is known here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::ids::{Epoch, ServerId};
use coppice_schema::known::ServerState;
use coppice_state::State;
use coppice_state::join::joined_at;
use coppice_state::state::Server;
use futures::future::{Either, select};
use openraft::async_runtime::WatchSender;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};

use crate::introduction::{Introduction, Member};
use crate::machine::Published;
use crate::types::GridTypes;

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
    /// Who was met and is of another life of the grid.
    apart: Mutex<BTreeMap<ServerId, Epoch>>,
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
            apart: Mutex::default(),
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

    /// Which member this server is. Whoever founds a grid learns it from the first entry.
    pub(crate) fn server(&self) -> ServerId {
        let me = self.me();
        let found = self.by_raft_id(me.raft_id);
        found.map_or(me.server, |(server, _)| server)
    }

    /// The grid's life.
    pub(crate) fn epoch(&self) -> Epoch {
        epoch(&self.0.me, &self.0.published.state())
    }

    /// `server` was met, and is of another life of the grid; `None`: of this one.
    pub(crate) fn met(&self, server: ServerId, epoch: Option<Epoch>) {
        let mut apart = self.0.apart.lock().unwrap_or_else(PoisonError::into_inner);
        match epoch {
            Some(epoch) => apart.insert(server, epoch),
            None => apart.remove(&server),
        };
    }

    /// Who was met and is of another life of the grid.
    pub(crate) fn apart(&self) -> BTreeMap<ServerId, Epoch> {
        let apart = self.0.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart.clone()
    }

    /// What all members can apply.
    pub(crate) fn feature_level(&self) -> u32 {
        self.0.published.state().feature_level
    }

    /// What is known here of `server`.
    pub(crate) fn verdict(&self, server: ServerId) -> Verdict {
        let state = self.0.published.state();
        let given = self.0.me.members.get(&server);
        if let Some(given) = given.filter(|_| is_behind(&self.0.me, &state)) {
            return Verdict::Member(given.clone());
        }
        if let Some(known) = state.servers.get(&server) {
            member(known).map_or(Verdict::Gone, Verdict::Member)
        } else if server.0 <= state.index {
            Verdict::Gone
        } else {
            given.map_or(Verdict::Later, |known| Verdict::Member(known.clone()))
        }
    }

    /// The member with that raft id.
    pub(crate) fn by_raft_id(&self, raft_id: u64) -> Option<(ServerId, Member)> {
        let state = self.0.published.state();
        let mut all = members(&self.0.me, &state);
        let (server, raft_id, address) = all.find(|(_, its, _)| *its == raft_id)?;
        let address = address.to_owned();
        Some((server, Member { raft_id, address }))
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
}

impl<C: GridTypes> Shared<C> {
    fn subscribe(&self) -> WatchReceiverOf<C, Arc<List>> {
        self.sender().subscribe()
    }

    fn refresh(&self) {
        let state = self.published.state();
        // Looked at after every entry: no list is made where nothing has changed.
        self.sender().send_if_modified(|known| {
            let changed = !known.is(&self.me, &state);
            if changed {
                *known = Arc::new(list(&self.me, &state));
            }
            changed
        });
    }

    fn sender(&self) -> MutexGuard<'_, WatchSenderOf<C, Arc<List>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// Whether it is what would be made of these.
    fn is(&self, me: &Introduction, state: &State) -> bool {
        if is_behind(me, state) {
            // Then they come in no order; it does not take long.
            return *self == list(me, state);
        }
        let listed = self.members.iter();
        let listed = listed.map(|(id, member)| (*id, member.raft_id, member.address.as_str()));
        self.epoch == epoch(me, state)
            && self.feature_level == state.feature_level
            && listed.eq(members(me, state))
    }
}

fn epoch(me: &Introduction, state: &State) -> Epoch {
    if state.grid.is_some() && !is_behind(me, state) {
        state.epoch
    } else {
        me.epoch
    }
}

/// The members by `state`, and after them, since ids are indexes, those of whom a server was told when it joined and whom its state does not know yet.
fn members<'a>(
    me: &'a Introduction,
    state: &'a State,
) -> impl Iterator<Item = (ServerId, u64, &'a str)> {
    let known = state.servers.iter();
    let behind = is_behind(me, state);
    let told = move |id: &ServerId| behind && me.members.contains_key(id);
    let known = known.filter(move |(id, server)| server.state != ServerState::Removed && !told(id));
    let known = known.map(|(id, server)| (*id, server.raft_id, server.api.as_str()));
    let given = me.members.iter();
    let given = given.filter(move |(id, _)| behind || id.0 > state.index);
    known.chain(given.map(|(id, given)| (*id, given.raft_id, given.address.as_str())))
}

fn list(me: &Introduction, state: &State) -> List {
    let member = |(id, raft_id, address): (ServerId, u64, &str)| {
        let address = address.to_owned();
        (id, Member { raft_id, address })
    };
    List {
        epoch: epoch(me, state),
        feature_level: state.feature_level,
        members: members(me, state).map(member).collect(),
    }
}

/// Whether a state is from before this server joined: it is still on its way through the log. Who is who, and which life
/// of the grid it is, is then as it was told: a server that joined again has its former place and another number.
fn is_behind(me: &Introduction, state: &State) -> bool {
    state.index < joined_at(me.raft_id) || state.epoch.number < me.epoch.number
}

/// `None` for one that was removed: it is remembered, and is no member.
fn member(server: &Server) -> Option<Member> {
    (server.state != ServerState::Removed).then(|| Member {
        raft_id: server.raft_id,
        address: server.api.clone(),
    })
}
