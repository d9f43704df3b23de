//! One clock that is wrong, on the server that leads.

use std::sync::Arc;
use std::time::Duration;

use coppice_state::Agreement;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::lives::{self, true_time};
use super::{Grid, clients, lock};

/// An hour.
const OFF: i64 = 3_600_000;
/// How far the grid's time may be from the true one then: what is believed of one clock, and what a quiet grid lacks.
const NEAR: u64 = 5_000;
/// How long a grid has for each step.
const STEP: Duration = Duration::from_secs(4);

/// Sets one clock after the other, and looks what becomes of the grid's time.
pub(super) async fn live(grid: Arc<Grid>) {
    for server in grid.numbers() {
        grid.start(server);
    }
    for number in 1..=2 {
        drop(lives::spawn(
            None,
            clients::client(Arc::clone(&grid), number),
        ));
    }
    SimRuntime::sleep(STEP).await;
    for (turn, server) in (0..).zip(grid.numbers()) {
        let ahead = if turn % 2 == 0 { OFF } else { -OFF };
        // Before it leads, and while it does.
        for leads_first in [false, true] {
            if leads_first {
                lead(&grid, server).await;
            }
            grid.deed(format!(
                "somebody sets the clock of {server} {ahead} ms ahead"
            ));
            lives::set_wall(server, ahead);
            if !leads_first {
                lead(&grid, server).await;
            }
            // A time that stands still is noticed too.
            SimRuntime::sleep(2 * STEP).await;
            let told = grid.access(server).map(|(_, access)| access);
            if let Some(access) = told.filter(|access| access.replica.raft().is_leader()) {
                let (time, now) = (access.replica.local().time, true_time());
                if time.0.abs_diff(now.0) > NEAR {
                    grid.breaks(format!(
                        "{server} leads, its clock is {ahead} ms ahead, and the grid's time is {time:?} at {now:?}"
                    ));
                }
            } else {
                grid.breaks(format!("{server} does not lead"));
            }
            lives::set_wall(server, 0);
            SimRuntime::sleep(STEP).await;
        }
    }
    *lock(&grid.over) = true;
}

async fn lead(grid: &Arc<Grid>, server: u64) {
    if let Some((life, access)) = grid.leader()
        && access.server != server
    {
        grid.deed(format!("{server} is to lead"));
        grid.in_life(life, async move {
            let raft = access.replica.raft();
            drop(raft.trigger().transfer_leader(server).await);
        });
    }
    SimRuntime::sleep(STEP).await;
}
