//! The whole memory of a grid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_plans::plan::Bounds;
use coppice_schema::Digest;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{
    Address, DesktopId, Epoch, Generation, GridId, ImageName, Kin, Revision, SecretName, ServerId,
    ServerName, Stamp, VersionName,
};
use coppice_schema::known::{
    Capacity, DesktopSpec, ImageVersion, KnownDesktop, Look, Order, Request, ServerState, Skew,
    SlotMemory,
};
use coppice_schema::review::Reviewed;
use coppice_schema::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::authority::Authorities;
use crate::join::{JoinToken, Role};
use crate::secret::Secret;
use crate::token::{Token, TokenId};

/// The newest feature level this binary can apply. Raised with every change in what an entry does to a state.
pub const FEATURE_LEVEL: u32 = 1;

/// Everything that a grid remembers. Ordered throughout: two replicas iterate alike.
///
/// The large parts are shared until changed, so that a copy for a reader costs no more than a few counters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The grid; `None` before it was founded.
    pub grid: Option<GridId>,
    /// Its life.
    pub epoch: Epoch,
    /// The lives it had before, oldest first: what began apart from them is not this grid's past.
    pub former: Vec<Epoch>,
    /// What all members can apply.
    pub feature_level: u32,
    /// Time of the last entry.
    pub time: Timestamp,
    /// Index of the last entry applied; 0 before any.
    pub index: u64,
    /// Term of the last entry applied.
    pub term: u64,
    /// The committed revision.
    pub revision: Revision,
    /// What it asks for.
    pub committed: Arc<Desired>,
    /// The last revisions, the committed one among them.
    pub revisions: BTreeMap<Revision, RevisionRecord>,
    /// Generations.
    pub generations: BTreeMap<Address, Generation>,
    /// Who changed an address last, for those that would refuse a plan.
    pub changed_by: BTreeMap<Address, Change>,
    /// Members.
    pub servers: BTreeMap<ServerId, Server>,
    /// The catalogue.
    pub images: BTreeMap<ImageName, BTreeMap<VersionName, ImageVersion>>,
    /// Desktops.
    pub desktops: Arc<BTreeMap<DesktopId, KnownDesktop>>,
    /// What is remembered of every slot that ever had a desktop.
    pub slots: BTreeMap<DesktopId, SlotMemory>,
    /// What people asked of single desktops, until it is ordered.
    pub requests: BTreeMap<DesktopId, Request>,
    /// When a desktop's domain was last written back after others had changed it; the last few.
    pub repairs: BTreeMap<DesktopId, Vec<Timestamp>>,
    /// Orders not finished.
    pub orders: Arc<BTreeMap<Stamp, Order>>,
    /// Runs, the last ones.
    pub runs: BTreeMap<Revision, Run>,
    /// Plans that were applied, so that applying one twice does nothing.
    pub applied_plans: BTreeMap<Digest, Revision>,
    /// Who may use the API, by id; only hashes.
    pub tokens: BTreeMap<TokenId, Token>,
    /// By which machines may join; only hashes.
    pub join_tokens: BTreeMap<TokenId, JoinToken>,
    /// Who signs the members' certificates.
    pub authorities: Authorities,
    /// Secrets, sealed.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// What keeps its protection although its block may be gone.
    pub protections: BTreeSet<Address>,
    /// What nobody may act on until then.
    pub pauses: BTreeMap<Address, Option<Timestamp>>,
    /// Since when a finding has been seen, by its key.
    pub since: BTreeMap<String, Timestamp>,
    /// What happened, the last thousand, oldest first. The whole of it is a stream on disk.
    pub history: Vec<Event>,
    /// How many events were dropped before the first of [`Self::history`]: with it, each event has a number for
    /// good, by which a reader goes on where it stopped.
    pub forgotten: u64,
}

/// A committed configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevisionRecord {
    /// What it asked for.
    pub desired: Arc<Desired>,
    /// Digest of the texts it was read from.
    pub texts: Digest,
    /// The plan that was reviewed.
    pub plan: Digest,
    /// Who applied it.
    pub author: String,
    /// When.
    pub at: Timestamp,
}

