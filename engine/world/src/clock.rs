//! The port to time.

mod system;

use coppice_schema::units::{Span, Timestamp};
use futures::future::BoxFuture;

pub use self::system::SystemClock;

/// Where time comes from. Only whoever wires the world asks it; rooms below get time as an argument.
pub trait Clock: Send + Sync {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Waits for `span` of monotonic time.
    fn sleep(&self, span: Span) -> BoxFuture<'static, ()>;
}
