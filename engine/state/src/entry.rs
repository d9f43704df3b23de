//! Everything that can happen to a grid's state.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Base, Bounds, Intent, Memory};
use coppice_schema::Digest;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{
    Address, DesktopId, Epoch, Generation, GridId, ImageName, Member, Revision, SecretName,
    ServerId, ServerName, Stamp, VersionName,
};
use coppice_schema::known::{
    Capacity, CopyState, DiskLevel, Foreign, Health, ImageVersion, Quarantined, Request, Seen,
    SeenReplica, ServerState, Skew, Task,
};
use coppice_schema::review::Reviewed;
use coppice_schema::units::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::authority::Successor;
use crate::join::{JoinRefusal, JoinToken, Joiner};
use crate::token::{Token, TokenId};

/// An entry as the log has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Time of the entry, the leader's, never before the last one's.
    pub at: Timestamp,
    /// What happened.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The grid began, with its first server and its first token.
    Founded {
        /// Its identity.
        grid: GridId,
        /// Its life.
        epoch: Epoch,
        /// The first server.
        server: NewServer,
        /// The first token.
        token: (TokenId, Token),
    },
    /// The grid began another life.
    Recovered(Box<Recovery>),
    /// A deadline is due; nothing else happened.
    Tick,
    /// A configuration was approved.
    Committed(Box<Commit>),
    /// A server says what changed since its last report.
    Reported(Box<Report>),
    /// A server says that what it reported is whole; also when nothing changed, once in every term.
    Confirmed {
        /// Who.
        server: ServerId,
        /// Which start of its daemon.
        boot: u64,
        /// The last report's sequence.
        sequence: u64,
        /// The term it was asked in.
        term: u64,
    },
    /// The leader decided.
    Planned {
        /// The term in which it decided; 0 in logs of versions that did not say. By then it had seen every server in
        /// that term: in a later one, this is refused.
        #[serde(default)]
        term: u64,
        /// What it read.
        base: Base,
        /// What servers are to do.
        orders: Vec<NewOrder>,
        /// Findings that are there now, by key; `since` is kept for those that were there before.
        findings: BTreeSet<String>,
        /// The grid is what the revision asks for.
        settled: bool,
    },
    /// A server tried an order. What the order changed there is reported before, so that a desktop is never taken for
    /// broken because its receipt came before its sight.
    Receipt {
        /// Who.
        server: ServerId,
        /// Which order.
        stamp: Stamp,
        /// How it went.
        result: Attempt,
    },
    /// The leader takes an order back that was not done in time. Its slot stays the server's until it says so.
    Withdrawn {
        /// Which.
        stamp: Stamp,
        /// Why, in words.
        why: String,
    },
    /// An image version is in the catalogue, and whole on one server.
    ImageImported {
        /// The image.
        image: ImageName,
        /// The version.
        version: VersionName,
        /// What it is.
        record: ImageVersion,
        /// Who holds it.
        server: ServerId,
        /// Who imported it.
        author: String,
    },
    /// An image version is no longer in the catalogue.
    ImageRemoved {
        /// The image.
        image: ImageName,
        /// The version.
        version: VersionName,
        /// Who removed it.
        author: String,
    },
    /// A server says what it can carry.
    ServerDescribed {
        /// Who.
        server: ServerId,
        /// Its labels.
        labels: BTreeSet<String>,
        /// What it can carry.
        capacity: Capacity,
        /// Where its API answers.
        api: String,
        /// Newest feature level it can apply.
        feature_level: u32,
    },
    /// A person changed a server's part. One that is lost, or reconciling, has it when it is back.
    ServerSet {
        /// Which.
        server: ServerId,
        /// The new part.
        state: ServerState,
        /// Who.
        author: String,
    },
    /// A server is to be emptied: nobody is cut off, and nothing new goes there.
    ServerDrained {
        /// Which.
        server: ServerId,
        /// People are no longer waited for after that; `None`: they always are.
        force_after: Option<Span>,
        /// Who.
        author: String,
    },
    /// The leader did not hear of a server for `grid.lost_after`. Refused where the server proposed something after `read`.
    ServerLost {
        /// Which.
        server: ServerId,
        /// How long it had not been heard when that was decided.
        silent: Span,
        /// Index of the last entry that the leader had applied then.
        read: u64,
    },
    /// The leader found that a server's clock is wrong beside the voters', or right again.
    ServerClock {
        /// Which.
        server: ServerId,
        /// Where it is; `None`: where it should be.
        skew: Option<Skew>,
    },
    /// A server says after how long without word from the grid its watchdog ends the personal desktops there of which there
    /// are copies; `None`: never. Agreed before a longer time is in force, and after a shorter one is. Refused where the
    /// server is lost.
    ServerLease {
        /// Which.
        server: ServerId,
        /// How long.
        lease: Option<Span>,
        /// Index of the state in which it was decided. Refused where another was agreed on since: one that comes late, after a
        /// longer one is in force, would have the grid count with less than the server does.
        read: u64,
    },
    /// A server has been lost for longer than its lease: its personal desktops of which there are copies run there no more.
    ServerFenced {
        /// Which.
        server: ServerId,
        /// Index of the last entry that it had proposed when it was lost: refused where it has been back since.
        spoke: u64,
    },
    /// A server that was lost has reported whole, and what is too much there is put away or waits for its people: it is
    /// what it was before.
    ServerRestored {
        /// Which.
        server: ServerId,
    },
    /// A token was made by which one machine may join.
    JoinTokenCreated {
        /// Its name.
        id: TokenId,
        /// The rest.
        token: JoinToken,
        /// Who made it.
        author: String,
    },
    /// A machine became a member. Its number in the grid is the entry's index; its number in raft is made of that.
    ServerJoined(Box<Joiner>),
    /// A server is about to stop as planned, or is back from that.
    ServerRests {
        /// Which.
        server: ServerId,
        /// It stops.
        rests: bool,
    },
    /// From now on entries may do what only this feature level can: every member said that it can apply it.
    FeatureRaised {
        /// The level.
        level: u32,
    },
    /// A server is no member any more.
    ServerRemoved {
        /// Which.
        server: ServerId,
        /// It will never be back: what it held is gone.
        gone: bool,
        /// Who.
        author: String,
    },
    /// A token was made.
    TokenCreated {
        /// Its name.
        id: TokenId,
        /// The rest.
        token: Token,
        /// Who made it.
        author: String,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Its name.
        id: TokenId,
        /// Who revoked it.
        author: String,
    },
    /// Another authority is to take over.
    AuthorityBegun {
        /// From which, and which.
        successor: Box<Successor>,
        /// Who wants it.
        author: String,
    },
    /// A server trusts the authority that takes over.
    AuthorityFollowed {
        /// Who.
        server: ServerId,
        /// Digest of that authority's public key.
        key: Digest,
        /// It also shows a certificate of that one.
        shows: bool,
    },
    /// The old authority is no longer trusted, whoever is away and has a certificate of it.
    AuthorityDropped {
        /// Digest of the public key of the one that takes over.
        key: Digest,
        /// Who says so.
        author: String,
    },
    /// A secret was set.
    SecretSet {
        /// Its name.
        name: SecretName,
        /// Nonce and ciphertext.
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
        /// Who set it.
        author: String,
    },
    /// A secret was removed.
    SecretRemoved {
        /// Its name.
        name: SecretName,
        /// Who removed it.
        author: String,
    },
    /// Nobody acts on an address until then.
    Paused {
        /// Which.
        address: Address,
        /// Until when; `None`: until resumed.
        until: Option<Timestamp>,
        /// Who.
        author: String,
    },
    /// An address may be acted on again.
    Resumed {
        /// Which.
        address: Address,
        /// Who.
        author: String,
    },
    /// A person asked for something to be done with one desktop.
    Requested {
        /// What.
        request: Request,
        /// Who.
        author: String,
    },
    /// A person asked for the load of servers to be levelled.
    Rebalanced {
        /// What the plan read that was looked at.
        base: Base,
        /// Which desktops move, to which server. Those that were to move and are not named stay.
        moves: BTreeMap<Member, ServerId>,
        /// Who.
        author: String,
    },
}

