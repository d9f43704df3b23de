//! The independent judge of plans finds what is wrong with one: each rule is broken once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use coppice_plans::plan::{Action, Kind, Memory, Plan, Reason, Step};
use coppice_plans::{check, plan};
use coppice_schema::Digest;
use coppice_schema::desired::{Desired, Origin};
use coppice_schema::ids::{Address, DesktopId, Incarnation, ServerId};
use coppice_schema::known::{
    CopyState, Ending, Foreign, Known, Order, Phase, PowerState, Seen, ServerState, Task,
};
use coppice_schema::units::{Share, Size, Timestamp};
use grid::{Grid, TERM, config, pool, template};

/// A plan with what it was made of.
struct Case {
    desired: Desired,
    known: Known,
    plan: Plan,
}

impl Case {
    /// The round's plan in `grid`, which must have an order to give of `kind`.
    fn of(grid: &Grid, kind: Kind) -> Self {
        let desired = grid.state.committed.as_ref().clone();
        let known = grid.state.known(TERM);
        let plan = plan(&desired, &known, grid.now);
        let mut case = Self {
            desired,
            known,
            plan,
        };
        assert_eq!(case.broken(), Vec::<&str>::new());
        case.plan
            .actions
            .sort_by_key(|action| (action.kind != kind, !action.waits.is_empty()));
        let first = case.action();
        assert!(
            first.kind == kind && first.waits.is_empty() && first.step.is_some(),
            "{first:?}"
        );
        assert_eq!(case.broken(), Vec::<&str>::new());
        case
    }

    /// Two desktops are to be made.
    fn making() -> Self {
        let mut grid = Grid::founded();
        grid.commit(&config(2));
        Self::of(&grid, Kind::Create)
    }

    /// One of three desktops is to go, since two are wanted.
    fn shrinking() -> Self {
        let mut grid = Grid::settled(&config(3));
        grid.commit(&config(2));
        Self::of(&grid, Kind::Delete)
    }

    /// All desktops are to go, since their block went.
    fn ending() -> Self {
        let mut grid = Grid::settled(&config(2));
        let mut without = config(2);
        without.pools.clear();
        grid.commit(&without);
        Self::of(&grid, Kind::Delete)
    }

    /// Two desktops are to be regrown, one after the other.
    fn regrowing() -> Self {
        let mut desired = config(2);
        pool(&mut desired).policy.rollout.max_unavailable = Share::Count(1);
        let mut grid = Grid::settled(&desired);
        grid.import("2", Digest::of(b"stored tiny 2"));
        grid.report();
        desired.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
        grid.commit(&desired);
        Self::of(&grid, Kind::ReplaceDeleteFirst)
    }

    /// A desktop gets more memory.
    fn writing() -> Self {
        let mut desired = config(1);
        let mut grid = Grid::settled(&desired);
        template(&mut desired).memory = Size::mib(128);
        grid.commit(&desired);
        Self::of(&grid, Kind::Update)
    }

    /// A desktop that crashed is to be started.
    fn starting() -> Self {
        let mut grid = Grid::settled(&config(1));
        let member = grid.world.keys().next().unwrap().clone();
        grid.domain(&member).power = PowerState::Crashed;
        grid.report();
        Self::of(&grid, Kind::PowerOn)
    }

    /// Nothing is to be done.
    fn idle() -> Self {
        let grid = Grid::settled(&config(2));
        let desired = grid.state.committed.as_ref().clone();
        let known = grid.state.known(TERM);
        let plan = plan(&desired, &known, grid.now);
        Self {
            desired,
            known,
            plan,
        }
    }

    fn action(&mut self) -> &mut Action {
        &mut self.plan.actions[0]
    }

    fn step(&mut self) -> &mut Step {
        self.action().step.as_mut().unwrap()
    }

    fn desktop(&mut self) -> DesktopId {
        self.action().object.desktop().unwrap().clone()
    }

    fn phase(&mut self) -> &mut Phase {
        let id = self.desktop();
        &mut self.known.desktops.get_mut(&id).unwrap().phase
    }

    fn server(&mut self) -> &mut coppice_schema::known::KnownServer {
        self.known.servers.values_mut().next().unwrap()
    }

    fn look(&mut self) -> &mut coppice_schema::known::Look {
        self.server().look.as_mut().unwrap()
    }

    /// The rules that it breaks.
    fn broken(&self) -> Vec<&'static str> {
        let found = check(&self.plan, &self.desired, &self.known);
        found.into_iter().map(|violation| violation.rule).collect()
    }

    /// Breaks it; exactly `rules` must be found broken.
    #[track_caller]
    fn breaks(mut self, rules: &[&str], spoil: impl FnOnce(&mut Self)) {
        spoil(&mut self);
        let mut broken = self.broken();
        broken.sort_unstable();
        broken.dedup();
        assert_eq!(broken, rules);
    }
}

