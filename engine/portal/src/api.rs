//! Everything that crosses the wire, as types: a client in Rust uses these and nothing else.
//!
//! Times are milliseconds since 1970, sizes are bytes, digests are 64 hexadecimal digits, addresses are texts such
//! as `pool.lab`. Clients ignore fields that they do not know. Errors are [`Problem`]s. Each request but `health`,
//! `openapi.json` and `join` carries `Authorization: Bearer NAME.SECRET`.
//!
//! | request, below [`PREFIX`] | takes | gives |
//! |---|---|---|
//! | `GET health` | | [`HealthReport`] |
//! | `GET openapi.json` | | the description of all this |
//! | `GET status` | | [`Status`] |
//! | `GET desktops` · `GET desktops/{id}` | | [`Desktop`]s · one |
//! | `POST desktops/{id}/restart` · `regrow` | | 204 |
//! | `GET desktops/{id}/screenshot` | | `image/png` |
//! | `GET desktops/{id}/console?display=vnc` | [`DisplayChoice`] | a WebSocket; its binary messages are the stream |
//! | `DELETE quarantine/{life}?server=NAME` | | 204 |
//! | `GET servers` | | [`Server`]s |
//! | `POST servers/{name}/cordon` · `uncordon` · `drain?force_after=MS` · `undrain` | | 204 |
//! | `DELETE servers/{name}?lost=B` | [`Removal`] | 204 |
//! | `GET upgrade` | | [`UpgradeCheck`] |
//! | `GET images` | | [`Image`]s |
//! | `POST images/uploads` · `GET images/uploads/{id}` | [`UploadRequest`] | [`Upload`] |
//! | `PUT images/uploads/{id}?offset=N` | bytes | [`Upload`], or 409 with [`Problem::offset`] |
//! | `DELETE images/uploads/{id}` | | 204 |
//! | `POST images/uploads/{id}/import` | | lines of JSON, each an [`ImportLine`] |
//! | `DELETE images/{name}/versions/{version}` | | 204 |
//! | `POST plans` | [`PlanRequest`] | [`PlanResponse`], or 422 with [`Problem::diagnostics`] |
//! | `POST apply` | [`ApplyRequest`] | [`ApplyResponse`] |
//! | `GET rebalance` · `POST rebalance` | [`RebalanceRequest`] | [`Rebalance`] |
//! | `GET drift` | | [`DriftReport`] |
//! | `GET explain/{address}` | | [`Explanation`] |
//! | `GET revisions` | | [`RevisionInfo`]s, the newest first |
//! | `GET history?after=N` | [`EventsAfter`] | [`HistoryPage`] |
//! | `GET events?after=N` | [`EventsAfter`], `Last-Event-ID` | server-sent events, see [`EventRecord`] |
//! | `GET secrets` | | [`SecretInfo`]s |
//! | `PUT secrets/{name}` · `DELETE` | the raw value | [`SecretInfo`] · 204 |
//! | `GET tokens` · `POST tokens` | [`TokenRequest`] | [`TokenInfo`]s · [`TokenCreated`] |
//! | `DELETE tokens/{name}` | | 204 |
//! | `GET join-tokens` · `POST join-tokens` | [`JoinTokenRequest`] | [`JoinTokenInfo`]s · [`JoinTokenCreated`] |
//! | `GET join` · `POST join` | [`JoinRequest`] | [`JoinTerms`] · [`JoinResponse`] |
//! | `GET authority` · `POST authority/rotate` · `POST authority/finish` | | [`AuthorityInfo`] |
//! | `GET pauses` · `POST pauses` | [`PauseRequest`] | [`Pause`]s · [`Pause`] |
//! | `DELETE pauses/{address}` | | 204 |
//! | `POST backup` | [`BackupRequest`] | the file that `coppice restore` goes on from |

mod authority;
mod backup;
mod desktops;
mod events;
mod images;
mod join;
mod plans;
mod problem;
mod rebalance;
mod secrets;
mod status;
mod tokens;

pub use authority::{AuthorityInfo, AuthorityRotation};
pub use backup::BackupRequest;
pub use desktops::{Desktop, DesktopCopy, DesktopState, DisplayChoice};
pub use events::{EventRecord, EventsAfter, HistoryPage};
pub use images::{
    CopyProgress, Image, ImageCopy, ImportLine, ImportProgress, Upload, UploadOffset, UploadRequest,
};
pub use join::{
    CLOCKS_APART, JoinMember, JoinRequest, JoinResponse, JoinSecret, JoinTerms, JoinTokenCreated,
    JoinTokenInfo, JoinTokenRequest, NotAJoinToken,
};
pub use plans::{
    ApplyRequest, ApplyResponse, Configuration, DriftReport, Explanation, OpenOrder, PlanRequest,
    PlanResponse, RevisionInfo, SAVED_FORMAT, SavedPlan,
};
pub use problem::{Code, GateProblem, PROBLEM_TYPE, Problem};
pub use rebalance::{Rebalance, RebalanceMove, RebalanceRequest};
pub use secrets::SecretInfo;
pub use status::{
    GridInfo, HealthReport, LogPart, LogRole, Pause, PauseRequest, PoolStatus, Removal, RunStatus,
    Server, ServerStatus, ServerUpgrade, Status, UpgradeCheck,
};
pub use tokens::{TokenCreated, TokenInfo, TokenRequest};

pub use coppice_plans::document::Document;
pub use coppice_schema::diagnostic::{ByteRange, Label};
pub use coppice_schema::{Bundle, Diagnostic, Severity, SourceText};

/// The path below which everything of this version is.
pub const PREFIX: &str = "/api/v1";

/// Most bytes that a request with a configuration may have.
pub const CONFIGURATION_MAX: usize = 20 << 20;

/// Most bytes of a secret's value.
pub const SECRET_MAX: usize = 64 << 10;
