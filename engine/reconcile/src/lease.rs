//! The lease of a server: for how long personal desktops of which there are copies run on here without word from the grid.
//!
//! The watchdog ends them at a moment that is moved on by renewals. A renewal counts from before a read of the newest state
//! that still has this server take part: so it had not been given up at the moment that the renewal counts from, and whoever
//! gives it up later waits for longer than the lease. What is agreed on is never less than what is in force: to begin or to
//! shorten it, the watchdog is told first; to lengthen or to end it, the grid is.
//!
//! Only a server without which a majority can stand has one: nobody can start elsewhere what runs on another.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use coppice_plans::replicas;
use coppice_schema::ids::{DesktopId, ServerId, ServerName};
use coppice_schema::known::Phase;
use coppice_schema::units::Span;
use coppice_state::state::Server;
use coppice_state::{Agreement, Entry, Outcome, Standing, State};
use coppice_world::clock::Clock;
use coppice_world::watchdog::{Guard, Watchdog};
use futures::future::{Either, select};
use futures::stream::StreamExt;
use uuid::Uuid;

use crate::wake;

/// A server that is stopped as planned comes back within that time, and its desktops run on meanwhile.
pub const REST: Span = Span::minutes(10);
/// A stop waits no longer than that for its lease.
const STOPS: Span = Span::seconds(3);
/// A lease is renewed so often in its time.
const RENEWALS: u64 = 6;
/// What is not to be guarded any more is, for so long: a report on its way may still say so, and others count with it.
const LINGERS: Span = Span::minutes(1);
/// What did not work is tried again that soon.
const TROUBLED: Span = Span::seconds(1);
/// Where nothing is to be guarded, it is looked that often whether something is, whatever happens.
const LOOK: Span = Span::minutes(1);

/// Whether there are to be copies of a desktop, so that it is started elsewhere when its server is lost.
#[must_use]
pub fn is_leased(state: &State, id: &DesktopId) -> bool {
    let desktop = state.desktops.get(id);
    desktop.is_some_and(|desktop| replicas::wanted(&state.committed, id, desktop) > 0)
}

/// The domains that the watchdog of that server is to hold: those of leased desktops that are there, are coming, or were
/// seen there in whichever life; and those that are shown as guarded, since others count with it.
#[must_use]
pub fn leased(state: &State, me: ServerId) -> BTreeSet<Uuid> {
    let desktops = state.desktops.iter().filter(|(id, desktop)| {
        let coming = matches!(desktop.phase, Phase::Migrating { to, .. } if to == me);
        (desktop.server == me || coming) && is_leased(state, id)
    });
    let desktops = desktops.map(|(_, desktop)| desktop.spec.uuid);
    let look = state.servers.get(&me).and_then(|s| s.look.as_deref());
    let seen = look.into_iter().flat_map(|look| &look.members);
    let seen = seen.filter_map(|(member, seen)| {
        let domain = seen.domain.as_ref()?;
        let held = domain.guarded || is_leased(state, &member.desktop);
        held.then_some(domain.uuid)
    });
    desktops.chain(seen).collect()
}

/// Whether a majority of the voters can stand without the one of that number in raft. `None`: who votes is not known.
#[must_use]
pub fn goes_on_without(raft_id: u64, standing: &Standing) -> Option<bool> {
    let voters = standing.parts.iter().filter(|(_, part)| part.voter);
    let voters: BTreeSet<u64> = voters.map(|(id, _)| *id).collect();
    let others = voters.iter().filter(|id| **id != raft_id).count();
    (!voters.is_empty()).then_some(others > voters.len() / 2)
}

/// What follows from a state for the lease of one server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct View {
    takes_part: bool,
    domains: BTreeSet<Uuid>,
    agreed: Option<Span>,
    /// Index of the entry by which that was agreed on.
    agreed_at: u64,
    wanted: Option<Span>,
    /// The lease of a server that runs.
    usual: Span,
}

impl View {
    fn of(state: &State, me: ServerId, known: &Server, standing: &Standing, rests: bool) -> Self {
        let domains = leased(state, me);
        let usual = state.committed.grid.fence_after;
        let length = if rests { usual.max(REST) } else { usual };
        let armed = match goes_on_without(known.raft_id, standing) {
            Some(without) => without,
            None => known.lease.is_some(),
        };
        Self {
            takes_part: known.state.takes_part(),
            wanted: (armed && !domains.is_empty()).then_some(length),
            domains,
            agreed: known.lease,
            agreed_at: known.lease_at,
            usual,
        }
    }

