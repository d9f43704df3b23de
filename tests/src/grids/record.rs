//! What every server applied, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_grid::machine::Observer;
use coppice_grid::types::{LogEntry, Payload, SnapshotMeta};
use coppice_schema::Digest;
use coppice_state::{Entry, Outcome, State, apply};

use super::Grid;
use super::lives::Life;
use super::trace::Event;
use crate::agreement::Logged;
use crate::judge::decided_rightly;

/// Of so many entries, one's state is digested on every server; so is every state that arrives as a snapshot.
const DIGESTED: u64 = 16;

/// An entry as the first server applied it.
#[derive(Clone, Debug)]
pub struct Line {
    /// In which term it was written.
    pub term: u64,
    /// What.
    pub payload: Payload,
    /// What came of it.
    pub outcome: Outcome,
    /// Who applied it first.
    pub first: u64,
}

impl Line {
    /// Whether a leader may have decided it so.
    ///
    /// # Errors
    /// Why not.
    pub fn is_right(&self, before: &State, index: u64) -> Result<(), String> {
        let Payload::Normal(proposal) = &self.payload else {
            return Ok(());
        };
        if !matches!(proposal.0.entry, Entry::Planned { .. }) {
            return Ok(());
        }
        decided_rightly(&Logged {
            term: self.term,
            index,
            envelope: proposal.0.clone(),
            outcome: self.outcome.clone(),
            before: Arc::new(before.clone()),
        })
    }
}

/// The log as it was applied.
#[derive(Default)]
pub struct Record(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    base: State,
    lines: BTreeMap<u64, Line>,
    digests: BTreeMap<u64, (u64, Digest)>,
    /// How far each life has come.
    reached: BTreeMap<Life, u64>,
    broken: Option<String>,
}

impl Record {
    /// A log that begins after `base`.
    #[must_use]
    pub fn after(base: State) -> Self {
        Self(Mutex::new(Inner {
            base,
            ..Inner::default()
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What did not hold first, if anything.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.inner().broken.clone()
    }

    /// `life` begins where its snapshot ends.
    pub fn begins(&self, life: Life, index: u64) {
        self.inner().reached.insert(life, index);
    }

    /// Index of the last entry that anybody applied.
    #[must_use]
    pub fn last(&self) -> u64 {
        let inner = self.inner();
        let last = inner.lines.last_key_value();
        last.map_or(inner.base.index, |(index, _)| *index)
    }

    /// Every line.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<u64, Line> {
        self.inner().lines.clone()
    }

    /// Remembers the state of `server` as it is at the end.
    pub fn digest(&self, server: u64, state: &State) {
        self.inner().digested(server, state);
    }

    /// Applies everything again, and compares: the log is whole, each outcome is what it was, and each state that was
    /// digested on any server is the state of its index. `before` is shown each line with the state before it, `after`
    /// the state after it.
    ///
    /// # Errors
    /// What does not hold.
    pub fn replay(
        &self,
        mut before: impl FnMut(&State, u64, &Line) -> Result<(), String>,
        mut after: impl FnMut(&State),
    ) -> Result<(), String> {
        let inner = self.inner();
        let mut state = inner.base.clone();
        for (index, line) in &inner.lines {
            if *index != state.index + 1 {
                return Err(format!(
                    "entry {} was applied by nobody, and {index} was",
                    state.index + 1
                ));
            }
            before(&state, *index, line)?;
            let outcome = step(&mut state, *index, line);
            if outcome != line.outcome {
                return Err(format!(
                    "entry {index} gave {:?} to server {}, and {outcome:?} when it is applied again",
                    line.outcome, line.first
                ));
            }
            if let Some((server, digest)) = inner.digests.get(index)
                && state.digest() != *digest
            {
                return Err(format!(
                    "the state of server {server} at {index} is not what its entries give"
                ));
            }
            after(&state);
        }
        Ok(())
    }
}

fn step(state: &mut State, index: u64, line: &Line) -> Outcome {
    match &line.payload {
        Payload::Normal(proposal) => apply(state, line.term, index, &proposal.0),
        Payload::Blank | Payload::Membership(_) => {
            state.term = line.term;
            state.index = index;
            Outcome::Done
        }
    }
}

impl Inner {
    fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    fn digested(&mut self, server: u64, state: &State) {
        let digest = state.digest();
        let (first, known) = *self.digests.entry(state.index).or_insert((server, digest));
        if known != digest {
            self.breaks(format!(
                "at {} the state of server {server} is another than that of server {first}",
                state.index
            ));
        }
    }
}

/// Watches the machine of one life.
pub struct Watcher {
    /// The grid.
    pub grid: Arc<Grid>,
    /// Whose.
    pub life: Life,
}

impl Observer for Watcher {
    fn applied(&self, entry: &LogEntry, outcome: &Outcome, state: &State) {
        let server = self.life.server;
        let (term, index) = (entry.log_id.leader_id.term, entry.log_id.index);
        self.grid.note(Event::Applied { server, index });
        let mut inner = self.grid.record.inner();
        let inner = &mut *inner;
        let last = inner.reached.insert(self.life, index).unwrap_or(0);
        if index != last + 1 {
            inner.breaks(format!("server {server} applied {index} after {last}"));
        }
        let line = inner.lines.entry(index).or_insert_with(|| Line {
            term,
            payload: entry.payload.clone(),
            outcome: outcome.clone(),
            first: server,
        });
        if (line.term, &line.payload, &line.outcome) != (term, &entry.payload, outcome) {
            let what = format!(
                "at {index} server {server} applied {:?} of term {term} with outcome {outcome:?}, and server {} {:?} of \
                 term {} with outcome {:?}",
                entry.payload, line.first, line.payload, line.term, line.outcome
            );
            inner.breaks(what);
        }
        if index % DIGESTED == 0 {
            inner.digested(server, state);
        }
    }

    fn installed(&self, meta: &SnapshotMeta, state: &State) {
        let server = self.life.server;
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.grid.note(Event::Installed { server, index });
        self.grid.tally(|tally| tally.installs += 1);
        let mut inner = self.grid.record.inner();
        if index != state.index {
            inner.breaks(format!(
                "a snapshot up to {index} holds the state at {}",
                state.index
            ));
        }
        inner.reached.insert(self.life, index);
        inner.digested(server, state);
    }
}

/// Who wrote an entry, as clients sign them.
#[must_use]
pub fn author(payload: &Payload) -> Option<&str> {
    let Payload::Normal(proposal) = payload else {
        return None;
    };
    if let Entry::SecretSet { author, .. }
    | Entry::SecretRemoved { author, .. }
    | Entry::TokenCreated { author, .. }
    | Entry::TokenRevoked { author, .. }
    | Entry::Paused { author, .. }
    | Entry::Resumed { author, .. } = &proposal.0.entry
    {
        return Some(author);
    }
    None
}

/// Where each signed entry stands.
///
/// # Errors
/// When one stands at two places.
pub fn places(lines: &BTreeMap<u64, Line>) -> Result<BTreeMap<String, u64>, String> {
    let mut places = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for (index, line) in lines {
        if let Some(author) = author(&line.payload)
            && let Some(first) = places.insert(author.to_owned(), *index)
        {
            twice.insert((author, first, *index));
        }
    }
    match twice.first() {
        Some((author, first, second)) => Err(format!(
            "{author} proposed once, and it was applied twice: at {first} and {second}"
        )),
        None => Ok(places),
    }
}
