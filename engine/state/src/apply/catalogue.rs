//! The catalogue of image versions.

use coppice_schema::desired::Origin;
use coppice_schema::ids::{Address, ImageName, ServerId, VersionName};
use coppice_schema::known::ImageVersion;

use super::{generation, member};
use crate::entry::{Outcome, Refusal};
use crate::state::{Happening, State};

pub(super) fn imported(
    state: &mut State,
    image: &ImageName,
    version: &VersionName,
    record: &ImageVersion,
    server: ServerId,
    author: &str,
) -> Result<Outcome, Refusal> {
    let place = member(state, server)?.name.clone();
    if let Some(held) = state
        .images
        .get(image)
        .and_then(|versions| versions.get(version))
    {
        if held.source == record.source {
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
