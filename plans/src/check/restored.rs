//! A personal desktop that goes on from a copy runs nowhere else.

use coppice_schema::Known;
use coppice_schema::ids::{Address, Member, ServerId};
use coppice_schema::known::{DesktopSpec, KnownDesktop, Phase, PowerState, ServerState};

use crate::plan::Action;

/// Judges that a desktop is brought back from a copy.
pub(super) fn judge(
    action: &Action,
    (spec, from): (&DesktopSpec, &Member),
    remembered: &DesktopSpec,
    present: Option<&KnownDesktop>,
    known: &Known,
    judge: &mut impl FnMut(bool, &Address, &'static str),
) {
    let object = &action.object;
    let Some(desktop) = present else {
        judge(false, object, "only a present desktop is brought back");
        return;
    };
    let gone = desktop.personal && matches!(desktop.phase, Phase::Unknown { .. });
    judge(
        gone && (desktop.spec.member == *from || desktop.restored_from.as_ref() == Some(from)),
        object,
        "only the life of which there is a copy is brought back",
    );
    judge(
        runs_nowhere(known, desktop),
        object,
        "a desktop goes on from a copy only where it certainly ended",
    );
    let id = &desktop.spec.member.desktop;
    let last = known.slots.get(id).map_or(0, |slot| slot.incarnation.0);
    judge(
        spec.member.desktop == *id && spec.member.incarnation.0 > last,
        object,
        "every life of a slot is a new one",
    );
    judge(
        spec.uuid == id.uuid(known.grid, known.epoch, spec.member.incarnation),
        object,
        "a desktop's UUID is derived",
    );
    judge(
        remembered == spec && spec.hostname == desktop.spec.hostname,
        object,
        "what is remembered is what is ordered",
    );
    let copy = |server: &ServerId| {
        let look = known.servers.get(server)?.look.as_ref()?;
        look.replicas.get(from).copied()
    };
    let chosen = action.server.as_ref().and_then(copy);
    judge(
        chosen.is_some_and(|copy| copy.image == spec.image),
        object,
        "a desktop goes on from a copy where one is",
    );
}

fn runs_nowhere(known: &Known, desktop: &KnownDesktop) -> bool {
    let Some(home) = known.servers.get(&desktop.server) else {
        return true;
    };
    let seen = home.look.as_ref();
    let domain = seen
        .and_then(|look| look.members.get(&desktop.spec.member))
        .and_then(|seen| seen.domain.as_ref());
    let free = domain.is_some_and(|domain| {
        !domain.guarded && !matches!(domain.power, PowerState::Off | PowerState::Crashed)
    });
    match home.state {
        ServerState::Removed => home.fenced || home.lease.is_none(),
        ServerState::Lost => home.fenced && home.lease.is_some() && !free,
        ServerState::Joining
        | ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Suspect
        | ServerState::Reconciling => false,
    }
}
