//! A server's access to the log: its replica, with the bugs that are put in around it.

use std::sync::Arc;

use coppice_grid::Replica;
use coppice_state::{Agreement, AgreementError, Entry, Leadership, Outcome, Standing, State};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::plants::Plant;
use super::{Grid, Simulated};

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
    /// With the bug, whoever believes to lead asks nobody.
    #[must_use]
    pub fn reads_unasked(&self) -> bool {
        self.grid.plant == Some(Plant::ReadUnasked) && self.replica.raft().is_leader()
    }
}

impl Agreement for Access {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        self.grid.hears(self.server, &entry, &self.replica.local());
        async move {
            let again = (self.grid.plant == Some(Plant::Resent)).then(|| entry.clone());
            match (self.replica.propose(entry).await, again) {
                (Err(AgreementError::NoQuorum(_)), Some(entry)) => {
                    self.replica.propose(entry).await
                }
                (proposed, _) => proposed,
            }
        }
        .boxed()
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        if self.reads_unasked() {
            let state = self.replica.local();
            return async move { Ok(state) }.boxed();
        }
        self.replica.read()
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