#[test]
fn of_the_plan_as_a_whole() {
    Case::making().breaks(&["the base holds the generations that were read"], |c| {
        c.plan.base.objects.values_mut().for_each(|g| g.0 += 1);
    });
    Case::making().breaks(&["an action needs only earlier ones"], |c| {
        c.action().needs.push(0);
    });
    Case::idle().breaks(
        &["a plan is complete when every server was seen whole"],
        |c| c.server().current = false,
    );
    Case::making().breaks(&["a round reads what it orders"], |c| {
        let object = c.action().object.clone();
        c.plan.base.objects.remove(&object);
    });
    Case::starting().breaks(&["a desktop has one order at a time"], |c| {
        let again = c.action().clone();
        c.plan.actions.push(again);
    });
    Case::starting().breaks(&["a desktop has one order at a time"], |c| {
        let task = c.step().task.clone();
        let server = c.action().server.unwrap();
        let order = Order {
            server,
            task,
            not_before: Timestamp(0),
            deadline: Timestamp(0),
            attempts: 0,
            last_error: None,
        };
        c.known.orders.insert(Default::default(), order);
    });
}

#[test]
fn of_every_order() {
    Case::starting().breaks(&["an order is for a member of the grid"], |c| {
        c.action().server = Some(ServerId(99));
    });
    Case::starting().breaks(
        &[
            "a plan is complete when every server was seen whole",
            "an order is for a server that was seen whole",
        ],
        |c| c.server().current = false,
    );
    for paused in [
        Address::Grid,
        Address::Pool("lab".parse().unwrap()),
        Address::Desktop("lab-001".parse().unwrap()),
    ] {
        Case::starting().breaks(&["what is paused is let be"], |c| {
            c.known.pauses.insert(paused, None);
        });
    }
    let rules = [
        "a version stays in the catalogue unless it is beyond `keep` of its image's block",
        "an image that has clones stays",
    ];
    Case::starting().breaks(&rules, |c| {
        let root = c.known.desktops.values().next().unwrap().spec.image;
        c.step().task = Task::DropImage { root };
    });
}

#[test]
fn of_what_is_made() {
    let not_whole = [
        "nothing is made while a server is not seen",
        "nothing is taken away while a server is not seen",
    ];
    for (case, rule) in [Case::making(), Case::shrinking()]
        .into_iter()
        .zip(not_whole)
    {
        // Another server, of which nothing is known.
        case.breaks(&[rule], |c| {
            let mut other = c.server().clone();
            (other.current, other.look) = (false, None);
            c.known.servers.insert(ServerId(99), other);
            c.plan.complete = false;
        });
    }
    Case::making().breaks(&["a slot has one desktop"], |c| {
        let (known, id) = (Case::idle().known, c.desktop());
        let mut there = known.desktops[&id].clone();
        // One that does not count as there, so that only the slot is taken twice.
        there.phase = Phase::Unknown {
            since: Timestamp(0),
        };
        c.known.desktops.insert(id, there);
    });
    Case::making().breaks(&["every life of a slot is a new one"], |c| {
        let id = c.desktop();
        c.known.slots.entry(id).or_default().incarnation = Incarnation(1);
    });
    Case::making().breaks(&["a slot that a server still holds is not filled"], |c| {
        let member = c.desktop().member(Incarnation(7));
        c.look().members.insert(member, Seen::default());
    });
    Case::making().breaks(&["a name that is not ours is not taken"], |c| {
        let name = c.desktop().to_string();
        let id = c.desktop();
        let uuid = id.uuid(c.known.grid, c.known.epoch, Incarnation(9));
        let foreign = Foreign { uuid, grid: None };
        c.look().foreign.insert(name, foreign);
    });
    for state in [CopyState::Bad, CopyState::Copying] {
        Case::making().breaks(&["a clone is made of a verified image"], |c| {
            c.look().images.values_mut().for_each(|copy| *copy = state);
        });
    }
    Case::making().breaks(&["what is remembered is what is ordered"], |c| {
        if let Memory::Grown { spec, .. } = &mut c.step().memory {
            spec.hardware.cpus += 1;
        }
    });
    Case::making().breaks(&["a desktop's UUID is derived"], |c| {
        c.known.epoch.recovery += 1;
        // The other one was right for the other life.
        c.plan.actions.truncate(1);
    });
    Case::making().breaks(&["a host name is used once"], |c| {
        let known = Case::idle().known;
        let (other, mut there) = known.desktops.into_iter().next_back().unwrap();
        there.spec.hostname = "lab-01".to_owned();
        assert_ne!(other, c.desktop());
        c.plan.actions.truncate(1);
        c.known.desktops.insert(other, there);
    });
    Case::making().breaks(&["a desktop that is made is remembered"], |c| {
        c.step().memory = Memory::Unchanged;
    });
    Case::making().breaks(&["a pool does not grow beyond its size"], |c| {
        pool(&mut c.desired).desktops = 1;
        c.known.committed = c.desired.clone();
    });
}

