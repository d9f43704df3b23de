//! What a plan may look at, made from the state.

use std::collections::BTreeMap;

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, GridId, PoolName};
use coppice_schema::known::{Health, KnownServer, ServerState};
use coppice_schema::review::KnownRun;
use coppice_schema::units::Timestamp;

use crate::apply::deadlines;
use crate::join::Role;
use crate::state::{Run, Server, State};

impl State {
    /// What is known in `term`. A look that was not confirmed in it, or whose hypervisor did not answer, is not
    /// current: what it does not show may still exist.
    #[must_use]
    pub fn known(&self, term: u64) -> Known {
        let servers = self
            .servers
            .iter()
            // A witness carries nothing, so nothing is decided about it.
            .filter(|(_, server)| server.role == Role::Server)
            .map(|(id, server)| (*id, known_server(server, term)))
            .collect();
        Known {
            grid: self.grid.unwrap_or(GridId([0; 16])),
            epoch: self.epoch,
            revision: self.revision,
            committed: self.committed.as_ref().clone(),
            generations: self.generations.clone(),
            servers,
            images: self.images.clone(),
            desktops: self.desktops.as_ref().clone(),
            slots: self.slots.clone(),
            requests: self.requests.clone(),
            repairs: self.repairs.clone(),
            orders: self.orders.as_ref().clone(),
            runs: self
                .runs
                .iter()
                .filter(|(_, run)| run.finished.is_none())
                .map(|(revision, run)| (*revision, known_run(run)))
                .collect(),
            secrets: self
                .secrets
                .iter()
                .filter(|(_, secret)| !secret.is_lost())
                .map(|(name, secret)| (name.clone(), secret.version))
                .collect(),
            pauses: self.pauses.clone(),
            protections: self.protections.clone(),
            kept: self.kept(),
            since: self.since.clone(),
        }
    }

    /// The last form of each protected pool that the committed configuration no longer has, or wants no desktop of.
    fn kept(&self) -> BTreeMap<PoolName, Desired> {
        let pools = self.protections.iter().filter_map(|address| {
            let Address::Pool(name) = address else {
                return None;
            };
            Some(name)
        });
        let wants = |desired: &Desired, name| {
            let pool = desired.pools.get(name);
            pool.is_some_and(|pool| pool.desktops > 0)
        };
        pools
            .filter(|name| !wants(&self.committed, name))
            .filter_map(|name| {
                let mut revisions = self.revisions.values().rev();
                let last = revisions.find(|record| wants(&record.desired, name))?;
                Some((name.clone(), last.desired.part(name)))
            })
            .collect()
    }

    /// The next moment at which time alone changes something here: a phase's deadline, or an order's. The leader
    /// proposes a tick, or a withdrawal, when it is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let phases = deadlines(self).map(|(_, at)| at);
        phases
            .chain(self.orders.values().map(|order| order.deadline))
            .min()
    }

    /// Whether a tick would change a phase at `now`.
    #[must_use]
    pub fn tick_is_due(&self, now: Timestamp) -> bool {
        deadlines(self).any(|(_, at)| at <= now)
    }
}

fn known_run(run: &Run) -> KnownRun {
    KnownRun {
        started: run.started,
        reviewed: run.reviewed.clone(),
    }
}

fn known_server(server: &Server, term: u64) -> KnownServer {
    let well = server
        .look
        .as_ref()
        .is_some_and(|look| look.hypervisor == Health::Well);
    KnownServer {
        name: server.name.clone(),
        labels: server.labels.clone(),
        capacity: server.capacity.clone(),
        state: server.state,
        since: server.since,
        force_at: server.force_at,
        skew: server.skew,
        look: server.look.as_deref().cloned(),
        current: well && server.confirmed_term == term && server.state != ServerState::Lost,
        parted: server.parted,
        lease: server.lease,
        fenced: server.fenced,
    }
}
