//! A configuration is committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_plans::plan::{Base, Intent};
use coppice_schema::desired::{Desired, Pool};
use coppice_schema::ids::{Address, DesktopId, PolicyName, Revision};
use coppice_schema::known::KnownDesktop;

use super::generation;
use crate::entry::{Commit, Outcome, Refusal, StaleObject};
use crate::state::{Change, Happening, RevisionRecord, Run, State};

/// Runs remembered.
const RUNS_KEPT: usize = 50;
/// Applied plans remembered, to make applying one of them again do nothing.
const PLANS_KEPT: usize = 1_000;

pub(super) fn commit(state: &mut State, commit: &Commit) -> Result<Outcome, Refusal> {
    if let Some(revision) = state.applied_plans.get(&commit.plan) {
        return Ok(Outcome::Already {
            revision: *revision,
        });
    }
    compare(state, &commit.base)?;
    let mut merged = state.committed.as_ref().clone();
    for address in commit.changes.keys() {
        merged.take(address, &commit.desired);
    }
    fits(state, commit, &merged)?;

    let revision = Revision(state.revision.0 + 1);
    let generation = generation(state);
    for (address, intent) in &commit.changes {
        match intent {
            Intent::Set => state.generations.insert(address.clone(), generation),
            Intent::Removed => state.generations.remove(address),
        };
        let change = Change {
            author: commit.author.clone(),
            revision,
            at: state.time,
        };
        state.changed_by.insert(address.clone(), change);
    }
    protect(state, commit);

    state.revision = revision;
    let before = Arc::clone(&state.committed);
    state.committed = Arc::new(merged);
    carry_images(state);
    keep_personal(state, commit);
    let committed = &state.committed;
    for (id, slot) in &mut state.slots {
        // What is made of something else may be well.
        if before.form(&id.pool) != committed.form(&id.pool) {
            slot.failed.clear();
        }
    }
    let record = RevisionRecord {
        desired: Arc::clone(&state.committed),
        texts: commit.texts,
        plan: commit.plan,
        author: commit.author.clone(),
        at: state.time,
    };
    state.revisions.insert(revision, record);
    let keep = usize::try_from(commit.desired.grid.keep_revisions.max(1)).unwrap_or(usize::MAX);
    while state.revisions.len() > keep {
        state.revisions.pop_first();
    }

    let run = Run {
        plan: commit.plan,
        author: commit.author.clone(),
        started: state.time,
        finished: None,
        reviewed: commit.reviewed.clone(),
        bounds: commit.bounds.clone(),
        done: 0,
        failed: 0,
    };
    state.runs.insert(revision, run);
    while state.runs.len() > RUNS_KEPT {
        state.runs.pop_first();
    }
    state.applied_plans.insert(commit.plan, revision);
    if state.applied_plans.len() > PLANS_KEPT {
        let oldest = state
            .applied_plans
            .iter()
            .min_by_key(|(_, revision)| **revision)
            .map(|(plan, _)| *plan);
        oldest.and_then(|plan| state.applied_plans.remove(&plan));
    }
    state.record(
        Address::Grid,
        Happening::Applied {
            author: commit.author.clone(),
            revision,
        },
    );
    Ok(Outcome::Committed { revision })
}

