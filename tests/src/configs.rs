//! Configurations by chance: valid ones, as `resolve` would give them.

mod rules;

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Digest;
use coppice_schema::desired::{
    Assignment, Copies, Desired, Display, DriftRule, Firmware, HostnamePattern, Image, Network,
    NetworkTarget, Origin, Os, Policy, Pool, Refresh, RefreshOn, Rollout, Template,
};
use coppice_schema::ids::{ImageName, PoolName, TemplateName, VersionName};
use coppice_schema::known::ImageVersion;
use coppice_schema::units::{Share, Size, Span, Timestamp};
use coppice_world::sim::Chance;

/// Names of images that configurations may use; each has the versions of [`VERSIONS`].
pub const IMAGES: [&str; 2] = ["debian", "win11"];
/// Versions of each image.
pub const VERSIONS: [&str; 2] = ["1", "2"];
/// Names of pools.
pub const POOLS: [&str; 3] = ["lab", "office", "kiosk"];

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a name of this file")
}

/// The catalogue's record of an image version.
#[must_use]
pub fn version(image: &str, version: &str) -> ImageVersion {
    ImageVersion {
        source: Digest::of(format!("source of {image}@{version}").as_bytes()),
        root: Digest::of(format!("root of {image}@{version}").as_bytes()),
        size: Size::gib(1),
        data: Size::mib(16),
        imported: Timestamp(0),
    }
}

/// Every image version with its names.
pub fn catalogue() -> impl Iterator<Item = (ImageName, VersionName, ImageVersion)> {
    IMAGES.iter().flat_map(|image| {
        VERSIONS
            .iter()
            .map(|v| (name(image), name(v), version(image, v)))
    })
}

/// A configuration of one to three pools with up to `most` desktops each.
#[must_use]
pub fn desired(chance: &mut Chance, most: u32) -> Desired {
    let mut desired = Desired::default();
    let network = Network {
        target: NetworkTarget::User,
    };
    desired.networks.insert(name("lan"), network);
    let zones = ["UTC", "Europe/Berlin", "Pacific/Auckland"];
    desired.grid.timezone = (*chance.pick(&zones).unwrap_or(&"UTC")).to_owned();
    desired.windows = rules::windows(chance);
    desired.servers = rules::servers(chance);
    for image in IMAGES {
        desired.images.insert(name(image), random_image(chance));
        let template = random_template(chance, name(image));
        desired.templates.insert(name(image), template);
    }
    for pool in POOLS {
        if chance.per_mille(600) {
            desired.pools.insert(name(pool), random_pool(chance, most));
        }
    }
    if desired.pools.is_empty() {
        desired
            .pools
            .insert(name(POOLS[0]), random_pool(chance, most));
    }
    desired
}

/// One in which all desktops are personal and have copies.
#[must_use]
pub fn copied(chance: &mut Chance, most: u32) -> Desired {
    let mut desired = self::desired(chance, most);
    rules::copied(chance, &mut desired);
    desired
}

/// With every image on every server that could use it: fewer need not be enough for every pool.
#[must_use]
pub fn everywhere(mut desired: Desired) -> Desired {
    for image in desired.images.values_mut() {
        image.copies = Copies::All;
    }
    desired
}

