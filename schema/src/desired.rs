//! What the admins asked for: a configuration, read, evaluated and resolved.
//!
//! Every value has its type and unit, every reference is known to lead somewhere, every default stands here and
//! nowhere else. Fields that no issue carries out yet are here too: they were said, so they are kept.

mod calendar;
mod hardware;
mod people;
mod policy;
mod pool;
mod references;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{
    Address, DesktopId, DirectoryName, ImageName, LocationName, NetworkName, PolicyName, PoolName,
    SecretName, TemplateName, WindowName,
};
use crate::units::{Size, Span};

pub use calendar::{ClockTime, Cron, Days, Opening, Recurrence, Weekly, Window};
pub use hardware::{
    Cache, Copies, Display, Firmware, Guest, Image, ImageUpdate, Network, NetworkTarget, Origin,
    Os, Template, Video,
};
pub use people::{Computers, Directory, DirectoryKind, Entitlement, Location, Totp};
pub use policy::{
    Channels, Clipboard, DriftRule, DriftRules, Policy, Power, PowerSchedule, Refresh, RefreshOn,
    Rollout, SessionRules,
};
pub use pool::{Assignment, Booking, HostnamePattern, Pool};

/// A whole configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Desired {
    /// The `grid` block; its defaults when there is none.
    pub grid: Grid,
    /// `window` blocks.
    pub windows: BTreeMap<WindowName, Window>,
    /// `network` blocks.
    pub networks: BTreeMap<NetworkName, Network>,
    /// `directory` blocks.
    pub directories: BTreeMap<DirectoryName, Directory>,
    /// `location` blocks.
    pub locations: BTreeMap<LocationName, Location>,
    /// `image` blocks.
    pub images: BTreeMap<ImageName, Image>,
    /// `template` blocks.
    pub templates: BTreeMap<TemplateName, Template>,
    /// `policy` blocks as written; a pool's effective policy is in [`Pool::policy`].
    pub policies: BTreeMap<PolicyName, Policy>,
    /// `pool` blocks.
    pub pools: BTreeMap<PoolName, Pool>,
    /// `server` blocks in the order of their patterns.
    pub servers: BTreeMap<String, ServerRule>,
    /// `moved` blocks.
    pub moved: BTreeSet<Moved>,
}

/// The `grid` block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Grid {
    /// Its label.
    pub name: String,
    /// IANA time zone in which clocks and days are meant.
    pub timezone: String,
    /// How many servers may be lost with all pools still carried, 0 to 2.
    pub tolerate_server_loss: u8,
    /// Silence after which a server counts as lost.
    pub lost_after: Span,
    /// How long a server runs personal desktops with copies without word from the grid.
    pub fence_after: Span,
    /// Bytes per second at which a server receives images, and at which it sends them; unlimited without.
    pub image_bandwidth: Option<Size>,
    /// Images are copied only within that window; at any time without.
    pub image_window: Option<WindowName>,
    /// One address for the whole grid.
    pub address: Option<std::net::IpAddr>,
    /// The portal's certificate; the grid's own CA without.
    pub certificate: Option<Certificate>,
    /// How many revisions are kept to go back to.
    pub keep_revisions: u32,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            name: "grid".to_owned(),
            timezone: "UTC".to_owned(),
            tolerate_server_loss: 0,
            lost_after: Span::seconds(5),
            fence_after: Span::seconds(30),
            image_bandwidth: None,
            image_window: None,
            address: None,
            certificate: None,
            keep_revisions: 50,
        }
    }
}

/// Where the portal's certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certificate {
    /// PEM texts brought along with the configuration; the key is a secret.
    Files {
        /// The chain, leaf first.
        certificate: String,
        /// The secret that holds the private key.
        key: SecretName,
    },
    /// An ACME account.
    Acme {
        /// Directory URL.
        directory: String,
        /// Contact address.
        email: String,
        /// Names that the certificate is for.
        domains: Vec<String>,
    },
}

/// Limits for servers whose name matches a pattern.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerRule {
    /// Labels they have.
    pub labels: BTreeSet<String>,
    /// Memory that desktops leave free.
    pub keep_free_memory: Size,
    /// Disk that desktops leave free.
    pub keep_free_disk: Size,
    /// No new desktops.
    pub cordon: bool,
}

/// A block that got another name: what it stood for is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The former address.
    pub from: Address,
    /// The present one.
    pub to: Address,
}

impl Desired {
    /// What a pool's desktops are made of, as far as blocks say it. Where it changes, what failed before may be well.
    #[must_use]
    pub fn form(&self, pool: &PoolName) -> Option<(&Template, Option<&Image>)> {
        let template = self.templates.get(&self.pools.get(pool)?.template)?;
        Some((template, self.images.get(&template.image)))
    }

    /// Whether a desktop there is somebody's for good: its disk is kept, also when the pool changes.
    #[must_use]
    pub fn becomes_personal(&self, desktop: &DesktopId) -> bool {
        let pool = self.pools.get(&desktop.pool);
        pool.is_some_and(|pool| pool.assignment == Assignment::Personal)
    }

    /// Makes one object what it is in `from`: set, changed or gone. [`Address::Grid`] stands for the `grid` block,
    /// the `server` rules and the `moved` blocks together. Desktops and secrets are not part of a configuration.
    pub fn take(&mut self, address: &Address, from: &Self) {
        fn one<K: Ord + Clone, V: Clone>(
            into: &mut BTreeMap<K, V>,
            from: &BTreeMap<K, V>,
            key: &K,
        ) {
            match from.get(key) {
                Some(value) => into.insert(key.clone(), value.clone()),
                None => into.remove(key),
            };
        }
        match address {
            Address::Grid => {
                self.grid = from.grid.clone();
                self.servers = from.servers.clone();
                self.moved = from.moved.clone();
            }
            Address::Window(name) => one(&mut self.windows, &from.windows, name),
            Address::Network(name) => one(&mut self.networks, &from.networks, name),
            Address::Directory(name) => one(&mut self.directories, &from.directories, name),
            Address::Location(name) => one(&mut self.locations, &from.locations, name),
            Address::Image(name) => one(&mut self.images, &from.images, name),
            Address::Template(name) => one(&mut self.templates, &from.templates, name),
            Address::Policy(name) => one(&mut self.policies, &from.policies, name),
            Address::Pool(name) => one(&mut self.pools, &from.pools, name),
            Address::Server(_) | Address::Desktop(_) | Address::Secret(_) => {}
        }
    }
}
