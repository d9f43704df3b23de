//! Streams in memory between two stores, which end, or change a byte, where a test wants it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use coppice_golden::transfer::{Copied, Means, ReceiveError, Timer, receive, serve};
use coppice_golden::{Cancel, Store};
use coppice_schema::Digest;
use coppice_schema::units::Size;
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};

const ROOM: usize = 256 << 10;

#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    closed: bool,
    wakers: Vec<Waker>,
}

impl Half {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

type Shared = Arc<Mutex<Half>>;

/// What happens to what a source sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Harm {
    /// The stream ends after so many bytes.
    pub(crate) cut: Option<u64>,
    /// The byte of that number is another.
    pub(crate) change: Option<u64>,
    /// Nothing comes after so many bytes, and the stream stays open.
    pub(crate) freeze: Option<u64>,
}

/// One end.
pub(crate) struct Pipe {
    read: Shared,
    write: Shared,
    harm: Harm,
    written: u64,
    /// Bytes that this end wrote, for who counts them.
    count: Arc<AtomicU64>,
}

pub(crate) fn pipe(harm: Harm, count: Arc<AtomicU64>) -> (Pipe, Pipe) {
    let (a, b) = (Shared::default(), Shared::default());
    let here = Pipe {
        read: Arc::clone(&a),
        write: Arc::clone(&b),
        harm: Harm::default(),
        written: 0,
        count: Arc::default(),
    };
    let there = Pipe {
        read: b,
        write: a,
        harm,
        written: 0,
        count,
    };
    (here, there)
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut half = self.read.lock().unwrap();
        if half.bytes.is_empty() {
            if half.closed {
                return Poll::Ready(Ok(0));
            }
            half.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        let len = buffer.len().min(half.bytes.len());
        for (to, from) in buffer.iter_mut().zip(half.bytes.drain(..len)) {
            *to = from;
        }
        half.wake();
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut half = this.write.lock().unwrap();
        if this.harm.freeze.is_some_and(|at| this.written >= at) {
            return Poll::Pending;
        }
        let room = ROOM.saturating_sub(half.bytes.len());
        if half.closed || this.harm.cut.is_some_and(|cut| this.written >= cut) {
            half.closed = true;
            half.wake();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if room == 0 {
            half.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        let end = this.harm.cut.or(this.harm.freeze).unwrap_or(u64::MAX);
        let left = usize::try_from(end - this.written).unwrap_or(usize::MAX);
        let len = buffer.len().min(room).min(left);
        let begin = half.bytes.len();
        half.bytes.extend(&buffer[..len]);
        let at = this.harm.change.and_then(|at| at.checked_sub(this.written));
        if let Some(at) = at.filter(|at| *at < len as u64) {
            half.bytes[begin + usize::try_from(at).unwrap()] ^= 0x10;
        }
        this.written += len as u64;
        this.count.fetch_add(len as u64, Ordering::Relaxed);
        half.wake();
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for half in [&self.read, &self.write] {
            let mut half = half.lock().unwrap();
            half.closed = true;
            half.wake();
        }
    }
}

/// Time of threads.
pub(crate) struct Threads;

impl Timer for Threads {
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        let done: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
        let mut begun = false;
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = done.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            if !std::mem::replace(&mut begun, true) {
                let done = Arc::clone(&done);
                std::thread::spawn(move || {
                    std::thread::sleep(span);
                    let mut state = done.lock().unwrap();
                    state.0 = true;
                    state.1.take().into_iter().for_each(Waker::wake);
                });
            }
            Poll::Pending
        }))
    }
}

/// Who gives, and how it goes wrong: once for each harm in turn, then never again.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) store: Arc<Store>,
    pub(crate) means: Means,
    harms: Arc<Mutex<VecDeque<Harm>>>,
    /// Bytes it sent.
    pub(crate) sent: Arc<AtomicU64>,
    /// Streams that were opened to it.
    pub(crate) asked: Arc<AtomicU64>,
}

impl Source {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            means: means(),
            harms: Arc::default(),
            sent: Arc::default(),
            asked: Arc::default(),
        }
    }

    pub(crate) fn harmed(self, harms: impl IntoIterator<Item = Harm>) -> Self {
        self.harms.lock().unwrap().extend(harms);
        self
    }

    fn open(&self) -> Pipe {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let harm = self.harms.lock().unwrap().pop_front().unwrap_or_default();
        let (here, there) = pipe(harm, Arc::clone(&self.sent));
        let this = self.clone();
        // It ends when the other end does.
        std::thread::spawn(move || {
            block_on(serve(&this.store, there, &this.means, &Cancel::new()))
        });
        here
    }
}

pub(crate) fn means() -> Means {
    Means {
        keep_free: Size(0),
        patience: Duration::from_secs(2),
        ..Means::new(Arc::new(Threads))
    }
}

/// Receives in this thread.
pub(crate) fn get(
    store: &Arc<Store>,
    root: Digest,
    sources: &[Source],
) -> Result<Copied, ReceiveError> {
    get_with(store, root, sources, &means(), &Cancel::new())
}

pub(crate) fn get_with(
    store: &Arc<Store>,
    root: Digest,
    sources: &[Source],
    means: &Means,
    cancel: &Cancel,
) -> Result<Copied, ReceiveError> {
    let sources: Vec<Source> = sources.to_vec();
    let count = sources.len();
    let connect = move |index: usize| -> BoxFuture<'static, io::Result<Pipe>> {
        let pipe = sources[index].open();
        Box::pin(async { Ok(pipe) })
    };
    drive(receive(store, root, count, connect, means, cancel))
}

/// Receives in a thread of its own.
pub(crate) fn getting(
    store: &Arc<Store>,
    root: Digest,
    sources: Vec<Source>,
) -> JoinHandle<Result<Copied, ReceiveError>> {
    let store = Arc::clone(store);
    std::thread::spawn(move || get(&store, root, &sources))
}

fn drive<T>(future: impl Future<Output = T>) -> T {
    block_on(future)
}
