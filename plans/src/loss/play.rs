//! Losses, played through.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::model::{Model, Spot};
use super::{PLAYED, Scarce, Shortfall};
use crate::place::Use;

impl Model {
    /// Whether the loss of any `lost` servers is carried; `Some`: one that is not.
    pub(super) fn carries(&self, lost: u8) -> Option<Shortfall> {
        let members = || self.spots.iter().filter(|spot| spot.member);
        // There is nothing more to lose than all of them.
        let lost = usize::from(lost).min(members().count());
        if lost == 0 {
            return None;
        }
        let Err(kind) = self.surely(lost) else {
            return None;
        };
        let losses = self.losses(lost);
        let played = losses.iter().take(PLAYED);
        if let Some(short) = played.filter_map(|loss| self.play(loss)).next() {
            return Some(short);
        }
        let alike = self.kinds.get(kind).filter(|_| losses.len() > PLAYED)?;
        Some(alike.short(BTreeSet::new(), 0, Scarce::Unproven))
    }

    /// Whether every loss of so many is carried wherever each desktop is put; `Err`: the first kind for which that is
    /// not certain.
    ///
    /// Where a server has no room for one more, it took at least as many as the largest of what is placed would fit on it.
    /// So as long as all that may be displaced is no more than that of all servers that are left, one of them has room.
    fn surely(&self, lost: usize) -> Result<(), usize> {
        let displaced = |kind: usize| {
            let members = self.spots.iter().filter(|spot| spot.member);
            most(members.map(|spot| u64::from(spot.held(kind))), lost)
        };
        for (kind, alike) in self.kinds.iter().enumerate() {
            let mine = displaced(kind);
            if mine > u64::from(alike.slots) {
                return Err(kind);
            }
            if mine == 0 {
                continue;
            }
            let fit = || self.spots.iter().filter(|spot| spot.fit(kind));
            let (mut all, mut largest) = (mine, alike.takes);
            // Those that are placed before it, where it could go.
            for (before, other) in self.kinds.iter().enumerate().take(kind) {
                let displaced = displaced(before);
                if displaced > 0 && fit().any(|spot| spot.fit(before)) {
                    all = all.saturating_add(displaced);
                    largest = largest.larger(other.takes);
                }
            }
            let places = || fit().map(|spot| spot.room.times(largest));
            let left = places().fold(0, u64::saturating_add);
            if left.saturating_sub(most(places(), lost)) < all {
                return Err(kind);
            }
        }
        Ok(())
    }

    /// Every loss of so many that differs from the others: of servers that are alike, one stands for all. The worst come
    /// first: where one is not carried, it is found at once.
    fn losses(&self, lost: usize) -> Vec<BTreeSet<usize>> {
        let mut alike: BTreeMap<&Spot, Vec<usize>> = BTreeMap::new();
        for (place, spot) in self
            .spots
            .iter()
            .enumerate()
            .filter(|(_, spot)| spot.member)
        {
            alike.entry(spot).or_default().push(place);
        }
        let mut classes: Vec<(&Spot, Vec<usize>)> = alike.into_iter().collect();
        classes.sort_by_key(|(spot, places)| {
            let held: u32 = spot.holds.iter().sum();
            (Reverse(held), places.first().copied())
        });
        let places: Vec<Vec<usize>> = classes.into_iter().map(|(_, places)| places).collect();
        if lost == 1 {
            let each = places.iter().filter_map(|places| places.first());
            return each.map(|place| BTreeSet::from([*place])).collect();
        }
        let mut losses = Vec::new();
        for (n, first) in places.iter().enumerate() {
            if let [one, other, ..] = first.as_slice() {
                losses.push(BTreeSet::from([*one, *other]));
            }
            for second in places.iter().skip(n + 1) {
                if losses.len() > PLAYED {
                    return losses;
                }
                let two = first.first().into_iter().chain(second.first());
                losses.push(two.copied().collect());
            }
        }
        losses
    }

    /// One loss, as rounds would make up for it.
    fn play(&self, loss: &BTreeSet<usize>) -> Option<Shortfall> {
        let mut spots = self.spots.clone();
        for (kind, alike) in self.kinds.iter().enumerate() {
            let lost = loss.iter().filter_map(|place| self.spots.get(*place));
            let held = lost.map(|spot| spot.held(kind));
            let displaced = held.fold(0, u32::saturating_add);
            if displaced > alike.slots {
                let left = displaced - alike.slots;
                return Some(alike.short(self.names(loss), left, Scarce::Slots));
            }
            let placed = place_all(&mut spots, kind, alike.takes, displaced, loss);
            if placed.left > 0 {
                let scarce = scarce(&spots, loss, kind, alike.takes);
                return Some(alike.short(self.names(loss), placed.left, scarce));
            }
        }
        None
    }

    fn names(&self, loss: &BTreeSet<usize>) -> BTreeSet<String> {
        let lost = loss.iter().filter_map(|place| self.names.get(*place));
        lost.cloned().collect()
    }
}

/// Where desktops went.
pub(super) struct Placed {
    pub(super) places: Vec<usize>,
    /// How many found no place.
    pub(super) left: u32,
}

/// Puts so many alike desktops on the servers that are not lost, each where the share stays the lowest.
pub(super) fn place_all(
    spots: &mut [Spot],
    kind: usize,
    takes: Use,
    count: u32,
    lost: &BTreeSet<usize>,
) -> Placed {
    let mut placed = Placed {
        places: Vec::new(),
        left: count,
    };
    if count == 0 {
        return placed;
    }
    let fit = spots.iter().enumerate();
    let fit = fit.filter(|(place, spot)| !lost.contains(place) && spot.can(kind, takes));
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> = fit
        .map(|(place, spot)| Reverse((spot.weight(takes), place)))
        .collect();
    while placed.left > 0
        && let Some(Reverse((_, place))) = heap.pop()
    {
        let Some(spot) = spots.get_mut(place) else {
            continue;
        };
        spot.take(takes);
        placed.places.push(place);
        placed.left -= 1;
        if spot.can(kind, takes) {
            heap.push(Reverse((spot.weight(takes), place)));
        }
    }
    placed
}

/// What those that are left lack first.
pub(super) fn scarce(spots: &[Spot], lost: &BTreeSet<usize>, kind: usize, takes: Use) -> Scarce {
    let left = || {
        let all = spots.iter().enumerate();
        all.filter(|(place, _)| !lost.contains(place))
            .map(|(_, spot)| spot)
    };
    let fit = || left().filter(|spot| spot.fit(kind));
    if fit().next().is_none() {
        return if left().any(|spot| spot.lacks_image.get(kind) == Some(&true)) {
            Scarce::Copies
        } else {
            Scarce::Servers
        };
    }
    if fit().any(|spot| takes.memory > spot.room.memory) {
        Scarce::Memory
    } else if fit().any(|spot| takes.disk > spot.room.disk) {
        Scarce::Disk
    } else {
        Scarce::Processors
    }
}

/// The sum of the largest `count` of them, two at most: no `count` of them are more together.
fn most(of: impl Iterator<Item = u64>, count: usize) -> u64 {
    let mut largest = [0, 0];
    for one in of {
        if one > largest[0] {
            largest = [one, largest[0]];
        } else if one > largest[1] {
            largest[1] = one;
        }
    }
    largest
        .iter()
        .take(count)
        .fold(0, |sum: u64, one| sum.saturating_add(*one))
}
