//! Backups.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST backup`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Puts the grid's keys into it, sealed by this; at least 12 characters. Absent: a restore asks for every secret again.
    #[serde(default)]
    pub passphrase: Option<String>,
    /// Also where no majority answers: what this server last heard.
    #[serde(default)]
    pub stale: bool,
}
