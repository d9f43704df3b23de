//! Problems as answers.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use coppice_world::disks::DiskError;
use coppice_world::hypervisor::HypervisorError;

use crate::api::{Code, PROBLEM_TYPE, Problem};

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Request => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::Absent => 404,
            Self::Method => 405,
            Self::Exists
            | Self::InUse
            | Self::Offset
            | Self::Conflict
            | Self::Gate
            | Self::Bounds
            | Self::Seal
            | Self::Stale
            | Self::OtherPlan
            | Self::Incomplete => 409,
            Self::TooLarge => 413,
            Self::Elsewhere => 421,
            Self::Invalid | Self::Image => 422,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::World => 502,
            Self::Quorum => 503,
            Self::Timeout => 504,
            Self::Space => 507,
        }
    }

    /// The kind in words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Request => "the request does not have the form it should",
            Self::Unauthorized => "no valid token",
            Self::Forbidden => "the token's scope does not suffice",
            Self::Absent => "there is no such thing",
            Self::Method => "not with this method",
            Self::Exists => "it exists already",
            Self::InUse => "it is in use",
            Self::Offset => "the part of the upload does not begin where it must",
            Self::Conflict => "its state does not allow it",
            Self::Gate => "a gate is shut",
            Self::Bounds => "more sessions would be interrupted than were allowed",
            Self::Seal => "the saved plan was not made by this grid, or was changed",
            Self::Stale => "the plan is stale",
            Self::OtherPlan => "the plan is not the one that was reviewed",
            Self::Incomplete => "the plan is not complete",
            Self::TooLarge => "too large",
            Self::Elsewhere => "it is on another server",
            Self::Invalid => "the configuration has errors",
            Self::Image => "the image file cannot be imported",
            Self::TooMany => "too many failed attempts",
            Self::Internal => "something failed that should not have",
            Self::World => "the hypervisor or the disk refused",
            Self::Quorum => "no majority of the grid's voters answers",
            Self::Timeout => "it took too long",
            Self::Space => "no space",
        }
    }

    /// The code as clients see it.
    #[must_use]
    pub fn word(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(word)) => word,
            Ok(_) | Err(_) => String::from("internal"),
        }
    }
}

impl Problem {
    /// A problem: what happened to what, and what to do next.
    ///
    /// Boxed, because it travels as an error far more often than it happens.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>, help: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            kind: format!("urn:coppice:problem:{}", code.word()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            help: help.into(),
            diagnostics: Vec::new(),
            gates: Vec::new(),
            stale: Vec::new(),
            offset: None,
        })
    }

    pub(crate) fn absent(what: impl std::fmt::Display, help: &str) -> Box<Self> {
        Self::new(Code::Absent, format!("there is no {what}"), help)
    }

    /// Our own fault. The log gets the cause; the client does not, since it may name paths.
    pub(crate) fn internal(what: &str, cause: &dyn std::fmt::Display) -> Box<Self> {
        tracing::error!(what, %cause, "a request failed");
        Self::new(
            Code::Internal,
            format!("could not {what}"),
            "look into the log of the server that answered, and report it if it happens again",
        )
    }
}

impl IntoResponse for Box<Problem> {
    fn into_response(self) -> Response {
        (*self).into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        let mut response = (status, [kind], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}

impl From<HypervisorError> for Box<Problem> {
    fn from(error: HypervisorError) -> Self {
        let detail = error.to_string();
        match error {
            HypervisorError::Away { .. } => Problem::new(
                Code::World,
                detail,
                "look whether the hypervisor runs on that server",
            ),
            HypervisorError::Stuck { .. } => Problem::new(
                Code::World,
                detail,
                "try again; if it stays so, restart the desktop",
            ),
            HypervisorError::Refused { .. } => Problem::new(
                Code::World,
                detail,
                "`coppice explain desktop.ID` says how the desktop stands",
            ),
            HypervisorError::NotOurs { .. } => Problem::new(
                Code::Conflict,
                detail,
                "rename or remove that domain by hand",
            ),
            HypervisorError::Absent(_) => Problem::new(
                Code::Conflict,
                format!("{detail}: the desktop is not running there now"),
                "`coppice explain desktop.ID` says why",
            ),
            HypervisorError::Lacks(_) | HypervisorError::NoDisplay { .. } => Problem::new(
                Code::Conflict,
                detail,
                "ask for a display that the template has",
            ),
        }
    }
}

impl From<DiskError> for Box<Problem> {
    fn from(error: DiskError) -> Self {
        let detail = error.to_string();
        match error {
            DiskError::Full { .. } => Problem::new(
                Code::Space,
                detail,
                "free some space on that server's disk, and try again",
            ),
            DiskError::Absent(_) => Problem::new(Code::Absent, detail, "look at what there is"),
            DiskError::InUse { .. } => {
                Problem::new(Code::InUse, detail, "take it out of use first")
            }
            DiskError::BadSource { .. } => Problem::new(
                Code::Image,
                detail,
                "look at the file with `qemu-img info` and `qemu-img check`; the grid's images are unchanged",
            ),
            DiskError::NotOurs(_) => Problem::new(Code::Conflict, detail, "move it away by hand"),
            DiskError::Io { .. } => Problem::new(
                Code::World,
                detail,
                "look at that server's disk and its kernel log, and try again",
            ),
        }
    }
}
