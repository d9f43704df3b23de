//! What desktops may come to take of a disk. An overlay begins at a few KiB and grows with every block that its guest
//! writes, so a disk is promised before it is taken.

use coppice_schema::Known;
use coppice_schema::known::{Hardware, KnownDesktop, KnownServer};
use coppice_schema::units::Size;

/// Where a template says no `disk_limit`, an overlay is counted with this part of its virtual disk. Pooled clones
/// are thrown away long before they have rewritten more; one that has is counted with what it takes.
const UNLIMITED: u64 = 8;

/// What a new desktop may grow to.
pub(crate) fn of(hardware: &Hardware) -> Size {
    let limit = hardware
        .disk_limit
        .unwrap_or(Size(hardware.disk.0 / UNLIMITED));
    Size(limit.0.min(hardware.disk.0))
}

/// What a desktop that is there may grow to, or has already.
pub(super) fn of_desktop(known: &Known, desktop: &KnownDesktop) -> Size {
    // Its size is known as a power of two that it does not exceed: half of that it surely takes.
    let taken = known
        .overlay(desktop)
        .map_or(Size(0), |overlay| Size(overlay.most().0 / 2));
    of(&desktop.spec.hardware).max(taken)
}

/// What images take on a server's disk, as far as the catalogue knows them.
pub(crate) fn stored(known: &Known, server: &KnownServer) -> Size {
    let here = |root| {
        server
            .look
            .as_ref()
            .is_some_and(|look| look.images.contains_key(root))
    };
    let records = known.images.values().flat_map(|versions| versions.values());
    let stored: std::collections::BTreeMap<_, _> = records
        .filter(|record| here(&record.root))
        .map(|record| (record.root, record.data.0))
        .collect();
    Size(
        stored
            .values()
            .fold(0, |sum, data| sum.saturating_add(*data)),
    )
}
