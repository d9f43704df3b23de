//! How a simulated world goes on: what is polled, and when time passes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::Serves;
use coppice_world::sim::{SimClock, SimWires};
use futures::future::{BoxFuture, FutureExt};

/// What servers give others, while they do.
#[derive(Clone, Default)]
pub(super) struct Lines(
    pub(super) SimWires,
    Rc<RefCell<Vec<BoxFuture<'static, ()>>>>,
);

impl Lines {
    pub(super) fn go_on(&self, context: &mut Context<'_>) {
        let mut all = self.1.borrow_mut();
        all.extend(self.0.served());
        all.retain_mut(|served| served.poll_unpin(context).is_pending());
    }
}

/// What a daemon serves, until it dies.
pub(super) struct Mortal {
    pub(super) daemons: Arc<AtomicU64>,
    pub(super) serves: Arc<dyn Serves>,
}

impl Serves for Mortal {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let daemons = Arc::clone(&self.daemons);
        let mine = daemons.load(Ordering::SeqCst);
        let mut served = self.serves.serve(from, stream);
        Box::pin(poll_fn(move |context| {
            if daemons.load(Ordering::SeqCst) != mine {
                return Poll::Ready(());
            }
            served.poll_unpin(context)
        }))
    }
}

/// Whether something is to be polled again.
pub(super) struct Woken(pub(super) AtomicBool);

impl Default for Woken {
    /// Everything is polled once.
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `round` to its end, moving the clock on whenever it waits; `None`: whoever ran it died.
///
/// # Panics
/// When it waits for nothing that will ever come.
pub(super) fn drive<T>(
    clock: &SimClock,
    lines: &Lines,
    dead: impl Fn() -> bool,
    round: impl Future<Output = T>,
) -> Option<T> {
    let mut round = pin!(round);
    let mut context = Context::from_waker(Waker::noop());
    // What was said along a line is heard when the other end is polled, which takes no time.
    let mut said = 0;
    loop {
        lines.go_on(&mut context);
        let polled = round.as_mut().poll(&mut context);
        // Also when the round itself got to its end: what was under way beside it had died.
        if dead() {
            return None;
        }
        if let Poll::Ready(done) = polled {
            return Some(done);
        }
        if let Some(alarm) = clock.next_alarm() {
            said = 0;
            clock.advance_to(alarm);
        } else {
            said += 1;
            assert!(said < 100, "a round that waits for nothing");
        }
    }
}
