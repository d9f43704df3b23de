//! A voter of its own in a simulated world: its disk crashes again and again, and nothing that it acknowledged is ever
//! lost. A seed repeats a run exactly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::units::{Span, Timestamp};
use coppice_state::{Agreement, Entry, Outcome};
use coppice_world::clock::Clock;
use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::async_runtime::AsyncRuntime;
use openraft::type_config::TypeConfigExt;
use openraft_rt_sim::{SimInstant, SimRuntime};

use super::world::{founding, secret};
use crate::machine::Machine;
use crate::memory::MemoryDisk;
use crate::network::Alone;
use crate::replica::{Fate, Replica};
use crate::types::{Leader, Proposal};

openraft::declare_raft_types!(
    /// The simulated world.
    pub(super) Simulated:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
        LeaderId = Leader,
        AsyncRuntime = SimRuntime,
);

struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let since = <SimInstant as openraft::Instant>::now().elapsed_since_start();
        Timestamp(u64::try_from(since.as_millis()).unwrap())
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        Simulated::sleep(Duration::from_millis(span.0)).boxed()
    }
}

async fn start(disk: &MemoryDisk<Simulated>) -> Replica<Simulated> {
    let machine = Machine::new(Arc::new(disk.snapshots()), disk.snapshot());
    let clock = Arc::new(SimClock);
    Replica::start(1, disk.log(), machine, Alone::new(), clock, Fate::default())
        .await
        .unwrap()
}

/// What a run came to: what was lost, if anything, and what shows that two runs were the same.
#[derive(PartialEq, Eq, Debug)]
struct Run {
    lost: Vec<String>,
    acked: usize,
    end: Digest,
}

async fn lives(seed: u64, disk: MemoryDisk<Simulated>) -> Run {
    let mut dice = seed;
    let mut draw = move |below: u64| {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % below
    };
    let acked = Arc::new(Mutex::new(Vec::new()));
    let mut replica = start(&disk).await;
    replica.initialize("alone".to_owned()).await.unwrap();
    let begin = founding(super::world::GRID);
    let entry = Entry::Founded {
        grid: begin.grid,
        epoch: begin.epoch,
        server: begin.server,
        token: begin.token,
    };
    replica.propose(entry).await.unwrap();
    let mut lost = Vec::new();
    let mut seen = 0;
    for life in 0..6 {
        for client in 0..4 {
            let (replica, acked) = (replica.clone(), Arc::clone(&acked));
            drop(Simulated::spawn(async move {
                for n in 0.. {
                    let name = format!("l{life}-c{client}-n{n}");
                    if replica.propose(secret(&name, 8)).await.is_err() {
                        return;
                    }
                    acked.lock().unwrap().push((name, replica.local().index));
                }
            }));
        }
        Simulated::sleep(Duration::from_micros(500 + draw(60_000))).await;
        if draw(2) == 0 {
            let covered = replica.local().index;
            let replica = replica.clone();
            drop(Simulated::spawn(async move {
                if replica.snapshot().await.is_ok() {
                    drop(replica.raft().trigger().purge_log(covered).await);
                }
            }));
            Simulated::sleep(Duration::from_micros(draw(12_000))).await;
        }
        disk.crash();
        replica.stop("crashed").await;

        replica = start(&disk).await;
        let state = replica.caught_up().await.unwrap();
        let so_far = acked.lock().unwrap().clone();
        for (name, _) in &so_far {
            if !state.secrets.contains_key(&name.parse().unwrap()) {
                lost.push(name.clone());
            }
        }
        let highest = so_far.iter().map(|(_, index)| *index).max().unwrap_or(0);
        if state.index < highest.max(seen) {
            lost.push(format!(
                "entries {} to {}",
                state.index + 1,
                highest.max(seen)
            ));
        }
        seen = state.index;
    }
    let end = replica.local().digest();
    replica.stop("over").await;
    let acked = acked.lock().unwrap().len();
    Run { lost, acked, end }
}

fn run(seed: u64, lying: bool) -> Run {
    SimRuntime::with_seed(seed).block_on(async move {
        let disk = MemoryDisk::new(seed, Duration::from_millis(4));
        lives(seed, if lying { disk.lying() } else { disk }).await
    })
}

/// Those of `COPPICE_GRID_SEEDS` (`FROM..TO`), or a few.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("COPPICE_GRID_SEEDS") else {
        return 0..60;
    };
    let bounds = text
        .split_once("..")
        .map(|(from, to)| (from.parse(), to.parse()));
    match bounds {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("COPPICE_GRID_SEEDS is {text:?}; expected FROM..TO"),
    }
}

#[test]
fn no_crash_loses_what_was_acknowledged() {
    let mut acked = 0;
    for seed in seeds() {
        let run = run(seed, false);
        assert!(run.lost.is_empty(), "seed {seed}: lost {:?}", run.lost);
        acked += run.acked;
    }
    assert!(
        acked > 500,
        "only {acked} entries were acknowledged: the crashes met nothing"
    );
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let found = (0..10).find(|seed| !run(*seed, true).lost.is_empty());
    assert!(
        found.is_some(),
        "ten seeds did not notice a disk that acknowledges before it syncs"
    );
}

#[test]
fn a_seed_repeats_a_run() {
    assert_eq!(run(11, false), run(11, false));
    assert_ne!(run(11, false).end, run(12, false).end);
}
