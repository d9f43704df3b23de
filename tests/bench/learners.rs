//! Row 13: what it costs to lead 35 servers, of which 30 only learn, beside a budget.
//!
//! All are processes on this machine with simulated hypervisors, so the leader talks TLS to each. etcd has at most one
//! learner in its preset, so it is no peer here; what the figures stand beside is what a server should have left for
//! desktops: a fiftieth of a core and 64 MiB.

use std::time::{Duration, Instant};

use hyper::Method;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval};

use crate::cost::{By, Turns};
use crate::line::{Comparison, Line};
use crate::servers::Servers;
use crate::{Bench, Row, say};

pub(crate) const ROW: Row = Row {
    number: 13,
    packages: &[],
    measure,
};

const VOTERS: u32 = 5;

/// Seconds of a processor that a second may cost.
const PROCESSORS: f64 = 0.02;

/// What a daemon may take, in GiB.
const MEMORY: f64 = 64.0 / 1024.0;

/// A client that has something agreed on so often a second makes it a busy grid.
const BUSY: u32 = 20;

/// What the leader took of a processor while `work` went on, each second.
async fn watched(
    grid: &Servers,
    leader: usize,
    work: impl Future<Output = Result<(), String>>,
) -> Result<f64, String> {
    let (before, begun) = (grid.processors(leader)?, Instant::now());
    work.await?;
    Ok((grid.processors(leader)? - before) / begun.elapsed().as_secs_f64())
}

async fn commits(grid: &Servers, leader: usize, seconds: u32) -> Result<(), String> {
    let mut api = grid.connect(leader).await?;
    let mut pace = interval(Duration::from_secs(1) / BUSY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..seconds * BUSY {
        pace.tick().await;
        api.ask(Method::PUT, "/secrets/busy", b"busy").await?;
    }
    Ok(())
}

fn measure(bench: &Bench) -> Result<Vec<Line>, String> {
    let runtime = Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let (learners, seconds) = (bench.size(30), bench.size(30));
    let (idle, gib) = runtime.block_on(async {
        let place = bench.place.join("servers-13");
        let many = usize::try_from(VOTERS + learners).map_err(|e| e.to_string())?;
        say(&format!("row 13: {many} servers join, one after the other"));
        let grid = Servers::start(&place, many).await?;
        let leader = grid.leader(0).await?;
        let rests = async {
            tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
            Ok(())
        };
        let idle = watched(&grid, leader, rests).await?;
        let busy = watched(&grid, leader, commits(&grid, leader, seconds)).await?;
        let gib = grid.resident(leader)?;
        say(&format!(
            "row 13: who leads {learners} learners and {VOTERS} voters takes {:.2} % of a core at rest, {:.2} % with \
             {BUSY} commits a second, and {:.0} MiB of memory",
            idle * 100.0,
            busy * 100.0,
            gib * 1024.0
        ));
        Ok::<_, String>((idle, gib))
    })?;
    let line = |metric, unit, ours, name, may| {
        Comparison {
            row: ROW.number,
            metric,
            unit,
            by: By::Wall,
            ours: &Turns::of("Coppice", &[ours]),
            peer: Some(&Turns::of(name, &[may])),
            limit: None,
            target: 1.0,
        }
        .line()
    };
    Ok(vec![
        line(
            "leader of 35 servers at rest, CPU, beside 2 % of a core",
            "s/CPU s",
            idle,
            "2 % of a core",
            PROCESSORS,
        )?,
        line("its memory, beside 64 MiB", "1/GiB", gib, "64 MiB", MEMORY)?,
    ])
}
