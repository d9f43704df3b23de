//! Grids of many servers, as what is known of them: nothing runs, so that five hundred servers are no work.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{Memory, Plan, Step};
use coppice_plans::{check, plan};
use coppice_schema::desired::{
    Assignment, Copies, Desired, Display, Firmware, HostnamePattern, Image, Origin, Os, Policy,
    Pool, ServerRule, Template,
};
use coppice_schema::ids::{DesktopId, Epoch, GridId, Incarnation, Revision, ServerId};
use coppice_schema::known::{
    Capacity, CopyState, DiskLevel, Health, ImageVersion, Known, KnownDesktop, KnownServer, Look,
    Phase, ServerState, Task,
};
use coppice_schema::units::{Share, Size, Span, Timestamp};
use coppice_schema::{Digest, units};
use coppice_world::sim::Chance;

use crate::world::DAWN;

/// A grid that is only known.
#[derive(Clone)]
pub struct Fleet {
    /// What is known of it.
    pub known: Known,
    /// The time.
    pub now: Timestamp,
}

/// A name that is one.
///
/// # Panics
/// When it is not.
pub fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a name of a test")
}

/// What a server of the tests carries.
#[must_use]
pub fn capacity(cpus: u32, memory: u64, disk: u64) -> Capacity {
    Capacity {
        cpus,
        memory: Size::gib(memory),
        disk: Size::gib(disk),
        ..Capacity::default()
    }
}

fn version(image: &str) -> ImageVersion {
    ImageVersion {
        source: Digest::of(format!("source {image}").as_bytes()),
        root: Digest::of(format!("root {image}").as_bytes()),
        size: Size::gib(16),
        data: Size::gib(4),
        imported: Timestamp(0),
    }
}

/// An image block whose version is called 1, and a template of it with its name.
pub fn template(desired: &mut Desired, image: &str, cpus: u32, memory: Size) {
    let block = Image {
        origin: Origin::Version(name("1")),
        digest: None,
        os: Os::Linux,
        copies: Copies::All,
        keep: 1,
        agent: true,
        ready_after: None,
        update: None,
        protect: false,
    };
    desired.images.insert(name(image), block);
    let template = Template {
        image: name(image),
        cpus,
        memory,
        disk: None,
        disk_limit: Some(Size::gib(2)),
        firmware: Firmware::Bios,
        tpm: false,
        networks: Vec::new(),
        displays: BTreeSet::from([Display::Vnc]),
        video: None,
        cache: None,
        guest: None,
        libvirt_xml: None,
    };
    desired.templates.insert(name(image), template);
}

/// A pool of a template.
pub fn pool<'d>(
    desired: &'d mut Desired,
    pool: &str,
    template: &str,
    desktops: u32,
) -> &'d mut Pool {
    let mut policy = Policy::default();
    policy.rollout.max_unavailable = Share::Percent(10);
    policy.rollout.healthy_after = Span(0);
    let block = Pool {
        template: name(template),
        desktops,
        slots: None,
        hostname: HostnamePattern(format!("{pool}-{{slot:04}}")),
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
    desired.pools.insert(name(pool), block);
    desired
        .pools
        .get_mut(&name(pool))
        .expect("it was put there")
}

impl Fleet {
    /// Servers that carry nothing yet, called `s001` and so on.
    #[must_use]
    pub fn new(servers: impl IntoIterator<Item = Capacity>) -> Self {
        let known = Known {
            grid: GridId([7; 16]),
            epoch: Epoch {
                number: 1,
                recovery: 0,
            },
            revision: Revision(1),
            committed: Desired::default(),
            generations: BTreeMap::new(),
            servers: BTreeMap::new(),
            images: BTreeMap::new(),
            desktops: BTreeMap::new(),
            slots: BTreeMap::new(),
            requests: BTreeMap::new(),
            repairs: BTreeMap::new(),
            orders: BTreeMap::new(),
            runs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            pauses: BTreeMap::new(),
            protections: BTreeSet::new(),
            kept: BTreeMap::new(),
            since: BTreeMap::new(),
        };
        let mut fleet = Self { known, now: DAWN };
        for capacity in servers {
            fleet.join(capacity);
        }
        fleet
    }

    /// Another server.
    pub fn join(&mut self, capacity: Capacity) -> ServerId {
        let number = self.known.servers.len() + 1;
        let id = ServerId(u64::try_from(number).unwrap_or(u64::MAX));
        let look = Look {
            boot: 1,
            sequence: 1,
            at: DAWN,
            members: BTreeMap::new(),
            images: BTreeMap::new(),
            disk: DiskLevel::Fine,
            foreign: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            replicas: BTreeMap::new(),
            hypervisor: Health::Well,
        };
        let server = KnownServer {
            parted: false,
            name: name(&format!("s{number:03}")),
            labels: BTreeSet::new(),
            capacity,
            state: ServerState::Ready,
            since: Timestamp::default(),
            force_at: None,
            skew: None,
            look: Some(look),
            current: true,
            lease: None,
            fenced: false,
        };
        self.known.servers.insert(id, server);
        id
    }

    /// The image is in the catalogue, and on every server that is there now.
    pub fn import(&mut self, image: &str) {
        let record = version(image);
        for look in self
            .known
            .servers
            .values_mut()
            .filter_map(|server| server.look.as_mut())
        {
            look.images.insert(record.root, CopyState::Verified);
        }
        self.known
            .images
            .insert(name(image), BTreeMap::from([(name("1"), record)]));
    }

    /// What `desired` would come to.
    #[must_use]
    pub fn plan(&self, desired: &Desired) -> Plan {
        plan(desired, &self.known, self.now)
    }

