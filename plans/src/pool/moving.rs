//! Desktops that go to another server while they run: off a server that is being emptied, where somebody uses them or
//! keeps something in them. What nobody uses and nobody keeps is grown anew elsewhere instead, which costs less.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{
    DesktopSpec, KnownDesktop, KnownServer, MoveStep, Phase, PowerState, SeenOverlay, ServerState,
    Task,
};
use coppice_schema::units::{Size, Span};

use super::Yard;
use super::fate::{self, Deed};
use crate::draft::Draft;
use crate::place::{Need, carried};
use crate::plan::{
    Action, Basis, Estimate, Finding, FindingKind, Impact, Kind, Memory, Reason, Risk, Severity,
    Step, Wait,
};
use crate::specs;

/// Desktops that leave one server at a time. Two keep a network busy; more only take longer, each of them.
const LEAVING_AT_ONCE: u32 = 2;
/// How long a desktop stands still at most: 0.3 to 2 s were measured, from the last answer of its guest on the one server
/// to the first on the other.
const PAUSE_MOST: Span = Span::seconds(2);

/// Whether a desktop could leave its server running, as far as both it and its server are concerned. One that is off is
/// switched on for that.
pub(crate) fn could_leave(known: &Known, desktop: &KnownDesktop) -> bool {
    let server = known.servers.get(&desktop.server);
    let worth = match desktop.phase {
        Phase::InUse { .. } => true,
        Phase::Available { .. } | Phase::Off { .. } => desktop.personal,
        Phase::Migrating { .. } => return true,
        Phase::Provisioning { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    };
    // Where people are waited for until some time, one failure is enough: another is grown in its place then.
    let failed = desktop.stayed.failures.count > 0 && !desktop.personal;
    let hurried = server.is_some_and(|server| server.force_at.is_some());
    server.is_some_and(sends) && worth && !(failed && hurried)
}

/// Whether desktops leave that server running.
fn sends(server: &KnownServer) -> bool {
    server.state == ServerState::Draining && server.capacity.moves.is_some()
}

/// Plans that `desktop` leaves a server that is being emptied. `false`: it cannot, or there is no server for it, and
/// people there are waited for.
pub(crate) fn leave(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    draft: &mut Draft<'_>,
) -> bool {
    if !could_leave(yard.known, desktop) || draft.busy.contains(id) {
        return false;
    }
    let Some(from) = yard.known.servers.get(&desktop.server) else {
        return false;
    };
    let given_up = is_given_up(yard.known, desktop, draft);
    let (to, server) = match destination(yard, desktop, from, draft) {
        Ok(found) => found,
        // In a moment the others are as they should be.
        Err(None) => return true,
        Err(Some(_)) if given_up => return false,
        Err(Some(why)) => {
            stays(id, from, None, why, 0, draft);
            return false;
        }
    };
    failed_before(yard.known, id, desktop, from, draft);
    if matches!(desktop.phase, Phase::Off { .. }) {
        awaken(yard, id, desktop, from, draft);
        return true;
    }
    let mut waits = fate::ordinary_waits(yard, id, desktop, draft);
    waits.extend(draft.backoff(id, desktop.stayed.failures));
    let leaving = draft.leaving.entry(desktop.server).or_default();
    if waits.is_empty() {
        if *leaving >= LEAVING_AT_ONCE {
            let name = "moves at once".to_owned();
            waits.push(Wait::Budget { name });
        } else {
            *leaving += 1;
        }
    }
    let spec = there(yard, desktop, server);
    draft.ledger.take(to, &spec.hardware);
    let task = Task::Receive { spec: spec.clone() };
    let memory = Memory::Moving {
        to,
        spec: Box::new(spec),
    };
    let reason = Reason::Draining {
        server: from.name.to_string(),
    };
    let impact = Impact {
        users: Estimate {
            value: desktop.people(),
            basis: Basis::Exact,
        },
        bytes_copied: Estimate {
            value: yard
                .known
                .overlay(desktop)
                .map_or(Size(0), SeenOverlay::most),
            basis: Basis::Guess,
        },
        takes: Estimate {
            value: super::GROWTH_GUESS,
            basis: Basis::Guess,
        },
        pause: Estimate {
            value: PAUSE_MOST,
            basis: Basis::Guess,
        },
        ..Impact::default()
    };
    let step = Step { task, memory };
    push(id, to, (reason, impact), waits, step, draft);
    true
}

/// Plans that one that is off is switched on, since only what runs can be moved. Not more of them than leave at a time:
/// those that run already come first.
fn awaken(
    yard: Yard<'_>,
    id: &DesktopId,
    desktop: &KnownDesktop,
    from: &KnownServer,
    draft: &mut Draft<'_>,
) {
    let mut waits = fate::ordinary_waits(yard, id, desktop, draft);
    let awake = draft.awake.get(&desktop.server).copied().unwrap_or(0);
    let leaving = draft.leaving.entry(desktop.server).or_default();
    if waits.is_empty() {
        let name = if *leaving + awake >= LEAVING_AT_ONCE {
            Some("moves at once")
        } else if draft.ledger.power_on(desktop.server) {
            *leaving += 1;
            None
        } else {
            Some("power-on")
        };
        waits.extend(name.map(|name| Wait::Budget {
            name: name.to_owned(),
        }));
    }
    let deed = Deed {
        kind: Kind::PowerOn,
        reason: Reason::Draining {
            server: from.name.to_string(),
        },
        risk: Risk::Safe,
        step: Some(Step {
            task: Task::Start {
                member: id.member(desktop.incarnation),
            },
            memory: Memory::Unchanged,
        }),
    };
    fate::push(id, desktop, deed, waits, draft);
}

/// Whether a personal desktop runs, or starts, where it is about to leave, or is on its way. It may run for that alone.
pub(crate) fn runs_to_leave(known: &Known, desktop: &KnownDesktop) -> bool {
    let leaves = match desktop.phase {
        Phase::Available { .. } | Phase::Provisioning { .. } => {
            let server = known.servers.get(&desktop.server);
            server.is_some_and(sends)
        }
        Phase::Migrating { .. } => true,
        Phase::InUse { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    };
    desktop.personal && leaves
}

/// A pooled desktop on a server that is being emptied, from which it could leave, and does not: people there are waited
/// for as if it could not.
pub(crate) fn is_waited_for(known: &Known, desktop: &KnownDesktop) -> bool {
    !desktop.personal && could_leave(known, desktop)
}

/// Whether people at a desktop are waited for no longer, on a server that is being emptied.
fn is_given_up(known: &Known, desktop: &KnownDesktop, draft: &Draft<'_>) -> bool {
    let server = known.servers.get(&desktop.server);
    let until = server
        .filter(|server| server.state == ServerState::Draining)
        .and_then(|server| server.force_at);
    !desktop.personal && until.is_some_and(|until| until <= draft.now)
}

/// Why one that could leave has no server to go to, where its people are waited for no longer.
pub(crate) fn stuck(yard: Yard<'_>, desktop: &KnownDesktop, draft: &Draft<'_>) -> Option<String> {
    let known = yard.known;
    let from = known.servers.get(&desktop.server)?;
    if !is_waited_for(known, desktop) || !is_given_up(known, desktop, draft) {
        return None;
    }
    destination(yard, desktop, from, draft).err().flatten()
}

/// Says of one that is [stuck] why.
pub(crate) fn stays_there(
    known: &Known,
    id: &DesktopId,
    desktop: &KnownDesktop,
    why: String,
    draft: &mut Draft<'_>,
) {
    if let Some(from) = known.servers.get(&desktop.server) {
        stays(id, from, None, why, 0, draft);
    }
}

/// Says of one that did not get away why, and that it runs on.
fn failed_before(
    known: &Known,
    id: &DesktopId,
    desktop: &KnownDesktop,
    from: &KnownServer,
    draft: &mut Draft<'_>,
) {
    let attempts = desktop.stayed.failures.count;
    if attempts == 0 {
        return;
    }
    let to = desktop.stayed.to;
    let to = to.map(|to| {
        known
            .servers
            .get(&to)
            .map_or_else(|| to.to_string(), |to| to.name.to_string())
    });
    let why = desktop.stayed.why.clone();
    stays(id, from, to, why, attempts, draft);
}

fn stays(
    id: &DesktopId,
    from: &KnownServer,
    to: Option<String>,
    why: String,
    attempts: u32,
    draft: &mut Draft<'_>,
) {
    let name = &from.name;
    let back = format!("coppice server undrain {name}");
    let remedy = match to {
        Some(_) => format!(
            "mend what it says: it is tried again by itself, after longer and longer pauses; or let it stay: {back}"
        ),
        None => format!("give another server what it lacks, or let it stay: {back}"),
    };
    draft.finding(Finding {
        object: Address::Desktop(id.clone()),
        kind: FindingKind::Stays {
            server: name.to_string(),
            to,
            why,
            attempts,
        },
        severity: Severity::Warning,
        remedy,
    });
}

/// The best server that takes running desktops as this one's server sends them; or what each of the others lacks. What
/// is left of it on one of them goes in a moment: then there is nothing to say.
fn destination<'k>(
    yard: Yard<'k>,
    desktop: &KnownDesktop,
    from: &KnownServer,
    draft: &Draft<'_>,
) -> Result<(ServerId, &'k KnownServer), Option<String>> {
    let hardware = &desktop.spec.hardware;
    let need = Need {
        image: desktop.spec.image,
        labels: &yard.pool.servers,
        takes: carried(yard.known, desktop),
        firmware: hardware.firmware,
        displays: &hardware.displays,
    };
    let mut lacking = Vec::new();
    let (mut fit, mut cluttered) = (Vec::new(), false);
    let others = draft
        .ledger
        .hosts()
        .iter()
        .filter(|host| host.id != desktop.server && host.server.state != ServerState::Removed);
    for host in others {
        let name = &host.server.name;
        if let Some(lack) = host.lacks(&need) {
            lacking.push(format!("{name} {}", lack.words()));
        } else if host.server.capacity.moves != from.capacity.moves {
            lacking.push(format!("{name} has another hypervisor or processor"));
        } else if keeps_out(host.server, desktop) {
            lacking.push(format!(
                "{name} has another life of it, which runs or is set apart"
            ));
        } else if holds(host.server, desktop) {
            cluttered = true;
        } else {
            fit.push(host);
        }
    }
    let best = fit
        .into_iter()
        .min_by_key(|host| (host.weight(need.takes), host.id));
    let best = best.and_then(|host| Some((host.id, yard.known.servers.get(&host.id)?)));
    best.ok_or_else(|| {
        let words = match lacking.is_empty() {
            true => "there is no other".to_owned(),
            false => lacking.join("; "),
        };
        (!cluttered).then_some(words)
    })
}

/// Something of it is left there from before. That goes first.
fn holds(server: &KnownServer, desktop: &KnownDesktop) -> bool {
    let look = server.look.as_ref();
    look.is_some_and(|look| look.members.contains_key(&desktop.spec.member))
}

/// Another life of it is there, and makes no way for this one.
pub(super) fn keeps_out(server: &KnownServer, desktop: &KnownDesktop) -> bool {
    let look = server.look.as_ref();
    look.is_some_and(|look| look.keeps_out(&desktop.spec.member))
}

/// What it is to be on another server: as it is, plugged into that server's networks.
pub(crate) fn there(yard: Yard<'_>, desktop: &KnownDesktop, server: &KnownServer) -> DesktopSpec {
    let mut spec = desktop.spec.clone();
    let networks = specs::networks(yard.desired, yard.template, Some(server));
    if networks.len() == spec.hardware.networks.len() {
        spec.hardware.networks = networks;
    }
    spec
}

/// Plans the next step of every desktop that is on its way. Each waits for nothing but its servers: a guest may stand
/// still meanwhile.
pub(crate) fn proceed(known: &Known, draft: &mut Draft<'_>) {
    for (id, desktop) in &known.desktops {
        let Phase::Migrating {
            from,
            to,
            spec,
            step,
            ..
        } = &desktop.phase
        else {
            continue;
        };
        if let Some(sender) = known.servers.get(from) {
            failed_before(known, id, desktop, sender, draft);
        }
        if draft.busy.contains(id) {
            continue;
        }
        let member = id.member(desktop.incarnation);
        let takes = known.servers.get(to).is_some_and(|server| {
            server.current && !matches!(server.state, ServerState::Lost | ServerState::Removed)
        });
        let (server, step) = match step {
            MoveStep::Prepared if takes => (
                *from,
                Step {
                    task: Task::Send { member, to: *to },
                    memory: Memory::Copying,
                },
            ),
            MoveStep::Switched => (*to, enter(spec)),
            MoveStep::Copied if takes => (*to, enter(spec)),
            // What was ordered came to nothing, or the other server is gone.
            MoveStep::Preparing
            | MoveStep::Prepared
            | MoveStep::Copying
            | MoveStep::Copied
            | MoveStep::Returning => (
                *from,
                Step {
                    task: Task::Stay { member },
                    memory: Memory::Returning,
                },
            ),
        };
        let name = |id| {
            let server = known.servers.get(id);
            server.map_or_else(String::new, |server: &KnownServer| server.name.to_string())
        };
        let reason = Reason::Moving {
            from: name(from),
            to: name(to),
        };
        let mut waits: Vec<Wait> = draft.not_seen(server).into_iter().collect();
        if server == *from && may_be_let_in(known, &desktop.phase) {
            let (from, to) = (name(from), name(to));
            waits.push(Wait::Return { server: to.clone() });
            draft.finding(Finding {
                object: Address::Desktop(id.clone()),
                remedy: format!(
                    "bring {to} back (coppice server rejoin); or, if it is off and stays off: coppice server remove {to} --lost"
                ),
                kind: FindingKind::Halfway { from, to },
                severity: Severity::Error,
            });
        }
        let why = (reason, Impact::default());
        push(id, server, why, waits, step, draft);
    }
}

/// Whether those who went on without this life of the grid may have let it in where it was going: what they agreed on is
/// not known here.
fn may_be_let_in(known: &Known, phase: &Phase) -> bool {
    let Phase::Migrating {
        to,
        step: MoveStep::Copying | MoveStep::Copied | MoveStep::Returning,
        ..
    } = phase
    else {
        return false;
    };
    let other = known.servers.get(to);
    other.is_some_and(|other| other.parted && other.state == ServerState::Lost)
}

fn enter(spec: &DesktopSpec) -> Step {
    Step {
        task: Task::Enter { spec: spec.clone() },
        memory: Memory::Switched,
    }
}

fn push(
    id: &DesktopId,
    server: ServerId,
    (reason, impact): (Reason, Impact),
    waits: Vec<Wait>,
    step: Step,
    draft: &mut Draft<'_>,
) {
    draft.busy.insert(id.clone());
    draft.actions.push(Action {
        object: Address::Desktop(id.clone()),
        kind: Kind::Migrate,
        server: Some(server),
        needs: Vec::new(),
        wave: 0,
        reason,
        risk: Risk::Notice,
        reversible: true,
        impact,
        waits,
        edits: Vec::new(),
        step: Some(step),
    });
}

/// How many desktops are leaving each server.
pub(crate) fn leaving(known: &Known) -> BTreeMap<ServerId, u32> {
    let mut leaving = BTreeMap::new();
    for desktop in known.desktops.values() {
        if let Phase::Migrating { from, .. } = &desktop.phase {
            *leaving.entry(*from).or_default() += 1;
        }
    }
    leaving
}

/// How many personal desktops run on each server that is being emptied, and are not under way yet.
pub(crate) fn awake(known: &Known) -> BTreeMap<ServerId, u32> {
    let mut awake = BTreeMap::new();
    for desktop in known.desktops.values() {
        let under_way = matches!(desktop.phase, Phase::Migrating { .. });
        if !under_way && runs_to_leave(known, desktop) {
            *awake.entry(desktop.server).or_default() += 1;
        }
    }
    awake
}

/// What is left of a desktop on `server`, from where it went or where it did not get to, goes once the desktop is seen
/// to run whole where it is now. `None`: it is something else.
pub(crate) fn remains(known: &Known, server: ServerId, desktop: &KnownDesktop) -> Option<Remains> {
    if let Phase::Migrating { from, to, .. } = &desktop.phase
        && (*from == server || *to == server)
    {
        return Some(Remains::Needed);
    }
    if desktop.server == server {
        return None;
    }
    let home = known
        .servers
        .get(&desktop.server)
        .filter(|home| home.current);
    let seen = home
        .and_then(|home| home.look.as_ref())
        .and_then(|look| look.members.get(&desktop.spec.member));
    let sound = seen
        .and_then(|seen| seen.overlay.as_ref())
        .is_some_and(|overlay| overlay.sound);
    let runs = seen
        .and_then(|seen| seen.domain.as_ref())
        .is_some_and(|domain| matches!(domain.power, PowerState::Running { .. }));
    Some(if sound && runs {
        Remains::Superfluous
    } else {
        Remains::Needed
    })
}

/// What is left of a desktop where it is not, or not yet, at home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remains {
    /// It may come to be needed.
    Needed,
    /// Nobody will.
    Superfluous,
}
