//! What a start does about an end that nobody planned.

use std::path::PathBuf;

use super::{Store, StoreError};
use crate::disk::{Dir, TEMPORARY};
use crate::import::HALF;
use crate::overlay::{MARK, OVERLAY};

/// Removes files under temporary names and marks whose overlay was never named; returns their paths.
pub(super) fn clean(store: &Store) -> Result<Vec<PathBuf>, StoreError> {
    let mut gone = Vec::new();
    for dir in [
        &store.root,
        &store.images,
        &store.overlays,
        &store.incoming,
        &store.replicas,
    ] {
        sweep(dir, |name| Ok(name.starts_with(TEMPORARY)), &mut gone)?;
    }
    // A conversion cannot be continued, only begun again.
    sweep(
        &store.incoming,
        |name| Ok(name.starts_with(HALF)),
        &mut gone,
    )?;
    // A mark is written before its overlay gets its name and removed after it lost it.
    let lonely = |name: &str| match name.strip_suffix(MARK) {
        Some(stem) => Ok(!store.overlays.has(&format!("{stem}{OVERLAY}"))?),
        None => Ok(false),
    };
    sweep(&store.overlays, lonely, &mut gone)?;
    // A copy that did not leave is taken anew.
    sweep(
        &store.outgoing,
        |name| Ok(name.ends_with(OVERLAY)),
        &mut gone,
    )?;
    let unnamed = |name: &str| store.is_left_of_a_replica(name);
    sweep(&store.replicas, unnamed, &mut gone)?;
    Ok(gone)
}

fn sweep(
    dir: &Dir,
    is_leftover: impl Fn(&str) -> Result<bool, StoreError>,
    gone: &mut Vec<PathBuf>,
) -> Result<(), StoreError> {
    let before = gone.len();
    for name in dir.names()? {
        // Names that are not text are not ours.
        let Some(text) = name.to_str() else { continue };
        if is_leftover(text)? && dir.remove(&name)? {
            gone.push(dir.join(&name));
        }
    }
    if gone.len() > before {
        dir.sync()?;
    }
    Ok(())
}
