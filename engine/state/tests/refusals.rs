//! An entry that no longer fits is refused, and changes nothing but time and position.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use std::collections::BTreeSet;

use coppice_plans::plan::{Base, Memory};
use coppice_schema::Digest;
use coppice_schema::desired::Origin;
use coppice_schema::ids::{Address, DesktopId, Incarnation, Member, ServerId, ServerName, Stamp};
use coppice_schema::known::{DiskLevel, Ending, Health, ImageVersion, Phase, Request, Task};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::{Attempt, NewOrder, NewServer, Report};
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Outcome, Refusal};
use grid::{GRID, Grid, TERM, config, root};

/// Proposes `entry`, which is refused.
#[track_caller]
fn refused(grid: &mut Grid, entry: Entry) -> Refusal {
    let before = grid.state.clone();
    let outcome = grid.propose(entry);
    let mut after = grid.state.clone();
    (after.time, after.index, after.term) = (before.time, before.index, before.term);
    assert_eq!(after, before, "it was refused, and changed something");
    let Outcome::Refused(refusal) = outcome else {
        panic!("it was not refused")
    };
    refusal
}

type Expected = fn(&Refusal) -> bool;

fn exists(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Exists(_))
}

fn absent(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Absent(_))
}

fn member(name: &str) -> Member {
    name.parse().unwrap()
}

fn order(grid: &Grid, task: Task, memory: Memory) -> NewOrder {
    NewOrder {
        server: grid.server,
        task,
        not_before: grid.now,
        deadline: grid.now.after(Span::minutes(10)),
        memory,
    }
}

fn planned(orders: Vec<NewOrder>) -> Entry {
    Entry::Planned {
        term: 0,
        base: Base::default(),
        orders,
        findings: BTreeSet::new(),
        settled: false,
    }
}

#[test]
fn a_grid_is_founded_once() {
    let mut grid = Grid::founded();
    let again = Entry::Founded {
        grid: GRID,
        epoch: grid.state.epoch,
        server: NewServer {
            name: "s2".parse::<ServerName>().unwrap(),
            raft_id: 2,
            api: "127.0.0.1:2".to_owned(),
        },
        token: (
            TokenId("other".to_owned()),
            Token {
                hash: Digest([2; 32]),
                scope: Scope::Admin,
                created: Timestamp(0),
                expires: None,
            },
        ),
    };
    assert_eq!(refused(&mut grid, again), Refusal::Founded(GRID));
}

#[test]
fn reports_follow_one_another() {
    let mut grid = Grid::settled(&config(1));
    let last = grid.sequence;
    let report = |server, boot, sequence| {
        Entry::Reported(Box::new(Report {
            server,
            boot,
            sequence,
            members: Default::default(),
            images: Default::default(),
            foreign: Default::default(),
            quarantine: Default::default(),
            replicas: Default::default(),
            disk: DiskLevel::Critical,
            hypervisor: Health::Well,
        }))
    };
    let server = grid.server;
    for found in [last - 1, last, last + 2] {
        assert_eq!(
            refused(&mut grid, report(server, 1, found)),
            Refusal::OutOfOrder { last, found }
        );
    }
    // The first of a start is whole: a difference would be to nothing.
    assert_eq!(
        refused(&mut grid, report(server, 2, 2)),
        Refusal::OutOfOrder { last: 0, found: 2 }
    );
    assert!(absent(&refused(&mut grid, report(ServerId(99), 1, 1))));
    for (boot, sequence) in [(1, last - 1), (1, last + 1), (2, last)] {
        let confirmed = Entry::Confirmed {
            server,
            boot,
            sequence,
            term: TERM + 1,
        };
        assert_eq!(
            refused(&mut grid, confirmed),
            Refusal::OutOfOrder {
                last,
                found: sequence
            }
        );
    }
}