    /// Nothing is guarded, and nothing is to be.
    fn is_idle(&self) -> bool {
        self.agreed.is_none() && self.wanted.is_none()
    }

    /// How long to guard before anything else is agreed on. An entry of which it is not known whether it comes about still
    /// may shorten the lease to the usual one, so then that is the most.
    fn in_force(&self, unsure: bool) -> Option<Span> {
        let length = match (self.agreed, self.wanted) {
            (Some(agreed), Some(wanted)) => Some(agreed.min(wanted)),
            (agreed, wanted) => agreed.or(wanted),
        };
        length.map(|length| {
            if unsure {
                length.min(self.usual)
            } else {
                length
            }
        })
    }
}

/// The lease of one server between its renewals, for one start of its daemon.
#[derive(Debug)]
pub struct Keeper {
    name: ServerName,
    /// The server is being stopped as planned.
    rests: bool,
    /// Something was proposed, here or by a former daemon, of which it is not known whether it comes about still.
    unsure: bool,
    /// The watchdog may hold something.
    holds: bool,
    /// By which the last step went.
    view: View,
    /// What the watchdog holds, and when each was to be held last.
    held: BTreeMap<Uuid, Span>,
}

/// What a step did.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Beat {
    /// Renew after that at the latest.
    next: Span,
    /// All is in force, and agreed on, as it should be.
    settled: bool,
    trouble: Option<String>,
}

impl Beat {
    fn settled(next: Span) -> Self {
        Self {
            next,
            settled: true,
            trouble: None,
        }
    }

    fn trouble(what: impl ToString) -> Self {
        Self {
            next: TROUBLED,
            settled: false,
            trouble: Some(what.to_string()),
        }
    }
}

impl Keeper {
    /// Of the server called `name`, which runs.
    #[must_use]
    pub fn new(name: ServerName) -> Self {
        Self::at(name, false)
    }

    /// Makes what is in force and agreed on what it should be, on a server that stands still otherwise. What a simulation
    /// does instead of [`run`].
    pub async fn settle(&mut self, agreement: &dyn Agreement, watchdog: &dyn Watchdog) {
        // Arming takes two; more would be a server that cannot have it.
        for _ in 0..4 {
            let beat = self.step(agreement, watchdog).await;
            if beat.settled || beat.trouble.is_some() {
                break;
            }
        }
    }

    fn at(name: ServerName, rests: bool) -> Self {
        Self {
            name,
            rests,
            unsure: true,
            holds: true,
            view: View::default(),
            held: BTreeMap::new(),
        }
    }

    fn view(&self, state: &State, agreement: &dyn Agreement) -> Option<(ServerId, View)> {
        let (me, known) = state.server_named(&self.name)?;
        let view = View::of(state, me, known, &agreement.standing(), self.rests);
        Some((me, view))
    }

    /// Whether what is known here now asks for something else than the last step was by.
    fn sees_other(&self, agreement: &dyn Agreement) -> bool {
        let view = self.view(&agreement.local(), agreement);
        view.is_some_and(|(_, view)| view != self.view)
    }

    /// Whether the watchdog may hold something, of now or of a former daemon.
    async fn may_hold(&mut self, watchdog: &dyn Watchdog) -> bool {
        if self.holds {
            let guard = watchdog.guarding().await;
            self.holds = guard.map_or(true, |guard| !guard.domains.is_empty());
        }
        self.holds
    }

