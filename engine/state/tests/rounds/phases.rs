//! What a desktop is, from what its server saw of it.

use std::collections::BTreeSet;

use coppice_plans::plan::{Base, Kind, Memory, Step, Wait};
use coppice_schema::desired::{Desired, Refresh, RefreshOn};
use coppice_schema::ids::Revision;
use coppice_schema::known::{BrokenReason, Ending, GuestState, Health, Phase, PowerState, Task};
use coppice_schema::units::Span;
use coppice_state::entry::{Attempt, NewOrder, Report};
use coppice_state::state::Happening;
use coppice_state::{Entry, Outcome};

use super::grid::{Grid, config, pool, root};
use super::only;

#[test]
fn a_guest_that_does_not_tell_keeps_the_people_that_it_had() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    pool(&mut desired).policy.refresh = Some(Refresh {
        on: Some(RefreshOn::Logoff),
        ..Refresh::default()
    });
    grid.commit(&desired);
    grid.settle();
    let says = |users| GuestState::Answers {
        hostname: "lab-01".to_owned(),
        users,
    };
    let mut shrunk = desired.clone();
    pool(&mut shrunk).desktops = 0;
    // What the guest says, and how many people a removal waits for then.
    for (said, waited_for) in [
        (says(Some(2)), 2),
        (says(None), 2),
        (GuestState::Silent, 1),
        (says(None), 1),
    ] {
        let seen = grid.world.values_mut().next().unwrap();
        seen.domain.as_mut().unwrap().guest = said.clone();
        grid.report();
        assert!(grid.plan_for(&desired).actions.is_empty(), "{said:?}");
        let plan = grid.plan_for(&shrunk);
        let removal = plan.actions.iter().find(|a| a.kind == Kind::Delete);
        let users = waited_for;
        let wait = Wait::Logoff { users, until: None };
        assert_eq!(removal.unwrap().waits, [wait], "{said:?}");
    }
    let seen = grid.world.values_mut().next().unwrap();
    seen.domain.as_mut().unwrap().guest = says(Some(0));
    grid.report();
    let plan = grid.plan_for(&desired);
    assert_eq!(plan.actions[0].kind, Kind::ReplaceDeleteFirst);
    assert!(plan.actions[0].waits.is_empty());
}

#[test]
fn failures_are_forgiven_after_time_in_health() {
    let mut grid = Grid::settled(&config(1));
    let member = grid.world.keys().next().unwrap().clone();
    let crash = |grid: &mut Grid| {
        grid.domain(&member).power = PowerState::Crashed;
        grid.report();
        let failures = only(grid).failures.count;
        grid.settle();
        failures
    };
    assert_eq!([crash(&mut grid), crash(&mut grid)], [1, 2]);
    grid.now = grid.now.after(Span::minutes(31));
    assert_eq!(crash(&mut grid), 2, "one of two was forgiven");
    grid.now = grid.now.after(Span::hours(2));
    assert_eq!(crash(&mut grid), 1);
}

#[test]
fn a_hypervisor_that_is_away_says_nothing_of_its_desktops() {
    let mut grid = Grid::settled(&config(2));
    let before = grid.phases();
    grid.sequence += 1;
    let members = grid.world.keys().map(|member| (member.clone(), None));
    let away = Entry::Reported(Box::new(Report {
        server: grid.server,
        boot: 1,
        sequence: grid.sequence,
        members: members.collect(),
        images: Default::default(),
        foreign: Default::default(),
        quarantine: Default::default(),
        replicas: Default::default(),
        disk: Default::default(),
        hypervisor: Health::Away("it restarts".to_owned()),
    }));
    assert_eq!(grid.propose(away), Outcome::Done);
    grid.now = grid.now.after(Span::hours(1));
    grid.propose(Entry::Tick);
    assert_eq!(grid.phases(), before);
}