/// How a grid goes on after most of it, or all of it, is gone. One server is left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// The new life.
    pub epoch: Epoch,
    /// From what it goes on.
    pub from: Origin,
    /// The server that goes on. One of that name is that one, and keeps its desktops; otherwise it is a new one.
    pub server: NewServer,
    /// Servers that somebody has proven to be off for good: what they held is free, but for what is somebody's own.
    /// The others are lost, and nobody touches their slots.
    #[serde(default)]
    pub off: BTreeSet<ServerId>,
    /// Who.
    pub author: String,
}

/// What a grid goes on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The log of a server that was left alone.
    Log,
    /// A backup.
    Backup {
        /// Whether the keys came with it. If not, no secret can be opened any more, and each is to be set again.
        keys: bool,
    },
}

/// A server to be added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewServer {
    /// Its name.
    pub name: ServerName,
    /// Its number in raft.
    pub raft_id: u64,
    /// Where its API answers.
    pub api: String,
}

/// A configuration and what was reviewed of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// What is wanted.
    pub desired: Desired,
    /// Digest of the texts.
    pub texts: Digest,
    /// What the plan read.
    pub base: Base,
    /// The plan.
    pub plan: Digest,
    /// What of it can hurt, as it was looked at.
    #[serde(default)]
    pub reviewed: Vec<Reviewed>,
    /// What may happen without asking again.
    pub bounds: Bounds,
    /// Who.
    pub author: String,
    /// Addresses whose intent it changes; only these are taken from `desired`.
    pub changes: BTreeMap<Address, Intent>,
}

