//! What a person looked at before a configuration was committed, in so far as it can hurt.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{PoolName, Slot};
use crate::units::Timestamp;

/// Kinds of action.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something new.
    Create,
    /// A change in place.
    Update,
    /// A new one before the old one goes.
    ReplaceCreateFirst,
    /// The old one goes before the new one comes.
    ReplaceDeleteFirst,
    /// It goes.
    Delete,
    /// It is no longer looked after, and stays.
    Forget,
    /// Something that was there is looked after from now on.
    Adopt,
    /// The same thing under another name.
    Move,
    /// An image to another server.
    CopyImage,
    /// To another server, while it runs.
    Migrate,
    /// A server is emptied.
    Drain,
    /// Off and on again.
    Reboot,
    /// On.
    PowerOn,
    /// Off.
    PowerOff,
}

/// How badly an action can hurt.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Nobody notices.
    Safe,
    /// Somebody may notice.
    Notice,
    /// Somebody is interrupted, or a pool has fewer desktops for a while.
    Disruptive,
    /// Something is gone for good.
    DataLoss,
}

/// Disruptive or worse actions of one kind on desktops of one pool, as a person saw them in a plan and applied it.
/// What cannot hurt is not kept, and slots are kept as ranges: ten thousand desktops are a few bytes of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reviewed {
    /// The pool.
    pub pool: PoolName,
    /// What.
    pub kind: Kind,
    /// How badly it could hurt, at worst.
    pub risk: Risk,
    /// To which desktops: the first and the last slot of each range.
    pub slots: BTreeMap<Slot, Slot>,
    /// To how many more, whichever they will be: what a roll-out makes beyond the pool's size goes at its end.
    #[serde(default)]
    pub extra: u32,
}

impl Reviewed {
    /// Slots in rising order as ranges.
    #[must_use]
    pub fn ranges(slots: impl IntoIterator<Item = Slot>) -> BTreeMap<Slot, Slot> {
        let mut ranges: BTreeMap<Slot, Slot> = BTreeMap::new();
        for slot in slots {
            match ranges.last_entry() {
                Some(mut range) if range.get().0.saturating_add(1) >= slot.0 => {
                    range.insert(slot);
                }
                _ => {
                    ranges.insert(slot, slot);
                }
            }
        }
        ranges
    }

    /// Whether the slot is one of those that were named.
    #[must_use]
    pub fn names(&self, slot: Slot) -> bool {
        let before = self.slots.range(..=slot).next_back();
        before.is_some_and(|(_, last)| slot <= *last)
    }
}

/// A run that is not finished: only what was reviewed of it, or of another one under way, is done without asking.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownRun {
    /// When it began.
    pub started: Timestamp,
    /// What was reviewed.
    #[serde(default)]
    pub reviewed: Vec<Reviewed>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_desktops_are_one_range_and_a_gap_is_not_in_it() {
        let ranges = Reviewed::ranges((1..=10_000).filter(|n| *n != 7).map(Slot));
        assert_eq!(
            ranges,
            BTreeMap::from([(Slot(1), Slot(6)), (Slot(8), Slot(10_000))])
        );
        let reviewed = Reviewed {
            pool: "lab".parse().unwrap(),
            kind: Kind::Delete,
            risk: Risk::Disruptive,
            slots: ranges,
            extra: 0,
        };
        let named: Vec<u32> = [0, 1, 6, 7, 8, 10_000, 10_001]
            .into_iter()
            .filter(|n| reviewed.names(Slot(*n)))
            .collect();
        assert_eq!(named, [1, 6, 8, 10_000]);
    }
}