#[test]
fn an_order_that_contradicts_what_is_remembered_is_not_given() {
    let mut grid = Grid::settled(&config(2));
    let spec = |name: &str| {
        let mut spec = grid.state.desktops.values().next().unwrap().spec.clone();
        spec.member = member(name);
        spec
    };
    let grown = |name: &str, remembered: &str| {
        let memory = Memory::Grown {
            spec: Box::new(spec(remembered)),
            personal: false,
        };
        let task = Task::Create {
            spec: spec(name),
            start: true,
        };
        order(&grid, task, memory)
    };
    let remove = |name: &str, memory| {
        let task = Task::Remove {
            member: member(name),
        };
        order(&grid, task, memory)
    };
    let elsewhere = NewOrder {
        server: ServerId(99),
        ..remove("lab-001@1", Memory::Leaving)
    };
    let nobody = NewOrder {
        server: ServerId(99),
        ..order(&grid, Task::DropImage { root: root() }, Memory::Unchanged)
    };
    let cases: [(&str, NewOrder, Expected); 9] = [
        ("an image of no member", nobody, absent),
        (
            "a slot that is taken",
            grown("lab-001@2", "lab-001@2"),
            exists,
        ),
        (
            "another than remembered",
            grown("lab-003@1", "lab-003@2"),
            exists,
        ),
        (
            "a desktop that is no stray",
            remove("lab-001@1", Memory::Unchanged),
            exists,
        ),
        ("another life", remove("lab-001@2", Memory::Leaving), absent),
        (
            "an empty slot",
            remove("lab-009@1", Memory::Leaving),
            absent,
        ),
        ("no member", elsewhere, absent),
        (
            "a restart of another life",
            order(
                &grid,
                Task::Restart {
                    ending: Ending::Asked,
                    member: member("lab-001@2"),
                },
                Memory::Unchanged,
            ),
            absent,
        ),
        (
            "a start in an empty slot",
            order(
                &grid,
                Task::Start {
                    member: member("lab-009@1"),
                },
                Memory::Unchanged,
            ),
            absent,
        ),
    ];
    for (what, new, expected) in cases {
        let refusal = refused(&mut grid, planned(vec![new]));
        assert!(expected(&refusal), "{what}: {refusal}");
    }
}

#[test]
fn a_slot_never_has_a_life_twice() {
    let mut grid = Grid::settled(&config(1));
    let spec = grid.state.desktops.values().next().unwrap().spec.clone();
    grid.commit(&config(0));
    grid.settle();
    assert!(grid.state.desktops.is_empty());
    let memory = Memory::Grown {
        spec: Box::new(spec.clone()),
        personal: false,
    };
    let again = order(&grid, Task::Create { spec, start: true }, memory);
    assert!(exists(&refused(&mut grid, planned(vec![again]))));
}

#[test]
fn a_desktop_has_one_order_at_a_time() {
    let mut grid = Grid::settled(&config(2));
    let restart = |grid: &Grid, name: &str| {
        let member = member(name);
        order(
            grid,
            Task::Restart {
                member,
                ending: Ending::Asked,
            },
            Memory::Unchanged,
        )
    };
    let both = vec![restart(&grid, "lab-001@1"), restart(&grid, "lab-001@1")];
    assert!(exists(&refused(&mut grid, planned(both))));
    let one = planned(vec![restart(&grid, "lab-001@1")]);
    assert_eq!(grid.propose(one.clone()), Outcome::Done);
    assert!(exists(&refused(&mut grid, one)));
    let of_another = planned(vec![restart(&grid, "lab-002@1")]);
    assert_eq!(grid.propose(of_another), Outcome::Done);
}

#[test]
fn orders_of_a_plan_that_read_something_else_are_not_given() {
    let mut grid = Grid::founded();
    grid.commit(&config(1));
    let plan = grid.plan_for(&config(1));
    let step = plan.actions[0].step.clone().unwrap();
    let new = order(&grid, step.task, step.memory);
    grid.commit(&config(2));
    let late = Entry::Planned {
        term: 0,
        base: plan.base,
        orders: vec![new],
        findings: BTreeSet::new(),
        settled: false,
    };
    assert!(matches!(refused(&mut grid, late), Refusal::Stale(_)));
}

#[test]
fn what_a_leader_of_an_earlier_term_decided_is_not_ordered() {
    let mut grid = Grid::founded();
    grid.commit(&config(1));
    let plan = grid.plan_for(&config(1));
    let step = plan.actions[0].step.clone().unwrap();
    let new = order(&grid, step.task, step.memory);
    let of_term = |term| Entry::Planned {
        term,
        base: plan.base.clone(),
        orders: vec![new.clone()],
        findings: BTreeSet::new(),
        settled: false,
    };
    let refusal = refused(&mut grid, of_term(TERM - 1));
    let decided = TERM - 1;
    assert_eq!(refusal, Refusal::Deposed { decided, now: TERM });
    assert_eq!(grid.propose(of_term(TERM)), Outcome::Done);
}