/// What changed on a server since its last report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub server: ServerId,
    /// Which start of its daemon.
    pub boot: u64,
    /// Counted from 1 in each boot; the first of a boot is whole, not a difference.
    pub sequence: u64,
    /// Members: changed, or gone.
    pub members: BTreeMap<Member, Option<Seen>>,
    /// Images: changed, or gone.
    pub images: BTreeMap<Digest, Option<CopyState>>,
    /// Foreign domains: changed, or gone.
    pub foreign: BTreeMap<String, Option<Foreign>>,
    /// Lives from another life of the grid: changed, or gone.
    #[serde(default)]
    pub quarantine: BTreeMap<Member, Option<Quarantined>>,
    /// Copies of personal desktops: changed, or gone.
    #[serde(default)]
    pub replicas: BTreeMap<Member, Option<SeenReplica>>,
    /// How full its disk is.
    pub disk: DiskLevel,
    /// Whether its hypervisor answers.
    pub hypervisor: Health,
}

/// An order to be given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewOrder {
    /// To whom.
    pub server: ServerId,
    /// What.
    pub task: Task,
    /// Not before.
    pub not_before: Timestamp,
    /// Withdrawn then.
    pub deadline: Timestamp,
    /// What becomes of the grid's memory of the desktop it is about.
    pub memory: Memory,
}

/// How an attempt went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// Done, or it was done already.
    Done,
    /// Not done; it is tried again after a while.
    Failed {
        /// Why, in words.
        error: String,
        /// Not before.
        retry_at: Timestamp,
    },
    /// Not done, and trying again is no use.
    Refused {
        /// Why, in words.
        error: String,
    },
}

/// What applying an entry gave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is so now.
    Done,
    /// A configuration is committed.
    Committed {
        /// Its number.
        revision: Revision,
    },
    /// It was so already; nothing changed.
    Already {
        /// Since this revision.
        revision: Revision,
    },
    /// It does not fit any more; nothing changed.
    Refused(Refusal),
}

/// Why an entry changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Objects that the plan read have changed since.
    #[error("the plan is stale: {}", stale(.0))]
    Stale(Vec<StaleObject>),
    /// The grid was founded before.
    #[error("the grid {0} was founded before")]
    Founded(GridId),
    /// No such thing.
    #[error("there is no {0}")]
    Absent(String),
    /// Something of that name is there.
    #[error("{0} exists already")]
    Exists(String),
    /// An older report than the last one, or one with a gap before it.
    #[error("report {found} does not follow report {last}")]
    OutOfOrder {
        /// The last one applied.
        last: u64,
        /// The one refused.
        found: u64,
    },
    /// It is protected.
    #[error("{what} is protected: apply {by} with protect = false first")]
    Protected {
        /// What.
        what: String,
        /// The block that protects it, which may be gone.
        by: Address,
    },
    /// Without it nobody could make another.
    #[error("{0} is the last one with the scope admin: without it nobody could make another")]
    LastAdmin(String),
    /// It was heard of since the leader decided that it is lost.
    #[error("server {0} was heard of again")]
    Heard(ServerName),
    /// It was decided to take it away when nobody could have it.
    #[error("desktop {0} has come up since that was decided")]
    CameUp(DesktopId),
    /// Whoever decided it did not lead any more.
    #[error("it was decided in term {decided}, and the grid is in term {now} by now")]
    Deposed {
        /// When it was decided.
        decided: u64,
        /// When it was agreed on.
        now: u64,
    },
    /// Without it there would be none.
    #[error("{0} is the grid's last server")]
    LastServer(ServerName),
    /// A member cannot apply that much.
    #[error("server {server} applies up to feature level {applies}, not {level}")]
    FeatureLevel {
        /// Which.
        server: ServerName,
        /// What it can.
        applies: u32,
        /// What was asked for.
        level: u32,
    },
    /// A machine does not become a member.
    #[error(transparent)]
    Join(#[from] JoinRefusal),
    /// It is in use.
    #[error("{what} is used by {by}")]
    InUse {
        /// What.
        what: String,
        /// By whom.
        by: String,
    },
}

/// An object that a plan read and that is another now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StaleObject {
    /// Which.
    pub address: Address,
    /// What the plan read.
    pub read: Generation,
    /// What it is.
    pub now: Generation,
    /// Who changed it, in words.
    pub by: String,
}

fn stale(objects: &[StaleObject]) -> String {
    let each = |o: &StaleObject| format!("{} was changed by {}", o.address, o.by);
    objects.iter().map(each).collect::<Vec<_>>().join(", ")
}
