//! A desktop on its way to another server: each step follows the one before, and it never goes on in two places.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use std::collections::BTreeSet;

use coppice_plans::plan::{Base, Memory};
use coppice_schema::ids::{Member, ServerId, Stamp};
use coppice_schema::known::{DesktopSpec, KnownDesktop, MoveStep, Phase, Task};
use coppice_schema::units::Span;
use coppice_state::entry::{Attempt, NewOrder};
use coppice_state::{Entry, Envelope, Outcome, State, apply};
use grid::{Grid, TERM, config};

const THERE: ServerId = ServerId(77);

/// The orders of a move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Order {
    Receive,
    Send,
    Enter,
    Stay,
}

const ALL: [Order; 4] = [Order::Receive, Order::Send, Order::Enter, Order::Stay];

/// A grid of two servers, with one desktop on the first.
struct Way {
    state: State,
    here: ServerId,
    spec: DesktopSpec,
}

impl Way {
    fn new() -> Self {
        let grid = Grid::settled(&config(1));
        let mut state = grid.state.clone();
        let mut other = state.servers.values().next().unwrap().clone();
        other.name = "other".parse().unwrap();
        state.servers.insert(THERE, other);
        let spec = state.desktops.values().next().unwrap().spec.clone();
        Self {
            state,
            here: grid.server,
            spec,
        }
    }

    fn propose(&mut self, entry: Entry) -> Outcome {
        let at = self.state.time.after(Span::seconds(1));
        let index = self.state.index + 1;
        apply(&mut self.state, TERM, index, &Envelope { at, entry })
    }

    fn give(&mut self, order: Order) -> bool {
        let spec = self.spec.clone();
        let member: Member = spec.member.clone();
        let (server, task, memory) = match order {
            Order::Receive => {
                let memory = Memory::Moving {
                    to: THERE,
                    spec: Box::new(spec.clone()),
                };
                (THERE, Task::Receive { spec }, memory)
            }
            Order::Send => (self.here, Task::Send { member, to: THERE }, Memory::Copying),
            Order::Enter => (THERE, Task::Enter { spec }, Memory::Switched),
            Order::Stay => (self.here, Task::Stay { member }, Memory::Returning),
        };
        let order = NewOrder {
            server,
            task,
            not_before: self.state.time,
            deadline: self.state.time.after(Span::minutes(10)),
            memory,
        };
        let given = self.propose(Entry::Planned {
            term: 0,
            base: Base::default(),
            orders: vec![order],
            findings: BTreeSet::new(),
            settled: false,
        });
        given == Outcome::Done
    }

    fn open(&self) -> (Stamp, ServerId) {
        let (stamp, order) = self.state.orders.iter().next().unwrap();
        (*stamp, order.server)
    }

    fn done(&mut self) {
        let (stamp, server) = self.open();
        let result = Attempt::Done;
        let entry = Entry::Receipt {
            server,
            stamp,
            result,
        };
        assert_eq!(self.propose(entry), Outcome::Done);
    }

    fn withdrawn(&mut self) {
        let (stamp, _) = self.open();
        let why = "it took too long".to_owned();
        assert_eq!(self.propose(Entry::Withdrawn { stamp, why }), Outcome::Done);
    }

    fn desktop(&self) -> &KnownDesktop {
        self.state.desktops.values().next().unwrap()
    }

    fn step(&self) -> Option<MoveStep> {
        if let Phase::Migrating { step, .. } = &self.desktop().phase {
            Some(*step)
        } else {
            None
        }
    }

    /// Demands that these orders could be given now, and no others.
    #[track_caller]
    fn may(&self, expected: &[Order]) {
        let may = ALL.into_iter().filter(|order| {
            let mut world = Self {
                state: self.state.clone(),
                here: self.here,
                spec: self.spec.clone(),
            };
            world.give(*order)
        });
        let may: Vec<Order> = may.collect();
        assert_eq!(may, expected, "at {:?}", self.desktop().phase);
    }
}

#[test]
fn each_step_of_a_move_follows_the_one_before() {
    let mut way = Way::new();
    way.may(&[Order::Receive]);
    assert!(way.give(Order::Receive));
    // While an order is open, on whichever server, there is no other.
    way.may(&[]);
    way.done();
    assert_eq!(way.step(), Some(MoveStep::Prepared));
    way.may(&[Order::Send, Order::Stay]);
    assert!(way.give(Order::Send));
    way.may(&[]);
    way.done();
    assert_eq!(way.step(), Some(MoveStep::Copied));
    assert_eq!(way.desktop().server, way.here, "it is still here");
    way.may(&[Order::Enter, Order::Stay]);
    assert!(way.give(Order::Enter));
    assert_eq!(way.desktop().server, THERE);
    // Whatever becomes of that order, there is no way back.
    way.withdrawn();
    assert_eq!(way.step(), Some(MoveStep::Switched));
    way.may(&[Order::Enter]);
    assert!(way.give(Order::Enter));
    way.done();
    assert_eq!(way.step(), None);
    assert_eq!(way.desktop().server, THERE);
    assert_eq!(way.desktop().stayed.failures.count, 0);
}