#[test]
fn only_the_server_that_was_told_says_how_it_went() {
    let mut grid = Grid::settled(&config(1));
    let other = grid.state.servers[&grid.server].clone();
    grid.state.servers.insert(ServerId(99), other);
    let member = member("lab-001@1");
    let new = order(
        &grid,
        Task::Restart {
            member,
            ending: Ending::Asked,
        },
        Memory::Unchanged,
    );
    assert_eq!(grid.propose(planned(vec![new])), Outcome::Done);
    let stamp = *grid.state.orders.keys().next().unwrap();
    let receipt = |server, stamp| Entry::Receipt {
        server,
        stamp,
        result: Attempt::Done,
    };
    assert!(absent(&refused(&mut grid, receipt(ServerId(99), stamp))));
    let server = grid.server;
    assert!(absent(&refused(
        &mut grid,
        receipt(server, Stamp::default())
    )));
    let withdrawn = Entry::Withdrawn {
        stamp: Stamp::default(),
        why: "late".to_owned(),
    };
    assert!(absent(&refused(&mut grid, withdrawn)));
    assert_eq!(grid.propose(receipt(server, stamp)), Outcome::Done);
}

fn imported(grid: &Grid, version: &str, source: &[u8], root: Digest) -> Entry {
    Entry::ImageImported {
        image: "tiny".parse().unwrap(),
        version: version.parse().unwrap(),
        record: ImageVersion {
            source: Digest::of(source),
            root,
            size: Size::mib(64),
            data: Size::mib(16),
            imported: Timestamp(0),
        },
        server: grid.server,
        author: "ada".to_owned(),
    }
}

fn removed(version: &str) -> Entry {
    Entry::ImageRemoved {
        image: "tiny".parse().unwrap(),
        version: version.parse().unwrap(),
        author: "ada".to_owned(),
    }
}

#[test]
fn a_version_of_an_image_never_becomes_other_bytes_and_stays_while_it_is_used() {
    let mut grid = Grid::settled(&config(1));
    let other = imported(&grid, "1", b"others", Digest::of(b"others"));
    assert!(exists(&refused(&mut grid, other)));
    let same = imported(&grid, "1", b"1", root());
    assert!(matches!(grid.propose(same), Outcome::Already { .. }));

    let used_by = |refusal: Refusal| {
        let Refusal::InUse { by, .. } = refusal else {
            panic!("{refusal}")
        };
        by
    };
    let published = used_by(refused(&mut grid, removed("1")));
    assert_eq!(published, "the committed configuration");
    grid.import("2", Digest::of(b"stored tiny 2"));
    let mut desired = config(1);
    desired.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
    grid.commit(&desired);
    let cloned = used_by(refused(&mut grid, removed("1")));
    assert_eq!(cloned, "desktop lab-001");
    grid.report();
    grid.settle();
    assert_eq!(grid.propose(removed("1")), Outcome::Done);
    assert!(absent(&refused(&mut grid, removed("1"))));
}

#[test]
fn a_version_is_forgotten_when_its_last_copy_is_dropped() {
    let mut grid = Grid::settled(&config(1));
    let old = Digest::of(b"stored tiny 0");
    grid.import("0", old);
    grid.report();
    let mut other = grid.state.servers[&grid.server].clone();
    other.name = "s2".parse().unwrap();
    grid.state.servers.insert(ServerId(99), other);
    let drop_from = |grid: &mut Grid, server| {
        let task = Task::DropImage { root: old };
        let new = NewOrder {
            server,
            ..order(grid, task, Memory::Unchanged)
        };
        // A plan that did not know of the version may not take its file away.
        let unread = planned(vec![new.clone()]);
        assert!(matches!(
            grid.propose(unread),
            Outcome::Refused(Refusal::InUse { .. })
        ));
        let tiny = Address::Image("tiny".parse().unwrap());
        let mut read = planned(vec![new]);
        if let Entry::Planned { base, .. } = &mut read {
            let generation = grid.state.generation(&tiny);
            base.objects.insert(tiny, generation);
        }
        assert_eq!(grid.propose(read), Outcome::Done);
        let stamp = *grid.state.orders.keys().next().unwrap();
        let look = &mut grid.state.servers.get_mut(&server).unwrap().look;
        let look = std::sync::Arc::make_mut(look.as_mut().unwrap());
        look.images.remove(&old);
        let done = Entry::Receipt {
            server,
            stamp,
            result: Attempt::Done,
        };
        assert_eq!(grid.propose(done), Outcome::Done);
        let versions = grid.state.images.values().next().unwrap();
        versions.values().any(|record| record.root == old)
    };
    assert!(drop_from(&mut grid, ServerId(99)), "one copy is left");
    let server = grid.server;
    assert!(!drop_from(&mut grid, server), "no copy is left");
}

