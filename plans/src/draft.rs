//! A plan while it is being made.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{Desired, Window};
use coppice_schema::ids::{Address, DesktopId, PoolName, ServerId};
use coppice_schema::known::{Failures, KnownServer, ServerState};
use coppice_schema::units::{Span, Timestamp};
use coppice_schema::{Digest, Known};
use jiff::tz::TimeZone;

use crate::copies::Awaited;
use crate::place::Ledger;
use crate::plan::{Action, Drift, DriftKind, Finding, PoolForecast, Response, UnderWay, Wait};
use crate::review::Review;
use crate::windows::{self, Now};

/// Longest time between two tries of what keeps failing.
const BACKOFF_MAX: Span = Span::minutes(10);

/// What is being put together, and the little that every part of it needs.
pub(crate) struct Draft<'a> {
    pub(crate) known: &'a Known,
    pub(crate) now: Timestamp,
    pub(crate) zone: TimeZone,
    pub(crate) ledger: Ledger<'a>,
    pub(crate) actions: Vec<Action>,
    pub(crate) drifts: Vec<Drift>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) pools: BTreeMap<PoolName, PoolForecast>,
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) next: Option<Timestamp>,
    /// Desktops with an open order.
    ordered: BTreeSet<DesktopId>,
    /// Those, and those with an action in this plan: at most one order for each at a time.
    pub(crate) busy: BTreeSet<DesktopId>,
    /// How many desktops are leaving each server, running.
    pub(crate) leaving: BTreeMap<ServerId, u32>,
    /// How many personal desktops run on each server that is being emptied, and are not under way yet.
    pub(crate) awake: BTreeMap<ServerId, u32>,
    /// What was reviewed of the runs under way.
    pub(crate) review: Review<'a>,
    /// A window that denies is open: what it is called and when it closes.
    pub(crate) freeze: Option<Wait>,
    /// Images that servers are still to get.
    pub(crate) copies: Awaited,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(desired: &'a Desired, known: &'a Known, now: Timestamp) -> Self {
        let zone = windows::zone(&desired.grid.timezone);
        let ordered: BTreeSet<DesktopId> = known
            .orders
            .values()
            .filter_map(|order| Some(order.task.member()?.desktop.clone()))
            .collect();
        let mut draft = Self {
            known,
            now,
            ledger: Ledger::new(desired, known),
            actions: Vec::new(),
            drifts: Vec::new(),
            findings: Vec::new(),
            pools: BTreeMap::new(),
            under_way: Vec::new(),
            next: None,
            busy: ordered.clone(),
            ordered,
            leaving: crate::pool::leaving(known),
            awake: crate::pool::awake(known),
            review: Review::default(),
            freeze: None,
            copies: Awaited::default(),
            zone,
        };
        for (name, window) in desired.windows.iter().filter(|(_, window)| window.deny) {
            match windows::state(window, &draft.zone, now) {
                Now::Open { closes } => {
                    draft.wake(closes);
                    draft.freeze = Some(Wait::Freeze {
                        name: name.to_string(),
                        closes: Some(closes),
                    });
                }
                Now::Closed { opens } => opens.into_iter().for_each(|at| draft.wake(at)),
            }
        }
        draft
    }

    /// Something changes at that time by itself.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }

    pub(crate) fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(crate) fn drift(&mut self, drift: Drift) {
        self.drifts.push(drift);
    }

    /// Since when drift of that kind has been seen.
    pub(crate) fn since(&self, object: &Address, kind: DriftKind) -> Option<Timestamp> {
        self.known.since.get(&drift_key(object, kind)).copied()
    }

    /// What keeps every action on an object from being done: a pause of it, of its pool or of the grid.
    pub(crate) fn pause(&mut self, addresses: &[Address]) -> Option<Wait> {
        let now = self.now;
        let paused = |until: &Option<Timestamp>| until.is_none_or(|until| until > now);
        let all = addresses.iter().chain(std::iter::once(&Address::Grid));
        let until = all
            .filter_map(|address| self.known.pauses.get(address))
            .find(|until| paused(until))
            .copied()?;
        until.into_iter().for_each(|at| self.wake(at));
        Some(Wait::Paused { until })
    }

    /// What a desktop that failed has to wait for before it is tried again.
    pub(crate) fn backoff(&mut self, id: &DesktopId, failures: Failures) -> Option<Wait> {
        let until = self.backs_off(id, failures)?;
        self.wake(until);
        Some(Wait::Backoff { until })
    }

    /// Until when what failed is not tried again, if it is not.
    pub(crate) fn backs_off(&self, id: &DesktopId, failures: Failures) -> Option<Timestamp> {
        // The first repair is immediate: most failures come alone.
        if failures.count <= 1 {
            return None;
        }
        let until = failures.last.after(pause_of(id, failures.count));
        (until > self.now).then_some(until)
    }

    /// What a roll-out bound to a window waits for.
    pub(crate) fn window(&mut self, name: &str, window: Option<&Window>) -> Option<Wait> {
        match windows::state(window?, &self.zone, self.now) {
            Now::Open { closes } => {
                self.wake(closes);
                None
            }
            Now::Closed { opens } => {
                opens.into_iter().for_each(|at| self.wake(at));
                Some(Wait::Window {
                    name: name.to_owned(),
                    opens,
                })
            }
        }
    }

    /// What a desktop with an open order waits for.
    pub(crate) fn ordered(&self, id: &DesktopId) -> Option<Wait> {
        self.ordered.contains(id).then(|| Wait::Order {
            what: "an earlier order for it".to_owned(),
        })
    }

    /// Says of each drift what its repair waits for. Once all actions are there.
    pub(crate) fn drift_waits(&mut self) {
        for drift in &mut self.drifts {
            let repair = self.actions.iter().find(|action| {
                drift.response == Response::Repaired && action.object == drift.object
            });
            drift.waits = repair.map_or(Vec::new(), |action| action.waits.clone());
        }
    }

    /// A server that may hold what it does not show.
    pub(crate) fn unseen(&self) -> Option<Wait> {
        let unseen = self
            .known
            .servers
            .values()
            .find(|server| may_hold_more(server))?;
        Some(Wait::Observation {
            server: unseen.name.to_string(),
        })
    }

    /// Whether every server that may hold desktops was seen whole. Where none has come so far yet, nothing was seen.
    pub(crate) fn complete(&self) -> bool {
        self.all_unseen().is_empty()
    }

    /// Those that were not seen whole, by name.
    pub(crate) fn all_unseen(&self) -> BTreeSet<String> {
        let servers = || self.known.servers.values();
        let joining = |server: &KnownServer| server.state == ServerState::Joining;
        let nobody = servers().all(joining);
        let unseen = servers().filter(|server| may_hold_more(server) || nobody);
        unseen.map(|server| server.name.to_string()).collect()
    }

    /// A server that was not seen whole, or is lost, by its id.
    pub(crate) fn not_seen(&self, server: ServerId) -> Option<Wait> {
        let known = self.known.servers.get(&server)?;
        let server = known.name.to_string();
        match known.state {
            ServerState::Lost => Some(Wait::Return { server }),
            ServerState::Joining
            | ServerState::Ready
            | ServerState::Cordoned
            | ServerState::Draining
            | ServerState::Suspect
            | ServerState::Reconciling
            | ServerState::Removed => (!known.current).then_some(Wait::Observation { server }),
        }
    }
}

