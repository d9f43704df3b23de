//! What blocks refer to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Desired, Entitlement};
use crate::ids::{Address, ImageName, PoolName};

impl Desired {
    /// What `address` refers to, and what that refers to.
    #[must_use]
    pub fn references(&self, address: &Address) -> BTreeSet<Address> {
        let mut all = BTreeSet::new();
        let mut next = self.named_by(address);
        while let Some(address) = next.pop() {
            if !all.contains(&address) {
                next.extend(self.named_by(&address));
                all.insert(address);
            }
        }
        all
    }

    /// References to blocks that are not there: who refers, and to what. A configuration that was read has none; one
    /// that was put together from two people's changes may.
    #[must_use]
    pub fn dangling(&self) -> BTreeSet<(Address, Address)> {
        let pools = self.pools.keys().cloned().map(Address::Pool);
        let templates = self.templates.keys().cloned().map(Address::Template);
        let policies = self.policies.keys().cloned().map(Address::Policy);
        let all = pools.chain(templates).chain(policies);
        all.flat_map(|from| {
            let named = self.named_by(&from).into_iter();
            named.map(move |to| (from.clone(), to))
        })
        .filter(|(_, to)| !self.has(to))
        .collect()
    }

    /// A pool with what it refers to, and nothing else.
    #[must_use]
    pub fn part(&self, pool: &PoolName) -> Self {
        let address = Address::Pool(pool.clone());
        let mut part = Self::default();
        for reference in self.references(&address) {
            part.take(&reference, self);
        }
        part.take(&address, self);
        part
    }

    /// Images whose versions go over to another name by `moved`: those in `catalogue` under the former name, where
    /// the present one has none yet.
    #[must_use]
    pub fn image_moves<V>(
        &self,
        catalogue: &BTreeMap<ImageName, V>,
    ) -> Vec<(ImageName, ImageName)> {
        let moves = self.moved.iter().filter_map(|moved| {
            let (Address::Image(from), Address::Image(to)) = (&moved.from, &moved.to) else {
                return None;
            };
            let blocks = !self.images.contains_key(from) && self.images.contains_key(to);
            let versions = catalogue.contains_key(from) && !catalogue.contains_key(to);
            (blocks && versions).then(|| (from.clone(), to.clone()))
        });
        moves.collect()
    }

    fn named_by(&self, address: &Address) -> Vec<Address> {
        let mut named = Vec::new();
        match address {
            Address::Pool(name) => {
                let Some(pool) = self.pools.get(name) else {
                    return named;
                };
                let bookings = || pool.bookings.values();
                let templates = bookings().filter_map(|booking| booking.template.as_ref());
                let entitled = bookings().flat_map(|booking| &booking.entitled);
                named.push(Address::Template(pool.template.clone()));
                named.extend(templates.cloned().map(Address::Template));
                named.extend(pool.policies.iter().cloned().map(Address::Policy));
                let windows = pool.hours.iter().chain(&pool.policy.rollout.window);
                named.extend(windows.cloned().map(Address::Window));
                named.extend(pool.entitled.iter().chain(entitled).map(whose));
            }
            Address::Template(name) => {
                if let Some(template) = self.templates.get(name) {
                    named.push(Address::Image(template.image.clone()));
                    named.extend(template.networks.iter().cloned().map(Address::Network));
                }
            }
            Address::Policy(name) => {
                let policy = self.policies.get(name);
                let window = policy.and_then(|policy| policy.rollout.window.clone());
                named.extend(window.map(Address::Window));
            }
            Address::Grid => {
                named.extend(self.grid.image_window.clone().map(Address::Window));
            }
            Address::Window(_)
            | Address::Network(_)
            | Address::Directory(_)
            | Address::Location(_)
            | Address::Image(_)
            | Address::Server(_)
            | Address::Desktop(_)
            | Address::Secret(_) => {}
        }
        named
    }

    fn has(&self, address: &Address) -> bool {
        match address {
            Address::Window(name) => self.windows.contains_key(name),
            Address::Network(name) => self.networks.contains_key(name),
            Address::Directory(name) => self.directories.contains_key(name),
            Address::Location(name) => self.locations.contains_key(name),
            Address::Image(name) => self.images.contains_key(name),
            Address::Template(name) => self.templates.contains_key(name),
            Address::Policy(name) => self.policies.contains_key(name),
            Address::Pool(name) => self.pools.contains_key(name),
            Address::Grid | Address::Server(_) | Address::Desktop(_) | Address::Secret(_) => true,
        }
    }
}

fn whose(entitlement: &Entitlement) -> Address {
    match entitlement {
        Entitlement::Group(directory, _)
        | Entitlement::User(directory, _)
        | Entitlement::Ou(directory, _)
        | Entitlement::Everyone(directory) => Address::Directory(directory.clone()),
        Entitlement::Location(location) => Address::Location(location.clone()),
    }
}
