//! Desktops that go to another server while they run: off a server that is being emptied, where somebody uses them or
//! keeps something in them. What nobody uses and nobody keeps is grown anew elsewhere instead, which costs less.

use coppice_schema::Known;
use coppice_schema::ids::{Address, DesktopId, ServerId};
use coppice_schema::known::{
    DesktopSpec, KnownDesktop, KnownServer, MoveStep, Phase, ServerState, Task,
};

use super::{Yard, fate};
use crate::draft::Draft;
use crate::place::{Need, carried};
use crate::plan::{Action, Basis, Estimate, Impact, Kind, Memory, Reason, Risk, Step, Wait};
use crate::specs;

/// Desktops that leave one server at a time. Two keep a network busy; more only take longer, each of them.
const LEAVING_AT_ONCE: u32 = 2;

/// Whether a desktop could leave its server running, as far as both it and its server are concerned.
pub(crate) fn could_leave(known: &Known, desktop: &KnownDesktop) -> bool {
    let server = known.servers.get(&desktop.server);
    let emptied = server.is_some_and(|server| {
        server.state == ServerState::Draining && server.capacity.moves.is_some()
    });
    let worth = match desktop.phase {
        Phase::InUse { .. } => true,
        Phase::Available { .. } => desktop.personal,
        Phase::Migrating { .. } => return true,
        Phase::Provisioning { .. }
        | Phase::Off { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => false,
    };
    emptied && worth
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
    let Some((to, server)) = destination(yard, desktop, from, draft) else {
        return false;
    };
    let mut waits = fate::ordinary_waits(yard, id, desktop, draft);
    waits.extend(draft.backoff(id, desktop.stayed));
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
    push(id, to, reason, waits, Step { task, memory }, draft);
    true
}

/// The best server that takes running desktops as this one's server sends them.
fn destination<'k>(
    yard: Yard<'k>,
    desktop: &KnownDesktop,
    from: &KnownServer,
    draft: &Draft<'_>,
) -> Option<(ServerId, &'k KnownServer)> {
    let hardware = &desktop.spec.hardware;
    let need = Need {
        image: desktop.spec.image,
        labels: &yard.pool.servers,
        takes: carried(yard.known, desktop),
        firmware: hardware.firmware,
        displays: &hardware.displays,
    };
    let hosts = draft.ledger.hosts().iter();
    let fit = hosts.filter(|host| {
        host.id != desktop.server
            && host.server.capacity.moves == from.capacity.moves
            && host.lacks(&need).is_none()
            && !holds(host.server, desktop)
    });
    let best = fit.min_by_key(|host| (host.weight(need.takes), host.id))?;
    Some((best.id, yard.known.servers.get(&best.id)?))
}

/// Something of it is left there from before. That goes first.
fn holds(server: &KnownServer, desktop: &KnownDesktop) -> bool {
    let look = server.look.as_ref();
    look.is_some_and(|look| look.members.contains_key(&desktop.spec.member))
}

/// What it is to be on another server: as it is, plugged into that server's networks.
fn there(yard: Yard<'_>, desktop: &KnownDesktop, server: &KnownServer) -> DesktopSpec {
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
        let waits = draft.not_seen(server).into_iter().collect();
        push(id, server, reason, waits, step, draft);
    }
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
    reason: Reason,
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
        impact: Impact {
            takes: Estimate {
                value: super::GROWTH_GUESS,
                basis: Basis::Guess,
            },
            ..Impact::default()
        },
        waits,
        edits: Vec::new(),
        step: Some(step),
    });
}

/// How many desktops are leaving each server.
pub(crate) fn leaving(known: &Known) -> std::collections::BTreeMap<ServerId, u32> {
    let mut leaving = std::collections::BTreeMap::new();
    for desktop in known.desktops.values() {
        if let Phase::Migrating { from, .. } = &desktop.phase {
            *leaving.entry(*from).or_default() += 1;
        }
    }
    leaving
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
        .is_some_and(|domain| {
            matches!(
                domain.power,
                coppice_schema::known::PowerState::Running { .. }
            )
        });
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
