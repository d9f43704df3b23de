//! The simulated server keeps the contract of a hypervisor, as the real ones do.

use std::path::PathBuf;
use std::sync::Arc;

use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::{GuestState, PowerState};
use coppice_schema::units::{Size, Span};
use coppice_world::clock::SystemClock;
use coppice_world::contract::Outcome;
use coppice_world::contract::hypervisor::{Means, Subject, run};
use coppice_world::contract::moves::{self, Receiver};
use coppice_world::contract::replicas;
use coppice_world::disks::{Disks, NewOverlay};
use coppice_world::hypervisor::{ByteStream, Definition, Hypervisor, Mark};
use coppice_world::moves::{Moves, Road};
use coppice_world::peers::PeerError;
use coppice_world::replicas::Replicas;
use coppice_world::sim::{Setup, SimServer};
use futures::executor::block_on;
use futures::future::BoxFuture;
use tokio_util::compat::TokioAsyncReadCompatExt;
use uuid::Uuid;

const OURS: GridId = GridId([1; 16]);
const THEIRS: GridId = GridId([2; 16]);

struct Hands(Arc<SimServer>);

impl Means for Hands {
    fn overlay(&self, mark: &Mark, size: Size) -> Result<PathBuf, Outcome> {
        // Another grid's overlays lie elsewhere; here only their place is needed.
        if mark.grid != OURS {
            return Ok(PathBuf::from("/elsewhere"));
        }
        self.0.put_image(mark.image, size, Size(0));
        let mark = mark.clone();
        let made = block_on(self.0.make_overlays(vec![NewOverlay { mark, size }]));
        let failed = |e: &dyn ToString| Outcome::Failed(e.to_string());
        let paths = made.map_err(|e| failed(&e))?;
        paths.into_iter().next().ok_or(failed(&"no overlay"))
    }

    fn define_foreign(&self, name: &str, uuid: Uuid) -> Result<(), Outcome> {
        self.0.define_foreign(name, uuid, None);
        Ok(())
    }

    fn remove_foreign(&self, uuid: Uuid) {
        self.0.undefine_by_hand(uuid);
    }

    fn kill(&self, uuid: Uuid) -> Result<(), Outcome> {
        self.0.kill(uuid);
        Ok(())
    }
}

#[tokio::test]
async fn the_simulation_keeps_the_contract() {
    let setup = Setup {
        grid: Some(OURS),
        boot: Span(20),
        ..Setup::default()
    };
    let sim = SimServer::new(setup, Arc::new(SystemClock));
    let subject = Subject {
        hypervisor: Arc::clone(&sim) as _,
        grid: OURS,
        other: Some((sim.serving(THEIRS), THEIRS)),
        means: Box::new(Hands(Arc::clone(&sim))),
        boots: true,
    };
    let report = run(&subject).await;
    assert!(report.holds(), "{report}");
    let skipped: Vec<&str> = report.skipped.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        skipped,
        [
            "a domain that hangs holds up no other",
            "a guest whose agent hangs is asked by its button",
        ]
    );
    assert_eq!(sim.domains(), []);
    assert!(!report.passed.is_empty());
}

/// The receiving server, in this process.
struct Near(Arc<SimServer>);

/// What is said to it goes through memory, and is taken by a task of its own.
struct Way<'a> {
    sim: &'a Arc<SimServer>,
    guest: Definition,
}

impl Road for Way<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        let (mine, theirs) = tokio::io::duplex(1 << 10);
        let (sim, guest) = (Arc::clone(self.sim), self.guest.clone());
        tokio::spawn(async move { Moves::take(&*sim, &guest, Box::pin(theirs.compat())).await });
        Box::pin(async move { Ok(Box::pin(mine.compat()) as ByteStream) })
    }
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

impl Receiver for Near {
    fn prepare<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>> {
        Box::pin(async move {
            let (mark, size) = (guest.mark.clone(), guest.spec.hardware.disk);
            self.0.put_image(mark.image, size, Size(0));
            let made = self.0.make_overlays(vec![NewOverlay { mark, size }]).await;
            made.map(drop).map_err(|e| Outcome::Failed(words(e)))
        })
    }

    fn road<'a>(&'a self, guest: &'a Definition) -> Box<dyn Road + 'a> {
        Box::new(Way {
            sim: &self.0,
            guest: guest.clone(),
        })
    }

    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.0.enter(guest).await.map_err(words) })
    }

    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            Hypervisor::start(self.0.as_ref(), uuid)
                .await
                .map_err(words)
        })
    }

    fn power(&self, uuid: Uuid) -> BoxFuture<'_, Result<Option<PowerState>, Outcome>> {
        Box::pin(async move {
            let found = self.0.domains().into_iter().find(|d| d.uuid == uuid);
            Ok(found.map(|domain| domain.power))
        })
    }

    fn answers(&self, uuid: Uuid) -> BoxFuture<'_, Result<bool, Outcome>> {
        Box::pin(async move {
            let said = self.0.ask_guest(uuid).await?;
            Ok(matches!(said, GuestState::Answers { .. }))
        })
    }

    fn clear<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>> {
        Box::pin(async move {
            let uuid = guest.spec.uuid;
            if self.power(uuid).await?.is_some() {
                self.0.power_off(uuid).await?;
                self.0.undefine(uuid).await?;
            }
            let gone = self.0.remove_overlay(&guest.spec.member).await;
            gone.map_err(|e| Outcome::Failed(words(e)))
        })
    }
}