/// Gives the order to make the pool's one desktop, and has it booting only `later`.
fn booting(desired: &Desired, later: Span) -> Grid {
    let mut grid = Grid::founded();
    grid.commit(desired);
    let plan = grid.plan_for(desired);
    let create = plan.actions.iter().find(|action| action.step.is_some());
    grid.order(create.unwrap());
    grid.now = grid.now.after(later);
    grid.carry_out();
    let member = grid.world.keys().next().unwrap().clone();
    grid.domain(&member).guest = GuestState::Silent;
    grid.report();
    grid.acknowledge();
    assert_eq!(grid.phases(), ["lab-001@1 provisioning"]);
    grid
}

fn phase_after(grid: &mut Grid, span: Span) -> String {
    grid.now = grid.now.after(span);
    grid.propose(Entry::Tick);
    grid.report();
    only(grid).phase.word().to_owned()
}

#[test]
fn a_guest_has_ten_minutes_from_its_power_on() {
    // In a queue of boots its order was old when its power came.
    let mut grid = booting(&config(1), Span::minutes(9));
    assert_eq!(phase_after(&mut grid, Span::minutes(9)), "provisioning");
    assert_eq!(phase_after(&mut grid, Span::minutes(1)), "broken");
}

#[test]
fn a_guest_without_agent_is_ready_after_its_time() {
    let mut desired = config(1);
    let image = desired.images.values_mut().next().unwrap();
    (image.agent, image.ready_after) = (false, Some(Span::seconds(60)));
    let mut grid = booting(&desired, Span::minutes(2));
    assert_eq!(phase_after(&mut grid, Span::seconds(59)), "provisioning");
    assert_eq!(phase_after(&mut grid, Span::seconds(1)), "available");
}

#[test]
fn a_desktop_whose_order_came_to_nothing_is_broken() {
    let ordered = || {
        let mut grid = Grid::settled(&config(1));
        let member = only(&grid).spec.member.clone();
        let plan = grid.plan_for(&config(2));
        let mut action = plan.actions.into_iter().find(|a| a.step.is_some()).unwrap();
        action.step = Some(Step {
            task: Task::Restart {
                member,
                ending: Ending::Asked,
            },
            memory: Memory::Unchanged,
        });
        grid.order(&action);
        let stamp = *grid.state.orders.keys().next().unwrap();
        (grid, stamp)
    };
    let why = "no such thing".to_owned();
    let (mut grid, stamp) = ordered();
    let server = grid.server;
    let result = Attempt::Refused { error: why.clone() };
    grid.propose(Entry::Receipt {
        server,
        stamp,
        result,
    });
    let reason = BrokenReason::Refused(why.clone());
    assert!(matches!(&only(&grid).phase, Phase::Broken { reason: r, .. } if *r == reason));
    let (mut grid, stamp) = ordered();
    grid.propose(Entry::Withdrawn { stamp, why });
    assert!(matches!(&only(&grid).phase, Phase::Broken { reason: r, .. } if *r == reason));
    assert!(grid.state.orders.is_empty());
}

#[test]
fn a_copy_that_is_taken_back_has_not_failed() {
    let mut grid = Grid::founded();
    grid.import("1", root());
    grid.commit(&config(1));
    let order = NewOrder {
        server: grid.server,
        task: Task::CopyImage {
            root: root(),
            from: Vec::new(),
        },
        not_before: grid.now,
        deadline: grid.now.after(Span::hours(1)),
        memory: Memory::Unchanged,
    };
    let planned = Entry::Planned {
        term: 0,
        base: Base::default(),
        orders: vec![order],
        findings: BTreeSet::new(),
        settled: false,
    };
    assert_eq!(grid.propose(planned), Outcome::Done);
    let stamp = *grid.state.orders.keys().next().unwrap();
    let why = "not in time".to_owned();
    assert_eq!(grid.propose(Entry::Withdrawn { stamp, why }), Outcome::Done);
    assert!(grid.state.orders.is_empty());
    let run = &grid.state.runs[&Revision(1)];
    assert_eq!((run.finished, run.failed), (None, 0));
    let told = grid.state.history.last().unwrap();
    assert!(
        matches!(&told.what, Happening::Image { what } if what.contains("not in time")),
        "{told:?}"
    );
}