    /// Renews once, and comes nearer to what is to be agreed on by one entry.
    async fn step(&mut self, agreement: &dyn Agreement, watchdog: &dyn Watchdog) -> Beat {
        let seen = self.view(&agreement.local(), agreement);
        // Most servers have nothing to guard, and see that without asking anybody.
        let idle = seen.is_none_or(|(_, view)| view.is_idle());
        if idle && !self.may_hold(watchdog).await {
            return Beat::settled(LOOK);
        }
        let begun = watchdog.passed();
        let state = match agreement.read().await {
            Ok(state) => state,
            Err(error) => return Beat::trouble(error),
        };
        let Some((me, view)) = self.view(&state, agreement) else {
            return Beat::settled(LOOK);
        };
        self.view = view.clone();
        if !view.takes_part {
            return Beat::trouble("the grid has given this server up for now");
        }
        // Nothing was ever agreed on that could come late.
        let nothing = view.is_idle() && view.agreed_at == 0;
        let length = view.in_force(self.unsure);
        let guard = self.guard(length, begun);
        self.holds = length.is_some();
        let guarded = watchdog.guard(guard).await;
        // Where nobody guards, nobody is to count with it.
        let wanted = view.wanted.filter(|_| guarded.is_ok());
        let mut beat = match guarded {
            Ok(()) => Beat::settled(length.map_or(LOOK, |length| Span(length.0 / RENEWALS))),
            Err(error) => Beat::trouble(error),
        };
        if view.agreed != wanted || self.unsure && !nothing {
            beat.settled = false;
            beat.next = self.agree(agreement, me, wanted, state.index).await;
        } else {
            self.unsure = false;
        }
        beat
    }

    /// What is to be guarded for `length`, counted from `begun`.
    fn guard(&mut self, length: Option<Span>, begun: Span) -> Guard {
        let Some(length) = length else {
            self.held.clear();
            return Guard::default();
        };
        let now = self.view.domains.iter().map(|domain| (*domain, begun));
        self.held.extend(now);
        self.held
            .retain(|_, last| begun.0.saturating_sub(last.0) < LINGERS.0);
        Guard {
            domains: self.held.keys().copied().collect(),
            until: Span(begun.0.saturating_add(length.0)),
        }
    }

    /// Has a lease agreed on. Returns when to go on.
    async fn agree(
        &mut self,
        agreement: &dyn Agreement,
        server: ServerId,
        lease: Option<Span>,
        read: u64,
    ) -> Span {
        self.holds = true;
        let entry = Entry::ServerLease {
            server,
            lease,
            read,
        };
        match agreement.propose(entry).await {
            Ok(Outcome::Done) => {
                self.unsure = false;
                Span(0)
            }
            // The server was lost meanwhile, or the former entry came about after all.
            Ok(Outcome::Refused(_) | Outcome::Committed { .. } | Outcome::Already { .. }) => {
                TROUBLED
            }
            Err(_) => {
                self.unsure = true;
                TROUBLED
            }
        }
    }
}

/// Renews the lease of the server called `name`, for ever, as long as it has something to guard.
///
/// Dropping it is safe at any point: what is in force ends at its moment.
pub async fn run(
    name: ServerName,
    agreement: Arc<dyn Agreement>,
    watchdog: Arc<dyn Watchdog>,
    clock: Arc<dyn Clock>,
) {
    let mut streams = wake::Streams::new();
    streams.push(agreement.watch().map(|_| ()).boxed());
    let mut keeper = Keeper::new(name);
    let mut said: Option<String> = None;
    loop {
        let beat = keeper.step(agreement.as_ref(), watchdog.as_ref()).await;
        if let Some(trouble) = &beat.trouble
            && said.as_ref() != Some(trouble)
        {
            tracing::warn!(trouble, "the lease of desktops with copies is not renewed");
        }
        said = beat.trouble;
        let end = Span(clock.passed().0.saturating_add(beat.next.0));
        loop {
            let left = Span(end.0.saturating_sub(clock.passed().0));
            if left == Span(0) {
                break;
            }
            // What was just read may not have come here yet.
            wake::breathe(clock.as_ref()).await;
            // What did not work is not tried at each entry.
            if said.is_none() && keeper.sees_other(agreement.as_ref()) {
                break;
            }
            pin!(wake::event(clock.as_ref(), &mut streams, left)).await;
        }
    }
}

/// Has desktops with copies run on while the server called `name` is stopped as planned, for [`REST`]. Nothing else renews
/// its lease any more. It takes a few seconds at most, and where it cannot be had they end as when the server is lost.
pub async fn rest(
    name: ServerName,
    agreement: &dyn Agreement,
    watchdog: &dyn Watchdog,
    clock: &dyn Clock,
) {
    let longer = async {
        let mut keeper = Keeper::at(name, true);
        loop {
            let beat = keeper.step(agreement, watchdog).await;
            if beat.settled {
                break;
            }
            clock.sleep(beat.next).await;
        }
    };
    if let Either::Right(_) = select(pin!(longer), clock.sleep(STOPS)).await {
        tracing::warn!("no longer lease was agreed on: desktops with copies end soon");
    }
}

#[cfg(test)]
pub(crate) mod tests;
