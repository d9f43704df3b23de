//! A personal desktop goes on from a copy: only where its former life certainly ended, and then as another one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_plans::plan::{Base, Memory};
use coppice_schema::desired::Assignment;
use coppice_schema::ids::{Incarnation, Member, ServerId};
use coppice_schema::known::{
    DesktopSpec, Look, Phase, PowerState, Request, SeenReplica, ServerState, Task,
};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::entry::NewOrder;
use coppice_state::{Entry, Envelope, Outcome, Refusal, State, apply};
use grid::{GRID, Grid, TERM, config, root};

const THERE: ServerId = ServerId(77);
const LEASE: Span = Span::seconds(30);

/// A grid of two servers: a personal desktop on the first, and a copy of it on the other.
struct Pair {
    state: State,
    here: ServerId,
    former: DesktopSpec,
}

impl Pair {
    fn new() -> Self {
        let mut desired = config(1);
        for pool in desired.pools.values_mut() {
            pool.assignment = Assignment::Personal;
            pool.copies = 1;
        }
        let grid = Grid::settled(&desired);
        let mut state = grid.state.clone();
        let former = state.desktops.values().next().unwrap().spec.clone();
        let mut other = state.servers.values().next().unwrap().clone();
        other.name = "other".parse().unwrap();
        let mut look: Look = other.look.as_deref().unwrap().clone();
        look.members.clear();
        let copy = SeenReplica {
            image: root(),
            taken: Timestamp(1_700_000_000_000),
            bulk: 3,
        };
        look.replicas.insert(former.member.clone(), copy);
        other.look = Some(Arc::new(look));
        state.servers.insert(THERE, other);
        Self {
            state,
            here: grid.server,
            former,
        }
    }

    fn propose(&mut self, entry: Entry) -> Outcome {
        let at = self.state.time.after(Span::seconds(1));
        let index = self.state.index + 1;
        apply(&mut self.state, TERM, index, &Envelope { at, entry })
    }

    fn home(&mut self) -> &mut coppice_state::state::Server {
        self.state.servers.get_mut(&self.here).unwrap()
    }

    /// What was seen of it last: whether the watchdog held it.
    fn guarded(&mut self, guarded: bool) {
        let member = self.former.member.clone();
        let look = self.home().look.as_mut().unwrap();
        let seen = Arc::make_mut(look).members.get_mut(&member).unwrap();
        seen.domain.as_mut().unwrap().guarded = guarded;
    }

    fn leased(&mut self) -> Outcome {
        let (server, lease, read) = (self.here, Some(LEASE), self.state.index);
        self.propose(Entry::ServerLease {
            server,
            lease,
            read,
        })
    }

    fn lost(&mut self) {
        let (server, read) = (self.here, self.state.index);
        let silent = Span::seconds(5);
        let lost = Entry::ServerLost {
            server,
            silent,
            read,
        };
        assert_eq!(self.propose(lost), Outcome::Done);
    }

    fn fenced(&mut self) -> Outcome {
        let server = self.here;
        let spoke = self.state.servers[&server].spoke;
        self.propose(Entry::ServerFenced { server, spoke })
    }

    fn next_life(&self) -> DesktopSpec {
        let member: Member = self.former.member.desktop.member(Incarnation(2));
        DesktopSpec {
            uuid: member
                .desktop
                .uuid(GRID, self.state.epoch, member.incarnation),
            member,
            ..self.former.clone()
        }
    }

    fn restore(&mut self, spec: DesktopSpec, from: Member, on: ServerId) -> Outcome {
        let order = NewOrder {
            server: on,
            task: Task::Restore {
                spec: spec.clone(),
                from,
            },
            not_before: self.state.time,
            deadline: self.state.time.after(Span::minutes(10)),
            memory: Memory::Restored {
                spec: Box::new(spec),
            },
        };
        self.propose(Entry::Planned {
            term: 0,
            base: Base::default(),
            orders: vec![order],
            findings: BTreeSet::new(),
            settled: false,
        })
    }

    /// As it should be.
    fn restored(&mut self) -> Outcome {
        let (spec, from) = (self.next_life(), self.former.member.clone());
        self.restore(spec, from, THERE)
    }
}

#[track_caller]
fn refused(outcome: Outcome) -> Refusal {
    let Outcome::Refused(refusal) = outcome else {
        panic!("{outcome:?}");
    };
    refusal
}