#[test]
fn what_came_to_nothing_can_only_be_taken_back() {
    for steps in [[Order::Receive].as_slice(), &[Order::Receive, Order::Send]] {
        let mut way = Way::new();
        let (last, before) = steps.split_last().unwrap();
        for order in before {
            assert!(way.give(*order));
            way.done();
        }
        assert!(way.give(*last));
        way.withdrawn();
        way.may(&[Order::Stay]);
        assert!(way.give(Order::Stay));
        way.may(&[]);
        // Told again, it counts once.
        way.withdrawn();
        way.may(&[Order::Stay]);
        assert!(way.give(Order::Stay));
        way.done();
        assert_eq!(way.step(), None);
        assert_eq!(way.desktop().server, way.here);
        assert_eq!(way.desktop().stayed.failures.count, 1);
        assert!(!matches!(way.desktop().phase, Phase::Broken { .. }));
    }
}

#[test]
fn a_late_receipt_moves_nothing_on() {
    let mut way = Way::new();
    assert!(way.give(Order::Receive));
    way.done();
    assert!(way.give(Order::Send));
    let (stamp, server) = way.open();
    way.withdrawn();
    assert!(way.give(Order::Stay));
    let before = way.desktop().clone();
    let late = Entry::Receipt {
        server,
        stamp,
        result: Attempt::Done,
    };
    assert!(matches!(way.propose(late), Outcome::Refused(_)));
    assert_eq!(*way.desktop(), before);
}

/// A move that has come to `step`, with no order open.
fn at(step: MoveStep) -> Way {
    let mut way = Way::new();
    let done: &[Order] = match step {
        MoveStep::Preparing => &[],
        MoveStep::Prepared | MoveStep::Copying => &[Order::Receive],
        MoveStep::Copied | MoveStep::Switched | MoveStep::Returning => {
            &[Order::Receive, Order::Send]
        }
    };
    for order in done {
        assert!(way.give(*order));
        way.done();
    }
    let begun = match step {
        MoveStep::Preparing => Some(Order::Receive),
        MoveStep::Copying => Some(Order::Send),
        MoveStep::Switched => Some(Order::Enter),
        MoveStep::Returning => Some(Order::Stay),
        MoveStep::Prepared | MoveStep::Copied => None,
    };
    if let Some(order) = begun {
        assert!(way.give(order));
        way.withdrawn();
    }
    assert_eq!(way.step(), Some(step));
    way
}

const STEPS: [MoveStep; 6] = [
    MoveStep::Preparing,
    MoveStep::Prepared,
    MoveStep::Copying,
    MoveStep::Copied,
    MoveStep::Switched,
    MoveStep::Returning,
];

#[test]
fn a_server_that_is_lost_decides_nothing() {
    for step in STEPS {
        for sender in [true, false] {
            let mut way = at(step);
            let server = if sender { way.here } else { THERE };
            let before = way.desktop().server;
            let read = way.state.index;
            let lost = Entry::ServerLost {
                server,
                silent: Span::seconds(5),
                read,
            };
            assert_eq!(way.propose(lost), Outcome::Done);
            // What stands still there goes on by one of two words only, and which is still to be said.
            assert_eq!(way.step(), Some(step));
            assert_eq!(way.desktop().server, before);
            let why = &way.desktop().stayed.why;
            assert_eq!(!sender, why.contains("other was lost"), "{why:?}");
        }
    }
}

#[test]
fn no_end_of_a_move_is_removed_while_it_is_on_its_way() {
    for step in STEPS {
        for server in [at(step).here, THERE] {
            let removed = Entry::ServerRemoved {
                server,
                gone: false,
                author: "test".to_owned(),
            };
            let outcome = at(step).propose(removed);
            assert!(matches!(outcome, Outcome::Refused(_)), "{step:?}");
        }
    }
}

#[test]
fn of_two_halves_the_one_that_is_left_goes_on() {
    for step in STEPS {
        for sender in [true, false] {
            let mut way = at(step);
            let (server, other) = if sender {
                (way.here, THERE)
            } else {
                (THERE, way.here)
            };
            let whole_there = step >= MoveStep::Copied && step <= MoveStep::Switched;
            let is_left = way.desktop().server == other || whole_there;
            let removed = Entry::ServerRemoved {
                server,
                gone: true,
                author: "test".to_owned(),
            };
            assert_eq!(way.propose(removed), Outcome::Done);
            if !is_left {
                assert_eq!(way.state.desktops.len(), 0, "{step:?} {sender}");
                continue;
            }
            assert_eq!(way.desktop().server, other, "{step:?} {sender}");
            let next = match (step, sender) {
                (MoveStep::Copied | MoveStep::Switched, true) => Order::Enter,
                _ => Order::Stay,
            };
            assert!(way.give(next), "{step:?} {sender}");
            way.done();
            assert_eq!(way.step(), None);
            assert_eq!(way.desktop().server, other);
        }
    }
}

#[test]
fn what_cannot_go_on_where_it_has_come_is_there_all_the_same() {
    let mut way = at(MoveStep::Copied);
    assert!(way.give(Order::Enter));
    let (stamp, server) = way.open();
    let result = Attempt::Refused {
        error: "it has no overlay on this server".to_owned(),
    };
    let refused = Entry::Receipt {
        server,
        stamp,
        result,
    };
    assert_eq!(way.propose(refused), Outcome::Done);
    assert_eq!(way.step(), None, "it is as it is seen to be");
    assert_eq!(way.desktop().server, THERE);
}
