//! The lives of a grid.

use serde::{Deserialize, Serialize};

/// Which life of the grid: raised whenever its log stops being the only truth about its desktops, that is by a
/// restore or a recovery alone.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Epoch {
    /// Counted from 1.
    pub number: u64,
    /// Random id of the recovery that began it, so that two recoveries of one grid can be told apart; 0 at first.
    pub recovery: u64,
}

/// How another server's epoch stands to one's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kin {
    /// The same life: the two may speak.
    Same,
    /// The other is of a former life: it is refused, and told to join again.
    Older,
    /// The other is of a later life: it is we who have to join again.
    Newer,
    /// Both are of lives that began apart: neither joins the other by itself, and a person says which one gives way.
    Split,
}

impl Epoch {
    /// How `theirs` stands to this one, as far as the two say it themselves. Who knows the former lives of a grid
    /// finds more that are apart: its state says it.
    #[must_use]
    pub fn kin(self, theirs: Self) -> Kin {
        match theirs.number.cmp(&self.number) {
            std::cmp::Ordering::Equal if theirs.recovery == self.recovery => Kin::Same,
            std::cmp::Ordering::Equal => Kin::Split,
            std::cmp::Ordering::Less => Kin::Older,
            std::cmp::Ordering::Greater => Kin::Newer,
        }
    }

    /// The life after this one, begun by `recovery`, which is drawn anew for each.
    #[must_use]
    pub fn next(self, recovery: u64) -> Self {
        Self {
            number: self.number.saturating_add(1),
            recovery,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_told_apart_by_number_and_by_what_began_them() {
        let first = Epoch {
            number: 1,
            recovery: 0,
        };
        let (mine, other) = (first.next(7), first.next(8));
        assert_eq!(mine.kin(mine), Kin::Same);
        assert_eq!(mine.kin(first), Kin::Older);
        assert_eq!(first.kin(mine), Kin::Newer);
        assert_eq!(mine.kin(other), Kin::Split);
        assert_eq!(other.kin(mine), Kin::Split);
    }
}
