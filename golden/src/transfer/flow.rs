//! An image that is being received, as those see it who want it from here.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use coppice_schema::Digest;
use coppice_schema::units::Size;
use futures::future::{Either, poll_fn, select};

use super::Timer;
use crate::manifest::{Manifest, chunk_len};
use crate::store::Store;

/// Bytes of chunks that are kept in memory, as they came, for servers behind this one. One that is further behind gets
/// them from the disk.
const RECENT: usize = 32 << 20;

/// What arrives, and what is here.
#[derive(Debug, Default)]
pub(crate) struct Flow(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    target: Option<Target>,
    recent: VecDeque<Arc<Vec<u8>>>,
    /// Number of the first of `recent`.
    first: u64,
    bytes: usize,
    /// Places of chunks that were read back, in the order in which that was.
    stored: Vec<u64>,
    done: u64,
    /// When the target was known, and what was there then.
    begun: Option<(Instant, u64)>,
    total: u64,
    ended: bool,
    changes: u64,
    wakers: Vec<Waker>,
}

/// Where chunks go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) manifest: Arc<Manifest>,
    /// The half file. It stays the same one when it gets its name.
    pub(super) file: Arc<File>,
}

/// What comes next for one that follows.
pub(super) enum Next {
    /// A chunk as it came.
    Frame(Arc<Vec<u8>>),
    /// A place whose chunk is on the disk.
    Stored(u64),
    /// Nothing before the number of changes is another than this.
    Nothing(u64),
    /// Nothing ever.
    Ended,
}

/// How far one that follows is.
#[derive(Default)]
pub(super) struct Cursor {
    recent: u64,
    stored: usize,
}

impl Flow {
    /// Registers that `root` is being received; `None` where it already is.
    pub(super) fn begin(store: &Store, root: Digest) -> Option<Registered<'_>> {
        let mut flows = store.flows();
        if flows.contains_key(&root) {
            return None;
        }
        let flow = Arc::new(Self::default());
        flows.insert(root, Arc::clone(&flow));
        Some(Registered { store, root, flow })
    }

    pub(super) fn set_target(&self, target: Target, stored: Vec<u64>) {
        self.change(|inner| {
            let size = target.manifest.size().0;
            inner.total = target.manifest.data().0;
            inner.done = stored.iter().map(|place| chunk_len(size, *place)).sum();
            inner.begun = Some((Instant::now(), inner.done));
            inner.stored = stored;
            inner.target = Some(target);
        });
    }

    pub(super) fn target(&self) -> Option<Target> {
        self.lock().target.clone()
    }

    /// A chunk came, as it is, and is right.
    pub(super) fn arrived(&self, frame: Arc<Vec<u8>>) {
        self.change(|inner| {
            inner.bytes += frame.len();
            inner.recent.push_back(frame);
            while inner.bytes > RECENT
                && let Some(old) = inner.recent.pop_front()
            {
                inner.bytes -= old.len();
                inner.first += 1;
            }
        });
    }

    /// Chunks were read back.
    pub(super) fn stored(&self, places: &[u64], bytes: u64) {
        self.change(|inner| {
            inner.stored.extend_from_slice(places);
            inner.done += bytes;
        });
    }

    /// Places of all chunks that were read back.
    pub(super) fn all_stored(&self) -> Vec<u64> {
        self.lock().stored.clone()
    }

    /// Bytes that are here and right, and bytes in all; both 0 until that is known.
    pub(crate) fn progress(&self) -> (Size, Size) {
        let inner = self.lock();
        (Size(inner.done), Size(inner.total))
    }

    /// Bytes a second since it began.
    pub(crate) fn rate(&self) -> Size {
        let inner = self.lock();
        let Some((at, before)) = inner.begun else {
            return Size(0);
        };
        let millis = at.elapsed().as_millis().max(1);
        let bytes = u128::from(inner.done.saturating_sub(before));
        Size(u64::try_from(bytes * 1000 / millis).unwrap_or(u64::MAX))
    }

    pub(super) fn ended(&self) -> bool {
        self.lock().ended
    }

    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Where one begins that wants what comes from now on, and all that is stored.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            recent: self.lock().first,
            stored: 0,
        }
    }

    /// The next thing behind `cursor`: what came last first, because it is still in memory.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Next {
        let inner = self.lock();
        cursor.recent = cursor.recent.max(inner.first);
        let at = usize::try_from(cursor.recent - inner.first).unwrap_or(usize::MAX);
        if let Some(frame) = inner.recent.get(at) {
            cursor.recent += 1;
            return Next::Frame(Arc::clone(frame));
        }
        if let Some(place) = inner.stored.get(cursor.stored) {
            cursor.stored += 1;
            return Next::Stored(*place);
        }
        if inner.ended {
            return Next::Ended;
        }
        Next::Nothing(inner.changes)
    }

    /// Until the number of changes is another than `seen`, at most for `span`; whether it is.
    pub(super) async fn changed(&self, seen: u64, span: Duration, timer: &dyn Timer) -> bool {
        let change = poll_fn(|context| {
            let mut inner = self.lock();
            if inner.changes != seen {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !inner.wakers.iter().any(|other| other.will_wake(waker)) {
                inner.wakers.push(waker.clone());
            }
            Poll::Pending
        });
        let change = pin!(change);
        matches!(select(change, timer.sleep(span)).await, Either::Left(_))
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let wakers = {
            let mut inner = self.lock();
            change(&mut inner);
            inner.changes += 1;
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it lives, its image is being received, and others may follow.
pub(super) struct Registered<'a> {
    store: &'a Store,
    root: Digest,
    pub(super) flow: Arc<Flow>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.flow.change(|inner| inner.ended = true);
        self.store.flows().remove(&self.root);
    }
}

/// The images that are being received, by root.
pub(crate) type Flows = Mutex<BTreeMap<Digest, Arc<Flow>>>;
