//! The catalogue of image versions.

use std::sync::Arc;

use coppice_plans::plan::Base;
use coppice_schema::Digest;
use coppice_schema::desired::Origin;
use coppice_schema::ids::{Address, ImageName, ServerId, VersionName};
use coppice_schema::known::{CopyState, ImageVersion, Order, Task};

use super::{generation, member};
use crate::entry::{NewOrder, Outcome, Refusal};
use crate::state::{Happening, State};

pub(super) fn imported(
    state: &mut State,
    image: &ImageName,
    version: &VersionName,
    record: &ImageVersion,
    server: ServerId,
    author: &str,
) -> Result<Outcome, Refusal> {
    let known = member(state, server)?;
    let place = known.name.clone();
    if let Some(held) = state
        .images
        .get(image)
        .and_then(|versions| versions.get(version))
    {
        if held.source == record.source {
            // What was lost or bad has come again.
            if held.root == record.root {
                whole(state, server, record.root)?;
            }
            return Ok(Outcome::Already {
                revision: state.revision,
            });
        }
        let what = format!(
            "{image}@{version} (of other bytes, BLAKE3 {})",
            held.source.short()
        );
        return Err(Refusal::Exists(what));
    }
    // A file that had no name may be on its way out.
    let drops = |order: &Order| order.task == Task::DropImage { root: record.root };
    if state.orders.values().any(drops) {
        Arc::make_mut(&mut state.orders).retain(|_, order| !drops(order));
    }
    whole(state, server, record.root)?;
    let mut record = record.clone();
    record.imported = state.time;
    state
        .images
        .entry(image.clone())
        .or_default()
        .insert(version.clone(), record);
    let generation = generation(state);
    state
        .generations
        .insert(Address::Image(image.clone()), generation);
    let what = format!("{image}@{version} was imported on {place} by {author}");
    state.record(Address::Image(image.clone()), Happening::Image { what });
    Ok(Outcome::Done)
}

/// A server read every chunk back before it said that it imported an image; until it reports again, that is its last
/// word.
fn whole(state: &mut State, server: ServerId, root: Digest) -> Result<(), Refusal> {
    if let Some(look) = member(state, server)?.look.as_mut() {
        Arc::make_mut(look).images.insert(root, CopyState::Verified);
    }
    Ok(())
}

pub(super) fn removed(
    state: &mut State,
    image: &ImageName,
    version: &VersionName,
    author: &str,
) -> Result<Outcome, Refusal> {
    let name = format!("image {image}@{version}");
    let held = state
        .images
        .get(image)
        .and_then(|versions| versions.get(version));
    let root = held.ok_or_else(|| Refusal::Absent(name.clone()))?.root;
    let published = state.committed.images.get(image).map(|block| &block.origin);
    if published == Some(&Origin::Version(version.clone())) {
        return Err(Refusal::InUse {
            what: name,
            by: "the committed configuration".to_owned(),
        });
    }
    let address = Address::Image(image.clone());
    if state.protections.contains(&address) {
        return Err(Refusal::Protected {
            what: name,
            by: address,
        });
    }
    if let Some((id, _)) = state
        .desktops
        .iter()
        .find(|(_, desktop)| desktop.spec.image == root)
    {
        return Err(Refusal::InUse {
            what: name,
            by: format!("desktop {id}"),
        });
    }
    if let Some(versions) = state.images.get_mut(image) {
        versions.remove(version);
        if versions.is_empty() {
            state.images.remove(image);
        }
    }
    let generation = generation(state);
    state
        .generations
        .insert(Address::Image(image.clone()), generation);
    let what = format!("{image}@{version} was removed by {author}");
    state.record(Address::Image(image.clone()), Happening::Image { what });
    Ok(Outcome::Done)
}

/// Whether the plan that wants an image dropped knew all versions made of it: one that was imported meanwhile stays.
pub(super) fn nameless(state: &State, root: Digest, base: &Base) -> Result<(), Refusal> {
    let mut all = state.images.iter();
    let unread = all.find(|(image, versions)| {
        versions.values().any(|version| version.root == root)
            && !base.objects.contains_key(&Address::Image((*image).clone()))
    });
    match unread {
        Some((image, _)) => Err(Refusal::InUse {
            what: format!("the file of image {}", root.short()),
            by: format!("a version of {image}"),
        }),
        None => Ok(()),
    }
}

/// Who needs the copy that `order` would drop, or drops the one that it needs: what was decided before that was agreed on
/// is decided anew.
pub(super) fn user(state: &State, order: &NewOrder) -> Option<(Digest, String)> {
    let on = order.server;
    let open = || state.orders.values().filter(|order| order.server == on);
    if let Task::DropImage { root } = order.task {
        let mut desktops = state.desktops.iter();
        let clone = desktops.find(|(_, it)| it.server == on && it.spec.image == root);
        let by = clone.map(|(id, _)| format!("desktop {id}"));
        let coming = || open().find(|order| order.task.clones() == Some(root));
        let by = by.or_else(|| coming().map(|order| order.task.describe()));
        return Some((root, by?));
    }
    let root = order.task.clones()?;
    let drops = open().any(|order| order.task == Task::DropImage { root });
    drops.then(|| (root, "the order to drop it".to_owned()))
}

/// A server dropped its copy: a version of which no other server has one is forgotten.
pub(super) fn dropped(state: &mut State, server: ServerId, root: Digest) {
    let elsewhere = state.servers.iter().any(|(id, other)| {
        *id != server
            && other
                .look
                .as_ref()
                .is_some_and(|look| look.images.contains_key(&root))
    });
    if elsewhere {
        return;
    }
    let gone: Vec<(ImageName, VersionName)> = state
        .images
        .iter()
        .flat_map(|(image, versions)| {
            versions
                .iter()
                .map(move |(version, record)| (image, version, record))
        })
        .filter(|(_, _, record)| record.root == root)
        .map(|(image, version, _)| (image.clone(), version.clone()))
        .collect();
    for (image, version) in gone {
        // What is published or cloned is refused there, and stays.
        let _ = removed(state, &image, &version, "the grid, beyond `keep`");
    }
}
