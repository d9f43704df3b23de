//! Both kinds of disks keep the contract of images between servers.

#![cfg(test)] // all of it, which clippy only believes when told

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId};
use coppice_schema::units::Size;
use coppice_world::clock::SystemClock;
use coppice_world::contract::images::{Means, Place, Subject, run};
use coppice_world::disks::{Disks, LocalDisks};
use coppice_world::peers::{Purpose, Serves};
use coppice_world::sim::{Setup, SimServer, SimWires};
use futures::future::{BoxFuture, FutureExt};

const GRID: GridId = GridId([1; 16]);
const PLACES: u64 = 4;

/// Runs what serves, as a daemon would.
fn serve(wires: SimWires) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            for served in wires.served() {
                tokio::spawn(served);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

fn server(place: usize) -> ServerId {
    ServerId(u64::try_from(place).unwrap() + 1)
}

struct Simulated {
    sims: Vec<Arc<SimServer>>,
    wires: SimWires,
    count: AtomicU8,
}

impl Means for Simulated {
    fn put(&self, place: usize) -> BoxFuture<'_, Digest> {
        let root = Digest([self.count.fetch_add(1, Ordering::Relaxed); 32]);
        self.sims[place].put_image(root, Size::mib(8), Size::mib(4));
        futures::future::ready(root).boxed()
    }

    fn spoil(&self, place: usize, root: Digest) {
        self.sims[place].spoil_image(root, false);
    }

    fn cut(&self, from: usize, to: usize, cut: bool) {
        self.wires.cut(server(from), server(to), cut);
    }
}

#[tokio::test]
async fn simulated_disks_pass_images_on() {
    let wires = SimWires::default();
    let mut sims = Vec::new();
    for place in 1..=PLACES {
        let setup = Setup {
            grid: Some(GRID),
            ..Setup::default()
        };
        let sim = SimServer::new(setup, Arc::new(SystemClock));
        sim.meet(Arc::new(wires.peers(ServerId(place))));
        wires.serve(ServerId(place), Purpose::Images, sim.giver());
        sims.push(sim);
    }
    let place = |(place, sim): (usize, &Arc<SimServer>)| Place {
        server: server(place),
        disks: Arc::clone(sim) as _,
    };
    let places = sims.iter().enumerate().map(place).collect();
    let serving = serve(wires.clone());
    let means = Simulated {
        sims,
        wires,
        count: AtomicU8::new(1),
    };
    let means = Box::new(means);
    let report = run(&Subject { places, means }).await;
    serving.abort();
    assert!(report.holds(), "{report}");
    assert_eq!(report.skipped, []);
}

struct Real {
    dirs: Vec<tempfile::TempDir>,
    disks: Vec<LocalDisks>,
    wires: SimWires,
    count: AtomicU8,
}

impl Means for Real {
    fn put(&self, place: usize) -> BoxFuture<'_, Digest> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.dirs[place].path().join("source.raw");
        let mut bytes = vec![0; 4 << 20];
        let mut seed = blake3::Hasher::new();
        seed.update(&[n]);
        seed.finalize_xof().fill(&mut bytes[..3 << 20]);
        std::fs::write(&path, bytes).unwrap();
        async move {
            let told = Arc::new(|_| {});
            let imported = self.disks[place].import_image(path, told).await;
            imported.unwrap().root
        }
        .boxed()
    }

    fn spoil(&self, place: usize, root: Digest) {
        let path = self.dirs[place].path();
        let path = path.join("store/images").join(format!("{root}.raw"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"rot", (2 << 20) + 99).unwrap();
        file.sync_all().unwrap();
    }

    fn cut(&self, from: usize, to: usize, cut: bool) {
        self.wires.cut(server(from), server(to), cut);
    }
}

#[tokio::test]
async fn local_disks_pass_images_on() {
    let wires = SimWires::default();
    let (mut dirs, mut disks) = (Vec::new(), Vec::new());
    for place in 1..=PLACES {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalDisks::open(dir.path().join("store"), GRID)
            .await
            .unwrap();
        local.meet(Arc::new(wires.peers(ServerId(place))));
        let serves: Arc<dyn Serves> = Arc::new(local.clone());
        wires.serve(ServerId(place), Purpose::Images, serves);
        dirs.push(dir);
        disks.push(local);
    }
    let place = |(place, disks): (usize, &LocalDisks)| Place {
        server: server(place),
        disks: Arc::new(disks.clone()),
    };
    let places = disks.iter().enumerate().map(place).collect();
    let serving = serve(wires.clone());
    let means = Box::new(Real {
        dirs,
        disks,
        wires,
        count: AtomicU8::new(1),
    });
    let report = run(&Subject { places, means }).await;
    serving.abort();
    assert!(report.holds(), "{report}");
}

#[tokio::test]
async fn without_a_way_to_others_nothing_comes_and_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let disks = LocalDisks::open(dir.path().join("store"), GRID)
        .await
        .unwrap();
    let sim = SimServer::new(Setup::default(), Arc::new(SystemClock));
    for disks in [Arc::new(disks) as Arc<dyn Disks>, sim] {
        let got = disks
            .receive_image(Digest([3; 32]), vec![ServerId(2)])
            .await;
        let error = got.unwrap_err().to_string();
        assert!(error.contains("no way to other servers"), "{error}");
    }
}