#[test]
fn of_what_is_taken_away() {
    Case::shrinking().breaks(&["only a present desktop can leave"], |c| {
        let id = c.desktop();
        c.known.desktops.get_mut(&id).unwrap().incarnation = Incarnation(2);
    });
    Case::ending().breaks(&["a protected pool is kept"], |c| {
        let pool = Address::Pool("lab".parse().unwrap());
        c.known.protections.insert(pool);
    });
    for case in [Case::shrinking(), Case::regrowing()] {
        case.breaks(&["nobody is cut off"], |c| {
            *c.phase() = Phase::InUse {
                since: Timestamp(0),
                users: 1,
                viewers: 0,
            };
        });
    }
    Case::regrowing().breaks(&["a personal disk goes only by a person's word"], |c| {
        let id = c.desktop();
        c.known.desktops.get_mut(&id).unwrap().personal = true;
    });
    Case::shrinking().breaks(&["a stray goes only when it was superseded"], |c| {
        c.step().memory = Memory::Unchanged;
    });
    Case::shrinking().breaks(
        &["what is removed is not remembered as something new"],
        |c| {
            let id = c.desktop();
            let spec = Box::new(c.known.desktops[&id].spec.clone());
            c.step().memory = Memory::Rewritten { spec };
        },
    );
    Case::regrowing().breaks(
        &["a change leaves as many desktops as its policy says"],
        |c| c.plan.actions.iter_mut().for_each(|a| a.waits.clear()),
    );
    // One that is being restarted is not there.
    Case::regrowing().breaks(
        &["a change leaves as many desktops as its policy says"],
        |c| {
            let other = c.known.desktops.values().next_back().unwrap().clone();
            let order = Order {
                server: other.server,
                task: Task::Restart {
                    ending: Ending::Asked,
                    member: other.spec.member.clone(),
                },
                not_before: Timestamp(0),
                deadline: Timestamp(0),
                attempts: 0,
                last_error: None,
            };
            assert_ne!(other.spec.member.desktop, c.desktop());
            c.known.orders.insert(Default::default(), order);
        },
    );
    // A surge is not a reason to go below the floor, and a person's word is.
    Case::regrowing().breaks(&[], |c| c.action().reason = Reason::Requested);
}

#[test]
fn of_what_is_changed() {
    Case::writing().breaks(
        &[
            "only a present desktop is changed",
            "what is written is what is remembered",
        ],
        |c| {
            let id = c.desktop();
            c.known.desktops.remove(&id);
            c.step().memory = Memory::Unchanged;
        },
    );
    Case::writing().breaks(&["what is written is what is remembered"], |c| {
        c.step().memory = Memory::Unchanged;
    });
    Case::starting().breaks(&["only a present desktop is switched"], |c| {
        let id = c.desktop();
        c.known.desktops.get_mut(&id).unwrap().server = ServerId(99);
    });
    Case::starting().breaks(&["switching changes no memory"], |c| {
        c.step().memory = Memory::Leaving;
    });
    for task in [
        |member| Task::Stop { member },
        |member| Task::Restart {
            member,
            ending: Ending::Asked,
        },
    ] {
        Case::starting().breaks(&["nobody is cut off"], |c| {
            let member = c.step().task.member().unwrap().clone();
            c.step().task = task(member);
            *c.phase() = Phase::InUse {
                since: Timestamp(0),
                users: 2,
                viewers: 0,
            };
        });
    }
}

#[test]
fn of_servers_in_their_life() {
    Case::starting().breaks(&["a server that is lost is told nothing"], |c| {
        c.server().state = ServerState::Lost;
    });
    // A server's return takes away what it made too many, and people's time only where they had it.
    Case::shrinking().breaks(&["what a return made too many goes, and no more"], |c| {
        c.action().reason = Reason::Returned { from: 2, to: 1 };
        c.desired.pools.values_mut().for_each(|p| p.desktops = 5);
        c.known.committed = c.desired.clone();
    });
    let used = |c: &mut Case, force_at: Option<Timestamp>| {
        *c.phase() = Phase::InUse {
            since: Timestamp(0),
            users: 1,
            viewers: 0,
        };
        let server = "s1".to_owned();
        c.action().reason = Reason::Draining { server };
        c.server().state = ServerState::Draining;
        c.server().force_at = force_at;
    };
    Case::shrinking().breaks(&["nobody is cut off"], |c| used(c, None));
    Case::shrinking().breaks(&["nobody is cut off"], |c| {
        let later = c.plan.at.after(coppice_schema::units::Span(1));
        used(c, Some(later));
    });
    Case::shrinking().breaks(&[], |c| {
        let now = c.plan.at;
        used(c, Some(now));
    });
}

/// Servers that cannot hold desktops are waited for by nobody.
#[test]
fn a_server_that_holds_nothing_keeps_no_plan_back() {
    for part in [
        ServerState::Joining,
        ServerState::Lost,
        ServerState::Removed,
    ] {
        Case::making().breaks(&[], |c| {
            let mut other = c.server().clone();
            (other.current, other.look, other.state) = (false, None, part);
            c.known.servers.insert(ServerId(99), other);
        });
    }
}
