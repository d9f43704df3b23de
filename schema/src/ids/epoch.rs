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

/// Bits of a raft id that hold the index.
const INDEX_BITS: u32 = 48;

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

    /// The raft id of a server that joins by the entry at `index`. Two lives may each have an entry there, and their
    /// servers must not be taken for one another: so the number of the life stands in front. In the first life it is
    /// the index alone.
    #[must_use]
    pub fn raft_id(self, index: u64) -> u64 {
        let life = self.number.saturating_sub(1).min(u64::from(u16::MAX));
        (life << INDEX_BITS) | (index & ((1 << INDEX_BITS) - 1))
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

    #[test]
    fn no_two_lives_give_one_raft_id() {
        let first = Epoch {
            number: 1,
            recovery: 0,
        };
        assert_eq!(first.raft_id(1), 1);
        let next = first.next(9);
        assert_ne!(next.raft_id(40), first.raft_id(40));
        assert_ne!(next.raft_id(40), next.next(1).raft_id(40));
        assert_ne!(next.raft_id(40), next.raft_id(41));
    }
}
