//! A server is lost, comes back, and is emptied.

use coppice_plans::plan::Memory;
use coppice_schema::ids::ServerId;
use coppice_schema::known::{Phase, PowerState, ServerState, Task};
use coppice_schema::units::Span;
use coppice_state::entry::{Attempt, NewOrder};
use coppice_state::state::Happening;
use coppice_state::{Entry, Outcome, Refusal};

use super::grid::{Grid, TERM, config};

fn lose(grid: &mut Grid) -> Outcome {
    let (server, read) = (grid.server, grid.state.index);
    grid.propose(Entry::ServerLost {
        server,
        silent: Span::seconds(5),
        read,
    })
}

fn set(grid: &mut Grid, state: ServerState) {
    let outcome = grid.propose(Entry::ServerSet {
        server: grid.server,
        state,
        author: "ada".to_owned(),
    });
    assert_eq!(outcome, Outcome::Done);
}

fn part(grid: &Grid) -> ServerState {
    grid.state.servers[&grid.server].state
}

fn order(grid: &Grid) -> NewOrder {
    let desktop = grid.state.desktops.values().next().unwrap();
    NewOrder {
        server: grid.server,
        task: Task::Start {
            member: desktop.spec.member.clone(),
        },
        not_before: grid.now,
        deadline: grid.now.after(Span::minutes(10)),
        memory: Memory::Unchanged,
    }
}

fn plan(grid: &mut Grid, orders: Vec<NewOrder>) -> Outcome {
    grid.propose(Entry::Planned {
        term: 0,
        base: Default::default(),
        orders,
        findings: Default::default(),
        settled: false,
    })
}

#[test]
fn what_a_lost_server_holds_keeps_its_slots_and_what_it_was_told_is_over() {
    let mut grid = Grid::settled(&config(2));
    let told = order(&grid);
    assert_eq!(plan(&mut grid, vec![told.clone()]), Outcome::Done);
    let stamp = *grid.state.orders.keys().next().unwrap();
    assert_eq!(lose(&mut grid), Outcome::Done);
    assert_eq!(grid.phases(), ["lab-001@1 unknown", "lab-002@1 unknown"]);
    assert!(grid.state.orders.is_empty());
    assert!(!grid.state.known(TERM).servers[&grid.server].current);
    // Its receipt comes too late, and changes nothing of what is not known.
    let late = grid.propose(Entry::Receipt {
        server: grid.server,
        stamp,
        result: Attempt::Done,
    });
    assert!(matches!(late, Outcome::Refused(Refusal::Absent(_))));
    assert_eq!(grid.phases(), ["lab-001@1 unknown", "lab-002@1 unknown"]);
    // A plan that was made before tells it nothing either.
    let late = plan(&mut grid, vec![told]);
    assert!(
        matches!(late, Outcome::Refused(Refusal::Absent(_))),
        "{late:?}"
    );
    // Once more: it is so already.
    assert_eq!(lose(&mut grid), Outcome::Done);
    let lost = grid.state.history.iter().filter(|event| {
        matches!(&event.what, Happening::Server { what } if what.contains("was lost with 2"))
    });
    assert_eq!(lost.count(), 1);
}

#[test]
fn a_server_that_was_heard_since_the_decision_is_not_lost() {
    let mut grid = Grid::settled(&config(1));
    let read = grid.state.index;
    let look = grid.state.servers[&grid.server].look.clone().unwrap();
    grid.propose(Entry::Confirmed {
        server: grid.server,
        boot: look.boot,
        sequence: look.sequence,
        term: TERM,
    });
    let outcome = grid.propose(Entry::ServerLost {
        server: grid.server,
        silent: Span::seconds(5),
        read,
    });
    assert!(matches!(outcome, Outcome::Refused(Refusal::Heard(_))));
    assert_eq!(part(&grid), ServerState::Ready);
    let outcome = grid.propose(Entry::ServerLost {
        server: ServerId(99),
        silent: Span::seconds(5),
        read,
    });
    assert!(matches!(outcome, Outcome::Refused(Refusal::Absent(_))));
}

#[test]
fn it_is_back_when_it_has_said_all_and_then_what_people_wanted_it_to_be() {
    let mut grid = Grid::settled(&config(2));
    lose(&mut grid);
    set(&mut grid, ServerState::Cordoned);
    assert_eq!(part(&grid), ServerState::Lost, "it is away all the same");
    // Nothing changed there: saying so is enough.
    let look = grid.state.servers[&grid.server].look.clone().unwrap();
    grid.now = grid.now.after(Span::minutes(3));
    grid.propose(Entry::Confirmed {
        server: grid.server,
        boot: look.boot,
        sequence: look.sequence,
        term: TERM,
    });
    assert_eq!(part(&grid), ServerState::Reconciling);
    assert_eq!(
        grid.phases(),
        ["lab-001@1 available", "lab-002@1 available"]
    );
    let server = grid.server;
    assert_eq!(
        grid.propose(Entry::ServerRestored { server }),
        Outcome::Done
    );
    assert_eq!(part(&grid), ServerState::Cordoned);
    let again = grid.propose(Entry::ServerRestored { server });
    assert!(matches!(again, Outcome::Refused(Refusal::Absent(_))));
}

