//! A server's access to the log: on its own replica where it leads, else by way of whoever does.

use std::sync::Arc;
use std::time::Duration;

use coppice_grid::Replica;
use coppice_state::{Agreement, AgreementError, Entry, Leadership, Outcome, Standing, State};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use openraft::async_runtime::AsyncRuntime;

use super::lives::Lives;
use super::network::{Answer, Request, Silence};
use super::plants::{self, Plant};
use super::{Grid, Simulated};

/// How long a call waits for a leader.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long before it looks again.
const PAUSE: Duration = Duration::from_millis(50);

/// A server's access to the log. Clones are the same one.
#[derive(Clone)]
pub struct Access {
    /// The grid.
    pub grid: Arc<Grid>,
    /// Whose.
    pub server: u64,
    /// Its replica.
    pub replica: Replica<Simulated>,
}

impl Access {
    /// Whoever leads, if another does.
    fn other(&self) -> Option<u64> {
        match self.replica.leadership() {
            Leadership::There { raft_id, .. } => Some(raft_id),
            Leadership::Here { .. } | Leadership::Nobody => None,
        }
    }

    fn leads(&self) -> bool {
        matches!(self.replica.leadership(), Leadership::Here { .. })
    }

    /// Asks whoever leads, or does it here when that is this server.
    async fn anywhere<'a, T: Send>(
        &self,
        here: impl Fn() -> BoxFuture<'a, Result<T, AgreementError>> + Send + Sync,
        there: impl Fn(u64) -> BoxFuture<'a, Result<T, Silence>> + Send + Sync,
    ) -> Result<T, AgreementError> {
        let trying = async {
            loop {
                if self.leads() {
                    return here().await;
                }
                if let Some(leader) = self.other() {
                    match there(leader).await {
                        Ok(done) => return Ok(done),
                        Err(Silence::Lost) if self.grid.plant == Some(Plant::Resent) => {}
                        // Nothing was done.
                        Err(Silence::Refused) => {}
                        Err(silence) => return Err(AgreementError::NoQuorum(silence.to_string())),
                    }
                }
                Lives::sleep(PAUSE).await;
            }
        };
        let given_up = || AgreementError::NoQuorum("no leader was found".to_owned());
        Lives::timeout(PATIENCE, trying)
            .await
            .unwrap_or_else(|_| Err(given_up()))
    }

    async fn ask(&self, leader: u64, request: Request) -> Result<Answer, Silence> {
        let call = self.grid.call(self.server, leader, request, PATIENCE / 4);
        call.await
    }

    /// Waits until entry `index` is applied here.
    async fn applied(&self, index: u64) -> Result<Arc<State>, Silence> {
        let mut moved = self.replica.watch();
        loop {
            let state = self.replica.local();
            if state.index >= index {
                return Ok(state);
            }
            if moved.next().await.is_none() {
                return Err(Silence::Lost);
            }
        }
    }
}

impl Agreement for Access {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        self.grid.hears(self.server, &entry, &self.replica.local());
        async move {
            let here = || self.replica.propose(entry.clone());
            let there = |leader| {
                let request = Request::Propose(Box::new(entry.clone()));
                self.grid.tally(|tally| tally.forwarded += 1);
                async move {
                    match self.ask(leader, request).await? {
                        Answer::Outcome(outcome, index) => {
                            self.applied(index).await?;
                            Ok(outcome)
                        }
                        _ => Err(Silence::Lost),
                    }
                }
                .boxed()
            };
            self.anywhere(here, there).await
        }
        .boxed()
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        async move {
            let here = || plants::read(self.grid.plant, &self.replica).boxed();
            let there = |leader| {
                async move {
                    match self.ask(leader, Request::Read).await? {
                        Answer::Index(index) => self.applied(index).await,
                        _ => Err(Silence::Lost),
                    }
                }
                .boxed()
            };
            self.anywhere(here, there).await
        }
        .boxed()
    }

    fn local(&self) -> Arc<State> {
        self.replica.local()
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        self.replica.watch()
    }

    fn leadership(&self) -> Leadership {
        self.replica.leadership()
    }

    fn standing(&self) -> Standing {
        self.replica.standing()
    }
}
