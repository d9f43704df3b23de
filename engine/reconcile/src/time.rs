//! The grid's time between its entries.

use coppice_schema::units::{Span, Timestamp};

/// The time by which a server acts: the grid's as of its last entry, and since then as time passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GridTime {
    /// When it was asked last: by monotonic time, and as it is counted here.
    last: Option<(Span, Timestamp)>,
}

impl GridTime {
    /// The time now. Before anything reports here, there is an entry of now. The clock here counts only where there is no
    /// entry yet: one that is wrong would make orders wait for it, or be too old for it.
    pub(crate) fn go_on(&mut self, clock: Timestamp, passed: Span, grid: Timestamp) -> Timestamp {
        let now = match self.last {
            Some((then, last)) => last.after(Span(passed.0.saturating_sub(then.0))).max(grid),
            None if grid == Timestamp::default() => clock,
            None => grid,
        };
        self.last = Some((passed, now));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_whoever_sets_the_clock() {
        let at = |minutes: u64| Timestamp(Span::minutes(minutes).0);
        let mut time = GridTime::default();
        let mut go_on =
            |clock, passed, grid| time.go_on(at(clock), Span::minutes(passed), at(grid));
        assert_eq!(go_on(500, 7, 0), at(500), "there is no other");
        assert_eq!(go_on(400, 8, 0), at(501), "it was set back");
        assert_eq!(go_on(900, 9, 0), at(502), "and ahead");
        assert_eq!(go_on(901, 10, 600), at(600), "never before the grid's");
        assert_eq!(go_on(902, 11, 600), at(601));
        assert_eq!(
            GridTime::default().go_on(at(900), Span(0), at(600)),
            at(600)
        );
    }
}
