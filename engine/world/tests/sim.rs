//! The simulated server keeps the contract of a hypervisor, as the real ones do.

use std::path::PathBuf;
use std::sync::Arc;

use coppice_schema::ids::GridId;
use coppice_schema::units::{Size, Span};
use coppice_world::clock::SystemClock;
use coppice_world::contract::Outcome;
use coppice_world::contract::hypervisor::{Means, Subject, run};
use coppice_world::disks::{Disks, NewOverlay};
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{Setup, SimServer};
use futures::executor::block_on;
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
