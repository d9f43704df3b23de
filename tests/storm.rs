//! Storms: seeded faults in the simulated world; then they stop, and it must settle.
//!
//! `COPPICE_SEEDS=100` sets how many seeds are tried, `COPPICE_SEED=7` repeats one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_tests::plants::Plant;
use coppice_tests::storm::{Ended, Failed, Tally, run};

/// In every run of the tests.
const SEEDS: u64 = 1_000;
/// A bug that takes more seeds to be found would be found too late.
const FEW: u64 = 30;
/// In so many, everything comes about.
const ENOUGH: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn tell(failed: &Failed) -> String {
    let newest = failed.trace.iter().rev().take(60).rev();
    let trace: Vec<&str> = newest.map(String::as_str).collect();
    format!(
        "{}\n{}\nrepeat it with COPPICE_SEED={}",
        trace.join("\n"),
        failed.what,
        failed.seed
    )
}

/// Runs a storm; a panic in it tells its seed too.
fn storm(seed: u64, plant: Option<Plant>) -> Result<Ended, Failed> {
    std::panic::catch_unwind(|| run(seed, plant)).unwrap_or_else(|cause| {
        let what = cause.downcast_ref::<String>().cloned();
        let what = what.or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string));
        Err(Failed {
            seed,
            what: format!("panic: {}", what.unwrap_or_default()),
            trace: Vec::new(),
        })
    })
}

#[test]
fn every_storm_settles() {
    if let Some(seed) = number("COPPICE_SEED") {
        match storm(seed, None) {
            Ok(ended) => println!("seed {seed}: {ended:?}"),
            Err(failed) => panic!("{}", tell(&failed)),
        }
        return;
    }
    let seeds = number("COPPICE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut ended = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return Ok(ended);
            }
            match storm(seed, None) {
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
    let crashes: u64 = all.values().map(|end| end.crashes).sum();
    let entries: usize = all.values().map(|end| end.entries).sum();
    let tally: Tally = all.values().map(|end| end.tally).sum();
    println!("{seeds} storms, {crashes} daemons killed, {entries} entries, {tally:?}");
    assert!(crashes > seeds, "storms in which nobody dies prove little");
    let common = seeds < ENOUGH || (tally.lost > 0 && tally.levelled > 0);
    // A move, or a copy that takes over, seldom comes to its end in a storm.
    let rare = seeds < 5 * ENOUGH || (tally.moved > 0 && tally.restored > 0);
    assert!(common && rare, "what never happens is not tried: {tally:?}");
}

#[test]
fn the_same_seed_is_the_same_storm() {
    for seed in 0..5 {
        let (first, second) = (storm(seed, None), storm(seed, None));
        let trace = first.as_ref().map(|ended| ended.trace);
        println!("seed {seed}: {trace:?}");
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for plant in Plant::ALL {
        let found = (0..FEW).find_map(|seed| storm(seed, Some(plant)).err());
        let found = found.unwrap_or_else(|| panic!("{plant:?} is not found in {FEW} storms"));
        println!(
            "{plant:?}: seed {}: {}",
            found.seed,
            found.what.lines().next().unwrap_or_default()
        );
    }
}
