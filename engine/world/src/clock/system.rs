//! This machine's clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coppice_schema::units::{Span, Timestamp};
use futures::future::{BoxFuture, FutureExt};

use super::Clock;

/// This machine's clock. Needs tokio's timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 was never set: the beginning is as good as any.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn passed(&self) -> Span {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let begin = BEGIN.get_or_init(Instant::now);
        Span(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        // Longer than the timer takes is for ever, in practice: 30 years.
        let length = Duration::from_millis(span.0.min(1_000_000_000_000));
        async move { tokio::time::sleep(length).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_time_of_this_century() {
        assert!(SystemClock.now() > Timestamp(1_700_000_000_000));
    }

    #[tokio::test]
    async fn the_time_that_passed_is_what_was_waited() {
        let before = SystemClock.passed();
        SystemClock.sleep(Span(20)).await;
        assert!(SystemClock.passed().0 >= before.0 + 20);
    }

    #[tokio::test]
    async fn it_waits_and_takes_any_length() {
        SystemClock.sleep(Span(1)).await;
        let endless = SystemClock.sleep(Span(u64::MAX));
        tokio::select! {
            () = endless => unreachable!("the end of time"),
            () = SystemClock.sleep(Span(1)) => {}
        }
    }
}