#[test]
fn it_goes_on_from_a_copy_once_its_server_is_fenced() {
    let mut pair = Pair::new();
    pair.guarded(true);
    assert_eq!(pair.leased(), Outcome::Done);
    refused(pair.restored());
    pair.lost();
    refused(pair.restored());
    assert_eq!(pair.fenced(), Outcome::Done);
    let (next, former) = (pair.next_life(), pair.former.clone());
    // Neither of another life, nor as the life that it had, nor where there is no copy.
    let other = former.member.desktop.member(Incarnation(7));
    refused(pair.restore(next.clone(), other, THERE));
    refused(pair.restore(former.clone(), former.member.clone(), THERE));
    pair.state.servers.insert(ServerId(78), {
        let mut third = pair.state.servers[&THERE].clone();
        Arc::make_mut(third.look.as_mut().unwrap()).replicas.clear();
        third
    });
    refused(pair.restore(next, former.member.clone(), ServerId(78)));
    assert_eq!(pair.restored(), Outcome::Done);
    let desktop = pair.state.desktops.values().next().unwrap();
    assert_eq!(
        (desktop.server, desktop.incarnation),
        (THERE, Incarnation(2))
    );
    assert!(desktop.personal && matches!(desktop.phase, Phase::Provisioning { .. }));
    refused(pair.restored());
}

#[test]
fn one_that_may_still_run_stays_where_it_is() {
    // It was not held.
    let mut pair = Pair::new();
    pair.leased();
    pair.lost();
    pair.fenced();
    refused(pair.restored());
    // Its server has no lease.
    let mut pair = Pair::new();
    pair.guarded(true);
    pair.lost();
    refused(pair.fenced());
    refused(pair.restored());
    // It came back.
    let mut pair = Pair::new();
    pair.guarded(true);
    pair.leased();
    pair.lost();
    pair.fenced();
    let look = pair.home().look.clone().unwrap();
    let back = Entry::Confirmed {
        server: pair.here,
        boot: look.boot,
        sequence: look.sequence,
        term: TERM,
    };
    assert_eq!(pair.propose(back), Outcome::Done);
    assert!(!pair.home().fenced);
    refused(pair.restored());
    refused(pair.fenced());
}

#[test]
fn one_that_was_off_needs_nobody_to_end_it() {
    let mut pair = Pair::new();
    let member = pair.former.member.clone();
    let look = pair.home().look.as_mut().unwrap();
    let seen = Arc::make_mut(look).members.get_mut(&member).unwrap();
    seen.domain.as_mut().unwrap().power = PowerState::Off;
    pair.leased();
    pair.lost();
    refused(pair.restored());
    pair.fenced();
    assert_eq!(pair.restored(), Outcome::Done);
}

#[test]
fn the_lease_of_a_lost_server_stays_what_others_count_with() {
    let mut pair = Pair::new();
    pair.leased();
    pair.lost();
    let (server, lease, read) = (pair.here, Some(Span::minutes(10)), pair.state.index);
    let longer = Entry::ServerLease {
        server,
        lease,
        read,
    };
    refused(pair.propose(longer));
    assert_eq!(pair.home().lease, Some(LEASE));
}

#[test]
fn of_a_server_that_is_gone_for_good_what_has_copies_is_left() {
    let mut pair = Pair::new();
    pair.lost();
    let removed = Entry::ServerRemoved {
        server: pair.here,
        gone: true,
        author: "ada".to_owned(),
    };
    assert_eq!(pair.propose(removed), Outcome::Done);
    let desktop = pair.state.desktops.values().next().unwrap();
    assert!(matches!(desktop.phase, Phase::Unknown { .. }));
    assert_eq!(pair.restored(), Outcome::Done);

    let mut pair = Pair::new();
    let there = pair.state.servers.get_mut(&THERE).unwrap();
    Arc::make_mut(there.look.as_mut().unwrap()).replicas.clear();
    pair.lost();
    let removed = Entry::ServerRemoved {
        server: pair.here,
        gone: true,
        author: "ada".to_owned(),
    };
    assert_eq!(pair.propose(removed), Outcome::Done);
    assert_eq!(pair.state.desktops.len(), 0);
}

#[test]
fn what_may_run_under_a_lease_is_waited_for_when_its_server_is_removed() {
    let mut pair = Pair::new();
    pair.guarded(true);
    pair.leased();
    pair.lost();
    let removed = Entry::ServerRemoved {
        server: pair.here,
        gone: true,
        author: "ada".to_owned(),
    };
    assert_eq!(pair.propose(removed), Outcome::Done);
    refused(pair.restored());
    // It was back, and lost again, after that was decided.
    let server = pair.here;
    let early = Entry::ServerFenced { server, spoke: 0 };
    assert!(matches!(refused(pair.propose(early)), Refusal::Heard(_)));
    assert_eq!(pair.fenced(), Outcome::Done);
    assert_eq!(pair.restored(), Outcome::Done);
}

#[test]
fn what_it_was_before_is_removed_by_a_persons_word_only() {
    let mut pair = Pair::new();
    pair.guarded(true);
    pair.leased();
    pair.lost();
    pair.fenced();
    assert_eq!(pair.restored(), Outcome::Done);
    let (server, member) = (pair.here, pair.former.member.clone());
    let discard = |member| Entry::Requested {
        request: Request::Discard { member, server },
        author: "ada".to_owned(),
    };
    let present = pair.next_life().member;
    refused(pair.propose(discard(present)));
    assert_eq!(pair.propose(discard(member)), Outcome::Done);
    assert_eq!(pair.home().state, ServerState::Lost);
}
