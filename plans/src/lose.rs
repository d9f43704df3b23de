//! What if servers were lost: the same plan, on the grid as it would be.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Known;
use coppice_schema::desired::Desired;
use coppice_schema::ids::{Address, DesktopId, PoolName, ServerId, ServerName};
use coppice_schema::known::{CopyState, KnownDesktop, Phase, ServerState};
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::plan::{Action, FindingKind, Kind, Plan, Reason};

/// Servers that would be lost, and what would come of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Lost {
    /// The servers, by name.
    pub servers: BTreeSet<String>,
    /// People who would be cut off at once.
    pub users: u32,
    /// The pools that have desktops there.
    #[schema(value_type = BTreeMap<String, LostOfPool>)]
    pub pools: BTreeMap<PoolName, LostOfPool>,
    /// Image versions, as `name@version`, of which no other server has a whole copy.
    pub images: BTreeSet<String>,
}

/// What a pool would lose.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LostOfPool {
    /// Pooled desktops; others are grown in their place.
    pub pooled: u32,
    /// Personal desktops: those that do not go on from a copy wait for their server.
    pub personal: u32,
    /// Those of them that would go on from a copy.
    #[serde(default)]
    pub from_copies: u32,
    /// When the oldest of those copies was taken: what was written since would not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub oldest_copy: Option<Timestamp>,
    /// People at both.
    pub users: u32,
    /// How many would be grown anew, on which server.
    pub regrown: BTreeMap<String, u32>,
    /// How many would not, though they should.
    pub without_place: u32,
    /// What those wait for, in words.
    pub waits: BTreeSet<String>,
}

/// A plan on the grid as it would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WhatIf {
    /// The grid as it would be.
    pub known: Known,
    /// What would be done in it.
    pub plan: Plan,
    /// What would be lost, and grown anew.
    pub lost: Lost,
}

/// What would be done, if `desired` were committed and these servers lost. Nothing is done, and nothing of it may be.
#[must_use]
pub fn what_if(
    desired: &Desired,
    known: &Known,
    servers: &BTreeSet<ServerName>,
    now: Timestamp,
) -> WhatIf {
    let gone: BTreeSet<ServerId> = known
        .servers
        .iter()
        .filter(|(_, server)| servers.contains(&server.name))
        .map(|(id, _)| *id)
        .collect();
    let would_be = without(known, &gone, now);
    let mut plan = crate::plan(desired, &would_be, now);
    // They were looked at; it is the grid as it would be in which they are silent.
    for (id, looked) in &mut plan.looked {
        looked.current = known.servers.get(id).is_some_and(|server| server.current);
    }
    let lost = lost(known, &gone, &plan);
    WhatIf {
        known: would_be,
        plan,
        lost,
    }
}

/// The grid after it has agreed that those servers are lost.
fn without(known: &Known, gone: &BTreeSet<ServerId>, now: Timestamp) -> Known {
    let mut known = known.clone();
    let servers = known.servers.iter_mut();
    for (_, server) in servers.filter(|(id, _)| gone.contains(id)) {
        server.state = ServerState::Lost;
        server.since = now;
        server.current = false;
        // It would be, in a moment.
        server.fenced = server.lease.is_some();
    }
    for desktop in known.desktops.values_mut() {
        if gone.contains(&desktop.server) {
            desktop.phase = Phase::Unknown { since: now };
        }
    }
    known
        .orders
        .retain(|_, order| !gone.contains(&order.server));
    known
}

fn lost(known: &Known, gone: &BTreeSet<ServerId>, plan: &Plan) -> Lost {
    let there = |desktop: &KnownDesktop| gone.contains(&desktop.server);
    let mut lost = Lost::default();
    for server in gone.iter().filter_map(|id| known.servers.get(id)) {
        lost.servers.insert(server.name.to_string());
    }
    for (id, desktop) in known.desktops.iter().filter(|(_, desktop)| there(desktop)) {
        if matches!(desktop.phase, Phase::Unknown { .. }) {
            continue;
        }
        let pool = lost.pools.entry(id.pool.clone()).or_default();
        let count = if desktop.personal {
            &mut pool.personal
        } else {
            &mut pool.pooled
        };
        *count += 1;
        pool.users += desktop.people();
        lost.users += desktop.people();
    }
    for (name, pool) in &mut lost.pools {
        replaced(name, pool, plan);
    }
    for (name, versions) in &known.images {
        for (version, record) in versions {
            let holds = |id: &ServerId| {
                let look = known
                    .servers
                    .get(id)
                    .and_then(|server| server.look.as_ref());
                look.is_some_and(|look| look.images.get(&record.root) == Some(&CopyState::Verified))
            };
            let (here, there): (Vec<&ServerId>, Vec<&ServerId>) = known
                .servers
                .keys()
                .filter(|id| holds(id))
                .partition(|id| gone.contains(id));
            if !here.is_empty() && there.is_empty() {
                lost.images.insert(format!("{name}@{version}"));
            }
        }
    }
    lost
}

/// Which of the desktops that the plan makes take the place of those that the pool loses.
fn replaced(name: &PoolName, pool: &mut LostOfPool, plan: &Plan) {
    let of_pool = |action: &&Action| {
        let desktop: Option<&DesktopId> = action.object.desktop();
        let replaces = matches!(action.reason, Reason::HostGone { .. });
        replaces && action.kind == Kind::Create && desktop.is_some_and(|id| id.pool == *name)
    };
    for action in &plan.actions {
        let mine = action.object.desktop().is_some_and(|id| id.pool == *name);
        if let (Reason::FromCopy { taken, .. }, true) = (&action.reason, mine) {
            pool.from_copies += 1;
            let oldest = pool.oldest_copy.map_or(*taken, |oldest| oldest.min(*taken));
            pool.oldest_copy = Some(oldest);
        }
    }
    let made: Vec<&Action> = plan.actions.iter().filter(of_pool).collect();
    let wanted = usize::try_from(pool.pooled).unwrap_or(usize::MAX);
    for action in made.into_iter().take(wanted) {
        let server = action.server.and_then(|id| plan.looked.get(&id));
        match server {
            Some(server) => *pool.regrown.entry(server.name.clone()).or_default() += 1,
            None => {
                pool.without_place += 1;
                pool.waits
                    .extend(action.waits.iter().map(crate::text::wait));
            }
        }
    }
    let mine = Address::Pool(name.clone());
    let short = plan.findings.iter().filter_map(|finding| {
        let FindingKind::NoRoom { desktops, lacking } = &finding.kind else {
            return None;
        };
        (finding.object == mine).then_some((*desktops, lacking))
    });
    // Without a free slot there is no action that could wait.
    let grown: u32 = pool.regrown.values().sum();
    for (desktops, lacking) in short {
        let more = pool
            .pooled
            .saturating_sub(grown + pool.without_place)
            .min(desktops);
        if more > 0 {
            pool.without_place += more;
            pool.waits.insert(lacking.clone());
        }
    }
}
