//! Copies of images beyond the number that is declared, where nothing needs them.
//!
//! They come about when `copies` is lowered, and when a server is back whose share another got meanwhile. A server that
//! could not carry desktops of the image just now keeps its copy: it may be back tomorrow, and the copy would come again.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::desired::{Copies, Desired, DriftRule};
use coppice_schema::ids::{Address, ImageName, ServerId};
use coppice_schema::known::{CopyState, Phase};
use coppice_schema::{Digest, Known};

use crate::copies::could_run;
use crate::draft::Draft;
use crate::images::{beyond_keep, drop_copy, rule};
use crate::plan::Reason;
use crate::replicas::{Holders, wanted};

/// Drops what is too much of every version that is kept. Those with desktops, or orders for some, keep theirs.
pub(crate) fn collect(desired: &Desired, known: &Known, draft: &mut Draft<'_>) {
    let most = most(desired, known);
    if most.is_empty() {
        return;
    }
    let mut needs = None;
    for (root, (name, copies)) in most {
        // Whoever gets it may get it from any of them, and another order about it ends first.
        let planned = draft.actions.iter().filter_map(|it| it.step.as_ref());
        let tasks = known.orders.values().map(|order| &order.task);
        if tasks
            .chain(planned.map(|step| &step.task))
            .any(|task| task.image() == Some(root))
        {
            continue;
        }
        let holders: Vec<ServerId> = known
            .servers
            .iter()
            .filter(|(_, server)| server.current && could_run(desired, server, name))
            .filter(|(_, server)| {
                let look = server.look.as_ref();
                look.and_then(|look| look.images.get(&root)) == Some(&CopyState::Verified)
            })
            .map(|(id, _)| *id)
            .collect();
        let most = usize::try_from(copies).unwrap_or(usize::MAX);
        let Some(surplus) = holders.len().checked_sub(most) else {
            continue;
        };
        let needs = needs.get_or_insert_with(|| needed(desired, known, draft));
        let idle = holders.into_iter().rev().filter(|id| {
            let look = known.servers.get(id).and_then(|it| it.look.as_ref());
            !needs.contains(&(*id, root)) && look.is_some_and(|look| !look.needs_image(root))
        });
        let object = Address::Image(name.clone());
        let waits: Vec<_> = draft
            .pause(std::slice::from_ref(&object))
            .into_iter()
            .collect();
        for server in idle.take(surplus).collect::<Vec<_>>() {
            let reason = Reason::Surplus { copies };
            let (object, waits) = (object.clone(), waits.clone());
            drop_copy(known, server, root, object, reason, waits, draft);
        }
    }
}

/// The versions that are published or kept, and on how many servers each is to be, where that is a number: the largest,
/// where the same bytes have several names.
fn most<'a>(desired: &'a Desired, known: &Known) -> BTreeMap<Digest, (&'a ImageName, u32)> {
    let beyond = beyond_keep(desired, known);
    let mut most: BTreeMap<Digest, (&ImageName, Option<u32>)> = BTreeMap::new();
    for (name, versions) in &known.images {
        let block = desired.images.get_key_value(name);
        let count = block.and_then(|(name, image)| match image.copies {
            Copies::Count(count) if rule(desired, name) != DriftRule::Ignore => Some((name, count)),
            Copies::Count(_) | Copies::All => None,
        });
        for record in versions.values() {
            match count {
                Some((name, _)) if beyond.contains(&(name, record.root)) => {}
                Some((name, count)) => {
                    let largest = most.entry(record.root).or_insert((name, Some(count)));
                    largest.1 = largest.1.map(|other| other.max(count));
                }
                // Somebody wants it everywhere, or does not say.
                None => {
                    if let Some((name, _)) = block {
                        most.insert(record.root, (name, None));
                    }
                }
            }
        }
    }
    most.into_iter()
        .filter_map(|(root, (name, count))| Some((root, (name, count?))))
        .collect()
}

/// Which server needs which image: for desktops that are there, that are to come, or whose copies it is to hold.
fn needed(desired: &Desired, known: &Known, draft: &Draft<'_>) -> BTreeSet<(ServerId, Digest)> {
    let mut needed = BTreeSet::new();
    let holders = Holders::new(desired, known);
    for (id, desktop) in &known.desktops {
        let root = desktop.spec.image;
        needed.insert((desktop.server, root));
        if let Phase::Migrating { from, to, .. } = &desktop.phase {
            needed.extend([(*from, root), (*to, root)]);
        }
        if wanted(desired, id, desktop) > 0 {
            needed.extend(holders.of(id, desktop).into_iter().map(|on| (on, root)));
        }
    }
    let ordered = known.orders.values();
    needed.extend(ordered.filter_map(|order| Some((order.server, order.task.clones()?))));
    let planned = draft.actions.iter();
    needed.extend(planned.filter_map(|it| Some((it.server?, it.step.as_ref()?.task.clones()?))));
    needed
}