/// Two people's changes, each whole, may not be so together: refuses when what others changed since the plan was made
/// refers to what it removes, or was read with policies that it changes.
fn fits(state: &State, commit: &Commit, merged: &Desired) -> Result<(), Refusal> {
    let before = state.committed.dangling();
    let dangling = merged.dangling().into_iter();
    let dangling = dangling
        .filter(|both| !before.contains(both))
        .map(|(from, to)| {
            let by = format!("{}, and refers to {to}", who(state, &from));
            (from, by)
        });
    let changed = |policy: &PolicyName| {
        let address = Address::Policy(policy.clone());
        commit.changes.contains_key(&address)
    };
    let policies = merged.pools.iter().filter_map(|(name, pool)| {
        let policy = pool.policies.iter().find(|policy| changed(policy))?;
        let read = |pool: &Pool| (pool.policies.clone(), pool.policy.clone());
        let planned = commit.desired.pools.get(name);
        if planned.map(read) == Some(read(pool)) {
            return None;
        }
        let address = Address::Pool(name.clone());
        let by = who(state, &address);
        Some((
            address,
            format!("{by}, and lists policy.{policy} as it was"),
        ))
    });
    let mut stale: BTreeMap<Address, String> = policies.collect();
    stale.extend(dangling);
    if stale.is_empty() {
        return Ok(());
    }
    let object = |(address, by): (Address, String)| StaleObject {
        read: commit
            .base
            .objects
            .get(&address)
            .copied()
            .unwrap_or_default(),
        now: state.generation(&address),
        address,
        by,
    };
    Err(Refusal::Stale(stale.into_iter().map(object).collect()))
}

/// An image that got another name by `moved` keeps its versions. Its protection is what its block says now.
fn carry_images(state: &mut State) {
    for (from, to) in state.committed.image_moves(&state.images) {
        let Some(versions) = state.images.remove(&from) else {
            continue;
        };
        state.images.insert(to.clone(), versions);
        state.protections.remove(&Address::Image(from.clone()));
        let what = format!("the versions of {from} are those of {to} now");
        state.record(Address::Image(to), Happening::Image { what });
    }
}

/// Desktops of a pool that becomes personal are somebody's from now on. They stay that until they are regrown, whatever
/// becomes of the pool.
fn keep_personal(state: &mut State, commit: &Commit) {
    let committed = Arc::clone(&state.committed);
    let becomes = |id: &DesktopId| {
        commit.changes.contains_key(&Address::Pool(id.pool.clone()))
            && committed.becomes_personal(id)
    };
    let pooled = |(id, desktop): (&DesktopId, &KnownDesktop)| !desktop.personal && becomes(id);
    if state.desktops.iter().any(pooled) {
        let desktops = Arc::make_mut(&mut state.desktops).iter_mut();
        for (_, desktop) in desktops.filter(|(id, _)| becomes(id)) {
            desktop.personal = true;
        }
    }
}

/// Protection outlives the block that gave it: only saying `protect = false` lifts it. What the commit does not
/// change keeps the protection it has.
fn protect(state: &mut State, commit: &Commit) {
    for (address, _) in commit
        .changes
        .iter()
        .filter(|(_, intent)| **intent == Intent::Set)
    {
        let protected = match address {
            Address::Image(name) => commit
                .desired
                .images
                .get(name)
                .is_some_and(|image| image.protect),
            Address::Pool(name) => commit
                .desired
                .pools
                .get(name)
                .is_some_and(|pool| pool.protect),
            Address::Grid
            | Address::Window(_)
            | Address::Network(_)
            | Address::Directory(_)
            | Address::Location(_)
            | Address::Template(_)
            | Address::Policy(_)
            | Address::Server(_)
            | Address::Desktop(_)
            | Address::Secret(_) => continue,
        };
        if protected {
            state.protections.insert(address.clone());
        } else {
            state.protections.remove(address);
        }
    }
}

/// Refuses when any object that a plan read is another now.
pub(super) fn compare(state: &State, base: &Base) -> Result<(), Refusal> {
    let stale: Vec<StaleObject> = base
        .objects
        .iter()
        .filter(|(address, read)| state.generation(address) != **read)
        .map(|(address, read)| StaleObject {
            address: address.clone(),
            read: *read,
            now: state.generation(address),
            by: who(state, address),
        })
        .collect();
    if stale.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Stale(stale))
    }
}

fn who(state: &State, address: &Address) -> String {
    match state.changed_by.get(address) {
        Some(change) => format!("{} in revision {}", change.author, change.revision),
        None => "the grid itself".to_owned(),
    }
}