#[test]
fn what_people_ask_of_nothing_is_refused() {
    let mut grid = Grid::settled(&config(1));
    let author = || "ada".to_owned();
    let id = TokenId("admin".to_owned());
    let token = Token {
        hash: Digest([3; 32]),
        scope: Scope::Admin,
        created: Timestamp(0),
        expires: None,
    };
    let created = Entry::TokenCreated {
        id: id.clone(),
        token: token.clone(),
        author: author(),
    };
    assert!(exists(&refused(&mut grid, created)));
    // The last one is not revoked at all.
    let another = Entry::TokenCreated {
        id: TokenId("another".to_owned()),
        token,
        author: author(),
    };
    assert_eq!(grid.propose(another), Outcome::Done);
    let revoked = Entry::TokenRevoked {
        id: id.clone(),
        author: author(),
    };
    assert_eq!(grid.propose(revoked.clone()), Outcome::Done);
    assert!(!grid.state.tokens.contains_key(&id));
    assert!(absent(&refused(&mut grid, revoked)));

    let name = "ad-bind".parse().unwrap();
    let removed = Entry::SecretRemoved {
        name,
        author: author(),
    };
    assert!(absent(&refused(&mut grid, removed)));
    let resumed = Entry::Resumed {
        address: "pool.lab".parse().unwrap(),
        author: author(),
    };
    assert!(absent(&refused(&mut grid, resumed)));
    for name in ["lab-001@2", "lab-009@1"] {
        let requested = Entry::Requested {
            request: Request::Regrow(member(name)),
            author: author(),
        };
        assert!(absent(&refused(&mut grid, requested)), "{name}");
    }
}

/// A slot is free again only when its server said that the removal is done, and no longer shows it.
#[test]
fn a_slot_is_free_when_the_removal_is_done_and_seen() {
    let id: DesktopId = "lab-001".parse().unwrap();
    let leaving = || {
        let mut grid = Grid::settled(&config(1));
        let member = id.member(Incarnation(1));
        let new = order(&grid, Task::Remove { member }, Memory::Leaving);
        assert_eq!(grid.propose(planned(vec![new])), Outcome::Done);
        let stamp = *grid.state.orders.keys().next().unwrap();
        let server = grid.server;
        let done = Entry::Receipt {
            server,
            stamp,
            result: Attempt::Done,
        };
        (grid, done)
    };
    let phase = |grid: &Grid| grid.state.desktops.get(&id).map(|d| d.phase.clone());
    // Said to be done, and still shown.
    let (mut grid, done) = leaving();
    assert!(matches!(
        phase(&grid),
        Some(Phase::Deleting { done: false, .. })
    ));
    assert_eq!(grid.propose(done), Outcome::Done);
    assert!(matches!(
        phase(&grid),
        Some(Phase::Deleting { done: true, .. })
    ));
    grid.world.clear();
    grid.report();
    assert_eq!(phase(&grid), None);
    // No longer shown, and not said to be done.
    let (mut grid, done) = leaving();
    grid.world.clear();
    grid.report();
    assert!(matches!(
        phase(&grid),
        Some(Phase::Deleting { done: false, .. })
    ));
    assert_eq!(grid.propose(done), Outcome::Done);
    assert_eq!(phase(&grid), None);
}

#[test]
fn memory_is_bounded() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    desired.grid.keep_revisions = 3;
    let mut last = None;
    for turn in 0..1_010 {
        desired.pools.values_mut().next().unwrap().desktops = 1 + turn % 2;
        let Outcome::Committed { revision } = grid.commit(&desired) else {
            panic!("not committed")
        };
        last = Some(revision);
    }
    let state = &grid.state;
    assert_eq!(state.revisions.len(), 3);
    assert_eq!(state.revisions.keys().next_back(), last.as_ref());
    assert_eq!(state.runs.len(), 50);
    assert_eq!(state.applied_plans.len(), 1_000);
    assert!(state.applied_plans.values().any(|r| Some(*r) == last));
    assert!(state.history.len() <= 1_000);
    assert_ne!(state.forgotten, 0);
}
