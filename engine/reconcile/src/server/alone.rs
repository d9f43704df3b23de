//! A server that no majority answers: what it has runs on, and what fell is started again. Nothing is made or taken away,
//! and nothing is agreed on: orders come from agreement.

use std::collections::BTreeSet;

use coppice_plans::plan::Step;
use coppice_schema::ids::{Member, ServerId, Stamp};
use coppice_schema::known::{PowerState, Task};
use coppice_schema::units::Timestamp;
use coppice_state::{Entry, Envelope, State, apply};
use futures::stream::{self, StreamExt};
use uuid::Uuid;

use super::flight::Object;
use super::look::{self, Sight};
use super::{Memory, Ports, Round, ServerReport, TROUBLED, placed, report};
use crate::lease;

/// Domains started at once.
const STARTED_AT_ONCE: usize = 4;

/// Looks, and starts again what the planner would, were a majority there.
pub(super) async fn attend(
    memory: &mut Memory,
    ports: &Ports,
    now: Timestamp,
    busy: &BTreeSet<Object>,
    told: &mut ServerReport,
) {
    told.again = Some(TROUBLED);
    let state = ports.agreement.local();
    let Some((grid, me)) = placed(memory, &state) else {
        return;
    };
    let round = Round { me, grid, now };
    let sight = look::look(&mut memory.guests, ports, &round, &state).await;
    told.whole = sight.whole;
    told.trouble.extend(sight.trouble.clone());
    if !sight.whole {
        return;
    }
    let fallen = fallen(memory, &round, &state, &sight);
    let fallen = left_here(fallen, ports, me, &state, told).await.into_iter();
    // What is under way is not meddled with.
    let free = fallen.filter(|(m, _)| !busy.contains(&Object::Slot(m.desktop.clone())));
    let starts =
        free.map(|(member, uuid)| async move { (member, ports.hypervisor.start(uuid).await) });
    let mut started = stream::iter(starts).buffer_unordered(STARTED_AT_ONCE);
    while let Some((member, result)) = started.next().await {
        match result {
            Ok(()) => {
                let what = format!("start {} again", member.desktop);
                told.begun.push((Stamp::default(), what));
            }
            Err(error) => told
                .trouble
                .push(format!("{member} is not started again: {error}")),
        }
    }
}

/// Those that nobody can have started elsewhere meanwhile: where a majority can stand without this server, one of which
/// there are copies has to be held by the watchdog still.
async fn left_here(
    fallen: Vec<(Member, Uuid)>,
    ports: &Ports,
    me: ServerId,
    state: &State,
    told: &mut ServerReport,
) -> Vec<(Member, Uuid)> {
    let raft_id = state.servers.get(&me).map(|known| known.raft_id);
    let standing = ports.agreement.standing();
    if raft_id.and_then(|id| lease::goes_on_without(id, &standing)) == Some(false) {
        return fallen;
    }
    let guard = ports.watchdog.guarding().await.unwrap_or_default();
    let passed = ports.watchdog.passed();
    let (stay, wait): (Vec<_>, Vec<_>) = fallen.into_iter().partition(|(member, uuid)| {
        !lease::is_leased(state, &member.desktop) || guard.lets_run(*uuid, passed)
    });
    told.trouble.extend(wait.into_iter().map(|(member, _)| {
        format!("{member} is not started again: it may have been, elsewhere, from a copy")
    }));
    stay
}

/// Whose domains are off here and would be ordered to start: by the one planner, on the state as it would be if what is
/// seen now were agreed on.
fn fallen(memory: &Memory, round: &Round, state: &State, sight: &Sight) -> Vec<(Member, Uuid)> {
    let mut would_be = state.clone();
    let look = state.servers.get(&round.me).and_then(|s| s.look.as_deref());
    if let Some(change) = report::difference(round.me, memory.boot, look, sight) {
        let entry = Entry::Reported(Box::new(change));
        let (term, index) = (state.term, state.index.saturating_add(1));
        let envelope = Envelope {
            at: round.now,
            entry,
        };
        apply(&mut would_be, term, index, &envelope);
    }
    if let Some(server) = would_be.servers.get_mut(&round.me) {
        // It is seen whole now, whoever led when that was last agreed on.
        server.confirmed_term = would_be.term;
    }
    let known = would_be.known(would_be.term);
    let plan = coppice_plans::plan(&would_be.committed, &known, round.now);
    let planned = plan.actions.iter().filter_map(|action| {
        let Step { task, .. } = action.step.as_ref()?;
        let mine = action.server == Some(round.me) && action.waits.is_empty();
        start_of(task).filter(|_| mine)
    });
    // What was ordered before is done too: it was agreed on.
    let ordered = state.orders.values().filter(|o| o.server == round.me);
    let ordered = ordered.filter_map(|order| start_of(&order.task));
    let mut fallen: Vec<(Member, Uuid)> = planned
        .chain(ordered)
        .filter_map(|member| {
            let domain = sight.members.get(member)?.domain.as_ref()?;
            let off = matches!(domain.power, PowerState::Off | PowerState::Crashed);
            off.then(|| (member.clone(), domain.uuid))
        })
        .collect();
    fallen.sort();
    fallen.dedup();
    fallen
}

fn start_of(task: &Task) -> Option<&Member> {
    if let Task::Start { member } = task {
        Some(member)
    } else {
        None
    }
}
