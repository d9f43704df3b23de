//! Images on their way from store to store.
//!
//! A server that is to hold an image asks others for it, in the order it is told: first for the manifest, which is
//! right when its root is the image's name, then for the chunks that nothing on its own disk has. Each chunk is
//! compared with the manifest before it is written, and read back before it counts. What arrives goes on at once, as
//! compressed as it came, to whoever asks this server for the same image: servers in a chain take together hardly longer
//! than one. A source that ends, lies or falls silent is left for the next one.
//!
//! What is here of a half image, and is right, is remembered on the disk: after any end the rest is fetched, not all of
//! it. Nobody sees the image under its name before it is whole and synced.

mod flow;
mod pace;
mod partial;
mod receive;
mod serve;
mod wire;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::units::Size;
use futures::future::BoxFuture;

use crate::disk::DiskError;
use crate::store::StoreError;

pub(crate) use flow::{Flow, Flows};
pub use pace::Pace;
pub use partial::HalfImage;
pub use receive::receive;
pub use serve::{serve, watch};

/// Time for those who may not know a runtime.
pub trait Timer: Send + Sync {
    /// Ready after `span`.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;
}

/// What a transfer works with. Clones share their limits.
#[derive(Clone)]
pub struct Means {
    /// Time.
    pub timer: Arc<dyn Timer>,
    /// How fast this server receives, all images together.
    pub incoming: Arc<Pace>,
    /// How fast it sends.
    pub outgoing: Arc<Pace>,
    /// Room that must stay free on the disk: running desktops write, too.
    pub keep_free: Size,
    /// A stream on which nothing passes for so long is given up. One that has nothing to send says so four times as
    /// often.
    pub patience: Duration,
}

impl Means {
    /// Without limits of speed.
    #[must_use]
    pub fn new(timer: Arc<dyn Timer>) -> Self {
        Self {
            timer,
            incoming: Arc::new(Pace::default()),
            outgoing: Arc::new(Pace::default()),
            keep_free: Size::gib(1),
            patience: Duration::from_secs(8),
        }
    }
}

/// An image that came from other stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The image.
    pub root: Digest,
    /// Size of its disk.
    pub size: Size,
    /// Bytes in its chunks.
    pub data: Size,
    /// Bytes that came over streams, as they came: compressed, with the manifest.
    pub wire: Size,
    /// Bytes of chunks that other images on this disk had.
    pub cloned: Size,
    /// Bytes of chunks that were here from a try before.
    pub resumed: Size,
}

/// Why an image is not here. What has arrived and is right is kept, and the next try goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It is being received already.
    #[error("image {} is being received already", .0.short())]
    Busy(Digest),
    /// No source has all that is missing.
    #[error("image {} is not whole yet, {} are missing; {}", root.short(), missing.rounded(), last)]
    Incomplete {
        /// The image.
        root: Digest,
        /// What is still to come; 0 where not even the manifest came.
        missing: Size,
        /// What the sources said, in words.
        last: String,
    },
    /// The disk has not enough room.
    #[error("not enough space in {}: {} needed, {} free", path.display(), needed.rounded(), free.rounded())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// What is still to come, and what must stay free.
        needed: Size,
        /// What is free.
        free: Size,
    },
    /// It was cancelled.
    #[error("receiving the image was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for ReceiveError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
