//! Which simulated server a task belongs to, and in which of its lives.
//!
//! openraft's simulated runtime has one clock and one set of tasks. [`Lives`] runs on it and keeps apart what belongs to
//! each server: the tasks of a life that was ended are never polled again, as after `kill -9`; those of a server that
//! is stopped wait, as after SIGSTOP; and each server has clocks of its own, that go too fast or too slow and jump.
//!
//! A timer that runs keeps the length it had when it was set, whatever becomes of the clock meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coppice_schema::units::{Span, Timestamp};
use coppice_world::clock::Clock;
use futures::future::{BoxFuture, FutureExt};
use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::{Elapsed, SimInstant, SimJoinError, SimJoinHandle, SimRuntime};
use openraft_rt_sim::{SimSleep, SimTimeout};

use crate::world::DAWN;

/// One life of a server: from a start to a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Life {
    /// The server's number in raft.
    pub server: u64,
    /// Counted from 1.
    pub number: u64,
}

/// A clock's rate in thousandths of the true one.
pub const TRUE_RATE: u64 = 1_000;

struct Lived {
    life: u64,
    up: bool,
    stopped: bool,
    waiting: Vec<Waker>,
    dial: Dial,
}

/// A server's clock. It goes on through its crashes.
#[derive(Clone, Copy)]
struct Dial {
    rate: u64,
    true_base: u64,
    own_base: u64,
    /// What the wall clock shows beyond the monotonic one, in milliseconds.
    ahead: i64,
}

impl Dial {
    const RIGHT: Self = Self {
        rate: TRUE_RATE,
        true_base: 0,
        own_base: 0,
        ahead: 0,
    };

    fn own(&self, nanos: u64) -> u64 {
        let passed = nanos.saturating_sub(self.true_base);
        self.own_base + passed / TRUE_RATE * self.rate
    }

    fn set_rate(&mut self, rate: u64) {
        let now = true_nanos();
        *self = Self {
            rate,
            true_base: now,
            own_base: self.own(now),
            ..*self
        };
    }
}

thread_local! {
    static WHO: Cell<Option<Life>> = const { Cell::new(None) };
    static LIVED: RefCell<BTreeMap<u64, Lived>> = const { RefCell::new(BTreeMap::new()) };
}

fn with<T>(server: u64, act: impl FnOnce(&mut Lived) -> T) -> T {
    LIVED.with_borrow_mut(|all| {
        act(all.entry(server).or_insert_with(|| Lived {
            life: 0,
            up: false,
            stopped: false,
            waiting: Vec::new(),
            dial: Dial::RIGHT,
        }))
    })
}

/// Forgets every server that was simulated on this thread.
pub fn forget_all() {
    LIVED.with_borrow_mut(BTreeMap::clear);
}

/// A new life of `server`; `None` while it lives.
#[must_use]
pub fn begin(server: u64) -> Option<Life> {
    with(server, |lived| {
        if lived.up {
            return None;
        }
        lived.up = true;
        lived.stopped = false;
        lived.life += 1;
        Some(Life {
            server,
            number: lived.life,
        })
    })
}

/// Ends the life of `server`. `false`: it was not alive.
pub fn end(server: u64) -> bool {
    with(server, |lived| {
        lived.waiting.clear();
        lived.stopped = false;
        std::mem::replace(&mut lived.up, false)
    })
}

/// The present life of `server`.
#[must_use]
pub fn present(server: u64) -> Option<Life> {
    with(server, |lived| {
        lived.up.then_some(Life {
            server,
            number: lived.life,
        })
    })
}

/// Stops `server`, as SIGSTOP does.
pub fn stop(server: u64) {
    with(server, |lived| lived.stopped = true);
}

/// Lets `server` go on.
pub fn go_on(server: u64) {
    let waiting = with(server, |lived| {
        lived.stopped = false;
        std::mem::take(&mut lived.waiting)
    });
    waiting.into_iter().for_each(Waker::wake);
}

/// From now on the clocks of `server` go at `rate` thousandths of the true one.
pub fn set_rate(server: u64, rate: u64) {
    with(server, |lived| lived.dial.set_rate(rate));
}

/// The monotonic clock of `server` jumps ahead, as that of a machine that was suspended may.
pub fn jump(server: u64, nanos: u64) {
    with(server, |lived| lived.dial.own_base += nanos);
}

/// Somebody sets the wall clock of `server`, so that it is `ahead` milliseconds ahead, or behind.
pub fn set_wall(server: u64, ahead: i64) {
    with(server, |lived| lived.dial.ahead = ahead);
}

/// True time since the beginning, in nanoseconds.
#[must_use]
pub fn true_nanos() -> u64 {
    let now = SimInstant::try_now().map(SimInstant::elapsed_since_start);
    now.map_or(0, nanos)
}

