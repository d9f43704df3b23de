//! The grid's time, where servers' clocks differ.

use std::collections::BTreeMap;

use coppice_schema::known::Skew;
use coppice_schema::units::{Span, Timestamp};

/// How far the time of an entry may be from the middle of the voters' clocks.
pub const APART: Span = Span::seconds(2);
/// A clock that is so far from the middle is wrong, and said to be.
const WRONG: Span = Span::seconds(5);

/// The time of an entry: the leader's clock, no further than [`APART`] from the middle of the voters', and never before
/// the last entry's. `ahead` says how far the other voters' clocks are ahead of the leader's, in milliseconds; without
/// any, the leader's own is all there is.
#[must_use]
pub fn entry_time(last: Timestamp, leader: Timestamp, ahead: &[i64]) -> Timestamp {
    let all = std::iter::once(0).chain(ahead.iter().copied());
    let middle = middle(all.collect());
    let apart = i64::try_from(APART.0).unwrap_or(i64::MAX);
    let correction = middle.saturating_sub(middle.clamp(-apart, apart));
    let now = if correction < 0 {
        Timestamp(leader.0.saturating_sub(correction.unsigned_abs()))
    } else {
        Timestamp(leader.0.saturating_add(correction.unsigned_abs()))
    };
    now.max(last)
}

/// The middle one; of an even number, what is between the two in the middle.
fn middle(mut all: Vec<i64>) -> i64 {
    all.sort_unstable();
    let upper = all.get(all.len() / 2).copied().unwrap_or(0);
    let lower = all.len().checked_sub(1).and_then(|n| all.get(n / 2));
    let lower = lower.copied().unwrap_or(upper);
    lower.midpoint(upper)
}

/// Whose clock is wrong, of all whose clock is known; by how far each is ahead of some clock, and how it was judged
/// `before`. One that was wrong is right again when it is within [`APART`].
#[must_use]
pub fn judge(
    ahead: &BTreeMap<u64, i64>,
    voters: impl Fn(u64) -> bool,
    before: impl Fn(u64) -> Option<Skew>,
) -> BTreeMap<u64, Option<Skew>> {
    let of_voters = ahead.iter().filter(|(id, _)| voters(**id));
    let middle = middle(of_voters.map(|(_, ahead)| *ahead).collect());
    let each = ahead.iter().map(|(id, ahead)| {
        let off = ahead.saturating_sub(middle);
        let skew = if off > 0 { Skew::Ahead } else { Skew::Behind };
        let was = before(*id);
        let bearable = if was == Some(skew) { APART } else { WRONG };
        (*id, (off.unsigned_abs() > bearable.0).then_some(skew))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_795_435_200_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(NOON.0.checked_add_signed(seconds * 1_000).expect("a time"))
    }

    #[test]
    fn a_leader_alone_and_one_among_its_like_is_believed() {
        assert_eq!(entry_time(at(-9), NOON, &[]), NOON);
        assert_eq!(entry_time(at(-9), NOON, &[900, -1_900]), NOON);
    }

    #[test]
    fn a_leader_whose_clock_is_wrong_is_held_to_the_others() {
        // Of three, the two others agree: an hour behind the leader, and an hour ahead.
        let hour = 3_600;
        let behind = [-hour * 1_000, -hour * 1_000];
        assert_eq!(entry_time(at(-9_999), NOON, &behind), at(2 - hour));
        let ahead = [hour * 1_000, hour * 1_000];
        assert_eq!(entry_time(at(-9_999), NOON, &ahead), at(hour - 2));
        // Whoever else is wrong moves nobody.
        assert_eq!(entry_time(at(-9_999), NOON, &[hour * 1_000, 0]), NOON);
        // Of two, nobody knows which is right.
        assert_eq!(entry_time(at(-9_999), NOON, &[20_000]), at(8));
    }

    #[test]
    fn time_never_goes_back() {
        assert_eq!(entry_time(at(60), NOON, &[]), at(60));
    }

    #[test]
    fn wrong_clocks_are_told_and_are_right_again_later_than_they_were_wrong() {
        let judged = |off: i64, before: Option<Skew>| {
            let ahead = BTreeMap::from([(1, 0), (2, 100), (3, off)]);
            let all = judge(&ahead, |_| true, |id| before.filter(|_| id == 3));
            assert_eq!((all[&1], all[&2]), (None, None));
            all[&3]
        };
        assert_eq!(judged(4_000, None), None);
        assert_eq!(judged(6_000, None), Some(Skew::Ahead));
        assert_eq!(judged(-6_000, None), Some(Skew::Behind));
        assert_eq!(judged(4_000, Some(Skew::Ahead)), Some(Skew::Ahead));
        assert_eq!(judged(1_500, Some(Skew::Ahead)), None);
        // Who does not vote is judged, and does not count.
        let ahead = BTreeMap::from([(1, 0), (2, 90_000), (3, 90_000)]);
        let all = judge(&ahead, |id| id == 1, |_| None);
        assert_eq!(all[&1], None);
        assert_eq!(all[&2], Some(Skew::Ahead));
    }
}
