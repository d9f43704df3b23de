//! A personal desktop that goes on from a copy: its server is lost, and its former life certainly ended there.

use coppice_schema::ids::DesktopId;
use coppice_schema::known::{DesktopSpec, KnownDesktop, Phase, Request, ServerState, Task};

use crate::entry::{NewOrder, Refusal};
use crate::state::State;

pub(super) fn acceptable(
    state: &State,
    order: &NewOrder,
    spec: &DesktopSpec,
    known: &KnownDesktop,
) -> Result<(), Refusal> {
    let id = &known.spec.member.desktop;
    let Task::Restore { spec: told, from } = &order.task else {
        return Err(Refusal::Absent(format!("copy of {id} in that order")));
    };
    let absent = known.personal && matches!(known.phase, Phase::Unknown { .. });
    let of_it = *from == known.spec.member || known.restored_from.as_ref() == Some(from);
    if !absent || !of_it || told != spec {
        return Err(Refusal::Exists(format!("desktop {id}")));
    }
    if !ended(state, known) {
        let home = state.servers.get(&known.server);
        let home = home.map_or_else(|| known.server.to_string(), |it| it.name.to_string());
        return Err(Refusal::Absent(format!(
            "proof that {id} runs no more on server {home}"
        )));
    }
    let last = state.slots.get(id).map(|slot| slot.incarnation);
    if spec.member.desktop != *id || spec.member.incarnation <= last.unwrap_or_default() {
        let member = &spec.member;
        return Err(Refusal::Exists(format!("{member}, or a later life of it")));
    }
    let look = state.servers.get(&order.server);
    let look = look.and_then(|server| server.look.as_deref());
    match look.and_then(|look| look.replicas.get(from)) {
        Some(copy) if copy.image == spec.image => Ok(()),
        Some(_) | None => Err(Refusal::Absent(format!(
            "copy of {from} on server {}",
            order.server
        ))),
    }
}

/// The order was given: it is another life from now on, and what was asked of the former one is over.
pub(super) fn begun(state: &mut State, order: &NewOrder, spec: &DesktopSpec) {
    let id = &spec.member.desktop;
    let Task::Restore { from, .. } = &order.task else {
        return;
    };
    super::orders::grow(state, order.server, spec, true);
    if let Some(desktop) = state.desktop_mut(id) {
        desktop.restored_from = Some(from.clone());
    }
    let apart = |request: &Request| matches!(request, Request::Discard { .. });
    state
        .requests
        .retain(|of, request| of != id || apart(request));
    state.repairs.remove(id);
}

/// What came to nothing may be tried again, of the same copy.
pub(super) fn again(order: &NewOrder, known: &KnownDesktop) -> Result<(), Refusal> {
    let Task::Restore { spec, from } = &order.task else {
        return Ok(());
    };
    if known.restored_from.as_ref() == Some(from) && *spec == known.spec {
        return Ok(());
    }
    Err(Refusal::Absent(format!("restoration from {from}")))
}

/// Whether a desktop that does not show itself certainly runs no more: its server has been lost for longer than its lease,
/// and its watchdog held the desktop; or a person says that it is gone for good, and it has no lease to wait for.
fn ended(state: &State, known: &KnownDesktop) -> bool {
    let Some(home) = state.servers.get(&known.server) else {
        return true;
    };
    let look = home.look.as_deref();
    let held = look.is_none_or(|look| look.ends_itself(&known.spec.member));
    match home.state {
        ServerState::Removed => home.fenced || home.lease.is_none(),
        ServerState::Lost => home.fenced && held,
        ServerState::Joining
        | ServerState::Ready
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Suspect
        | ServerState::Reconciling => false,
    }
}

/// Whether another server that takes part has a copy of a desktop.
pub(super) fn has_copy(state: &State, id: &DesktopId) -> bool {
    let Some(known) = state.desktops.get(id).filter(|known| known.personal) else {
        return false;
    };
    let mut servers = state.servers.iter();
    servers.any(|(server, it)| {
        let there = it.state.takes_part();
        let look = it
            .look
            .as_deref()
            .filter(|_| there && *server != known.server);
        look.is_some_and(|look| {
            let of = |member| look.replicas.contains_key(member);
            of(&known.spec.member) || known.restored_from.as_ref().is_some_and(of)
        })
    })
}
