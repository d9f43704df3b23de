//! After the faults: everything heals, and all must become equal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coppice_state::Agreement;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::clients::PATIENCE;
use super::history::{Deed, Heard, Key};
use super::lives::{self, TRUE_RATE, true_nanos};
use super::{Grid, lock};

/// How long the grid may take for each thing that it must come to.
const LIMIT: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Writes that must be acknowledged.
const WRITES: usize = 5;

impl Grid {
    /// Faults stop; the grid accepts writes again, and all that take part become equal.
    ///
    /// # Errors
    /// What does not come about in time.
    pub(super) async fn calm(self: &Arc<Self>, rounds: bool) -> Result<(), String> {
        self.deed("calm".to_owned());
        self.wires(|wires, _| {
            wires.heal();
            wires.set_rough(false);
        });
        for server in self.numbers() {
            lives::set_rate(server, TRUE_RATE);
            lives::set_wall(server, 0);
            lives::go_on(server);
            if let Some(disk) = self.disk(server) {
                disk.set_slowest(Duration::from_millis(4));
            }
            self.start(server);
        }
        let calm = true_nanos();
        self.comes("writes are acknowledged", || {
            let history = lock(&self.history);
            let new = history.iter().rev().take_while(|asked| asked.ended > calm);
            let written = |heard: &Heard| matches!(heard, Heard::Written { .. });
            new.filter(|asked| asked.began > calm && written(&asked.heard))
                .count()
                >= WRITES
        })
        .await?;
        *lock(&self.over) = true;
        // Whoever is still being waited for gives up.
        SimRuntime::sleep(PATIENCE).await;
        if rounds {
            self.settle().await?;
        }
        self.comes("all are equal", || self.are_equal()).await?;
        self.all_write().await?;
        self.comes("all are equal again", || self.are_equal())
            .await?;
        for (_, access) in self.taking_part() {
            self.record.digest(access.server, &access.replica.local());
        }
        Ok(())
    }

    async fn comes(&self, what: &str, come: impl Fn() -> bool) -> Result<(), String> {
        let limit = true_nanos() + u64::try_from(LIMIT.as_nanos()).unwrap_or(u64::MAX);
        while true_nanos() < limit {
            if self.broken().is_some() || come() {
                return Ok(());
            }
            SimRuntime::sleep(LOOK).await;
        }
        let standing: Vec<String> = self.numbers().into_iter().map(|n| self.told(n)).collect();
        Err(format!(
            "it does not come about within {LIMIT:?} that {what}: {}",
            standing.join("; ")
        ))
    }

    /// Where a server stands, in words.
    fn told(&self, server: u64) -> String {
        let Some((_, access)) = self.access(server) else {
            return format!("{server} is down");
        };
        let state = access.replica.local();
        let (voters, learners) = Self::members(&access);
        format!(
            "{server} has applied {}, {:?}, voters {voters:?}, learners {learners:?}",
            state.index,
            access.replica.leadership()
        )
    }

    fn taking_part(&self) -> Vec<(u64, super::forward::Access)> {
        let Some((_, leader)) = self.leader() else {
            return Vec::new();
        };
        let (voters, learners) = Self::members(&leader);
        let all: BTreeSet<u64> = voters.union(&learners).copied().collect();
        let present = |n: u64| Some((n, self.access(n)?.1));
        let found: Vec<_> = all.iter().copied().filter_map(present).collect();
        if found.len() == all.len() {
            found
        } else {
            Vec::new()
        }
    }

    fn are_equal(&self) -> bool {
        let all = self.taking_part();
        let last = self.record.last();
        let states = all.iter().map(|(_, access)| access.replica.local());
        !all.is_empty() && states.into_iter().all(|state| state.index == last)
    }

    /// Each server that takes part gets a write through.
    async fn all_write(self: &Arc<Self>) -> Result<(), String> {
        for (server, access) in self.taking_part() {
            let author = format!("the last of {server}");
            let entry = Key::Secret(9).entry(Deed::Put(server), author);
            let (sender, done) = futures::channel::oneshot::channel();
            let Some(life) = lives::present(server) else {
                return Err(format!("{server} is down in the calm"));
            };
            self.in_life(life, async move {
                drop(sender.send(access.propose(entry).await));
            });
            match done.await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(format!("{server} gets no write through: {e}")),
                Err(_) => return Err(format!("{server} ended while it wrote")),
            }
        }
        Ok(())
    }
}
