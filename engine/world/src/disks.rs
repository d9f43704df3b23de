//! The port to this server's disks: golden images and the overlays of its desktops.

mod local;

use std::path::PathBuf;
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{Member, ServerId};
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Timestamp};
use futures::future::BoxFuture;

use crate::hypervisor::Mark;
use crate::peers::Peers;

pub(crate) use self::local::Arriving;
pub use self::local::LocalDisks;

/// Images and overlays on this server.
///
/// Guarantees of every adapter: what a call reported as done is on the medium; nothing half-written is ever listed
/// as whole; each call can be repeated; an overlay without our mark is listed and never touched.
pub trait Disks: Send + Sync {
    /// Space of the file system that holds overlays.
    fn space(&self) -> BoxFuture<'_, Result<Space, DiskError>>;

    /// Every overlay.
    fn overlays(&self) -> BoxFuture<'_, Result<Vec<Overlay>, DiskError>>;

    /// Makes overlays, all of them durable when it returns. One that is there with the same mark but for its stamp
    /// is left as it is.
    fn make_overlays(
        &self,
        overlays: Vec<NewOverlay>,
    ) -> BoxFuture<'_, Result<Vec<PathBuf>, DiskError>>;

    /// Removes an overlay and its mark.
    fn remove_overlay<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), DiskError>>;

    /// Images that are whole on this disk, or were, and those of which a part is here.
    fn images(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, DiskError>>;

    /// Reads every chunk of an image back.
    fn verify_image(&self, root: Digest) -> BoxFuture<'_, Result<CopyState, DiskError>>;

    /// Removes an image that no overlay uses.
    fn drop_image(&self, root: Digest) -> BoxFuture<'_, Result<(), DiskError>>;

    /// Reads every chunk of an image back, at most `rate` bytes a second: so that nobody notices.
    fn scrub_image(&self, root: Digest, rate: Size) -> BoxFuture<'_, Result<CopyState, DiskError>>;

    /// Gets an image from other servers, which are asked in this order: what one lacks, the next may have. One that is
    /// here and bad is repaired. While it comes, others get from here what has come. Every chunk is compared before it
    /// is written, and read back; what is right stays when it ends early, and the next call goes on from there.
    fn receive_image(
        &self,
        root: Digest,
        from: Vec<ServerId>,
    ) -> BoxFuture<'_, Result<(), DiskError>>;

    /// From now on images come at most that fast, all together, and go at most that fast.
    fn limit_images(&self, rate: Option<Size>);

    /// The way to the other servers, once there is one. Before, no image can be received.
    fn meet(&self, peers: Arc<dyn Peers>);

    /// How far images are that are on their way to `server`; to this one without. It passes: nobody remembers it.
    fn transfers(
        &self,
        server: Option<ServerId>,
    ) -> BoxFuture<'_, Result<Vec<Transfer>, DiskError>>;

    /// Takes an image file into the store. `name` is only for messages.
    fn import_image(
        &self,
        source: PathBuf,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> BoxFuture<'_, Result<Imported, DiskError>>;
}

/// Space of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// All that unprivileged processes could use.
    pub total: Size,
    /// What an unprivileged process could still use.
    pub free: Size,
}

/// An overlay to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewOverlay {
    /// Its mark; names the image and the life.
    pub mark: Mark,
    /// Virtual size, at least the image's.
    pub size: Size,
}

/// An overlay on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overlay {
    /// Its file.
    pub path: PathBuf,
    /// Its mark; `None`: not ours.
    pub mark: Option<Mark>,
    /// It can be used: its header reads, and its image is here.
    pub sound: bool,
    /// Virtual size.
    pub size: Size,
    /// Bytes on the medium.
    pub allocated: Size,
}

/// An image on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredImage {
    /// Its root.
    pub root: Digest,
    /// How it stands, by what was last verified and whether the file has changed since.
    pub state: CopyState,
    /// Virtual size.
    pub size: Size,
    /// Bytes that are not holes.
    pub data: Size,
    /// When all of it was last read back and was right; 0: never, as far as is known.
    pub read: Timestamp,
}

/// An image that is on its way, or was and stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Its root.
    pub root: Digest,
    /// Bytes that are here and right.
    pub here: Size,
    /// Bytes in all.
    pub data: Size,
    /// Bytes a second, those that were cloned from earlier versions among them; 0 where it does not move.
    pub rate: Size,
}

/// An image taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Imported {
    /// BLAKE3 of the source's bytes.
    pub source: Digest,
    /// Root of the stored form.
    pub root: Digest,
    /// Virtual size.
    pub size: Size,
    /// Bytes that are not holes.
    pub data: Size,
}

/// How far long work is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done: `hashing`, `converting`, `indexing`, `verifying`.
    pub step: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
}

/// Why a disk did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No space.
    #[error("no space to {what}: {needed} are needed, {free} are free", needed = .needed.rounded(), free = .free.rounded())]
    Full {
        /// The operation.
        what: String,
        /// Bytes needed.
        needed: Size,
        /// Bytes free.
        free: Size,
    },
    /// No such image or overlay.
    #[error("there is no {0}")]
    Absent(String),
    /// It is used.
    #[error("{what} is used by {by}")]
    InUse {
        /// What.
        what: String,
        /// By whom.
        by: String,
    },
    /// The source is not an image that may be taken in.
    #[error("{source_file} cannot be imported: {why}")]
    BadSource {
        /// The file.
        source_file: String,
        /// Why.
        why: String,
    },
    /// Something of that name is there and is not ours.
    #[error("{0} is not ours and is left alone")]
    NotOurs(String),
    /// The file system failed.
    #[error("{what}: {cause}")]
    Io {
        /// The operation and its object.
        what: String,
        /// Why, in the system's words.
        cause: String,
    },
}
