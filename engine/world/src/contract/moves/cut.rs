//! A road whose bytes are counted, and that breaks after so many.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;

use crate::hypervisor::ByteStream;
use crate::moves::Road;
use crate::peers::PeerError;

/// The road.
pub(in crate::contract) struct Cut<'a> {
    road: Box<dyn Road + 'a>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    passed: AtomicU64,
    most: u64,
    changed: AtomicWaker,
}

impl<'a> Cut<'a> {
    /// One that breaks, all streams at once, when so many bytes have passed.
    pub(in crate::contract) fn after(road: Box<dyn Road + 'a>, most: u64) -> Self {
        let count = Count {
            most,
            ..Count::default()
        };
        Self {
            road,
            count: Arc::new(count),
        }
    }

    pub(in crate::contract) fn never(road: Box<dyn Road + 'a>) -> Self {
        Self::after(road, u64::MAX)
    }

    /// Bytes that have passed, both ways.
    pub(in crate::contract) fn passed(&self) -> u64 {
        self.count.passed.load(Ordering::SeqCst)
    }

    /// Until so many bytes have passed.
    pub(in crate::contract) async fn until(&self, limit: u64) {
        poll_fn(|context: &mut Context<'_>| {
            self.count.changed.register(context.waker());
            if self.passed() > limit {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Count {
    fn pass(&self, bytes: usize) -> io::Result<usize> {
        let more = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.passed.fetch_add(more, Ordering::SeqCst);
        self.changed.wake();
        if before.saturating_add(more) > self.most {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(bytes)
    }

    fn is_broken(&self) -> bool {
        self.passed.load(Ordering::SeqCst) > self.most
    }
}

impl Road for Cut<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        Box::pin(async move {
            let stream = self.road.open().await?;
            let counted: ByteStream = Box::pin(Counted {
                stream: Some(stream),
                count: Arc::clone(&self.count),
            });
            Ok(counted)
        })
    }
}

/// A stream of that road. Its other end sees it end when it breaks.
struct Counted {
    stream: Option<ByteStream>,
    count: Arc<Count>,
}

impl Counted {
    fn whole(&mut self) -> io::Result<&mut ByteStream> {
        if self.count.is_broken() {
            self.stream = None;
        }
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        self.stream.as_mut().ok_or_else(broken)
    }

    fn pass(&mut self, bytes: usize) -> Poll<io::Result<usize>> {
        let passed = self.count.pass(bytes);
        if passed.is_err() {
            self.stream = None;
        }
        Poll::Ready(passed)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(self.whole()?.as_mut().poll_read(context, buffer))?;
        self.pass(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.whole()?.as_mut().poll_write(context, buffer))?;
        self.pass(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?.as_mut().poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?.as_mut().poll_close(context)
    }
}
