//! One sender at a time for each guest that comes: a newer offer takes the place of an older one.
//!
//! A sender that began anew is heard here before it is noticed that its former stream is dead, if that ever is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard, watch};
use uuid::Uuid;

use crate::libvirt::threads::locked;

/// Guests that come.
#[derive(Default)]
pub(in crate::libvirt) struct Visits {
    known: Mutex<BTreeMap<Uuid, Arc<Visitor>>>,
}

#[derive(Default)]
struct Visitor {
    offers: watch::Sender<u64>,
    turn: Arc<Turn<()>>,
}

/// An offer that is the newest one, until it says otherwise.
pub(super) struct Visit {
    mine: u64,
    offers: watch::Receiver<u64>,
    _turn: OwnedMutexGuard<()>,
}

impl Visits {
    /// Takes the place of whoever offers that guest at present. `None`: another did while this one waited for it.
    pub(super) async fn begin(&self, uuid: Uuid) -> Option<Visit> {
        let visitor = {
            let mut known = locked(&self.known);
            known.retain(|_, visitor| Arc::strong_count(visitor) > 1 || visitor.is_here());
            Arc::clone(known.entry(uuid).or_default())
        };
        let mut mine = 0;
        visitor.offers.send_modify(|count| {
            *count = count.wrapping_add(1);
            mine = *count;
        });
        let offers = visitor.offers.subscribe();
        let turn = Arc::clone(&visitor.turn).lock_owned().await;
        let newest = *offers.borrow() == mine;
        newest.then_some(Visit {
            mine,
            offers,
            _turn: turn,
        })
    }
}

impl Visitor {
    fn is_here(&self) -> bool {
        self.turn.try_lock().is_err()
    }
}

impl Visit {
    /// Until another offer wants to take its place.
    pub(super) async fn replaced(&self) {
        let mut offers = self.offers.clone();
        // An error means that nobody can offer it any more.
        let _newer = offers.wait_for(|count| *count != self.mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_newer_offer_takes_the_place_of_an_older_one() {
        let visits = Visits::default();
        let guest = Uuid::nil();
        let first = visits.begin(guest).await.unwrap();
        assert!(first.replaced().now_or_never().is_none());
        let mut second = Box::pin(visits.begin(guest));
        assert!(second.as_mut().now_or_never().is_none(), "two at once");
        first.replaced().await;
        let mut third = Box::pin(visits.begin(guest));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.await.is_none(), "it is not the newest");
        assert!(third.await.is_some());
    }

    #[tokio::test]
    async fn guests_do_not_wait_for_each_other() {
        let visits = Visits::default();
        let _first = visits.begin(Uuid::nil()).await.unwrap();
        assert!(visits.begin(Uuid::from_u128(1)).await.is_some());
    }
}
