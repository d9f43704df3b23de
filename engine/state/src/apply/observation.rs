//! A server says what it sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, Member, PoolName, ServerId, Slot};
use coppice_schema::known::{
    BrokenReason, Health, KnownDesktop, Look, Order, Phase, Request, ServerState, Wear,
};
use coppice_schema::units::{Span, Timestamp};

use super::{life, member};
use crate::entry::{Outcome, Refusal, Report};
use crate::phase::{self, Evidence};
use crate::state::{Happening, State};

/// A failure is forgiven for each such time that the desktop was well.
const FORGIVEN_AFTER: Span = Span::minutes(30);

pub(super) fn report(state: &mut State, report: &Report) -> Result<Outcome, Refusal> {
    let (time, term) = (state.time, state.term);
    let known = member(state, report.server)?;
    let mut look = match &known.look {
        Some(look) if look.boot == report.boot => {
            if report.sequence != look.sequence + 1 {
                return Err(Refusal::OutOfOrder {
                    last: look.sequence,
                    found: report.sequence,
                });
            }
            look.as_ref().clone()
        }
        _ if report.sequence == 1 => Look {
            boot: report.boot,
            sequence: 0,
            at: time,
            members: Default::default(),
            images: Default::default(),
            disk: report.disk,
            foreign: Default::default(),
            quarantine: Default::default(),
            replicas: Default::default(),
            hypervisor: report.hypervisor.clone(),
        },
        _ => {
            return Err(Refusal::OutOfOrder {
                last: 0,
                found: report.sequence,
            });
        }
    };
    look.sequence = report.sequence;
    look.at = time;
    look.disk = report.disk;
    look.hypervisor = report.hypervisor.clone();
    merge(&mut look.members, &report.members);
    merge(&mut look.images, &report.images);
    merge(&mut look.foreign, &report.foreign);
    merge(&mut look.quarantine, &report.quarantine);
    merge(&mut look.replicas, &report.replicas);
    let gone = |member: &Member| {
        !look.quarantine.contains_key(member) && !look.members.contains_key(member)
    };
    let done = |request: &Request| match request {
        Request::Discard { member, server } => *server == report.server && gone(member),
        Request::Restart(_) | Request::Regrow(_) | Request::Move { .. } => false,
    };
    state.requests.retain(|_, request| !done(request));
    let known = member(state, report.server)?;
    known.look = Some(Arc::new(look));
    known.confirmed_term = term;
    adopt(state, report);
    life::heard_whole(state, report.server);
    settle_phases(state, report.server);
    Ok(Outcome::Done)
}

/// What was on a server that is proven to be off, and is shown by another: the same disks in another machine, or the same
/// machine under another number. It is where it is seen.
fn adopt(state: &mut State, report: &Report) {
    for (member, seen) in &report.members {
        let Some(known) = state.desktops.get(&member.desktop) else {
            continue;
        };
        let home = state.servers.get(&known.server);
        let homeless = home.is_none_or(|home| home.state == ServerState::Removed);
        let there = seen.as_ref().is_some_and(|seen| seen.overlay.is_some());
        if !homeless || !there || known.spec.member != *member || known.server == report.server {
            continue;
        }
        if let Some(known) = state.desktop_mut(&member.desktop) {
            known.server = report.server;
        }
        let generation = super::generation(state);
        state
            .generations
            .insert(Address::Desktop(member.desktop.clone()), generation);
    }
}

fn merge<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, changes: &BTreeMap<K, Option<V>>) {
    for (key, value) in changes {
        match value {
            Some(value) => into.insert(key.clone(), value.clone()),
            None => into.remove(key),
        };
    }
}

pub(super) fn confirm(
    state: &mut State,
    server: ServerId,
    boot: u64,
    sequence: u64,
    term: u64,
) -> Result<Outcome, Refusal> {
    let known = member(state, server)?;
    match &known.look {
        Some(look) if look.boot == boot && look.sequence == sequence => {
            known.confirmed_term = known.confirmed_term.max(term);
            if life::heard_whole(state, server) {
                settle_phases(state, server);
            }
            Ok(Outcome::Done)
        }
        Some(look) => Err(Refusal::OutOfOrder {
            last: look.sequence,
            found: sequence,
        }),
        None => Err(Refusal::Absent(format!("report of server {server}"))),
    }
}