/// `before` with one thing changed, as an admin would.
#[must_use]
pub fn edited(chance: &mut Chance, before: &Desired, most: u32) -> Desired {
    let mut desired = before.clone();
    let pools: Vec<PoolName> = desired.pools.keys().cloned().collect();
    let pool = chance.pick(&pools).cloned();
    let other: PoolName = name(chance.pick(&POOLS).unwrap_or(&"lab"));
    let image: ImageName = name(chance.pick(&IMAGES).unwrap_or(&"debian"));
    match (chance.below(8), pool) {
        (0, Some(pool)) => {
            let desktops = number(chance, 0, most);
            if let Some(pool) = desired.pools.get_mut(&pool) {
                pool.desktops = desktops;
                rules::fit(pool);
            }
        }
        (1, Some(pool)) => {
            desired.pools.remove(&pool);
        }
        (2, Some(pool)) => {
            let template: TemplateName = name(chance.pick(&IMAGES).unwrap_or(&"debian"));
            if let Some(pool) = desired.pools.get_mut(&pool) {
                pool.template = template;
            }
        }
        (3, _) => {
            desired.images.insert(image, random_image(chance));
        }
        (4, _) => desired.windows = rules::windows(chance),
        (5, _) => desired.servers = rules::servers(chance),
        (6, _) => {
            let template = random_template(chance, image.clone());
            desired.templates.insert(name(image.as_str()), template);
        }
        _ => {
            desired.pools.insert(other, random_pool(chance, most));
        }
    }
    desired
}

fn number(chance: &mut Chance, low: u32, high: u32) -> u32 {
    u32::try_from(chance.between(u64::from(low), u64::from(high))).unwrap_or(high)
}

fn random_image(chance: &mut Chance) -> Image {
    let agent = chance.per_mille(700);
    let few = chance.per_mille(400);
    Image {
        origin: Origin::Version(name(chance.pick(&VERSIONS).unwrap_or(&"1"))),
        digest: None,
        os: Os::Linux,
        copies: if few {
            Copies::Count(number(chance, 1, 3))
        } else {
            Copies::All
        },
        keep: 1,
        agent,
        ready_after: (!agent).then(|| Span::seconds(chance.between(1, 60))),
        update: None,
        protect: false,
    }
}

fn random_template(chance: &mut Chance, image: ImageName) -> Template {
    Template {
        image,
        cpus: number(chance, 1, 4),
        memory: Size::mib(512 * chance.between(1, 4)),
        disk: chance.per_mille(300).then(|| Size::gib(2)),
        disk_limit: None,
        firmware: Firmware::Bios,
        tpm: false,
        networks: vec![name("lan")],
        displays: BTreeSet::from([Display::Vnc]),
        video: None,
        cache: None,
        guest: None,
        libvirt_xml: None,
    }
}

fn random_pool(chance: &mut Chance, most: u32) -> Pool {
    let mut policy = Policy {
        rollout: random_rollout(chance),
        ..Policy::default()
    };
    // Without the rule, what others do to hardware is told and left; with it, it is undone. A pool where they may
    // even switch desktops off would not settle by itself.
    policy.drift.domain = chance.per_mille(300).then_some(DriftRule::Enforce);
    policy.refresh = chance.per_mille(400).then(|| Refresh {
        on: Some(RefreshOn::Logoff),
        deadline: chance
            .per_mille(500)
            .then(|| Span::minutes(chance.between(1, 60))),
        ..Refresh::default()
    });
    let mut pool = Pool {
        template: name(chance.pick(&IMAGES).unwrap_or(&"debian")),
        desktops: number(chance, 0, most),
        slots: None,
        hostname: HostnamePattern("{pool}-{slot:03}".to_owned()),
        assignment: Assignment::Pooled,
        policies: Vec::new(),
        policy,
        entitled: Vec::new(),
        hours: None,
        servers: BTreeSet::new(),
        copies: 0,
        max_copy_age: None,
        bookings: BTreeMap::new(),
        protect: false,
    };
    rules::rule(chance, &mut pool);
    pool
}

fn random_rollout(chance: &mut Chance) -> Rollout {
    let shares = [Share::Percent(10), Share::Percent(50), Share::Count(1)];
    Rollout {
        max_unavailable: *chance.pick(&shares).unwrap_or(&Share::Count(1)),
        max_surge: Share::Count(number(chance, 0, 1)),
        canary: number(chance, 0, 1),
        healthy_after: Span::seconds(chance.between(0, 30)),
        pause_after_failures: number(chance, 1, 5),
        ..Rollout::default()
    }
}
