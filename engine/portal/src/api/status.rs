//! How the grid and its servers stand.

use coppice_plans::plan::Finding;
use coppice_schema::ids::{Address, GridId, PoolName, Revision, ServerId, ServerName};
use coppice_schema::known::{DiskLevel, Feature, ServerState};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::join::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET health`: whether this server answers. Needs no token and tells nothing about the grid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// `ok`, or `degraded` while no majority of the grid's voters answers this server: a server that is not well does not
    /// answer.
    pub status: String,
    /// Version of the program.
    pub version: String,
}

/// `GET status`: how the grid stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The grid.
    pub grid: GridInfo,
    /// The committed revision; 0: none yet.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Time of the last agreed entry.
    #[schema(value_type = u64)]
    pub time: Timestamp,
    /// A majority answered, so this is the newest there is. If not, it is what this server last heard.
    pub quorum: bool,
    /// Since when no majority has answered this server; absent while one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub degraded: Option<Timestamp>,
    /// Members.
    pub servers: Vec<ServerStatus>,
    /// Pools of the committed revision, and those that still have desktops.
    pub pools: Vec<PoolStatus>,
    /// The run of the committed revision.
    pub run: Option<RunStatus>,
    /// What is wrong, or waits.
    #[schema(value_type = Vec<Object>)]
    pub findings: Vec<Finding>,
    /// Every server was seen whole, and the grid is what the committed revision asks for.
    pub settled: bool,
}

/// Which grid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GridInfo {
    /// The label of its `grid` block.
    pub name: String,
    /// Its identity.
    #[schema(value_type = String)]
    pub id: GridId,
    /// Which life of it, counted from 1.
    pub epoch: u64,
}

/// A server, in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ServerName,
    /// Its part: `joining`, `ready`, `cordoned`, `draining`, `suspect`, `lost`, `reconciling` or `removed`.
    /// `suspect` is not agreed on: whoever leads has not heard a `ready` one for a moment.
    #[schema(value_type = String)]
    pub state: ServerState,
    /// Since when it has that part, `suspect` apart.
    #[serde(default)]
    #[schema(value_type = u64)]
    pub since: Timestamp,
    /// While it is being emptied: when people there are no longer waited for; absent: they always are.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub force_at: Option<Timestamp>,
    /// How long it has not been heard, in milliseconds, where that is too long; only whoever leads can tell.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub silent: Option<Span>,
    /// `server` or `witness`.
    #[schema(value_type = String)]
    #[serde(default)]
    pub role: Role,
    /// Its part in what the grid agrees on; absent as long as it has none.
    #[serde(default)]
    pub log: Option<LogPart>,
    /// It was seen whole since the present leader leads, and its hypervisor answers. A witness has nothing to be seen: it
    /// is heard.
    pub current: bool,
    /// What its hypervisor is, in words.
    pub hypervisor: String,
    /// Why its hypervisor does not answer; absent when it does.
    pub hypervisor_away: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    #[schema(value_type = u64)]
    pub memory: Size,
    /// How full its disk is: `fine`, `high` (from 80 %) or `critical` (from 90 %); absent before its first look.
    #[schema(value_type = Option<String>)]
    pub disk_level: Option<DiskLevel>,
}

/// A server's part in what the grid agrees on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogPart {
    /// `leader`, `voter` or `learner`.
    #[schema(value_type = String)]
    pub part: LogRole,
    /// Entries of the log that it is not known to have yet; absent when nobody who leads can be asked.
    pub behind: Option<u64>,
    /// How many milliseconds ago it last answered the leader; absent when it has not since that one leads, or when nobody
    /// who leads can be asked.
    #[schema(value_type = Option<u64>)]
    pub heard: Option<Span>,
}

/// Who decides what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogRole {
    /// It puts entries in their order.
    Leader,
    /// Its copy counts for a majority.
    Voter,
    /// It has a copy.
    Learner,
}

/// `GET servers`: a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// As in the status.
    #[serde(flatten)]
    pub status: ServerStatus,
    /// Its number in the grid.
    #[schema(value_type = u64)]
    pub id: ServerId,
    /// Where its API answers.
    pub api: String,
    /// Labels from its own file.
    pub labels: Vec<String>,
    /// Size of the file system that holds overlays, in bytes.
    #[schema(value_type = u64)]
    pub disk: Size,
    /// What its hypervisor cannot do.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Feature>,
    /// Desktops that the grid remembers there.
    pub desktops: u32,
    /// Those at which somebody is.
    #[serde(default)]
    pub in_use: u32,
    /// Those whose disk is somebody's.
    #[serde(default)]
    pub personal: u32,
    /// Domains there that are not ours; never touched.
    pub foreign: Vec<String>,
}

/// `GET upgrade`: whether it is safe to stop the next server for a newer version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpgradeCheck {
    /// Any server, one at a time, may be stopped now.
    pub safe: bool,
    /// A majority answers.
    pub quorum: bool,
    /// What the grid may agree on.
    pub feature_level: u32,
    /// What the server that answers can apply.
    pub newest: u32,
    /// Its version.
    pub version: String,
    /// Servers that can apply no more than the grid's level: as long as there are any, it stays as it is.
    pub waiting: Vec<String>,
    /// Each server.
    pub servers: Vec<ServerUpgrade>,
}

/// A server, as it is to be upgraded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerUpgrade {
    /// Its name.
    #[schema(value_type = String)]
    pub name: ServerName,
    /// What it can apply.
    pub feature_level: u32,
    /// Why it must not be stopped now, in words; absent: it may.
    pub holds: Option<String>,
}

/// `DELETE servers/{name}`: how a server is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// It is gone for good: so are the desktops that it held.
    #[serde(default)]
    pub lost: bool,
}

/// A pool, in figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Its name.
    #[schema(value_type = String)]
    pub name: PoolName,
    /// Desktops wanted.
    pub desired: u32,
    /// Ready for a person.
    pub available: u32,
    /// Somebody is signed in.
    pub in_use: u32,
    /// Something is wrong with them.
    pub broken: u32,
    /// On their way.
    pub provisioning: u32,
    /// Whole, and switched off by policy.
    pub off: u32,
    /// Ordered away.
    pub deleting: u32,
    /// On a server that is lost.
    pub unknown: u32,
}

/// An apply in progress, or the memory of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunStatus {
    /// The revision it carries out.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Who applied it.
    pub author: String,
    /// When it began.
    #[schema(value_type = u64)]
    pub started: Timestamp,
    /// When the grid had become what it asked for.
    #[schema(value_type = Option<u64>)]
    pub finished: Option<Timestamp>,
    /// Actions done since.
    pub done: u32,
    /// Attempts that failed since.
    pub failed: u32,
    /// Orders not finished.
    pub open_orders: u32,
}

/// `GET pauses`: an address on which nobody acts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Which.
    #[schema(value_type = String)]
    pub address: Address,
    /// Until when; absent: until resumed.
    #[schema(value_type = Option<u64>)]
    pub until: Option<Timestamp>,
}

/// `POST pauses`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// What is to be left alone.
    #[schema(value_type = String)]
    pub address: Address,
    /// Until when; absent: until resumed.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub until: Option<Timestamp>,
}
