//! Threads for calls that block.
//!
//! libvirt's calls cannot be cancelled, and some hang for as long as a guest does. So each runs on a thread of its
//! own kind (never on the runtime's), and whoever waits for it waits only until its deadline.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

type Work = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(30);

/// A growing and shrinking set of threads with one queue.
pub(super) struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    most: usize,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// The work did not end in time; it may still be going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late;

/// The contents, also after another thread died holding the lock: nothing here is left half-changed by a panic.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// At most `most` threads, made as they are needed.
    pub(super) fn new(name: &'static str, most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                most,
                state: Mutex::default(),
                news: Condvar::new(),
            }),
        }
    }

    /// Runs `work`, and waits for it until `limit` has passed. Work that has not begun by then is never begun.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let (answer, answered) = oneshot::channel();
        self.push(Box::new(move || {
            if !answer.is_closed() {
                // Whoever asked may be gone by now; the work is done all the same.
                let _unwanted = answer.send(work());
            }
        }));
        match timeout(limit, answered).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(Late),
        }
    }

    fn push(&self, work: Work) {
        let mut state = locked(&self.shared.state);
        state.queue.push_back(work);
        if state.idle < state.queue.len() && state.threads < self.shared.most {
            let shared = Arc::clone(&self.shared);
            let made = std::thread::Builder::new()
                .name(self.shared.name.to_owned())
                .spawn(move || shared.serve());
            match made {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread for a call to the hypervisor"),
            }
        }
        drop(state);
        self.shared.news.notify_one();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        locked(&self.shared.state).closed = true;
        self.shared.news.notify_all();
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = locked(&self.state);
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    tracing::error!("a call to the hypervisor panicked");
                }
                state = locked(&self.state);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) = self
                .news
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_hung_call_holds_up_no_other() {
        let threads = Threads::new("test", 2);
        let (release, hold) = mpsc::channel::<()>();
        let hung = threads.call(SHORT, move || hold.recv()).await;
        assert_eq!(hung, Err(Late));
        assert_eq!(threads.call(LONG, || 7).await, Ok(7));
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn work_that_did_not_begin_in_time_never_begins() {
        let threads = Threads::new("test", 1);
        let (release, hold) = mpsc::channel::<()>();
        assert_eq!(threads.call(SHORT, move || hold.recv()).await, Err(Late));
        let (begun, began) = mpsc::channel();
        assert_eq!(threads.call(SHORT, move || begun.send(())).await, Err(Late));
        release.send(()).unwrap();
        assert_eq!(
            threads.call(LONG, || 1).await,
            Ok(1),
            "the thread is free again"
        );
        assert!(began.try_recv().is_err(), "late work was begun");
    }

    #[tokio::test]
    async fn a_panic_costs_only_its_own_call() {
        let threads = Threads::new("test", 1);
        assert_eq!(
            threads.call(LONG, || -> u8 { panic!("on purpose") }).await,
            Err(Late)
        );
        assert_eq!(threads.call(LONG, || 1).await, Ok(1));
    }
}