/// The last change of an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Who.
    pub author: String,
    /// In which revision.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
}

/// A member of the grid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Its name.
    pub name: ServerName,
    /// Its number in raft, never used twice.
    pub raft_id: u64,
    /// Where its API answers: `HOST:PORT`.
    pub api: String,
    /// Labels from its own file.
    pub labels: BTreeSet<String>,
    /// What it can carry.
    pub capacity: Capacity,
    /// Its part.
    pub state: ServerState,
    /// Since when it has that part.
    #[serde(default)]
    pub since: Timestamp,
    /// While it is lost, or reconciling: the part that it had, and is to have again.
    #[serde(default)]
    pub before: Option<ServerState>,
    /// While it is being emptied: when people there are no longer waited for; `None`: they always are.
    #[serde(default)]
    pub force_at: Option<Timestamp>,
    /// Its clock is wrong, beside the others'.
    #[serde(default)]
    pub skew: Option<Skew>,
    /// Index of the last entry that it proposed itself. A decision that it is lost, made before, means nothing any more.
    #[serde(default)]
    pub spoke: u64,
    /// What it saw last.
    pub look: Option<Arc<Look>>,
    /// The term in which that was confirmed to be whole.
    pub confirmed_term: u64,
    /// Newest feature level it can apply.
    pub feature_level: u32,
    /// What it is there for.
    #[serde(default)]
    pub role: Role,
    /// It is stopped for a while, as planned.
    #[serde(default)]
    pub resting: bool,
    /// The grid began another life without it. What comes back under its name joins anew, and takes its place.
    #[serde(default)]
    pub parted: bool,
    /// Digest of the public key that it joined with; absent for the server that the grid began with.
    #[serde(default)]
    pub key: Option<Digest>,
    /// After how long without word from the grid its watchdog ends the personal desktops there of which there are copies.
    #[serde(default)]
    pub lease: Option<Span>,
    /// Index of the entry by which that was agreed on.
    #[serde(default)]
    pub lease_at: u64,
    /// It is lost, and that was longer ago than its lease.
    #[serde(default)]
    pub fenced: bool,
}

impl Server {
    /// A member from now on, of which nothing is known yet.
    #[must_use]
    pub fn joining(name: ServerName, raft_id: u64, api: String, now: Timestamp) -> Self {
        Self {
            name,
            raft_id,
            api,
            labels: BTreeSet::new(),
            capacity: Capacity::default(),
            state: ServerState::Joining,
            since: now,
            before: None,
            force_at: None,
            skew: None,
            spoke: 0,
            look: None,
            confirmed_term: 0,
            feature_level: FEATURE_LEVEL,
            role: Role::Server,
            resting: false,
            parted: false,
            key: None,
            lease: None,
            lease_at: 0,
            fenced: false,
        }
    }
}

/// An apply in progress, or the memory of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The plan.
    pub plan: Digest,
    /// Who applied it.
    pub author: String,
    /// When it began.
    pub started: Timestamp,
    /// When the grid had become what it asked for.
    pub finished: Option<Timestamp>,
    /// What of it can hurt, as it was looked at: the rest waits for approval while the run is not finished.
    #[serde(default)]
    pub reviewed: Vec<Reviewed>,
    /// What may happen without asking again.
    pub bounds: Bounds,
    /// Actions done since.
    pub done: u32,
    /// Orders that failed since, each attempt counted.
    pub failed: u32,
}

/// Something that happened, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// About what.
    pub about: Address,
    /// What.
    pub what: Happening,
}

/// Kinds of event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A configuration was committed by `author`.
    Applied {
        /// Who.
        author: String,
        /// Which.
        revision: Revision,
    },
    /// A server was told something.
    Ordered {
        /// What, in words.
        what: String,
    },
    /// It was done.
    Done {
        /// What, in words.
        what: String,
    },
    /// It failed.
    Failed {
        /// What, in words.
        what: String,
        /// Why, in words.
        why: String,
    },
    /// A desktop came to another phase.
    Became {
        /// The phase's word.
        phase: String,
    },
    /// An image was imported, or dropped.
    Image {
        /// What, in words.
        what: String,
    },
    /// A server came to another part by itself.
    Server {
        /// What, in words.
        what: String,
    },
    /// Something was changed by a person: a token, a secret, a pause, a server's part.
    Changed {
        /// What, in words.
        what: String,
        /// Who.
        author: String,
    },
}

