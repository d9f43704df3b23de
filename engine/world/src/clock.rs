//! The port to time.

mod system;

use coppice_schema::units::{Span, Timestamp};
use futures::future::BoxFuture;

pub use self::system::SystemClock;

/// Where time comes from. Only whoever wires the world asks it; rooms below get time as an argument.
pub trait Clock: Send + Sync {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Monotonic time since some moment: it never goes back, and does not count what the machine slept. Where nothing
    /// sets the wall clock, that serves.
    fn passed(&self) -> Span {
        Span(self.now().0)
    }

    /// Waits for `span` of monotonic time.
    fn sleep(&self, span: Span) -> BoxFuture<'static, ()>;
}
