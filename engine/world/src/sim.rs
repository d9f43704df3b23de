//! A simulated server: a hypervisor, disks and guests in memory, with seeded faults.
//!
//! It outlives the daemon that uses it, as a machine does: a test keeps the [`SimServer`] and drops the round that
//! used it. It is fussier than real things: what a correct program never does is refused and kept in
//! [`SimServer::misuse`], so that a test can demand that the list stay empty.

mod call;
mod chance;
mod clock;
mod copies;
mod disks;
mod fault;
mod hands;
mod hypervisor;
mod journal;
mod machine;
mod moves;
mod peers;
mod replicas;
mod stamps;
mod uri;
mod watchdog;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::Capacity;
use coppice_schema::units::{Size, Span, Timestamp};
use futures::future::BoxFuture;
use uuid::Uuid;

pub use self::chance::Chance;
pub use self::clock::SimClock;
pub use self::copies::PARTS;
pub use self::fault::{CrashPoint, Fault, Moment, Operation, Weather};
pub use self::journal::{Change, Deed, Hand};
pub use self::machine::{SimDomain, SimImage, SimOverlay, SimReplica};
pub use self::peers::{SimPeers, SimWires};
pub use self::stamps::SimStamps;
pub use self::uri::BadSimUri;
pub use self::watchdog::SimWatchdog;

use self::copies::Copies;
use self::fault::Faults;
use self::machine::Machine;
use crate::clock::Clock;

/// What a simulated server is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Decides everything that happens by chance.
    pub seed: u64,
    /// The grid it serves; its marks alone are ours. Without, every mark is.
    pub grid: Option<GridId>,
    /// A guest answers between this and twice this after its start.
    pub boot: Span,
    /// At so many of a hundred desktops somebody signs in as soon as they are up.
    pub people: u32,
    /// Processors, memory and the rest; `disk` is the size of its disk.
    pub capacity: Capacity,
    /// Bytes that a new overlay takes.
    pub overlay: Size,
    /// Bytes a second that pass between it and another server.
    pub wire: Size,
    /// Its hypervisor does not answer for so long, from the beginning.
    pub away: Span,
    /// Operations that are refused, each time.
    pub refuse: BTreeSet<Operation>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 0,
            grid: None,
            boot: Span::seconds(2),
            people: 0,
            capacity: Capacity {
                cpus: 32,
                memory: Size::gib(256),
                disk: Size::gib(1024),
                hypervisor: "simulated".to_owned(),
                moves: Some("simulated".to_owned()),
                ..Capacity::default()
            },
            overlay: Size(196_616),
            // A gigabit.
            wire: Size(117_000_000),
            away: Span(0),
            refuse: BTreeSet::new(),
        }
    }
}

/// A simulated server.
pub struct SimServer {
    setup: Setup,
    clock: Arc<dyn Clock>,
    machine: Arc<Mutex<Machine>>,
    faults: Mutex<Faults>,
    copies: Copies,
}

impl SimServer {
    /// A server with an empty disk and no domain.
    #[must_use]
    pub fn new(setup: Setup, clock: Arc<dyn Clock>) -> Arc<Self> {
        let machine = Machine::new(&setup);
        let mut faults = Faults::new(setup.seed);
        faults.refuse.clone_from(&setup.refuse);
        if setup.away > Span(0) {
            faults.away_until = Some(clock.now().after(setup.away));
        }
        Arc::new(Self {
            setup,
            clock,
            machine: Arc::new(Mutex::new(machine)),
            faults: Mutex::new(faults),
            copies: Copies::default(),
        })
    }

    /// The same server, as whoever serves `grid` uses it: with faults of its own.
    #[must_use]
    pub fn serving(&self, grid: GridId) -> Arc<Self> {
        let setup = Setup {
            grid: Some(grid),
            ..self.setup.clone()
        };
        Arc::new(Self {
            faults: Mutex::new(Faults::new(setup.seed)),
            copies: Copies::default(),
            setup,
            clock: Arc::clone(&self.clock),
            machine: Arc::clone(&self.machine),
        })
    }

    /// What it is made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Every domain, as it truly is.
    #[must_use]
    pub fn domains(&self) -> Vec<SimDomain> {
        self.settled().domains.values().cloned().collect()
    }

    /// Whether a domain stands still on its way from this server, or to it.
    #[must_use]
    pub fn is_between_servers(&self, uuid: Uuid) -> bool {
        self.settled().ways.contains_key(&uuid)
    }

    /// Every overlay, as it truly is, by its file.
    #[must_use]
    pub fn overlay_files(&self) -> Vec<(PathBuf, SimOverlay)> {
        let machine = self.settled();
        let each = |(path, overlay): (&PathBuf, &SimOverlay)| (path.clone(), overlay.clone());
        machine.overlays.iter().map(each).collect()
    }

    /// Every copy of another server's overlay, as it truly is.
    #[must_use]
    pub fn copies_kept(&self) -> Vec<SimReplica> {
        self.settled().replicas.values().cloned().collect()
    }

    /// Everything that was changed on it, oldest first, by us and by others.
    #[must_use]
    pub fn journal(&self) -> Vec<Change> {
        self.settled().journal.clone()
    }

    /// What was changed since the first `seen` changes.
    #[must_use]
    pub fn journal_since(&self, seen: usize) -> Vec<Change> {
        let machine = self.settled();
        machine.journal.get(seen..).unwrap_or_default().to_vec()
    }

    /// What was asked of it that a correct program never asks. Each was refused.
    #[must_use]
    pub fn misuse(&self) -> Vec<String> {
        self.machine().misuse.clone()
    }

    /// Puts a whole, verified image on its disk.
    pub fn put_image(&self, root: Digest, size: Size, data: Size) {
        let image = SimImage::whole(size, data, self.clock.now());
        self.machine().images.insert(root, image);
        self.machine().wake();
    }

    /// The file of an overlay.
    #[must_use]
    pub fn overlay_path(member: &Member) -> PathBuf {
        machine::overlay_path(member)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // A panic while the lock was held is a failed test already; what it left is still readable.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine, after everything that was to come about by now has.
    fn settled(&self) -> MutexGuard<'_, Machine> {
        let (now, passed) = (self.clock.now(), self.clock.passed());
        let mut machine = self.machine();
        machine.settle(now, passed);
        machine
    }
}

impl Clock for SimServer {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        self.clock.sleep(span)
    }
}
