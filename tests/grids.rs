//! Many servers that agree by real raft, in a simulated world: seeded faults; then they stop, and all become equal.
//!
//! `COPPICE_SEEDS=100` sets how many seeds are tried, `COPPICE_SEED=7` repeats one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_tests::grids::plants::Plant;
use coppice_tests::grids::{Course, Ended, Failed, Tally, panics, run};

/// In every run of the tests.
const SEEDS: u64 = 1_000;
/// A bug that takes more seeds to be found would be found too late.
const FEW: u64 = 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn tell(failed: &Failed) -> String {
    let newest = failed.trace.iter().rev().take(120).rev();
    let trace: Vec<&str> = newest.map(String::as_str).collect();
    format!(
        "{}\n{}\nrepeat it with COPPICE_SEED={}",
        trace.join("\n"),
        failed.what,
        failed.seed
    )
}

/// Runs a grid; a panic of whoever watches it tells its seed too.
fn grid(course: Course) -> Result<Ended, Failed> {
    let ended = std::panic::catch_unwind(|| run(course));
    panics::let_go();
    ended.unwrap_or_else(|cause| {
        let what = cause.downcast_ref::<String>().cloned();
        let what = what.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
        Err(Failed {
            seed: course.seed,
            what: format!("panic: {}", what.unwrap_or_default()),
            trace: Vec::new(),
        })
    })
}

fn of_seed(seed: u64) -> Course {
    Course {
        seed,
        rounds: number("COPPICE_ROUNDS").is_some(),
        ..Course::default()
    }
}

#[test]
fn every_grid_becomes_one() {
    if let Some(seed) = number("COPPICE_SEED") {
        match grid(of_seed(seed)) {
            Ok(ended) => println!("seed {seed}: {ended:?}"),
            Err(failed) => panic!("{}", tell(&failed)),
        }
        return;
    }
    let seeds = number("COPPICE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(number("COPPICE_FROM").unwrap_or(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut ended = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return Ok(ended);
            }
            match grid(of_seed(seed)) {
                Ok(end) => ended.push((seed, end)),
                Err(failed) => {
                    next.store(seeds, Ordering::Relaxed);
                    return Err(failed);
                }
            }
        }
    };
    let results: Vec<Result<Vec<(u64, Ended)>, Failed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
        threads.into_iter().map(join).collect()
    });
    let mut all = BTreeMap::new();
    for result in results {
        match result {
            Ok(ended) => all.extend(ended),
            Err(failed) => panic!("{}", tell(&failed)),
        }
    }
    for (seed, ended) in &all {
        println!("{seed}: {ended:?}");
    }
    let _ = Tally::default();
}

#[test]
fn the_same_seed_is_the_same_grid() {
    for seed in 0..5 {
        let course = Course {
            executed: true,
            ..of_seed(seed)
        };
        let (first, second) = (grid(course), grid(course));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for plant in Plant::ALL {
        let course = |seed| Course {
            plant: Some(plant),
            ..of_seed(seed)
        };
        let found = (0..FEW).find_map(|seed| grid(course(seed)).err());
        let Some(found) = found else {
            println!("{plant:?} is not found in {FEW} seeds");
            continue;
        };
        println!(
            "{plant:?}: seed {}: {}",
            found.seed,
            found.what.lines().next().unwrap_or_default()
        );
    }
}