#[test]
fn a_first_whole_report_brings_it_back_too() {
    let mut grid = Grid::settled(&config(1));
    lose(&mut grid);
    grid.world.clear();
    grid.report();
    assert_eq!(part(&grid), ServerState::Reconciling);
    assert_eq!(grid.phases(), ["lab-001@1 broken"], "its disk is gone");
}

#[test]
fn what_a_lost_server_did_to_its_desktops_makes_no_slot_rest() {
    let mut grid = Grid::settled(&config(1));
    let failures = |grid: &Grid| grid.state.desktops.values().next().unwrap().failures.count;
    let member = grid.world.keys().next().unwrap().clone();
    grid.domain(&member).power = PowerState::Crashed;
    grid.report();
    assert_eq!(failures(&grid), 1, "that was its own");
    grid.settle();
    for _ in 0..3 {
        lose(&mut grid);
        grid.world.clear();
        grid.report();
        assert!(grid.phases()[0].ends_with("broken"));
        assert_eq!(failures(&grid), 1);
        let server = grid.server;
        grid.propose(Entry::ServerRestored { server });
        grid.settle();
    }
    // And the time before it was lost is made good of as ever.
    grid.now = grid.now.after(Span::hours(1));
    lose(&mut grid);
    assert_eq!(failures(&grid), 0);
}

#[test]
fn who_leaves_when_a_server_is_lost_leaves_when_it_is_back() {
    let mut grid = Grid::settled(&config(1));
    let member = grid
        .state
        .desktops
        .values()
        .next()
        .unwrap()
        .spec
        .member
        .clone();
    let removal = NewOrder {
        task: Task::Remove { member },
        memory: Memory::Leaving,
        ..order(&grid)
    };
    assert_eq!(plan(&mut grid, vec![removal]), Outcome::Done);
    lose(&mut grid);
    assert_eq!(grid.phases(), ["lab-001@1 deleting"]);
}

#[test]
fn what_has_come_up_since_is_not_taken_away() {
    let mut grid = Grid::settled(&config(1));
    let member = grid.world.keys().next().unwrap().clone();
    grid.domain(&member).power = PowerState::Crashed;
    grid.report();
    let taken = |task| NewOrder {
        task,
        ..order(&grid)
    };
    let tasks = [
        taken(Task::Stop {
            member: member.clone(),
        }),
        NewOrder {
            memory: Memory::Leaving,
            ..taken(Task::Remove {
                member: member.clone(),
            })
        },
    ];
    // Decided while it was down; by the time it is agreed on, somebody may sit there.
    grid.now = grid.now.after(Span::seconds(2));
    grid.settle();
    assert_eq!(grid.phases(), ["lab-001@1 available"]);
    for decided in tasks {
        let outcome = plan(&mut grid, vec![decided.clone()]);
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::CameUp(_))),
            "{outcome:?}"
        );
        assert!(grid.state.orders.is_empty());
    }
    // Who decides it now knows what it takes.
    let again = NewOrder {
        task: Task::Stop { member },
        ..order(&grid)
    };
    assert_eq!(plan(&mut grid, vec![again]), Outcome::Done);
}

#[test]
fn emptying_says_until_when_and_taking_back_forgets_it() {
    let mut grid = Grid::settled(&config(1));
    let server = grid.server;
    grid.propose(Entry::ServerDrained {
        server,
        force_after: Some(Span::minutes(30)),
        author: "ada".to_owned(),
    });
    assert_eq!(part(&grid), ServerState::Draining);
    let until = grid.now.after(Span::minutes(30));
    assert_eq!(grid.state.servers[&server].force_at, Some(until));
    set(&mut grid, ServerState::Ready);
    assert_eq!(grid.state.servers[&server].force_at, None);
}

#[test]
fn who_looks_at_a_screen_uses_it_and_has_not_signed_in() {
    let mut grid = Grid::settled(&config(1));
    let look = |grid: &mut Grid, viewers| {
        for seen in grid.world.values_mut() {
            seen.domain.as_mut().unwrap().viewers = viewers;
        }
        grid.report();
    };
    look(&mut grid, Some(2));
    let phase = |grid: &Grid| grid.state.desktops.values().next().unwrap().clone();
    let used = phase(&grid);
    assert!(matches!(
        used.phase,
        Phase::InUse {
            users: 0,
            viewers: 2,
            ..
        }
    ));
    assert_eq!(used.people(), 2);
    look(&mut grid, Some(0));
    let free = phase(&grid);
    assert!(matches!(free.phase, Phase::Available { .. }));
    assert_eq!(free.wear.left, None, "nobody has logged off");
    assert_eq!(free.people(), 0);
}
