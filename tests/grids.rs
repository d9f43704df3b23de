//! Many servers that agree by real raft, in a simulated world: seeded faults; then they stop, and all become equal. On
//! every fifth, leaders decide and servers act.
//!
//! `COPPICE_SEEDS=100` sets how many seeds are tried, `COPPICE_GRIDS=50..100` which of them here, `COPPICE_SEED=7` repeats
//! one. The complete run tries one half as here, and one with openraft's debug assertions off: the two find different
//! things.

#![cfg(test)] // all of it, which clippy only believes when told

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_tests::grids::plants::Plant;
use coppice_tests::grids::{Course, Ended, Failed, Tally, panics, run};
use coppice_tests::plants;

/// In every run of the tests.
const SEEDS: u64 = 1_000;
/// A bug that takes more seeds to be found would be found too late.
const FEW: u64 = 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds of this run.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("COPPICE_GRIDS") else {
        return 0..number("COPPICE_SEEDS").unwrap_or(SEEDS);
    };
    let bounds = text.split_once("..");
    let bounds = bounds.map(|(from, to)| (from.parse(), to.parse()));
    match bounds {
        Some((Ok(from), Ok(to))) => from..to,
        _ => panic!("COPPICE_GRIDS is {text:?}; expected FROM..TO"),
    }
}

fn tell(failed: &Failed) -> String {
    format!(
        "{}\n{}\nrepeat it with COPPICE_SEED={}",
        failed.trace.join("\n"),
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

/// The grids of `seeds`, on every processor; the first that fails ends it.
fn grids(seeds: Range<u64>) -> Result<Vec<Ended>, Failed> {
    let next = AtomicU64::new(seeds.start);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut ended = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(ended);
            }
            match grid(Course::of(seed)) {
                Ok(end) => ended.push(end),
                Err(failed) => {
                    next.store(seeds.end, Ordering::Relaxed);
                    return Err(failed);
                }
            }
        }
    };
    let results: Vec<Result<Vec<Ended>, Failed>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap();
        threads.into_iter().map(join).collect()
    });
    let all: Result<Vec<Vec<Ended>>, Failed> = results.into_iter().collect();
    Ok(all?.concat())
}

#[test]
fn every_grid_becomes_one() {
    if let Some(seed) = number("COPPICE_SEED") {
        match grid(Course::of(seed)) {
            Ok(ended) => println!("seed {seed}: {ended:?}"),
            Err(failed) => panic!("{}", tell(&failed)),
        }
        return;
    }
    let seeds = seeds();
    let ended = match grids(seeds.clone()) {
        Ok(ended) => ended,
        Err(failed) => panic!("{}", tell(&failed)),
    };
    let count = seeds.end - seeds.start;
    let sum = |of: fn(&Tally) -> u64| ended.iter().map(|end| of(&end.tally)).sum::<u64>();
    let all: Tally = ended
        .iter()
        .fold(Tally::default(), |all, end| all + end.tally);
    println!("{count} grids: {all:?}");
    // So few prove little about what comes about seldom.
    if count < 40 {
        println!("that is too few to say what came about");
        return;
    }
    // What does not happen is not tested.
    assert!(sum(|t| t.crashes) > count && sum(|t| t.cuts) > count && sum(|t| t.pauses) > count);
    assert!(sum(|t| t.unsynced_lost) > count / 2 && sum(|t| t.installs) > count / 2);
    assert!(sum(|t| t.torn) > count / 100 && sum(|t| t.changes) > count / 4);
    assert!(sum(|t| t.written) > 100 * count && sum(|t| t.read) > 50 * count);
    // A search that takes too long proves nothing.
    assert!(sum(|t| t.undecided) * 10 <= sum(|t| t.searched));
    assert!(sum(|t| t.known_assertions) * 20 <= count);
}

#[test]
fn one_clock_that_is_wrong_does_not_move_the_grids_time() {
    for seed in 0..2 {
        let course = Course {
            clocks: true,
            seed,
            ..Course::default()
        };
        if let Err(failed) = grid(course) {
            panic!("{}", tell(&failed));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_grid() {
    for seed in 0..5 {
        let course = Course {
            executed: true,
            ..Course::of(seed)
        };
        let (first, second) = (grid(course), grid(course));
        if let Ok(ended) = &first {
            println!("seed {seed}: {:016x} {:016x}", ended.trace, ended.executed);
        }
        assert_eq!(first, second, "seed {seed}");
    }
}

fn is_found(plant: impl std::fmt::Debug, course: impl Fn(u64) -> Course) {
    let found = (0..FEW).find_map(|seed| grid(course(seed)).err());
    let found = found.unwrap_or_else(|| panic!("{plant:?} is not found in {FEW} grids"));
    println!(
        "{plant:?}: seed {}: {}",
        found.seed,
        found.what.lines().next().unwrap_or_default()
    );
}

#[test]
fn planted_bugs_are_found() {
    for plant in Plant::ALL {
        let course = |seed| Course {
            plant: Some(plant),
            rounds: false,
            ..Course::of(seed)
        };
        is_found(plant, course);
    }
}

#[test]
fn planted_bugs_in_the_rounds_are_found() {
    for plant in plants::Plant::IN_GRIDS {
        let course = |seed| Course {
            round_plant: Some(plant),
            rounds: true,
            ..Course::of(seed)
        };
        is_found(plant, course);
    }
}