/// Whether a server may hold what it does not show.
fn may_hold_more(server: &KnownServer) -> bool {
    use coppice_schema::known::ServerState as Part;
    let holds = match server.state {
        Part::Ready | Part::Cordoned | Part::Draining | Part::Suspect | Part::Reconciling => true,
        Part::Joining | Part::Lost | Part::Removed => false,
    };
    holds && !server.current
}

/// How long one waits that failed `count` times: twice as long each time, of which the latter half is by chance, so
/// that desktops that failed together are not tried together. By chance means by name here: a plan is the same twice.
fn pause_of(id: &DesktopId, count: u32) -> Span {
    let whole = (1_000u64 << count.min(20)).min(BACKOFF_MAX.0);
    let [a, b, c, d, ..] = Digest::of(format!("{id} {count}").as_bytes()).0;
    let chance = u64::from(u32::from_le_bytes([a, b, c, d]));
    Span(whole - chance % (whole / 2 + 1))
}

/// The key by which the grid remembers since when a drift has been seen.
pub(crate) fn drift_key(object: &Address, kind: DriftKind) -> String {
    format!("drift {object} {}", crate::specs::word(&kind))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_failed_together_is_not_tried_together() {
        let pauses = |count| {
            let ids = (1..=30).map(|slot| DesktopId {
                pool: "lab".parse().unwrap(),
                slot: coppice_schema::ids::Slot(slot),
            });
            let pauses: BTreeSet<Span> = ids.map(|id| pause_of(&id, count)).collect();
            pauses
        };
        let early = pauses(3);
        assert!(early.len() > 25, "{early:?}");
        let (first, last) = (Span::seconds(4), Span::seconds(8));
        assert!(early.iter().all(|pause| (first..=last).contains(pause)));
        let late = pauses(60);
        assert!(late.len() > 25, "{late:?}");
        assert!(late.iter().all(|pause| *pause <= BACKOFF_MAX));
    }
}
