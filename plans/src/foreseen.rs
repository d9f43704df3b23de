//! The grid's memory as committing a configuration makes it: a plan is about the grid that it brings about.

use std::borrow::Cow;

use coppice_schema::Known;
use coppice_schema::desired::{Assignment, Desired};
use coppice_schema::ids::{Address, DesktopId};

use crate::pool::members;

/// What the grid would remember once `desired` is committed; where it is, that is what it remembers.
///
/// `engine/state` does the same when it commits; here it is done so that a person sees it before.
pub(crate) fn of<'a>(desired: &Desired, known: &'a Known) -> Cow<'a, Known> {
    let mut foreseen = Cow::Borrowed(known);
    if *desired != known.committed {
        for (from, to) in desired.image_moves(&known.images) {
            let memory = foreseen.to_mut();
            if let Some(versions) = memory.images.remove(&from) {
                memory.images.insert(to, versions);
            }
            memory.protections.remove(&Address::Image(from));
        }
    }
    let personal = desired
        .pools
        .iter()
        .filter(|(_, pool)| pool.assignment == Assignment::Personal);
    for (pool, _) in personal {
        let pooled: Vec<&DesktopId> = members(known, pool)
            .filter(|(_, desktop)| !desktop.personal)
            .map(|(id, _)| id)
            .collect();
        for id in pooled {
            if let Some(desktop) = foreseen.to_mut().desktops.get_mut(id) {
                desktop.personal = true;
            }
        }
    }
    foreseen
}
