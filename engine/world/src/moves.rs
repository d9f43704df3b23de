//! The port by which a running desktop goes from one server to another: memory, disk and all, while its guest runs.
//!
//! Three things happen, each by one call and each agreed before the next: the sender copies and stops the guest at the
//! last moment ([`Moves::send`]); then either the receiver lets it go on ([`Moves::enter`]) or the sender does
//! ([`Moves::stay`]). Between the first and the second it stands still, whole, on both sides, so whoever decides can
//! decide either way, and a crash of anybody anywhere loses nothing.

pub mod wire;

use coppice_schema::ids::Member;
use coppice_schema::units::Span;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hypervisor::{ByteStream, Definition, HypervisorError};
use crate::peers::PeerError;

/// Desktops that leave this server running, and those that come.
///
/// Guarantees of every adapter, kept by the contract suite:
/// - A guest goes on here after it was stopped by [`send`](Self::send) only by [`stay`](Self::stay), and one that has
///   come only by [`enter`](Self::enter). Nothing else starts it, least of all
///   [`Hypervisor::start`](crate::hypervisor::Hypervisor::start).
/// - Each call can be repeated, by another process too.
/// - What is not ours is neither sent nor taken over: [`HypervisorError::NotOurs`].
/// - A stream may break at any byte. The sender's guest then runs on, or goes on by [`stay`](Self::stay).
pub trait Moves: Send + Sync {
    /// At the sender: copies a running desktop's disk and memory along `road`, and stops it at the last moment.
    ///
    /// When this returns `Ok`, the receiver holds all of it, and it runs nowhere. Repeated after that, it says so
    /// again as long as the receiver has it. On an error it runs on here, or stands still and `stay` lets it go on.
    /// The same is true when the call is dropped.
    ///
    /// It takes as long as the disk and the memory take; it ends with an error when nothing has moved for a minute.
    fn send<'a>(&'a self, uuid: Uuid, road: &'a dyn Road) -> BoxFuture<'a, Result<(), MoveError>>;

    /// At the sender: the move is off, and the guest goes on here. One that runs is left alone, and so is one that is off.
    ///
    /// The caller knows that the receiver was not told to let it go on, and never will be.
    fn stay(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), MoveError>>;

    /// At the receiver: serves one stream of a sender, to its end. `guest` says what may come: its overlay is there,
    /// fresh, a clone of the same image. What comes on the stream is believed no further than that.
    ///
    /// What a broken stream leaves is cleared away by the next one, or by
    /// [`power_off`](crate::hypervisor::Hypervisor::power_off).
    fn take<'a>(
        &'a self,
        guest: &'a Definition,
        stream: ByteStream,
    ) -> BoxFuture<'a, Result<(), MoveError>>;

    /// At the receiver: the guest that has come goes on here, and is defined as `guest` says. One that runs is left
    /// alone. [`HypervisorError::Absent`]: nothing has come, or it is gone again.
    ///
    /// The caller knows that the sender was not told to let it stay, and never will be.
    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), MoveError>>;
}

/// The way to the receiver of one desktop.
pub trait Road: Send + Sync {
    /// A new stream, whose other end is given to [`Moves::take`].
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>>;
}

/// What a stream between two servers about a desktop begins with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opening {
    /// A running desktop comes; what follows is for [`Moves::take`].
    Move {
        /// Which.
        member: Member,
    },
    /// What the disk of a desktop holds comes, to be kept as a copy; what follows is for
    /// [`Replicas::take`](crate::replicas::Replicas::take).
    Copy {
        /// Of which.
        member: Member,
    },
}

/// Why a desktop does not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The hypervisor here failed.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// There is no way to the other server.
    #[error(transparent)]
    Road(#[from] PeerError),
    /// The other server did not take it.
    #[error("the other server does not take domain {domain}: {cause}")]
    Declined {
        /// The domain.
        domain: Uuid,
        /// Why, in its words.
        cause: String,
    },
    /// It has something that cannot be taken along.
    #[error("domain {domain} cannot move while it runs: {cause}")]
    Bound {
        /// The domain.
        domain: Uuid,
        /// What holds it, in words.
        cause: String,
    },
    /// It came to nothing on the way.
    #[error("domain {domain} did not get to the other server: {cause}")]
    Broken {
        /// The domain.
        domain: Uuid,
        /// Why, in words.
        cause: String,
    },
    /// Nothing has moved for that long.
    #[error("domain {domain} did not get to the other server: nothing has moved for {limit}")]
    Stalled {
        /// The domain.
        domain: Uuid,
        /// How long.
        limit: Span,
    },
}