#[tokio::test]
async fn desktops_move_between_simulated_servers() {
    let server = || {
        let setup = Setup {
            grid: Some(OURS),
            boot: Span(20),
            ..Setup::default()
        };
        SimServer::new(setup, Arc::new(SystemClock))
    };
    let (sender, receiver) = (server(), server());
    let means = Hands(Arc::clone(&sender));
    let guests = (1..).take(moves::GUESTS).map(|number| {
        let mut guest = moves::guest(OURS, number);
        guest.overlay = means
            .overlay(&guest.mark, guest.spec.hardware.disk)
            .unwrap();
        guest
    });
    let guests: Vec<Definition> = guests.collect();
    let foreign = Uuid::from_u128(0xf0);
    sender.define_foreign("foreign", foreign, None);
    let subject = moves::Subject {
        hypervisor: Arc::clone(&sender) as _,
        moves: Arc::clone(&sender) as _,
        receiver: Box::new(Near(Arc::clone(&receiver))),
        guests,
        foreign: Some(foreign),
    };
    let report = moves::run(&subject).await;
    assert!(report.holds(), "{report}");
    assert_eq!(report.skipped, []);
    assert_eq!(receiver.domains(), []);
}

/// Copies between two servers in this process.
struct Copies {
    home: Arc<SimServer>,
    holder: Arc<SimServer>,
}

struct CopyWay<'a> {
    holder: &'a Arc<SimServer>,
    mark: Mark,
}

impl Road for CopyWay<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        let (mine, theirs) = tokio::io::duplex(1 << 10);
        let (holder, mark) = (Arc::clone(self.holder), self.mark.clone());
        tokio::spawn(
            async move { Replicas::take(&*holder, &mark, Box::pin(theirs.compat())).await },
        );
        Box::pin(async move { Ok(Box::pin(mine.compat()) as ByteStream) })
    }
}

impl replicas::Means for Copies {
    fn road<'a>(&'a self, mark: &'a Mark) -> Box<dyn Road + 'a> {
        Box::new(CopyWay {
            holder: &self.holder,
            mark: mark.clone(),
        })
    }

    fn write<'a>(
        &'a self,
        guest: &'a Definition,
        written: u64,
    ) -> BoxFuture<'a, Result<(), Outcome>> {
        self.home.write_to_overlay(&guest.mark.member, written);
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<u64, Outcome>> {
        let files = self.holder.overlay_files();
        let found = files.into_iter().find(|(path, _)| *path == guest.overlay);
        let written = found.map(|(_, overlay)| overlay.written);
        let none = || Outcome::Failed("it has no disk".to_owned());
        Box::pin(async move { written.ok_or_else(none) })
    }

    fn clear<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), Outcome>> {
        Box::pin(async move {
            for sim in [&self.home, &self.holder] {
                let gone = sim.remove_overlay(member).await;
                gone.map_err(|e| Outcome::Failed(words(e)))?;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn disks_are_copied_between_simulated_servers() {
    let server = || {
        let setup = Setup {
            grid: Some(OURS),
            boot: Span(20),
            ..Setup::default()
        };
        SimServer::new(setup, Arc::new(SystemClock))
    };
    let (home, holder) = (server(), server());
    let means = Hands(Arc::clone(&home));
    let guests = (1..).take(replicas::GUESTS).map(|number| {
        let mut guest = replicas::guest(OURS, number);
        let (mark, size) = (&guest.mark, guest.spec.hardware.disk);
        holder.put_image(mark.image, size, Size(0));
        guest.overlay = means.overlay(mark, size).unwrap();
        guest
    });
    let guests: Vec<Definition> = guests.collect();
    let foreign = Uuid::from_u128(0xf0);
    home.define_foreign("foreign", foreign, None);
    let subject = replicas::Subject {
        hypervisor: Arc::clone(&home) as _,
        home: Arc::clone(&home) as _,
        elsewhere: Arc::clone(&holder) as _,
        holder: Arc::clone(&holder) as _,
        means: Box::new(Copies {
            home: Arc::clone(&home),
            holder: Arc::clone(&holder),
        }),
        guests,
        foreign: Some(foreign),
    };
    let report = replicas::run(&subject).await;
    assert!(report.holds(), "{report}");
    assert_eq!(report.skipped, []);
    assert_eq!(holder.copies_kept(), []);
    assert_eq!(home.misuse(), Vec::<String>::new());
    assert_eq!(holder.misuse(), Vec::<String>::new());
}