/// How many events are kept in the state.
pub const HISTORY_MAX: usize = 1_000;

impl State {
    /// BLAKE3 of the canonical encoding: two replicas at one index have the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// CBOR with named fields: what a snapshot holds.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).unwrap_or_else(|e| {
            // Writing to memory cannot fail, and every type here has a CBOR form; a test encodes each.
            unreachable!("a state always encodes: {e}")
        });
        bytes
    }

    /// Reads [`State::encode`]'s result back.
    ///
    /// # Errors
    /// When the bytes are not a state that this binary knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, UnreadableState> {
        let state: Self =
            ciborium::from_reader(bytes).map_err(|e| UnreadableState::Form(e.to_string()))?;
        if state.feature_level > FEATURE_LEVEL {
            return Err(UnreadableState::Newer {
                level: state.feature_level,
            });
        }
        Ok(state)
    }

    /// A member by its name. One that was removed has none any more.
    #[must_use]
    pub fn server_named(&self, name: &ServerName) -> Option<(ServerId, &Server)> {
        self.servers
            .iter()
            .find(|(_, s)| s.name == *name && s.state != ServerState::Removed)
            .map(|(id, s)| (*id, s))
    }

    /// Whoever has or had that number in raft, also one that was removed: no number is given twice.
    #[must_use]
    pub fn server_by_raft_id(&self, raft_id: u64) -> Option<(ServerId, &Server)> {
        let mut all = self.servers.iter();
        let found = all.find(|(_, server)| server.raft_id == raft_id);
        found.map(|(id, server)| (*id, server))
    }

    /// The generation of an address; 0 when it does not exist.
    #[must_use]
    pub fn generation(&self, address: &Address) -> Generation {
        self.generations.get(address).copied().unwrap_or_default()
    }

    /// How `theirs`, another server's epoch, stands to this grid's. A former number that is not in this grid's past
    /// was begun apart, by somebody who recovered the other side.
    #[must_use]
    pub fn kin(&self, theirs: Epoch) -> Kin {
        match self.epoch.kin(theirs) {
            Kin::Older if !self.former.contains(&theirs) => Kin::Split,
            kin @ (Kin::Same | Kin::Older | Kin::Newer | Kin::Split) => kin,
        }
    }

    /// In which life of the grid the life of a desktop began that `spec` describes: the one that its UUID was derived
    /// in. `None` when it was derived in none that this grid had.
    #[must_use]
    pub fn epoch_of(&self, spec: &DesktopSpec) -> Option<Epoch> {
        let grid = self.grid?;
        let (desktop, life) = (&spec.member.desktop, spec.member.incarnation);
        let newest_first = std::iter::once(&self.epoch).chain(self.former.iter().rev());
        newest_first
            .copied()
            .find(|epoch| desktop.uuid(grid, *epoch, life) == spec.uuid)
    }

    pub(crate) fn record(&mut self, about: Address, what: Happening) {
        if self.history.len() >= HISTORY_MAX {
            let dropped = self.history.drain(..HISTORY_MAX / 10).len();
            self.forgotten += u64::try_from(dropped).unwrap_or(0);
        }
        self.history.push(Event {
            at: self.time,
            about,
            what,
        });
    }

    pub(crate) fn desktop_mut(&mut self, id: &DesktopId) -> Option<&mut KnownDesktop> {
        // Looking first keeps a shared map shared when there is nothing to change.
        if !self.desktops.contains_key(id) {
            return None;
        }
        Arc::make_mut(&mut self.desktops).get_mut(id)
    }
}

/// Bytes that are no state for this binary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableState {
    /// They do not decode.
    #[error("the bytes are not a state: {0}")]
    Form(String),
    /// A newer version wrote them.
    #[error("the state has feature level {level}, this version applies up to {FEATURE_LEVEL}")]
    Newer {
        /// Its level.
        level: u32,
    },
}
