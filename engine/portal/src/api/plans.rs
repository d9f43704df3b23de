//! Plans, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::document::Document;
use coppice_plans::placement::Placement;
use coppice_plans::plan::{Base, Bounds, Drift, Finding, GateKind, Wait};
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, GridId, Revision, ServerName, Stamp};
use coppice_schema::units::Timestamp;
use coppice_schema::{Bundle, Diagnostic, Digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::RunStatus;

/// The form of [`SavedPlan`] that this version writes and reads.
pub const SAVED_FORMAT: u32 = 1;

/// The form of [`Bundle`], for the API's description: that room describes nothing to HTTP clients.
#[derive(Debug, ToSchema)]
#[schema(as = Bundle)]
#[expect(dead_code, reason = "only its form is used")]
struct BundleForm {
    /// The `*.hcl` files.
    texts: Vec<SourceTextForm>,
    /// Contents of the text files that the configuration names, by their path as written.
    files: BTreeMap<String, String>,
    /// BLAKE3 of the image files that it names, in hexadecimal digits, by their path as written; null: not there.
    sources: BTreeMap<String, Option<String>>,
    /// Values of variables, as text.
    variables: BTreeMap<String, String>,
}

/// One `*.hcl` file.
#[derive(Debug, ToSchema)]
#[schema(as = SourceText)]
#[expect(dead_code, reason = "only its form is used")]
struct SourceTextForm {
    /// Its path, for messages.
    path: String,
    /// What is in it.
    text: String,
}

/// `POST plans`: what would happen if this configuration were applied?
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The configuration.
    #[schema(value_type = BundleForm)]
    pub bundle: Bundle,
    /// Only these are looked at; empty: everything. Such a plan is never complete and cannot be applied.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub targets: BTreeSet<Address>,
    /// Answer with [`PlanResponse::saved`] too.
    #[serde(default)]
    pub save: bool,
    /// Servers, by name: what if they were lost? Such a plan cannot be applied. A bundle without texts then stands for
    /// the committed configuration.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub lose: BTreeSet<ServerName>,
}

/// The answer to [`PlanRequest`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanResponse {
    /// The plan document.
    pub document: Document,
    /// What is worth knowing about the configuration; errors never, they make a problem.
    #[schema(value_type = Vec<Object>)]
    pub diagnostics: Vec<Diagnostic>,
    /// The plan in the form that can be kept in a file and applied later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<Box<SavedPlan>>,
}

/// A plan as it is kept in a file. The grid that made it knows it again by its seal, and refuses it changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    /// [`SAVED_FORMAT`].
    pub format: u32,
    /// The grid that made it.
    #[schema(value_type = String)]
    pub grid: GridId,
    /// What is wanted, as the grid resolved it: to be kept as it is, and not for reading.
    #[schema(value_type = Object)]
    pub desired: Desired,
    /// Digest of the texts.
    #[schema(value_type = String)]
    pub texts: Digest,
    /// What the plan read.
    pub base: Base,
    /// What it said would happen.
    pub bounds: Bounds,
    /// What was shown.
    pub document: Document,
    /// Keyed digest of all of it.
    #[schema(value_type = String)]
    pub seal: Digest,
}

/// What is to be applied.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Configuration {
    /// A configuration.
    #[schema(value_type = BundleForm)]
    Bundle(Bundle),
    /// A plan that was made of one.
    Saved(Box<SavedPlan>),
}

/// `POST apply`: commit a configuration. The grid then carries it out; [`super::Status::run`] and the event stream
/// say how far it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// What.
    pub configuration: Configuration,
    /// Gates that a person said yes to by name, such as `mass-delete`. There is no yes to all of them.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub approve: BTreeSet<GateKind>,
    /// Sessions that may be interrupted. Absent: as many as the plan says, and none beyond them.
    #[serde(default)]
    pub max_interrupted: Option<u32>,
    /// Id of the plan that was shown to a person. When the plan made now is another one, nothing is applied.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expect_plan: Option<Digest>,
}

/// The answer to [`ApplyRequest`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApplyResponse {
    /// The revision that asks for it.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// It was committed before; nothing changed.
    pub already: bool,
    /// The plan that was committed.
    pub document: Document,
}

/// `GET drift`: what other hands changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DriftReport {
    /// Every server was seen whole.
    pub complete: bool,
    /// What they changed, and what is done about it.
    pub drift: Vec<Drift>,
    /// The same, and what would be done now, as a plan document.
    pub document: Document,
}

/// `GET explain/{address}`: why is it as it is, and why is nothing happening?
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// What it is about.
    #[schema(value_type = String)]
    pub address: Address,
    /// How it stands, in a word: a desktop's or a server's state, `configured`, `held` or `absent`.
    pub state: String,
    /// Nobody acts on it until then; see [`super::Pause`].
    pub paused: bool,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// The facts that lead there, one sentence each, in order.
    pub trace: Vec<String>,
    /// What servers were told about it and have not finished.
    pub orders: Vec<OpenOrder>,
    /// Where it would go if it were grown now, or the next desktop of the pool, and why there.
    #[serde(default)]
    pub placement: Option<Placement>,
}

/// Something that a server was told and has not finished.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct OpenOrder {
    /// Its stamp.
    #[schema(value_type = String)]
    pub stamp: Stamp,
    /// The server.
    #[schema(value_type = String)]
    pub server: ServerName,
    /// What, in words.
    pub what: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed, in words.
    pub last_error: Option<String>,
    /// Not before.
    #[schema(value_type = u64)]
    pub not_before: Timestamp,
    /// Withdrawn then.
    #[schema(value_type = u64)]
    pub deadline: Timestamp,
}

/// `GET revisions`: a committed configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RevisionInfo {
    /// Its number.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Who applied it.
    pub author: String,
    /// When.
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// Id of the plan that was reviewed.
    #[schema(value_type = String)]
    pub plan: Digest,
    /// Digest of the texts it was read from.
    #[schema(value_type = String)]
    pub texts: Digest,
    /// How it went.
    pub run: Option<RunStatus>,
}
