//! The port by which the disk of a personal desktop is copied to another server, again and again, while its guest runs:
//! so that it can be started there when its own server is lost.
//!
//! A copy is what the disk held at one moment, whole or not there: what comes is put beside the copy that there is, and
//! takes its place when all of it has come and was compared.

mod local;
pub(crate) mod wire;

use std::path::PathBuf;

use coppice_schema::ids::Member;
use coppice_schema::units::{Size, Timestamp};
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::disks::{DiskError, NewOverlay};
use crate::hypervisor::{ByteStream, HypervisorError, Mark};
use crate::moves::Road;
use crate::peers::PeerError;

pub use self::local::LocalReplicas;

/// Copies of desktops' disks: those that leave, and those that are here.
///
/// Guarantees of every adapter, kept by the contract suite:
/// - A copy is what the disk held at one moment after [`send`](Self::send) was called, as after a power cut at that
///   moment; of a guest with an agent that answers, its file systems are at rest in it.
/// - What [`take`](Self::take) reported as done is on the medium. Until then, and after any crash, the copy is the former
///   one, or the new one, whole.
/// - The guest goes on while it is copied; it is never left frozen, whatever fails.
/// - Each call can be repeated, by another process too. What is not ours is never touched.
pub trait Replicas: Send + Sync {
    /// At home: brings what the disk holds now along `road`. It takes as long as that takes; it ends with an error when
    /// nothing has moved for a minute.
    fn send<'a>(
        &'a self,
        original: &'a Original,
        taken: Timestamp,
        road: &'a dyn Road,
    ) -> BoxFuture<'a, Result<Sent, ReplicaError>>;

    /// At the holder: serves one stream of a sender, to its end. `mark` says of what a copy may come, and what comes is
    /// believed no further than that.
    fn take<'a>(
        &'a self,
        mark: &'a Mark,
        stream: ByteStream,
    ) -> BoxFuture<'a, Result<(), ReplicaError>>;

    /// The copies that are here, whole.
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<Replica>, ReplicaError>>;

    /// Makes the overlay of a new life of the desktop of what the copy holds. Where that was done before it says so
    /// again. The copy may be gone afterwards.
    fn restore<'a>(
        &'a self,
        from: &'a Member,
        overlay: NewOverlay,
    ) -> BoxFuture<'a, Result<PathBuf, ReplicaError>>;

    /// Removes a copy, with what was on its way to it.
    fn remove<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), ReplicaError>>;
}

/// What is copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Original {
    /// Its domain.
    pub uuid: Uuid,
    /// Whose it is.
    pub mark: Mark,
    /// Its overlay's file.
    pub overlay: PathBuf,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Bytes that went over the network.
    pub bytes: Size,
    /// The guest's file systems were at rest at that moment.
    pub at_rest: bool,
}

/// A copy that is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Of what.
    pub mark: Mark,
    /// When it was that, by the grid's time.
    pub taken: Timestamp,
    /// Bytes on the medium.
    pub allocated: Size,
}

/// Why a disk is not copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaError {
    /// The hypervisor here failed.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The disk here failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no way to the other server.
    #[error(transparent)]
    Road(#[from] PeerError),
    /// The other server did not take it.
    #[error("the other server does not take a copy of {member}: {cause}")]
    Declined {
        /// The desktop.
        member: Member,
        /// Why, in its words.
        cause: String,
    },
    /// It came to nothing on the way.
    #[error("the copy of {member} did not get to the other server: {cause}")]
    Broken {
        /// The desktop.
        member: Member,
        /// Why, in words.
        cause: String,
    },
    /// There is no copy of it here.
    #[error("there is no copy of {0} here")]
    Absent(Member),
}
