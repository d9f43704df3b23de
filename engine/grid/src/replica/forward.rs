//! Proposals and reads on a server that does not lead: whoever does is asked.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use coppice_state::{Agreement, AgreementError, Entry, Outcome, Standing, State};
use futures::future::{Either, select};
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::ForwardToLeader;

use super::{Attempt, Here, PATIENCE, Replica};
use crate::link::{Answer, Lane, LinkError, Question, Target};
use crate::types::GridTypes;

/// The largest entry. A configuration of ten thousand desktops has a few megabytes.
pub const ENTRY_MOST: u64 = 32 << 20;

/// How long a leader may take over a read. It is asked again then, or another one is.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// How long a leader may take to say how the others are. A person waits.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

impl<C: GridTypes> Replica<C> {
    pub(super) async fn propose_once(&self, entry: Entry) -> Attempt<Outcome> {
        let forward = match self.propose_here(entry.clone()).await {
            Here::Done((outcome, _)) => return Attempt::Done(outcome),
            Here::Elsewhere(forward) => forward,
            Here::Again(why) => return Attempt::Again(why),
            Here::Failed(error) => return Attempt::Failed(error),
        };
        let question = Question::Propose(Box::new(entry));
        match self.ask_leader(&forward, question, PATIENCE).await {
            Ok(Answer::Proposed { outcome, index }) => {
                // The caller may look at once, and is to see what came of it.
                self.applied(index).await;
                Attempt::Done(outcome)
            }
            Ok(Answer::Elsewhere(why)) => Attempt::Again(why),
            Ok(answer) => Attempt::Failed(unknown(&format!("{answer:?}"))),
            Err(LinkError::Lost(why)) => Attempt::Failed(unknown(&why)),
            Err(error) => Attempt::Again(error.to_string()),
        }
    }

    pub(super) async fn read_once(&self) -> Attempt<Arc<State>> {
        let forward = match self.read_here().await {
            Here::Done(index) => return Attempt::Done(self.applied(index).await),
            Here::Elsewhere(forward) => forward,
            Here::Again(why) => return Attempt::Again(why),
            Here::Failed(error) => return Attempt::Failed(error),
        };
        match self.ask_leader(&forward, Question::Read, READ_WITHIN).await {
            Ok(Answer::Read(index)) => Attempt::Done(self.applied(index).await),
            Ok(answer) => Attempt::Again(format!("{answer:?}")),
            Err(error) => Attempt::Again(error.to_string()),
        }
    }

    /// Who takes part in the log, as whoever leads sees it; as it is known here, where that one does not answer at once.
    pub(super) async fn standing_of_leader(&self) -> Standing {
        let (leader_id, leader_node) = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            let node = now.current_leader.and_then(|id| {
                let members = now.membership_config.membership();
                members.get_node(&id).cloned()
            });
            (now.current_leader, node)
        };
        let forward = ForwardToLeader {
            leader_id,
            leader_node,
            ..ForwardToLeader::empty()
        };
        let question = Question::Standing;
        match self.ask_leader(&forward, question, LOOK_WITHIN).await {
            Ok(Answer::Standing(standing)) => standing,
            Ok(_) | Err(_) => self.standing(),
        }
    }

    /// Asks whoever leads, until it no longer does as far as is known here.
    async fn ask_leader(
        &self,
        forward: &ForwardToLeader<C>,
        question: Question<C>,
        within: Duration,
    ) -> Result<Answer<C>, LinkError> {
        let unreachable = || LinkError::Unreachable(leaderless(forward));
        let link = self.link.as_ref().ok_or_else(unreachable)?;
        let (Some(raft_id), Some(node)) = (forward.leader_id, &forward.leader_node) else {
            return Err(unreachable());
        };
        if raft_id == self.id {
            // It leads, and does not know yet that it may.
            return Err(unreachable());
        }
        let to = Target {
            raft_id,
            address: node.addr.clone(),
        };
        let asking = link.ask(&to, Lane::Calls, &question, within);
        let deposed = async {
            // What the metrics say may be a moment behind what made this server ask that one.
            self.until(|m| m.current_leader == Some(raft_id)).await;
            self.until(|m| m.current_leader != Some(raft_id)).await;
        };
        match select(asking, std::pin::pin!(deposed)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => Err(LinkError::Lost(
                "whoever led lost the lead before it answered".to_owned(),
            )),
        }
    }

    /// Waits until `wanted` holds, or nothing here changes any more.
    async fn until(&self, wanted: impl Fn(&RaftMetrics<C>) -> bool + Send) {
        let mut metrics = self.raft.metrics();
        loop {
            let holds = wanted(&metrics.borrow_watched());
            if holds || metrics.changed().await.is_err() {
                return;
            }
        }
    }
}

fn unknown(why: &str) -> AgreementError {
    AgreementError::NoQuorum(format!(
        "{why}; whether the entry was agreed on is not known"
    ))
}

pub(super) fn leaderless<C: GridTypes>(forward: &ForwardToLeader<C>) -> String {
    match forward.leader_id {
        Some(id) => format!("the server with raft id {id} leads, and cannot be asked"),
        None => "no leader is known".to_owned(),
    }
}

/// Whether `entry` is small enough to go from server to server. Found out before anything is written: an entry that is
/// in the log and cannot be sent would hold up all that come after it.
pub(super) fn fits(entry: &Entry) -> Result<(), AgreementError> {
    struct Counted(u64);
    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.0 = self.0.saturating_add(more);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    let bytes = match ciborium::into_writer(entry, &mut counted) {
        Ok(()) => counted.0,
        Err(_) => u64::MAX,
    };
    if bytes > ENTRY_MOST {
        let most = ENTRY_MOST;
        return Err(AgreementError::TooLarge { bytes, most });
    }
    Ok(())
}