    /// `desired` is committed, and carried out until nothing of it can be done at once.
    ///
    /// # Panics
    /// When a plan breaks a rule, or does not come to an end.
    pub fn carry_out(&mut self, desired: &Desired) {
        self.known.committed = desired.clone();
        for _ in 0..10_000 {
            let plan = self.plan(desired);
            assert_eq!(
                check(&plan, desired, &self.known),
                [],
                "the plan breaks rules"
            );
            if !self.step(&plan) {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// Does what waits for nothing, or only for its turn to boot. Returns whether that was anything.
    pub fn step(&mut self, plan: &Plan) -> bool {
        let due = plan.actions.iter().filter(|action| action.waits.is_empty());
        let due = due.filter_map(|action| Some((action.server?, action.step.as_ref()?)));
        let mut any = false;
        for (server, Step { task, memory }) in due {
            match (task, memory) {
                (Task::Create { spec, .. }, Memory::Grown { personal, .. }) => {
                    any = true;
                    let id = spec.member.desktop.clone();
                    let slot = self.known.slots.entry(id.clone()).or_default();
                    slot.incarnation = spec.member.incarnation;
                    slot.well = Some(spec.image);
                    let desktop = KnownDesktop {
                        incarnation: spec.member.incarnation,
                        server,
                        spec: spec.clone(),
                        phase: Phase::Available { since: self.now },
                        personal: *personal,
                        failures: Default::default(),
                        grown: self.now,
                        wear: Default::default(),
                        stayed: Default::default(),
                        restored_from: None,
                    };
                    self.known.desktops.insert(id, desktop);
                }
                (Task::Remove { member }, Memory::Leaving) => {
                    any = true;
                    self.known.desktops.remove(&member.desktop);
                    self.known.requests.remove(&member.desktop);
                }
                _ => {}
            }
        }
        self.now = self.now.after(Span::seconds(60));
        any
    }

    /// Somebody is at it.
    pub fn sit(&mut self, id: &DesktopId) {
        if let Some(desktop) = self.known.desktops.get_mut(id) {
            desktop.phase = Phase::InUse {
                since: self.now,
                users: 1,
                viewers: 0,
            };
        }
    }

    /// By chance: `servers` of them of different sizes, some with labels, some without an image, and a configuration for
    /// them of one to four pools, carried out. Some desktops are used.
    #[must_use]
    pub fn by_chance(chance: &mut Chance, servers: u64) -> (Self, Desired) {
        let mut sizes = Vec::new();
        for _ in 0..servers {
            let cpus = u32::try_from(8 << chance.below(3)).unwrap_or(8);
            sizes.push(capacity(
                cpus,
                16 << chance.below(3),
                100 << chance.below(4),
            ));
        }
        let mut fleet = Self::new(sizes);
        let mut desired = Desired::default();
        for image in ["debian", "win11"] {
            fleet.import(image);
            let cpus = u32::try_from(chance.between(1, 4)).unwrap_or(1);
            template(&mut desired, image, cpus, Size::gib(chance.between(1, 4)));
        }
        for server in fleet.known.servers.values_mut() {
            if chance.per_mille(300) {
                server.labels.insert("ssd".to_owned());
            }
            let look = server
                .look
                .as_mut()
                .expect("every server of a fleet was seen");
            if chance.per_mille(150) {
                look.images.pop_first();
            }
        }
        for index in 0..chance.between(1, 4) {
            let image = *chance.pick(&["debian", "win11"]).unwrap_or(&"debian");
            let most = servers * 6;
            let desktops = u32::try_from(chance.between(0, most)).unwrap_or(0);
            let pool = pool(&mut desired, &format!("pool{index}"), image, desktops);
            if chance.per_mille(200) {
                pool.servers.insert("ssd".to_owned());
            }
        }
        if chance.per_mille(300) {
            let rule = ServerRule {
                keep_free_memory: Size::gib(chance.between(1, 8)),
                keep_free_disk: Size::gib(chance.between(1, 20)),
                ..ServerRule::default()
            };
            desired.servers.insert("*".to_owned(), rule);
        }
        fleet.carry_out(&desired);
        let all: Vec<DesktopId> = fleet.known.desktops.keys().cloned().collect();
        for id in all {
            if chance.per_mille(200) {
                fleet.sit(&id);
            }
        }
        (fleet, desired)
    }

    /// The largest of the shares of its processors, memory and disk that a server's desktops have, as parts of one.
    ///
    /// Thought anew here, and not asked of the planner.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share of a server needs no more digits than these"
    )]
    pub fn share(&self, server: ServerId) -> f64 {
        let Some(known) = self.known.servers.get(&server) else {
            return 0.0;
        };
        let mut disk = 0;
        let look = known.look.as_ref();
        let records = self.known.images.values().flat_map(BTreeMap::values);
        for record in records {
            if look.is_some_and(|look| look.images.contains_key(&record.root)) {
                disk += record.data.0;
            }
        }
        let (mut cpus, mut memory) = (0, 0);
        for desktop in self.known.desktops.values().filter(|d| d.server == server) {
            let hardware = &desktop.spec.hardware;
            cpus += hardware.cpus;
            memory += hardware.memory.0;
            disk += hardware
                .disk_limit
                .map_or(hardware.disk.0 / 8, |limit| limit.0);
        }
        let capacity = &known.capacity;
        let part = |taken: u64, all: u64| taken as f64 / all as f64;
        let cpus = f64::from(cpus) / f64::from(capacity.cpus);
        cpus.max(part(memory, capacity.memory.0))
            .max(part(disk, capacity.disk.0))
    }

    /// The first life of a slot.
    #[must_use]
    pub fn member(id: &DesktopId) -> coppice_schema::ids::Member {
        id.member(Incarnation(1))
    }
}

/// So much memory.
#[must_use]
pub fn gib(count: u64) -> units::Size {
    Size::gib(count)
}
