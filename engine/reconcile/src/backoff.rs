//! When something that failed is tried again.

use coppice_schema::units::Span;

/// The first retry comes after 1 to 2 s: most failures are a service that restarts.
pub const SHORTEST: Span = Span::seconds(1);
/// Beyond ten minutes an admin would wait longer for the grid than the grid for the cause.
pub const LONGEST: Span = Span::minutes(10);

/// How long to wait before `object` is tried again after `attempts` failures: full jitter between [`SHORTEST`] and
/// a limit that doubles with each failure up to [`LONGEST`].
///
/// A function of its arguments, so that a round can be repeated. Objects that failed together are spread, because
/// each has a jitter of its own.
#[must_use]
pub fn wait(object: &str, attempts: u32) -> Span {
    let doubled = 1u64
        .checked_shl(attempts.saturating_add(1))
        .unwrap_or(u64::MAX);
    let limit = SHORTEST.0.saturating_mul(doubled).min(LONGEST.0);
    let room = limit - SHORTEST.0;
    Span(SHORTEST.0 + spread(&format!("{object} {attempts}")) % (room + 1))
}

/// 64 bits that follow from `text` and look like chance.
pub(crate) fn spread(text: &str) -> u64 {
    let digest = coppice_schema::Digest::of(text.as_bytes());
    digest
        .0
        .iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_their_limits_and_differ_by_object() {
        for attempts in [0, 1, 5, 9, 10, 63, 64, u32::MAX] {
            let each = |n: u32| wait(&format!("lab-{n:03}"), attempts);
            let waits: Vec<Span> = (0..50).map(each).collect();
            assert!(waits.iter().all(|w| (SHORTEST..=LONGEST).contains(w)));
            assert!(waits.iter().any(|w| *w != waits[0]));
            assert_eq!(each(7), each(7));
        }
    }

    #[test]
    fn the_limit_doubles() {
        let longest = |attempts| (0..500).map(|n| wait(&format!("{n}"), attempts)).max();
        assert!(longest(0) <= Some(Span::seconds(2)));
        assert!(longest(3) > Some(Span::seconds(8)));
        assert!(longest(3) <= Some(Span::seconds(16)));
    }
}
