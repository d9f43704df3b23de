//! A desktop that goes to another server runs on one of them at a time.

use coppice_schema::Known;
use coppice_schema::ids::{Address, Incarnation, ServerId};
use coppice_schema::known::{
    CopyState, KnownDesktop, KnownServer, MoveStep, Phase, PowerState, ServerState, Task,
};

use crate::plan::{Action, Memory, Step};

/// Whether a desktop may go away itself, running, from a server that is being emptied: then none is grown in its place.
pub(super) fn may_leave(known: &Known, desktop: &KnownDesktop) -> bool {
    if matches!(desktop.phase, Phase::Migrating { .. }) {
        return true;
    }
    let Some(server) = known.servers.get(&desktop.server) else {
        return false;
    };
    let used = matches!(desktop.phase, Phase::InUse { .. });
    let kept = desktop.personal && matches!(desktop.phase, Phase::Available { .. });
    // Where people have a time to leave, one failure is enough.
    let tried = desktop.stayed.failures.count > 0 && server.force_at.is_some();
    server.state == ServerState::Draining
        && server.capacity.moves.is_some()
        && (kept || (used && (desktop.personal || !tried)))
}

/// Judges one step of a move.
pub(super) fn judge(
    action: &Action,
    step: &Step,
    present: Option<&KnownDesktop>,
    server: (ServerId, &KnownServer),
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let object = &action.object;
    let Some(desktop) = present else {
        judge(false, object, "only a present desktop moves");
        return;
    };
    let life = step.task.member().map(|member| member.incarnation);
    judge(
        life == Some(desktop.incarnation),
        object,
        "only the present life of a desktop moves",
    );
    let way = match &desktop.phase {
        Phase::Migrating {
            from,
            to,
            spec,
            step,
            ..
        } => Some((*from, *to, spec.as_ref(), *step)),
        Phase::Provisioning { .. }
        | Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::InUse { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Deleting { .. } => None,
    };
    match (&step.task, &step.memory, way) {
        (
            Task::Receive { spec },
            Memory::Moving {
                to,
                spec: remembered,
            },
            None,
        ) => {
            judge(
                *to == server.0 && desktop.server != server.0,
                object,
                "a desktop moves to another server",
            );
            judge(
                matches!(desktop.phase, Phase::Available { .. } | Phase::InUse { .. }),
                object,
                "only a desktop that runs moves",
            );
            judge(
                **remembered == *spec
                    && (spec.uuid, spec.image, &spec.hostname)
                        == (
                            desktop.spec.uuid,
                            desktop.spec.image,
                            &desktop.spec.hostname,
                        ),
                object,
                "a desktop that moves stays itself",
            );
            let look = server.1.look.as_ref();
            let copy = look.and_then(|look| look.images.get(&spec.image));
            judge(
                copy == Some(&CopyState::Verified) && server.1.state == ServerState::Ready,
                object,
                "a desktop moves to where its image is, and new ones are taken",
            );
        }
        (Task::Send { to, .. }, Memory::Copying, Some((from, there, _, MoveStep::Prepared))) => {
            judge(
                from == server.0 && there == *to,
                object,
                "a desktop is sent from where it is to where room was made",
            );
        }
        (Task::Enter { spec }, Memory::Switched, Some((_, to, wanted, step))) => judge(
            to == server.0
                && spec == wanted
                && matches!(step, MoveStep::Copied | MoveStep::Switched),
            object,
            "a desktop is let in where all of it is",
        ),
        (Task::Stay { .. }, Memory::Returning, Some((from, _, _, step))) => judge(
            from == server.0 && step != MoveStep::Switched,
            object,
            "what was let in elsewhere does not stay",
        ),
        _ => judge(false, object, "each step of a move follows the one before"),
    }
}

/// What is left of it here may go: it is seen to run, whole, on another server.
pub(super) fn is_elsewhere(
    present: Option<&KnownDesktop>,
    incarnation: Incarnation,
    here: ServerId,
    known: &Known,
) -> bool {
    let Some(desktop) = present.filter(|desktop| desktop.incarnation == incarnation) else {
        return false;
    };
    let home = known.servers.get(&desktop.server);
    let seen = home
        .filter(|home| home.current && desktop.server != here)
        .and_then(|home| home.look.as_ref()?.members.get(&desktop.spec.member));
    let runs = seen.is_some_and(|seen| {
        let domain = seen.domain.as_ref();
        let overlay = seen.overlay.as_ref();
        domain.is_some_and(|domain| matches!(domain.power, PowerState::Running { .. }))
            && overlay.is_some_and(|overlay| overlay.sound)
    });
    runs && !matches!(desktop.phase, Phase::Migrating { .. })
}
