//! How many connections each network has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::network;

/// Connections by network.
pub(super) struct Crowd {
    limit: usize,
    count_loopback: bool,
    by_network: Mutex<BTreeMap<IpAddr, usize>>,
}

/// One connection's place; free again when this is dropped.
pub(super) struct Place {
    /// `None`: its network is not counted.
    network: Option<IpAddr>,
    crowd: Arc<Crowd>,
}

impl Crowd {
    pub(super) fn new(limit: usize, count_loopback: bool) -> Self {
        Self {
            limit,
            count_loopback,
            by_network: Mutex::default(),
        }
    }

    /// A place for a connection from `peer`, unless its network has all that it may have.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let network = network(peer);
        let crowd = Arc::clone(self);
        if peer.to_canonical().is_loopback() && !self.count_loopback {
            let network = None;
            return Some(Place { network, crowd });
        }
        let counts = self.by_network.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        let network = Some(network);
        Some(Place { network, crowd })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(network) = self.network else {
            return;
        };
        let counts = self.crowd.by_network.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            // Nothing is kept of those who are gone.
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_takes_its_own_places_only_and_gives_them_back() {
        let crowd = Arc::new(Crowd::new(2, false));
        let take = |peer: &str| crowd.take(peer.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        let other = take("192.0.2.2").unwrap();
        drop(first);
        assert!(take("192.0.2.1").is_some());

        let six = [take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()];
        assert!(take("2001:db8::3").is_none());
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let many: Vec<_> = (0..3).map(|_| take(local)).collect();
            assert!(many.iter().all(Option::is_some), "{local}");
        }
        drop((second, other, six));
        assert!(crowd.by_network.lock().unwrap().is_empty());
    }
}