/// Time passed: phases whose deadline is due.
pub(super) fn tick(state: &mut State) {
    let due: Vec<DesktopId> = deadlines(state)
        .filter(|(_, at)| *at <= state.time)
        .map(|(id, _)| id.clone())
        .collect();
    for id in due {
        rederive(state, &id);
    }
}

/// When time alone changes something in the state.
pub(crate) fn deadlines(state: &State) -> impl Iterator<Item = (&DesktopId, Timestamp)> {
    state.desktops.iter().filter_map(|(id, desktop)| {
        let evidence = evidence(state, desktop, None)?;
        Some((id, phase::deadline(desktop, evidence)?))
    })
}

/// What reports say of one desktop now.
enum Verdict {
    /// It is in that phase.
    Is(Phase),
    /// It is gone, and so may be its memory.
    Gone,
}

/// Brings the phases of a server's desktops up to what it reported.
fn settle_phases(state: &mut State, server: ServerId) {
    let orders: BTreeMap<&DesktopId, &Order> = state
        .orders
        .values()
        .filter_map(|order| Some((&order.task.member()?.desktop, order)))
        .collect();
    let here = state
        .desktops
        .iter()
        .filter(|(_, desktop)| desktop.server == server);
    let verdicts: Vec<(DesktopId, Verdict)> = here
        .filter_map(|(id, desktop)| {
            Some((id.clone(), judge(state, desktop, orders.get(id).copied())?))
        })
        .collect();
    for (id, verdict) in verdicts {
        carry(state, &id, verdict);
    }
}

/// Brings the phase of one desktop up to what is known, or forgets it when it is gone.
pub(super) fn rederive(state: &mut State, id: &DesktopId) {
    let of_it = |order: &&Order| {
        order
            .task
            .member()
            .is_some_and(|member| member.desktop == *id)
    };
    let order = state.orders.values().find(of_it);
    let verdict = state
        .desktops
        .get(id)
        .and_then(|desktop| judge(state, desktop, order));
    if let Some(verdict) = verdict {
        carry(state, id, verdict);
    }
}

/// What is to change about a desktop; `None`: nothing.
fn judge(state: &State, desktop: &KnownDesktop, order: Option<&Order>) -> Option<Verdict> {
    let evidence = evidence(state, desktop, order)?;
    if let Phase::Deleting { done, .. } = desktop.phase {
        return (done && order.is_none() && evidence.seen.is_none()).then_some(Verdict::Gone);
    }
    // On its way it is on two servers, and what each shows is half of it.
    if let Phase::Migrating { .. } = desktop.phase {
        return None;
    }
    let phase = phase::derive(desktop, evidence);
    (phase != desktop.phase).then_some(Verdict::Is(phase))
}

fn carry(state: &mut State, id: &DesktopId, verdict: Verdict) {
    match verdict {
        Verdict::Is(phase) => set_phase(state, id, phase),
        Verdict::Gone => forget(state, id),
    }
}

/// `None` where nothing was seen, or what is not seen may still be there.
fn evidence<'a>(
    state: &'a State,
    desktop: &KnownDesktop,
    order: Option<&'a Order>,
) -> Option<Evidence<'a>> {
    let server = state.servers.get(&desktop.server)?;
    // What it saw last before it was lost says nothing of what is there now.
    let look = server
        .look
        .as_deref()
        .filter(|_| server.state != ServerState::Lost)?;
    if look.hypervisor != Health::Well {
        return None;
    }
    Some(Evidence {
        seen: look.members.get(&desktop.spec.member),
        order,
        ready_after: ready_after(&state.committed, &desktop.spec.member.desktop),
        now: state.time,
    })
}

fn ready_after(committed: &Desired, id: &DesktopId) -> Span {
    let template = committed
        .pools
        .get(&id.pool)
        .and_then(|pool| committed.templates.get(&pool.template));
    let image = template.and_then(|template| committed.images.get(&template.image));
    image
        .and_then(|image| image.ready_after)
        .unwrap_or_default()
}

pub(super) fn forget(state: &mut State, id: &DesktopId) {
    if Arc::make_mut(&mut state.desktops).remove(id).is_some() {
        let generation = super::generation(state);
        state
            .generations
            .insert(Address::Desktop(id.clone()), generation);
        state.requests.remove(id);
        state.repairs.remove(id);
        state.record(
            Address::Desktop(id.clone()),
            Happening::Became {
                phase: "absent".to_owned(),
            },
        );
    }
}

