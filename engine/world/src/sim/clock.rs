//! Time that stands still until it is moved.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use coppice_schema::units::{Span, Timestamp};
use futures::future::BoxFuture;

use crate::clock::Clock;

/// A clock that only its owner moves. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct SimClock {
    dial: Arc<Mutex<Dial>>,
    steady: bool,
}

#[derive(Debug)]
struct Dial {
    /// The time that passes; it never goes back, and sleepers go by it.
    now: Timestamp,
    /// How far the hands were turned back behind it.
    behind: Span,
    next_sleeper: u64,
    sleepers: BTreeMap<(Timestamp, u64), Option<Waker>>,
}

impl SimClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let dial = Dial {
            now,
            behind: Span(0),
            next_sleeper: 0,
            sleepers: BTreeMap::new(),
        };
        Self {
            dial: Arc::new(Mutex::new(dial)),
            steady: false,
        }
    }

    /// The same time, as it is where nobody turns it back: what a guest takes to boot does not hang on a clock.
    #[must_use]
    pub fn steady(&self) -> Self {
        Self {
            steady: true,
            ..self.clone()
        }
    }

    /// Somebody sets the clock back by `span`. Who sleeps is woken when they would have been.
    pub fn turn_back(&self, span: Span) {
        self.dial().behind.0 += span.0;
    }

    /// When the first of those who sleep wants to be woken.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Timestamp> {
        let dial = self.dial();
        let first = dial.sleepers.keys().next();
        first.map(|(at, _)| self.shown(&dial, *at))
    }

    /// Moves on by `span`, and wakes whoever wanted to be woken by then.
    pub fn advance(&self, span: Span) {
        let to = self.now().after(span);
        self.advance_to(to);
    }

    /// Moves on to `to`; never back.
    pub fn advance_to(&self, to: Timestamp) {
        let mut dial = self.dial();
        let behind = if self.steady { Span(0) } else { dial.behind };
        dial.now = dial.now.max(to.after(behind));
        let first_later = (dial.now.after(Span(1)), 0);
        let later = dial.sleepers.split_off(&first_later);
        let due = std::mem::replace(&mut dial.sleepers, later);
        drop(dial);
        due.into_values().flatten().for_each(Waker::wake);
    }

    fn dial(&self) -> MutexGuard<'_, Dial> {
        self.dial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, dial: &Dial, at: Timestamp) -> Timestamp {
        if self.steady {
            return at;
        }
        Timestamp(at.0.saturating_sub(dial.behind.0))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let dial = self.dial();
        self.shown(&dial, dial.now)
    }

    fn passed(&self) -> Span {
        Span(self.dial().now.0)
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        let mut dial = self.dial();
        let key = (dial.now.after(span), dial.next_sleeper);
        dial.next_sleeper += 1;
        dial.sleepers.insert(key, None);
        drop(dial);
        let clock = self.clone();
        Box::pin(Sleep { clock, key })
    }
}

struct Sleep {
    clock: SimClock,
    key: (Timestamp, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut dial = self.clock.dial();
        if dial.now >= self.key.0 {
            return Poll::Ready(());
        }
        dial.sleepers
            .insert(self.key, Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // Who no longer waits must not hold the clock back.
        self.clock.dial().sleepers.remove(&self.key);
    }
}
