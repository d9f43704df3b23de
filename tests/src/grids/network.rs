//! How a question gets from server to server, and its answer back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coppice_grid::link::{Answer, Handed, Lane, Link, LinkError, Question, Target};
use coppice_state::Agreement;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::forward::Access;
use super::lives::{self, Lives};
use super::plants::{self, Plant};
use super::trace::Event;
use super::{Grid, Simulated};

fn kind(question: &Question<Simulated>) -> &'static str {
    match question {
        Question::Append(request) if request.entries.is_empty() => "sign of life",
        Question::Append(_) => "entries",
        Question::Vote(_) => "vote",
        Question::PreVote(_) => "pre-vote",
        Question::Lead(_) => "lead",
        Question::Snapshot(_) => "snapshot",
        Question::Propose(_) => "proposal",
        Question::Read => "read",
        Question::Standing => "standing",
        Question::Clock => "clock",
    }
}

async fn answered(
    access: &Access,
    question: Question<Simulated>,
    plant: Option<Plant>,
) -> Answer<Simulated> {
    let replica = &access.replica;
    match question {
        Question::Read if access.reads_unasked() => Answer::Read(replica.local().index),
        Question::Snapshot(Handed { vote, meta, state }) => {
            let state = plants::snapshot_on_its_way(plant, state);
            let handed = Handed { vote, meta, state };
            replica.answer(Question::Snapshot(handed)).await
        }
        question @ (Question::Read
        | Question::Append(_)
        | Question::Vote(_)
        | Question::PreVote(_)
        | Question::Lead(_)
        | Question::Standing
        | Question::Clock
        | Question::Propose(_)) => replica.answer(question).await,
    }
}

type Sender = Arc<Mutex<Option<oneshot::Sender<Result<Answer<Simulated>, LinkError>>>>>;

fn answer(sender: &Sender, answer: Result<Answer<Simulated>, LinkError>) {
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sender) = sender {
        // Whoever asked may have stopped waiting.
        drop(sender.send(answer));
    }
}

/// A server's way to the others.
pub struct Wire {
    /// The grid it is part of.
    pub grid: Arc<Grid>,
    /// Whose.
    pub server: u64,
}

impl Link<Simulated> for Wire {
    fn ask<'a>(
        &'a self,
        to: &'a Target,
        _lane: Lane,
        question: &'a Question<Simulated>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer<Simulated>, LinkError>> {
        let call = self.grid.call(self.server, to.raft_id, question, within);
        call.boxed()
    }
}

impl Grid {
    /// Sends `question` and waits for its answer, by the clock of whoever asks.
    async fn call(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        question: &Question<Simulated>,
        within: Duration,
    ) -> Result<Answer<Simulated>, LinkError> {
        let (sender, heard) = oneshot::channel();
        // Kept to the end: a lost message is silence, not an error at once.
        let sender = Arc::new(Mutex::new(Some(sender)));
        let mut copies = self.send(from, to);
        if !question.repeats() {
            // It goes over a connection, which does not repeat anything.
            copies.truncate(1);
            self.tally(|tally| tally.forwarded += 1);
        }
        for delay in copies {
            let (grid, sender) = (Arc::clone(self), Arc::clone(&sender));
            let question = question.clone();
            drop(lives::spawn(None, async move {
                SimRuntime::sleep(delay).await;
                grid.deliver(from, to, question, sender);
            }));
        }
        let heard = Lives::timeout(within, heard).await;
        drop(sender);
        let lost = || LinkError::Lost(format!("{to} did not answer within {within:?}"));
        heard
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| Err(lost()))
    }

    fn deliver(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        question: Question<Simulated>,
        sender: Sender,
    ) {
        let there = self.reached(from, to);
        self.note(Event::Message {
            kind: kind(&question),
            from,
            to,
            taken: there.is_some(),
        });
        let Some((life, access)) = there else {
            let nobody = LinkError::Unreachable(format!("nobody is at {to}"));
            answer(&sender, Err(nobody));
            return;
        };
        let grid = Arc::clone(self);
        let plant = self.plant;
        drop(lives::spawn(Some(life), async move {
            let answered = answered(&access, question, plant).await;
            drop(lives::spawn(None, async move {
                let Some(delay) = grid.send(to, from).into_iter().next() else {
                    return;
                };
                SimRuntime::sleep(delay).await;
                if !grid.is_cut(to, from) {
                    answer(&sender, Ok(answered));
                }
            }));
        }));
    }
}
