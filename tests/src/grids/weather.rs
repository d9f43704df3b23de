//! What goes wrong with servers and wires, in an order that the seed decides.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::Grid;
use super::lives::{self, Life, TRUE_RATE};
use super::plants::Plant;
use super::wires::Cut;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn sleep(span: Duration) {
    SimRuntime::sleep(span).await;
}

impl Grid {
    /// Faults, one after the other, until `until` in true nanoseconds.
    pub async fn rage(self: &Arc<Self>, until: u64) {
        while lives::true_nanos() < until && self.broken().is_none() {
            let pause = self.draw(|chance| chance.between(50, 1_500));
            sleep(millis(pause)).await;
            self.fault().await;
        }
    }

    async fn fault(self: &Arc<Self>) {
        let servers = self.numbers();
        let Some(one) = self.draw(|chance| chance.pick(&servers).copied()) else {
            return;
        };
        match self.draw(|chance| chance.below(if self.churns && !self.rounds { 20 } else { 16 })) {
            0..2 => self.cut(one),
            2 => {
                self.deed("every wire is whole".to_owned());
                self.wires(|wires, _| wires.heal());
            }
            3 => {
                let (loss, twice) = self.draw(|c| (c.below(40), c.below(20)));
                self.deed(format!("{loss} % are lost, {twice} % arrive twice"));
                self.wires(|wires, _| wires.set_loss(loss, twice));
            }
            4..6 => {
                self.wait_for_writes(one).await;
                if self.crash(one) {
                    let down = self.draw(|chance| chance.between(1, 3_000));
                    self.start_after(one, millis(down));
                }
            }
            6 => self.lose_all_power().await,
            7..9 => self.pause(one),
            9 => {
                let rates = [500, 800, 1_250, 2_000];
                let rate = self.draw(|chance| chance.pick(&rates).copied());
                let rate = rate.unwrap_or(TRUE_RATE);
                self.deed(format!("the clock of {one} goes at {rate} ‰"));
                self.tally(|tally| tally.clocks += 1);
                lives::set_rate(one, rate);
            }
            10 => self.turn_clock(one),
            11 => {
                let spans = [4, 30, 150, 600];
                let slowest = self
                    .draw(|chance| chance.pick(&spans).copied())
                    .unwrap_or(4);
                self.deed(format!("a sync on {one} takes up to {slowest} ms"));
                if let Some(disk) = self.disk(one) {
                    disk.set_slowest(millis(slowest));
                }
            }
            12..15 => self.command(one, &servers),
            15 => self.wipe(one),
            _ => self.change_members(),
        }
    }

    fn cut(self: &Arc<Self>, one: u64) {
        let servers = self.numbers();
        let cut = self.draw(|chance| *chance.pick(&Cut::ALL).unwrap_or(&Cut::Split));
        self.deed(format!("wires are cut: {cut:?}, of {one}"));
        self.tally(|tally| tally.cuts += 1);
        self.wires(|wires, chance| wires.cut(cut, one, &servers, chance));
    }

    /// Half of the time a crash waits for a moment in which it can take something.
    async fn wait_for_writes(&self, server: u64) {
        let (waits, most) = self.draw(|chance| (chance.per_mille(500), chance.between(1, 4)));
        let most = usize::try_from(most).unwrap_or(1);
        for _ in 0..if waits { 300 } else { 0 } {
            if self.disk(server).is_none_or(|disk| disk.unsynced() >= most) {
                return;
            }
            sleep(Duration::from_micros(700)).await;
        }
    }

    async fn lose_all_power(self: &Arc<Self>) {
        if !self.draw(|chance| chance.per_mille(500)) {
            return;
        }
        self.deed("the power fails everywhere".to_owned());
        for server in self.numbers() {
            self.crash(server);
        }
        let dark = self.draw(|chance| chance.between(1, 500));
        sleep(millis(dark)).await;
        for server in self.numbers() {
            let boots = self.draw(|chance| chance.between(1, 1_000));
            self.start_after(server, millis(boots));
        }
    }

    fn pause(self: &Arc<Self>, server: u64) {
        let span = self.draw(|chance| chance.between(20, 5_000));
        self.deed(format!("{server} stands still for {span} ms"));
        self.tally(|tally| tally.pauses += 1);
        lives::stop(server);
        let grid = Arc::clone(self);
        drop(lives::spawn(None, async move {
            sleep(millis(span)).await;
            grid.deed(format!("{server} goes on"));
            lives::go_on(server);
        }));
    }

    fn turn_clock(self: &Arc<Self>, server: u64) {
        self.tally(|tally| tally.clocks += 1);
        if self.draw(|chance| chance.per_mille(500)) {
            let nanos = self.draw(|chance| chance.between(100_000, 5_000_000_000));
            self.deed(format!("{nanos} ns pass on {server} alone"));
            lives::jump(server, nanos);
        } else {
            // One clock that is wrong moves nobody (see `clocks`). Several at once do, as they do here: the grid's time goes with
            // most of them and waits for the rest, longer than anybody watches who waits for a server's rounds.
            let most: u64 = if self.rounds { 2_000 } else { 3_600_000 };
            let ahead =
                self.draw(|chance| chance.below(2 * most)).cast_signed() - most.cast_signed();
            self.deed(format!(
                "somebody sets the clock of {server} {ahead} ms ahead"
            ));
            lives::set_wall(server, ahead);
        }
    }

    /// Somebody asks a server for a snapshot, to hand over, or to stand for election.
    fn command(self: &Arc<Self>, one: u64, servers: &[u64]) {
        let Some((life, access)) = self.access(one) else {
            return;
        };
        let what = self.draw(|chance| chance.below(3));
        let to = self.draw(|chance| chance.pick(servers).copied());
        let to = to.unwrap_or(one);
        let words = ["makes a snapshot", "hands over", "stands for election"];
        self.deed(format!(
            "{one} {}",
            words[usize::try_from(what).unwrap_or(0)]
        ));
        self.in_life(life, async move {
            let raft = access.replica.raft();
            match what {
                0 => drop(raft.trigger().snapshot().await),
                1 => drop(raft.trigger().transfer_leader(to).await),
                _ => drop(raft.trigger().elect(false).await),
            }
        });
    }

    /// Somebody puts an empty disk into a server, and lets it go on under its old number.
    fn wipe(self: &Arc<Self>, server: u64) {
        if self.plant == Some(Plant::WipedDisk) && self.crash(server) {
            self.deed(format!("the disk of {server} is empty"));
            self.replace_disk(server);
            self.start_after(server, millis(20));
        }
    }

    /// A task of a server that nobody waits for.
    pub fn in_life(&self, life: Life, task: impl Future<Output = ()> + Send + 'static) {
        drop(lives::spawn(Some(life), task));
    }
}
