//! Servers become members of the grid and cease to be, and stop as planned, as people want it; the keeper of voters does
//! the rest.

use std::sync::Arc;
use std::time::Duration;

use coppice_grid::keeper;
use coppice_schema::Digest;
use coppice_schema::ids::{ServerId, ServerName};
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use coppice_state::join::{JoinToken, Joiner, Role};
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::token::TokenId;
use coppice_state::{Agreement, Entry, Outcome};
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::Grid;
use super::lives::{Lives, true_nanos};
use super::rounds::{Host, asked};

/// Servers there may be, with those that were removed.
const MOST: usize = 7;
/// How long people wait before they try again.
const AGAIN: Duration = Duration::from_secs(1);
/// Members that are left at least.
const FEWEST: usize = 3;

impl Grid {
    /// A machine joins, as `coppice join` does: with a token made for it.
    pub(super) async fn come(self: &Arc<Self>) {
        if self.numbers().len() >= MOST {
            return;
        }
        let number = true_nanos() / 1_000_000;
        let secret = Digest::of(format!("secret {number}").as_bytes());
        let key = Digest::of(format!("key {number}").as_bytes());
        let token = TokenId(format!("join-{number}"));
        let Ok(name) = format!("n{number}").parse::<ServerName>() else {
            return;
        };
        let made = Entry::JoinTokenCreated {
            id: token.clone(),
            token: JoinToken {
                hash: secret,
                role: Role::Server,
                created: Timestamp(0),
                expires: Timestamp(u64::MAX),
                spent: None,
            },
            author: "test".to_owned(),
        };
        let joined = Entry::ServerJoined(Box::new(Joiner {
            token,
            proof: secret,
            key,
            name: name.clone(),
            role: Role::Server,
            api: format!("{name}:7443"),
            feature_level: FEATURE_LEVEL,
            again: false,
        }));
        self.insist(made).await;
        self.insist(joined).await;
        while self.broken().is_none() {
            let joined = self.read().await.and_then(|state| {
                let (_, server) = state.server_named(&name)?;
                Some(server.raft_id)
            });
            if let Some(raft_id) = joined {
                self.deed(format!("{name} joins, with the number {raft_id}"));
                self.tally(|tally| tally.changes += 1);
                let host = self.draw(|chance| Host::new(name, chance));
                return self.settles_in(raft_id, host);
            }
            SimRuntime::sleep(AGAIN).await;
        }
    }

    /// Proposes `entry`, which does no harm twice, until it is known what came of it.
    async fn insist(self: &Arc<Self>, entry: Entry) -> Option<Outcome> {
        while self.broken().is_none() {
            if let Some(Ok(outcome)) = self.propose(entry.clone()).await {
                return Some(outcome);
            }
            SimRuntime::sleep(AGAIN).await;
        }
        None
    }

    /// A server is taken out: at once where it has no desktops, else because it broke for good.
    pub(super) async fn go(self: &Arc<Self>) {
        let Some((_, access)) = self.access_to_any(self.draw(|chance| chance.bits())) else {
            return;
        };
        let state = access.local();
        let members: Vec<(ServerId, u64)> = state
            .servers
            .iter()
            .filter(|(_, server)| server.state != ServerState::Removed)
            .map(|(id, server)| (*id, server.raft_id))
            .collect();
        let Some((server, raft_id)) = self.draw(|chance| chance.pick(&members).copied()) else {
            return;
        };
        if members.len() <= FEWEST {
            return;
        }
        let gone = self.draw(|chance| chance.per_mille(500)) && self.can_spare(raft_id);
        if gone {
            self.deed(format!("{raft_id} breaks for good"));
            self.crash_for_good(raft_id);
        }
        let entry = Entry::ServerRemoved {
            server,
            gone,
            author: "test".to_owned(),
        };
        let removed = self.insist(entry).await;
        self.deed(format!("{raft_id} is to go: {removed:?}"));
        self.tally(|tally| tally.changes += 1);
    }

    /// Whether those who vote, as far as anybody knows, have a majority without `server` and those that broke before.
    fn can_spare(&self, server: u64) -> bool {
        let broken = self.broken_for_good();
        self.numbers().into_iter().all(|number| {
            let Some((_, access)) = self.access(number) else {
                return true;
            };
            let members = access.replica.members();
            let away = |voter: &&u64| **voter == server || broken.contains(voter);
            let missing = members.voters.iter().filter(away).count();
            !members.changing && missing <= 1 && (missing == 0 || members.voters.len() > 2)
        })
    }

    /// A server is stopped as planned, and started again.
    pub(super) async fn stop_as_planned(self: &Arc<Self>) {
        let Some((life, access)) = self.access_to_any(self.draw(|chance| chance.bits())) else {
            return;
        };
        self.deed(format!("{} is to stop", life.server));
        let rested = asked(life, async move {
            keeper::rest(&access.replica).await;
            Lives::sleep(Duration::from_millis(1)).await;
        });
        if rested.await.is_some() && self.crash(life.server) {
            let down = self.draw(|chance| chance.between(200, 3_000));
            self.start_after(life.server, Duration::from_millis(down));
        }
    }
}
