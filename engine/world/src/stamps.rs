//! The port to the memory of what was ordered last for each slot of this server.

mod file;

use std::collections::BTreeMap;

use coppice_schema::ids::{DesktopId, Stamp};
use futures::future::BoxFuture;

pub use self::file::StampFile;

/// The newest order that this server ever took on, for each slot; also for slots that it no longer holds.
///
/// It is the fence against orders that come late: whatever a leader, a lagging log or a restored state says, an
/// order older than the one remembered here is not carried out.
pub trait Stamps: Send + Sync {
    /// Everything that is remembered.
    fn all(&self) -> BoxFuture<'_, Result<BTreeMap<DesktopId, Stamp>, StampError>>;

    /// Remembers `stamps`: all of them are on the medium when it returns. A stamp that is not newer than the one
    /// remembered changes nothing.
    fn remember(&self, stamps: Vec<(DesktopId, Stamp)>) -> BoxFuture<'_, Result<(), StampError>>;
}

/// Why the memory of stamps does not serve. Without it nothing may be acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The file system failed.
    #[error("{what} {path}: {cause}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: String,
        /// Why, in the system's words.
        cause: String,
    },
    /// It is not a file of stamps. It is never guessed at: an emptied memory would let old orders through.
    #[error("{path} does not hold orders' stamps: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
}
