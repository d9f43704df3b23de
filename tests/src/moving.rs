//! A desktop that somebody uses goes to another server, and a daemon is killed at one of the calls that this takes.

use coppice_schema::known::{MoveStep, Phase, PowerState, ServerState};
use coppice_schema::units::Span;
use coppice_schema::{Bundle, Desired, SourceText};
use coppice_state::Entry;
use coppice_world::sim::{Chance, CrashPoint, Moment, SimDomain};
use uuid::Uuid;

use crate::judge::{Judge, Verdict};
use crate::storm::commit_of;
use crate::world::World;

/// Passes in which everything must be as it should.
const PASSES: u32 = 120;
/// People at the desktop.
const PEOPLE: u32 = 3;

const TEXT: &str = r#"
image "debian" {
  version = "1"
  os      = "linux"
}
template "desk" {
  image  = image.debian
  memory = "1GiB"
}
pool "own" {
  template   = template.desk
  desktops   = 1
  assignment = "personal"
}
"#;

/// Whose daemon is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The server that sends, at a call of its hypervisor or its disks.
    Sender,
    /// The server that receives, likewise.
    Receiver,
    /// The server that sends, and leads, at a call of the log.
    SenderAtLog,
    /// The server that receives, at a call of the log.
    ReceiverAtLog,
}

impl Who {
    /// Each.
    pub const ALL: [Self; 4] = [
        Self::Sender,
        Self::Receiver,
        Self::SenderAtLog,
        Self::ReceiverAtLog,
    ];

    fn index(self) -> usize {
        match self {
            Self::Sender | Self::SenderAtLog => 0,
            Self::Receiver | Self::ReceiverAtLog => 1,
        }
    }
}

/// How it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// The daemon was killed; otherwise there were not so many calls.
    pub killed: bool,
    /// How often it stood still between two servers, as seen between two rounds.
    pub between: u32,
}

/// A used desktop on the first of two servers.
fn begun(seed: u64) -> Result<(World, Judge, SimDomain), String> {
    let mut chance = Chance::new(seed);
    let mut world = World::new(&mut chance, 2, None);
    let mut judge = Judge::default();
    commit(&world)?;
    settle(&mut world, &mut judge, 0)?;
    let sender = &world.machines[0].sim;
    let domain = sender.domains().into_iter().next();
    let domain = domain.ok_or("nothing was grown on the first server")?;
    sender.sign_in(domain.uuid, PEOPLE);
    world.clock.advance(Span::minutes(1));
    pass(&mut world, &mut judge)?;
    Ok((world, judge, domain))
}

/// The first server is to be emptied.
fn drain(world: &World) -> Verdict {
    let log = &world.log;
    let server = world.machines[0].id(log).ok_or("no such member")?;
    log.append(Entry::ServerSet {
        server,
        state: ServerState::Draining,
        author: "test".to_owned(),
    });
    Ok(())
}

/// Moves a desktop off a server that is being emptied; what has come and waits there dies once. Returns whether it was
/// after it was agreed that it goes on there.
///
/// # Errors
/// It ran on two servers at once, or was lost.
pub fn killed_while_it_waits(late: bool) -> Result<bool, String> {
    let (mut world, mut judge, domain) = begun(1)?;
    drain(&world)?;
    let mut killed = None;
    for _ in 0..PASSES {
        let step = |world: &World| {
            let state = world.log.state();
            state.desktops.values().find_map(|d| {
                let Phase::Migrating { step, .. } = d.phase else {
                    return None;
                };
                Some(step)
            })
        };
        let receiver = world.machines[1].sim.clone();
        if late {
            lead(&mut world)?;
        }
        let wanted = if late {
            MoveStep::Switched
        } else {
            MoveStep::Copied
        };
        if killed.is_none()
            && step(&world) == Some(wanted)
            && receiver.is_between_servers(domain.uuid)
        {
            receiver.kill(domain.uuid);
            judge.others_acted(&world);
            killed = step(&world);
        }
        pass(&mut world, &mut judge)?;
    }
    let there = receiver_holds(&world, domain.uuid)?;
    if !there {
        return Err("it did not get there".to_owned());
    }
    killed
        .map(|step| step == MoveStep::Switched)
        .ok_or_else(|| "it never waited".to_owned())
}

fn receiver_holds(world: &World, uuid: Uuid) -> Result<bool, String> {
    let running = |domain: &SimDomain| {
        domain.uuid == uuid && matches!(domain.power, PowerState::Running { .. })
    };
    let [sender, receiver] = [0, 1].map(|index: usize| world.machines[index].sim.domains());
    if !sender.is_empty() {
        return Err(format!("left behind: {sender:?}"));
    }
    Ok(receiver.iter().any(running))
}