/// True wall-clock time.
#[must_use]
pub fn true_time() -> Timestamp {
    DAWN.after(Span(true_nanos() / 1_000_000))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The clock of whoever asks, in nanoseconds; far from 0, so that timeouts can be subtracted from it.
fn own_nanos() -> u64 {
    const DAY: u64 = 86_400_000_000_000;
    let now = true_nanos();
    match WHO.get() {
        Some(life) => DAY + with(life.server, |lived| lived.dial.own(now)),
        None => DAY + now,
    }
}

/// `duration` by the clock of whoever asks, in true time.
fn in_true_time(duration: Duration) -> Duration {
    let rate = WHO
        .get()
        .map_or(TRUE_RATE, |l| with(l.server, |lived| lived.dial.rate));
    let scaled = u128::from(nanos(duration)) * u128::from(TRUE_RATE) / u128::from(rate);
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// The wall clock of a server.
pub struct WallClock(pub u64);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let (own, ahead) = with(self.0, |l| (l.dial.own(true_nanos()), l.dial.ahead));
        let shown = DAWN.after(Span(own / 1_000_000)).0;
        Timestamp(shown.saturating_add_signed(ahead))
    }

    fn passed(&self) -> Span {
        Span(with(self.0, |l| l.dial.own(true_nanos())) / 1_000_000)
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        Lives::sleep(Duration::from_millis(span.0)).boxed()
    }
}

/// The true time, for what is no server's: guests, disks, whoever watches.
pub struct TrueClock;

impl Clock for TrueClock {
    fn now(&self) -> Timestamp {
        true_time()
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        SimRuntime::sleep(Duration::from_millis(span.0)).boxed()
    }
}

/// A task of a life.
struct Lively<F> {
    task: Option<Pin<Box<F>>>,
    life: Option<Life>,
}

enum Standing {
    Dead,
    Stopped,
    Runs,
}

impl<F: Future> Future for Lively<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let life = self.life;
        let standing = life.map_or(Standing::Runs, |life| {
            with(life.server, |lived| {
                if !lived.up || lived.life != life.number {
                    Standing::Dead
                } else if lived.stopped {
                    lived.waiting.push(context.waker().clone());
                    Standing::Stopped
                } else {
                    Standing::Runs
                }
            })
        });
        match standing {
            Standing::Dead => {
                drop(self.task.take());
                return Poll::Pending;
            }
            Standing::Stopped => return Poll::Pending,
            Standing::Runs => {}
        }
        let before = WHO.replace(life);
        let polled = match self.task.as_mut() {
            Some(task) => {
                let task = std::panic::AssertUnwindSafe(|| task.as_mut().poll(context));
                std::panic::catch_unwind(task)
            }
            None => Ok(Poll::Pending),
        };
        WHO.set(before);
        polled.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }
}

/// Spawns a task in `life`, or in nobody's.
pub fn spawn<F>(life: Option<Life>, task: F) -> SimJoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    SimRuntime::spawn(Lively {
        task: Some(Box::pin(task)),
        life,
    })
}

/// A moment by a server's own clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OwnInstant(u64);

impl std::ops::Add<Duration> for OwnInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl std::ops::AddAssign<Duration> for OwnInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl std::ops::Sub<Duration> for OwnInstant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl std::ops::SubAssign<Duration> for OwnInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl std::ops::Sub<Self> for OwnInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl openraft::Instant for OwnInstant {
    fn now() -> Self {
        Self(own_nanos())
    }
}

/// The runtime that servers see.
#[derive(Debug)]
pub struct Lives;

impl AsyncRuntime for Lives {
    type JoinError = SimJoinError;
    type JoinHandle<T: OptionalSend + 'static> = SimJoinHandle<T>;
    type Sleep = SimSleep;
    type Instant = OwnInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = SimTimeout<T>;
    type ThreadLocalRng = <SimRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <SimRuntime as AsyncRuntime>::Mpsc;
    type Watch = <SimRuntime as AsyncRuntime>::Watch;
    type Oneshot = <SimRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <SimRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(task: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(WHO.get(), task)
    }

    fn sleep(duration: Duration) -> SimSleep {
        SimRuntime::sleep(in_true_time(duration))
    }

    fn sleep_until(moment: OwnInstant) -> SimSleep {
        Self::sleep(moment - OwnInstant(own_nanos()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        task: F,
    ) -> SimTimeout<F> {
        SimRuntime::timeout(in_true_time(duration), task)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        moment: OwnInstant,
        task: F,
    ) -> SimTimeout<F> {
        Self::timeout(moment - OwnInstant(own_nanos()), task)
    }

    fn is_panic(error: &SimJoinError) -> bool {
        SimRuntime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SimRuntime::thread_rng()
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    /// Whole grids are run by [`SimRuntime::block_on`]; a part of one, on a runtime of its own.
    fn block_on<F: Future<Output = T>, T>(&mut self, task: F) -> T {
        SimRuntime::with_seed(0).block_on(task)
    }
}
