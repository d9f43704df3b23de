//! Row 10: where 10,000 new desktops go on 500 servers, beside weighing every server for each.
//!
//! Both make the same choices, desktop by desktop. The peer does nothing but weigh, as a scheduler does that filters and
//! scores all servers for each thing that it places. Coppice makes the whole plan: slots, names, hardware, orders and the
//! forecast, and puts it in order. kube-scheduler is published to place 333 to 909 a second on grids of that size; it is
//! not run here, so it is no figure of the table.

use coppice_plans::plan::{Kind, Plan};
use coppice_schema::desired::Desired;
use coppice_tests::fleet::{self, Fleet};

use crate::cost::{self, By, Turns, Whose};
use crate::line::{Comparison, Line};
use crate::{Bench, Row, say};

pub(crate) const ROW: Row = Row {
    number: 10,
    packages: &[],
    measure,
};

const CPUS: u32 = 64;
const MEMORY: u64 = 512;
const DISK: u64 = 8_000;
/// What an image takes of each disk, and a desktop may come to take, in GiB.
const IMAGE: u64 = 4;
const GROWTH: u64 = 2;

fn measure(bench: &Bench) -> Result<Vec<Line>, String> {
    let (servers, desktops) = (bench.size(500), bench.size(10_000));
    say(&format!(
        "row 10: {desktops} desktops on {servers} servers; published for kube-scheduler: 333 to 909 a second"
    ));
    let many = usize::try_from(servers).map_err(|e| e.to_string())?;
    let mut grid = Fleet::new(vec![fleet::capacity(CPUS, MEMORY, DISK); many]);
    let mut desired = Desired::default();
    grid.import("debian");
    fleet::template(&mut desired, "debian", 1, fleet::gib(2));
    fleet::pool(&mut desired, "lab", "debian", desktops);
    grid.known.committed = desired.clone();
    let units = f64::from(desktops);
    let mut ours = Turns::new("Coppice", units);
    let mut peer = Turns::new("weighing every server for each", units);
    for round in 1..=bench.rounds {
        say(&format!("row 10: round {round} of {}", bench.rounds));
        let (cost, plan) = cost::of(Whose::Mine, || Ok(grid.plan(&desired)))?;
        ours.costs.push(cost);
        let (cost, chosen) = cost::of(Whose::Mine, || Ok(weigh(many, desktops)))?;
        peer.costs.push(cost);
        agree(&plan, &chosen, many)?;
    }
    for turns in [&ours, &peer] {
        say(&format!(
            "row 10: {}",
            turns.describe("placements a second")
        ));
    }
    let line = Comparison {
        row: ROW.number,
        metric: "desktops planned on 500 servers, CPU, beside weighing each server for each",
        unit: "1/s",
        by: By::Processors,
        ours: &ours,
        peer: Some(&peer),
        limit: None,
        target: 2.0,
    };
    Ok(vec![line.line()?])
}

/// A server as it is filled, in GiB.
#[derive(Clone, Copy)]
struct Filled {
    cpus: u64,
    memory: u64,
    disk: u64,
}

/// The rule, spelled out: of all servers with room, the one of which the largest share stays the lowest, ties by id.
fn weigh(servers: usize, desktops: u32) -> Vec<usize> {
    let empty = Filled {
        cpus: 0,
        memory: 0,
        disk: IMAGE,
    };
    let mut filled = vec![empty; servers];
    let mut chosen = Vec::new();
    for _ in 0..desktops {
        let mut best: Option<(u64, usize)> = None;
        for (place, server) in filled.iter().enumerate() {
            let (memory, disk) = (server.memory + 2, server.disk + GROWTH);
            if memory > MEMORY || disk > DISK {
                continue;
            }
            let part = |part: u64, all: u64| part * 1_000_000 / all;
            let share = part(server.cpus + 1, CPUS.into());
            let share = share.max(part(memory, MEMORY)).max(part(disk, DISK));
            if best.is_none_or(|(lowest, _)| share < lowest) {
                best = Some((share, place));
            }
        }
        let Some((_, place)) = best else { break };
        chosen.push(place);
        if let Some(server) = filled.get_mut(place) {
            server.cpus += 1;
            server.memory += 2;
            server.disk += GROWTH;
        }
    }
    chosen
}

/// Both chose the same, and nobody carries much more than another.
fn agree(plan: &Plan, chosen: &[usize], servers: usize) -> Result<(), String> {
    let made = plan
        .actions
        .iter()
        .filter(|action| action.kind == Kind::Create && action.object.desktop().is_some());
    let places = made.map(|action| {
        let id = action.server.map_or(0, |server| server.0);
        usize::try_from(id).unwrap_or(0).wrapping_sub(1)
    });
    let places: Vec<usize> = places.collect();
    if places != chosen {
        return Err("Coppice and its peer chose other servers".to_owned());
    }
    let mut each = vec![0_usize; servers];
    for place in places {
        if let Some(count) = each.get_mut(place) {
            *count += 1;
        }
    }
    let (most, least) = (each.iter().max(), each.iter().min());
    match most.zip(least) {
        Some((most, least)) if most - least <= 1 => Ok(()),
        _ => Err(format!("the load is not even: {each:?}")),
    }
}
