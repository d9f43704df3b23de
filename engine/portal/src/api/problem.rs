//! Errors, as RFC 9457 wants them.

use coppice_plans::plan::{GateKind, Verdict};
use coppice_schema::Diagnostic;
use coppice_state::entry::StaleObject;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Content type of a [`Problem`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Why a request was not done (RFC 9457, `application/problem+json`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A name of the kind of problem: `urn:coppice:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, to what.
    pub detail: String,
    /// The kind for programs. Codes keep their meaning; new ones may come.
    pub code: Code,
    /// What to do next.
    pub help: String,
    /// With [`Code::Invalid`]: what is wrong with the configuration, everything in one answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub diagnostics: Vec<Diagnostic>,
    /// With [`Code::Gate`]: the gates that are shut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateProblem>,
    /// With [`Code::Stale`]: what changed since the plan was made, and who changed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub stale: Vec<StaleObject>,
    /// With [`Code::Offset`]: where the next part of the upload must begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// A gate that is shut.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GateProblem {
    /// Which: what `approve` takes.
    #[schema(value_type = String)]
    pub gate: GateKind,
    /// `needs-approval` or `denied`.
    #[schema(value_type = String)]
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
}

/// Kinds of problem.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request does not have the form it should. 400
    Request,
    /// No token, or none that the grid knows, or one that expired. 401
    Unauthorized,
    /// The token's scope does not suffice. 403
    Forbidden,
    /// There is no such thing. 404
    Absent,
    /// There is something here, but not for this method. 405
    Method,
    /// Something of that name is there. 409
    Exists,
    /// It is in use. 409
    InUse,
    /// The part of the upload does not begin where it must. 409
    Offset,
    /// The state of the thing does not allow it. 409
    Conflict,
    /// A gate is shut. 409
    Gate,
    /// More sessions would be interrupted than were allowed. 409
    Bounds,
    /// The saved plan was not made by this grid, or was changed. 409
    Seal,
    /// What the plan read has changed since. 409
    Stale,
    /// The plan that was reviewed is not the one that would be applied. 409
    OtherPlan,
    /// The plan was made for some targets only, or with servers unseen. 409
    Incomplete,
    /// The request is larger than it may be. 413
    TooLarge,
    /// The configuration has errors. 422
    Invalid,
    /// The image file cannot be imported. 422
    Image,
    /// Too many failed attempts from that address. 429
    TooMany,
    /// Something failed that should not have; the log says what. 500
    Internal,
    /// The hypervisor, or the disk, refused. 502
    World,
    /// No majority of the grid's voters answers. 503
    Quorum,
    /// It took too long. 504
    Timeout,
    /// No space. 507
    Space,
    /// The desktop is on another server, which cannot be asked from here; or a witness was asked. 421
    Elsewhere,
}