/// Moves a desktop off a server that is being emptied, with `who` killed at call number `call` from the order on, on
/// that side of its effect.
///
/// # Errors
/// It ran on two servers at once, was lost or started anew, or did not get there.
pub fn killed_at(who: Who, call: u64, moment: Moment) -> Result<Moved, String> {
    let (mut world, mut judge, domain) = begun(call)?;
    let [sender, receiver] = [0, 1].map(|index: usize| world.machines[index].sim.clone());
    drain(&world)?;
    let point = CrashPoint { call, moment };
    let victim = &world.machines[who.index()];
    match who {
        Who::Sender | Who::Receiver => victim.sim.crash_at(point),
        Who::SenderAtLog | Who::ReceiverAtLog => victim.agreement.crash_at(point),
    }
    let boots = victim.boot;
    let between = settle(&mut world, &mut judge, 1)?;

    let there: Vec<_> = receiver.domains();
    let [moved] = there.as_slice() else {
        return Err(format!("on the other server there is {there:?}"));
    };
    if moved.uuid != domain.uuid || moved.users != PEOPLE {
        return Err(format!("another came than went: {moved:?}"));
    }
    if !sender.domains().is_empty() || !sender.overlay_files().is_empty() {
        return Err(format!("left behind: {:?}", sender.domains()));
    }
    Ok(Moved {
        killed: world.machines[who.index()].boot > boots,
        between,
    })
}

fn commit(world: &World) -> Verdict {
    let desired = desired()?;
    let log = &world.log;
    let entry = commit_of(
        &desired,
        &log.state(),
        log.term(),
        coppice_world::clock::Clock::now(&world.clock),
        1,
    )?;
    log.append(entry);
    Ok(())
}

fn desired() -> Result<Desired, String> {
    let text = SourceText {
        path: "own.hcl".to_owned(),
        text: TEXT.to_owned(),
    };
    let bundle = Bundle {
        texts: vec![text],
        ..Bundle::default()
    };
    let loaded = coppice_schema::load(&bundle);
    let wrong = || format!("{:?}", loaded.diagnostics);
    loaded.desired.clone().ok_or_else(wrong)
}

/// Until the one desktop is well on machine `index`, and nothing is left to do. Returns how often it stood between two.
fn settle(world: &mut World, judge: &mut Judge, index: usize) -> Result<u32, String> {
    let mut between = 0;
    for _ in 0..PASSES {
        pass(world, judge)?;
        let state = world.log.state();
        let home = world.machines[index].id(&world.log);
        between += u32::from(
            state
                .desktops
                .values()
                .any(|d| matches!(d.phase, Phase::Migrating { .. })),
        );
        let well = state.desktops.values().all(|d| {
            let ready = matches!(d.phase, Phase::Available { .. } | Phase::InUse { .. });
            ready && Some(d.server) == home
        });
        if well && !state.desktops.is_empty() && state.orders.is_empty() && alone(world) {
            return Ok(between);
        }
    }
    let state = world.log.state();
    let history: Vec<_> = state.history.iter().rev().take(20).collect();
    Err(format!(
        "it is not well on machine {index} after {PASSES} passes: {:?}\n{:?}\n{history:#?}",
        state.desktops, state.orders
    ))
}

/// Nothing of it is on more than one server.
fn alone(world: &World) -> bool {
    let holds = world.machines.iter().filter(|machine| {
        !machine.sim.domains().is_empty() || !machine.sim.overlay_files().is_empty()
    });
    holds.count() == 1
}

fn lead(world: &mut World) -> Verdict {
    if let Some(report) = world.leader_round()
        && !report.violations.is_empty()
    {
        return Err(format!("the plan breaks rules: {:?}", report.violations));
    }
    runs_once(world)
}

fn pass(world: &mut World, judge: &mut Judge) -> Verdict {
    lead(world)?;
    for index in 0..world.machines.len() {
        world.machines[index].agreement.catch_up();
        world.server_round(index);
        runs_once(world)?;
    }
    judge.judge(world)?;
    world.clock.advance(Span::seconds(5));
    Ok(())
}

fn runs_once(world: &World) -> Verdict {
    let machines = world.machines.iter();
    let domains = machines.flat_map(|machine| machine.sim.domains());
    let running = domains.filter(|d| matches!(d.power, PowerState::Running { .. }));
    match running.count() {
        0 | 1 => Ok(()),
        more => Err(format!("it runs {more} times")),
    }
}
