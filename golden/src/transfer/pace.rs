//! How fast bytes may pass.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coppice_schema::units::Size;

use super::Timer;

/// What was not used may be used within this time: a timer that comes late costs no bandwidth.
const BURST: Duration = Duration::from_millis(50);

/// A limit of bytes per second that several streams share, and that can change while they run.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Bucket>);

#[derive(Debug, Default)]
struct Bucket {
    rate: Option<u64>,
    /// Until when the bytes that have passed take.
    taken: Option<Instant>,
}

impl Pace {
    /// From now on at most `rate` bytes a second; `None`: as fast as it goes.
    pub fn set(&self, rate: Option<Size>) {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rate.map(|rate| rate.0.max(1));
        if bucket.rate != rate {
            *bucket = Bucket { rate, taken: None };
        }
    }

    /// The limit.
    #[must_use]
    pub fn rate(&self) -> Option<Size> {
        let bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.rate.map(Size)
    }

    /// How long to wait before `bytes` more pass. They count as passed.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = bucket.rate else {
            return Duration::ZERO;
        };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = bucket.taken.map_or(earliest, |taken| taken.max(earliest));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let span = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        bucket.taken = Some(begin + span);
        begin.saturating_duration_since(now)
    }

    /// Waits until `bytes` may pass.
    pub(super) async fn pass(&self, bytes: u64, timer: &dyn Timer) {
        let wait = self.take(bytes, Instant::now());
        if !wait.is_zero() {
            timer.sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bytes_take_as_long_as_their_number_says() {
        let pace = Pace::default();
        let begin = Instant::now();
        assert_eq!(pace.take(1 << 40, begin), Duration::ZERO, "no limit");
        pace.set(Some(Size(1000)));
        let waits: Vec<Duration> = (0..11).map(|_| pace.take(100, begin)).collect();
        let last = waits.last().copied().unwrap();
        assert_eq!(last, Duration::from_millis(1000) - BURST);
        assert!(waits.is_sorted());
        pace.set(None);
        assert_eq!(pace.take(1 << 40, begin), Duration::ZERO);
    }
}
