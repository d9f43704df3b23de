//! What can go wrong between a person and a grid, and what the person can do about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use coppice_portal::api::{Code, Problem};

use crate::exit::Exit;
use crate::failure::Failure;

/// Why a request was not answered, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing answers there.
    #[error("cannot reach {server}: {cause}")]
    Connect {
        /// Its URL.
        server: String,
        /// The kind, for advice.
        kind: io::ErrorKind,
        /// In the system's words.
        cause: String,
    },
    /// Something answers, and not as this grid.
    #[error("no trusted connection to {server}: {cause}")]
    Tls {
        /// Its URL.
        server: String,
        /// In the words of TLS.
        cause: String,
    },
    /// It answers too slowly.
    #[error("{server} did not answer within {} s", .after.as_secs())]
    Slow {
        /// Its URL.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to {server} broke: {cause}")]
    Broken {
        /// Its URL.
        server: String,
        /// In the words of HTTP.
        cause: String,
    },
    /// The answer cannot be understood.
    #[error("cannot {what}: {cause}")]
    Answer {
        /// The operation.
        what: String,
        /// Why.
        cause: String,
    },
    /// The grid refused.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
}

impl ClientError {
    /// What the grid said, if it was the grid.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Slow { .. }
            | Self::Broken { .. }
            | Self::Answer { .. } => None,
        }
    }

    /// Trying the same again may help.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Slow { .. } | Self::Broken { .. } => true,
            Self::Problem(problem) => matches!(problem.code, Code::Quorum | Code::Timeout),
            Self::Tls { .. } | Self::Answer { .. } => false,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let passes = error.passes();
        let failure = match error {
            ClientError::Connect { server, kind, cause } => {
                unreachable_server(Self::new(format!("cannot reach {server}")).cause(cause), kind)
            }
            ClientError::Tls { server, cause } => untrusted(&server, &cause),
            ClientError::Slow { server, after } => {
                Self::new(format!("{server} did not answer within {} s", after.as_secs()))
                    .hint("give it longer: --timeout 2m")
                    .hint("coppice doctor shows which part is slow")
            }
            ClientError::Broken { server, cause } => {
                Self::new(format!("the connection to {server} broke")).cause(cause)
                    .hint("run the command again; if it keeps breaking, read the log of `coppice serve`")
            }
            ClientError::Answer { what, cause } => Self::new(format!("cannot {what}")).cause(cause).hint(
                "is this a grid's API, and of the same version? `coppice --version` and `coppice doctor` tell",
            ),
            ClientError::Problem(problem) => refused(*problem),
        };
        Self { passes, ..failure }
    }
}

fn unreachable_server(failure: Failure, kind: io::ErrorKind) -> Failure {
    if kind == io::ErrorKind::ConnectionRefused {
        return failure
            .hint("is the daemon running? start it on that server: coppice serve --config DIR/coppice.toml")
            .hint("another server or port: --server https://HOST:PORT, or COPPICE_SERVER");
    }
    failure
        .hint("check the address: --server https://HOST:PORT, or COPPICE_SERVER")
        .hint("coppice doctor")
}

fn untrusted(server: &str, cause: &str) -> Failure {
    let failure = Failure::new(format!("{server} is not trusted to be your grid")).cause(cause);
    if cause.contains("UnknownIssuer") || cause.contains("BadSignature") {
        return failure
            .hint("its certificate is not from the authority in your --ca-file (COPPICE_CA_FILE): is that file this grid's ca.pem?")
            .hint("if the authority was replaced (coppice ca rotate), copy ca.pem anew from the data directory of a server");
    }
    if cause.contains("not valid for name") || cause.contains("NotValidForName") {
        return failure.hint("use a name or address of the server that is in its certificate, such as the one in `listen` of its coppice.toml");
    }
    if cause.contains("Expired")
        || cause.contains("expired")
        || cause.contains("NotValidYet")
        || cause.contains("not valid yet")
    {
        return failure.hint("compare the clocks of this machine and of the server: date");
    }
    failure.hint("is it a grid's port? the API answers on the port of `listen` in coppice.toml")
}

/// What the grid refused, as the exit codes have it.
pub(crate) fn refused(problem: Problem) -> Failure {
    let exit = match problem.code {
        Code::Invalid => Exit::Invalid,
        Code::Stale | Code::OtherPlan => Exit::Stale,
        Code::Gate | Code::Bounds => Exit::Blocked,
        Code::Incomplete => Exit::Incomplete,
        Code::Request
        | Code::Unauthorized
        | Code::Forbidden
        | Code::Absent
        | Code::Method
        | Code::Exists
        | Code::InUse
        | Code::Offset
        | Code::Conflict
        | Code::Seal
        | Code::TooLarge
        | Code::Image
        | Code::TooMany
        | Code::Internal
        | Code::World
        | Code::Quorum
        | Code::Timeout
        | Code::Space
        | Code::Elsewhere => Exit::Error,
    };
    let mut failure = Failure::new(problem.detail.clone()).exit(exit);
    for gate in &problem.gates {
        let name = serde_json::to_value(gate.gate).unwrap_or_default();
        let name = name.as_str().unwrap_or_default();
        failure = failure.cause(format!("{name}: {}", gate.reason));
    }
    for object in &problem.stale {
        failure = failure.cause(format!(
            "{} was changed by {} since",
            object.address, object.by
        ));
    }
    match problem.code {
        Code::Stale | Code::OtherPlan => failure = failure.hint("look at it anew: coppice plan"),
        Code::Bounds => failure = failure.hint("allow more: --max-interrupted N"),
        Code::Request
        | Code::Unauthorized
        | Code::Forbidden
        | Code::Absent
        | Code::Method
        | Code::Exists
        | Code::InUse
        | Code::Offset
        | Code::Conflict
        | Code::Gate
        | Code::Seal
        | Code::Incomplete
        | Code::TooLarge
        | Code::Invalid
        | Code::Image
        | Code::TooMany
        | Code::Internal
        | Code::World
        | Code::Quorum
        | Code::Timeout
        | Code::Space
        | Code::Elsewhere => {}
    }
    if !problem.help.is_empty() {
        failure = failure.hint(problem.help.clone());
    }
    match serde_json::to_value(&problem) {
        Ok(data) => failure.with_data(data),
        Err(_) => failure,
    }
}

/// An error and what it is because of, each once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
