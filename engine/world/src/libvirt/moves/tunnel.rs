//! The sockets of a QEMU, led along streams.

use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::Hello;
use crate::hypervisor::ByteStream;
use crate::moves::{Road, wire};

/// A socket at which a QEMU of the sender finds one of the receiver. It goes with this.
pub(super) struct Entrance {
    path: PathBuf,
    listener: UnixListener,
}

impl Entrance {
    /// Listens there.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        clear(&path)?;
        let listener = UnixListener::bind(&path)?;
        Ok(Self { path, listener })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leads whoever comes here along the road, until this is dropped. What breaks breaks for them.
    pub(super) async fn lead(&self, road: &dyn Road, hello: impl Fn() -> Hello) {
        let mut led = FuturesUnordered::new();
        loop {
            tokio::select! {
                came = self.listener.accept() => {
                    if let Ok((stream, _)) = came {
                        led.push(led_along(stream, road, hello()));
                    }
                }
                Some(ended) = led.next(), if !led.is_empty() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a stream of a desktop on its way broke");
                    }
                }
            }
        }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let _gone = clear(&self.path);
    }
}

async fn led_along(stream: UnixStream, road: &dyn Road, hello: Hello) -> io::Result<()> {
    let mut far = road.open().await.map_err(io::Error::other)?;
    wire::say(&mut far, &hello).await?;
    both_ways(stream, far).await
}

/// Leads a stream to the socket at which a QEMU listens.
pub(super) async fn lead_in(path: &Path, stream: ByteStream) -> io::Result<()> {
    both_ways(UnixStream::connect(path).await?, stream).await
}

async fn both_ways(mut near: UnixStream, far: ByteStream) -> io::Result<()> {
    copy_bidirectional(&mut near, &mut far.compat())
        .await
        .map(drop)
}

/// Makes sure that there is a directory for the socket, and no socket: one that was left listens no more.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
