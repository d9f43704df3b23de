//! A stream that ends when one of its ends leaves the grid.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};

/// A stream with an end that comes from elsewhere. From then on it breaks at every byte, in both directions.
pub(crate) struct Severed<S> {
    stream: S,
    // One each: whoever reads and whoever writes may be two tasks, and both are to be woken.
    reads: BoxFuture<'static, String>,
    writes: BoxFuture<'static, String>,
    why: Option<String>,
}

impl<S> Severed<S> {
    /// `stream`, until what `cut` gives is ready, with the reason.
    pub(crate) fn new<F>(stream: S, cut: impl Fn() -> F) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self {
            stream,
            reads: cut().boxed(),
            writes: cut().boxed(),
            why: None,
        }
    }

    fn check(&mut self, reading: bool, cx: &mut Context<'_>) -> io::Result<()> {
        if self.why.is_none() {
            let cut = if reading {
                &mut self.reads
            } else {
                &mut self.writes
            };
            if let Poll::Ready(why) = cut.poll_unpin(cx) {
                self.why = Some(why);
            }
        }
        match &self.why {
            Some(why) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                why.clone(),
            )),
            None => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.check(true, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(false, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(false, cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
