//! What came about in a storm, by its log: storms in which nothing of it does prove nothing about it.

use std::iter::Sum;
use std::ops::Add;

use coppice_plans::plan::Memory;
use coppice_schema::known::{Request, Task};
use coppice_state::{Entry, Outcome};

use crate::agreement::Logged;

/// How often what came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Servers were lost.
    pub lost: u64,
    /// Running desktops were let in on another server.
    pub moved: u64,
    /// Desktops went because a person levelled the load, and another was ready elsewhere.
    pub levelled: u64,
    /// Personal desktops went on from copies.
    pub restored: u64,
}

impl Tally {
    pub(super) fn of(log: &[Logged]) -> Self {
        let agreed = |logged: &&Logged| !matches!(logged.outcome, Outcome::Refused(_));
        log.iter().filter(agreed).map(Self::in_one).sum()
    }

    fn in_one(logged: &Logged) -> Self {
        let mut tally = Self::default();
        // Of all entries, only these say so.
        if let Entry::ServerLost { .. } = &logged.envelope.entry {
            tally.lost += 1;
        }
        if let Entry::Planned { orders, .. } = &logged.envelope.entry {
            for order in orders {
                let enters = matches!(order.task, Task::Enter { .. });
                tally.moved += u64::from(enters && matches!(order.memory, Memory::Switched));
                tally.restored += u64::from(matches!(order.task, Task::Restore { .. }));
                let Task::Remove { member } = &order.task else {
                    continue;
                };
                let asked = logged.before.requests.get(&member.desktop);
                let moves = |request: &Request| matches!(request, Request::Move { member: it, .. } if it == member);
                tally.levelled += u64::from(asked.is_some_and(moves));
            }
        }
        tally
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            moved: self.moved + other.moved,
            levelled: self.levelled + other.levelled,
            restored: self.restored + other.restored,
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
