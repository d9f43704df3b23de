//! Images to and from other servers. A transfer waits for the network and blocks on the disk, so each has a thread on
//! which blocking is allowed, and is a future there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use coppice_golden::StoreError;
use coppice_golden::transfer::{self, HalfImage, ReceiveError, Timer};
use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::CopyState;
use coppice_schema::units::Timestamp;
use futures::executor::block_on;
use futures::future::{BoxFuture, FutureExt};

use super::{CancelOnDrop, LocalDisks, failed, glance, store_error};
use crate::disks::{DiskError, StoredImage, Transfer};
use crate::hypervisor::ByteStream;
use crate::peers::{Peers, Purpose, Serves};

/// The runtime's time.
pub(super) struct Clock;

impl Timer for Clock {
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(span).boxed()
    }
}

/// How long another server may take to say how far its images are: people wait for it.
const ANSWER: Duration = Duration::from_secs(2);

pub(super) fn half(half: &HalfImage) -> StoredImage {
    StoredImage {
        root: half.root,
        state: if half.moving {
            CopyState::Copying
        } else {
            CopyState::Partial
        },
        size: half.size,
        data: half.data,
        read: Timestamp(0),
    }
}

fn transfer(half: &HalfImage) -> Transfer {
    Transfer {
        root: half.root,
        here: half.here,
        data: half.data,
        rate: half.rate,
    }
}

fn unreachable(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(e)
}

impl LocalDisks {
    fn peers(&self, what: &str) -> Result<Arc<dyn Peers>, DiskError> {
        self.peers.get().cloned().ok_or_else(|| DiskError::Io {
            what: what.to_owned(),
            cause: "there is no way to other servers yet".to_owned(),
        })
    }

    pub(super) fn receive(
        &self,
        root: Digest,
        from: Vec<ServerId>,
    ) -> BoxFuture<'_, Result<(), DiskError>> {
        let cancel = CancelOnDrop::default();
        let asked = cancel.0.clone();
        let work = self.work("copy an image", move |this| {
            let what = format!("copy image {}", root.short());
            let peers = this.peers(&what)?;
            let servers = from.clone();
            let connect = move |index: usize| {
                let peers = Arc::clone(&peers);
                let server = servers.get(index).copied();
                async move {
                    let server = server.ok_or_else(|| io::Error::other("no such server"))?;
                    let stream = peers.connect(server, Purpose::Images).await;
                    stream.map_err(unreachable)
                }
                .boxed()
            };
            let received =
                transfer::receive(&this.store, root, from.len(), connect, &this.means, &asked);
            match block_on(received) {
                Ok(_) => {
                    let seen = glance(&this.store.image_path(root));
                    this.remember(root, |r| {
                        r.verdict = seen.map(|seen| (CopyState::Verified, seen));
                    });
                    Ok(())
                }
                Err(e) => Err(this.receive_error(what, e)),
            }
        });
        async move {
            let _cancel = cancel;
            work.await
        }
        .boxed()
    }

    fn receive_error(&self, what: String, error: ReceiveError) -> DiskError {
        match error {
            ReceiveError::NoSpace { needed, free, .. } => DiskError::Full { what, needed, free },
            ReceiveError::Store(StoreError::Disk(e)) if e.is_full() => {
                self.full(what, coppice_schema::units::Size(0))
            }
            ReceiveError::Store(e) => store_error(e),
            error @ (ReceiveError::Busy(_)
            | ReceiveError::Incomplete { .. }
            | ReceiveError::Cancelled) => failed(what, &error),
        }
    }

    pub(super) fn under_way(&self) -> Result<Vec<Transfer>, DiskError> {
        let halves = self.store.half_images().map_err(store_error)?;
        Ok(halves.iter().map(transfer).collect())
    }

    pub(super) fn under_way_on(
        &self,
        server: ServerId,
    ) -> BoxFuture<'_, Result<Vec<Transfer>, DiskError>> {
        async move {
            let what = || format!("ask server {server} for its images");
            let peers = self.peers(&what())?;
            let asked = async {
                let stream = peers.connect(server, Purpose::Images).await;
                transfer::watch(stream.map_err(unreachable)?, &self.means).await
            };
            let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
            let answer = tokio::time::timeout(ANSWER, asked).await;
            let halves = answer
                .unwrap_or_else(late)
                .map_err(|e| failed(what(), &e))?;
            Ok(halves.iter().map(transfer).collect())
        }
        .boxed()
    }
}

impl Serves for LocalDisks {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let cancel = CancelOnDrop::default();
        let asked = cancel.0.clone();
        let serve = self.work("give an image", move |this| {
            let served = block_on(transfer::serve(&this.store, stream, &this.means, &asked));
            served.map_err(|e| failed(format!("give server {from} an image"), &e))
        });
        async move {
            // When nobody serves it any more, it ends.
            let _cancel = cancel;
            // Whoever asked sees the stream end, and asks another or again.
            if let Err(error) = serve.await {
                tracing::debug!(%error, "images");
            }
        }
        .boxed()
    }
}