/// Gives a desktop its phase, counts failures, and forgives them after time in health.
pub(super) fn set_phase(state: &mut State, id: &DesktopId, phase: Phase) {
    let time = state.time;
    let Some(desktop) = state.desktop_mut(id) else {
        return;
    };
    let before = std::mem::replace(&mut desktop.phase, phase.clone());
    desktop.wear = worn(desktop.wear, &phase, time);
    if matches!(phase, Phase::Available { .. } | Phase::InUse { .. }) {
        desktop.restored_from = None;
    }
    let same_kind = before.word() == phase.word();
    if !is_well(&phase) {
        forgive(desktop, &before, time);
    }
    // One whose server was lost is broken by that, which says nothing of the desktop: its slot must not rest for it.
    let by_itself = !same_kind && !matches!(before, Phase::Unknown { .. });
    if by_itself && matches!(phase, Phase::Broken { .. }) {
        desktop.failures.count = desktop.failures.count.saturating_add(1);
        desktop.failures.last = time;
    }
    let (failures, ready, root) = (
        desktop.failures,
        desktop.wear.ready.is_some(),
        desktop.spec.image,
    );
    let slot = state.slots.entry(id.clone()).or_default();
    slot.failures = failures;
    match &phase {
        Phase::Available { .. } | Phase::InUse { .. } => {
            slot.well = Some(root);
            slot.failed.remove(&root);
        }
        // Only these speak of what is in the image; the rest are troubles of servers.
        Phase::Broken {
            reason: BrokenReason::NotReady | BrokenReason::Crashed,
            ..
        } if !ready => {
            slot.failed.insert(root);
        }
        Phase::Broken { .. }
        | Phase::Provisioning { .. }
        | Phase::Off { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => {}
    }
    if !same_kind {
        got_through(state, &id.pool, root);
        state.record(
            Address::Desktop(id.clone()),
            Happening::Became {
                phase: phase.word().to_owned(),
            },
        );
    }
}

/// A version that all desktops of a pool are well with has not failed, whatever was seen on the way there.
fn got_through(state: &mut State, pool: &PoolName, root: Digest) {
    let wanted = state.committed.pools.get(pool).map(|pool| pool.desktops);
    let first = DesktopId {
        pool: pool.clone(),
        slot: Slot(0),
    };
    let mine = state.desktops.range(&first..);
    let mine = mine.take_while(|(id, _)| id.pool == *pool);
    let well = mine.take_while(|(_, desktop)| {
        let ready = matches!(
            desktop.phase,
            Phase::Available { .. } | Phase::InUse { .. } | Phase::Off { .. }
        );
        ready && desktop.wear.ready.is_some() && desktop.spec.image == root
    });
    let well = u32::try_from(well.count()).unwrap_or(u32::MAX);
    if wanted.is_some_and(|wanted| well >= wanted) {
        let slots = state.slots.range_mut(first..);
        for (_, slot) in slots.take_while(|(id, _)| id.pool == *pool) {
            slot.failed.remove(&root);
        }
    }
}

/// What a desktop has been through when it comes to `phase`. Only a guest that says so, or no power, tells that nobody
/// is signed in any more.
fn worn(before: Wear, phase: &Phase, time: Timestamp) -> Wear {
    let first = before.ready.or(Some(time));
    let empty = |ready| Wear {
        ready,
        occupied: false,
        left: before.left.or(before.occupied.then_some(time)),
        ..before
    };
    match phase {
        // Who only looks at its screen has not signed in.
        Phase::InUse { users: 0, .. } => empty(first),
        Phase::InUse { .. } => Wear {
            ready: first,
            occupied: true,
            ..before
        },
        Phase::Available { .. } => empty(first),
        Phase::Off { .. } => empty(before.ready),
        Phase::Provisioning { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => before,
    }
}

fn is_well(phase: &Phase) -> bool {
    matches!(phase, Phase::Available { .. } | Phase::InUse { .. })
}

/// Takes back what the time that a desktop has been well makes up for. To be called when it is not any more.
pub(super) fn forgive(desktop: &mut KnownDesktop, before: &Phase, now: Timestamp) {
    if is_well(before) {
        let made_up = now.since(before.since()).0 / FORGIVEN_AFTER.0;
        let made_up = u32::try_from(made_up).unwrap_or(u32::MAX);
        desktop.failures.count = desktop.failures.count.saturating_sub(made_up);
    }
}
