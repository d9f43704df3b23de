//! The in-memory twin of the grid's log: one log, and a replica of its state on each server, which may lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::Digest;
use coppice_schema::units::{Span, Timestamp};
use coppice_state::{
    Agreement, AgreementError, Entry, Envelope, Leadership, Outcome, Part, Standing, State, apply,
};
use coppice_world::clock::Clock;
use coppice_world::sim::{Chance, CrashPoint, Moment, SimClock};
use futures::channel::mpsc::{Sender, channel};
use futures::future::{BoxFuture, pending};
use futures::stream::BoxStream;

/// An entry where it stands in the log, in the form in which a disk would hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// The leader's term.
    pub term: u64,
    /// Its place.
    pub index: u64,
    /// The entry.
    pub envelope: Envelope,
    /// What applying it gave.
    pub outcome: Outcome,
    /// The state before it.
    pub before: Arc<State>,
}

/// The log of a simulated grid.
pub struct SimLog {
    clock: SimClock,
    base: State,
    inner: Mutex<Inner>,
}

struct Inner {
    term: u64,
    leader: u64,
    index: u64,
    entries: Vec<Logged>,
    state: Arc<State>,
    /// When the present leader was elected, in monotonic time.
    elected: Span,
    /// Servers that nobody can reach, by raft id, and since when.
    away: BTreeMap<u64, Span>,
    /// How far clocks are ahead of what they should be, in milliseconds.
    ahead: BTreeMap<u64, i64>,
    watchers: Vec<Sender<u64>>,
    witness: Option<Witness>,
    untruths: Vec<String>,
}

/// Judges an entry by the world in the moment in which it is proposed: given the state before it, what is not true.
pub type Witness = Box<dyn Fn(&State, &Entry) -> Result<(), String> + Send>;

/// How often, in a thousand calls, the log does not answer well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unrest {
    /// Nothing is agreed, and an error says so.
    pub refused: u32,
    /// It is agreed, and an error hides it.
    pub lost: u32,
}

/// One server's access to the log.
pub struct SimAgreement {
    log: Arc<SimLog>,
    raft_id: u64,
    local: Mutex<Arc<State>>,
    fate: Mutex<Fate>,
}

struct Fate {
    chance: Chance,
    unrest: Unrest,
    crash: Option<CrashPoint>,
    dead: bool,
    /// Since when no majority answers this server.
    alone: Option<Timestamp>,
}

impl SimLog {
    /// A log that goes on from `base`, as from a snapshot, led by the server with raft id 1.
    #[must_use]
    pub fn new(clock: SimClock, base: State) -> Arc<Self> {
        let inner = Inner {
            term: base.term + 1,
            leader: 1,
            index: base.index,
            entries: Vec::new(),
            state: Arc::new(base.clone()),
            elected: clock.passed(),
            away: BTreeMap::new(),
            ahead: BTreeMap::new(),
            watchers: Vec::new(),
            witness: None,
            untruths: Vec::new(),
        };
        Arc::new(Self {
            clock,
            base,
            inner: Mutex::new(inner),
        })
    }

    /// The access of the server with that raft id.
    #[must_use]
    pub fn access(self: &Arc<Self>, raft_id: u64, chance: Chance) -> Arc<SimAgreement> {
        Arc::new(SimAgreement {
            log: Arc::clone(self),
            raft_id,
            local: Mutex::new(self.state()),
            fate: Mutex::new(Fate {
                chance,
                unrest: Unrest::default(),
                crash: None,
                dead: false,
                alone: None,
            }),
        })
    }

    /// Appends and applies an entry at once, past every fault.
    pub fn append(&self, entry: Entry) -> Outcome {
        let mut inner = self.inner();
        let truth = inner.witness.as_ref().map(|w| w(&inner.state, &entry));
        if let Some(Err(untruth)) = truth {
            inner.untruths.push(untruth);
        }
        if let Entry::ServerLost { server, .. } = &entry {
            let known = inner.state.servers.get(server);
            let heard = known.filter(|known| !inner.away.contains_key(&known.raft_id));
            let alarm = heard.map(|known| format!("{} was lost, and is there", known.name));
            inner.untruths.extend(alarm);
        }
        inner.index += 1;
        let at = inner.state.time.max(self.clock.now());
        let envelope = reread(&Envelope { at, entry });
        let (term, index) = (inner.term, inner.index);
        let before = Arc::clone(&inner.state);
        let outcome = apply(Arc::make_mut(&mut inner.state), term, index, &envelope);
        inner.entries.push(Logged {
            term,
            index,
            envelope,
            outcome: outcome.clone(),
            before,
        });
        inner
            .watchers
            .retain_mut(|w| !matches!(w.try_send(index), Err(e) if e.is_disconnected()));
        outcome
    }

    /// Another server, or the same, leads in a new term. As in raft, a blank entry takes an index.
    pub fn elect(&self, raft_id: u64) {
        let mut inner = self.inner();
        inner.term += 1;
        inner.leader = raft_id;
        inner.index += 1;
        inner.elected = self.clock.passed();
    }

    /// From now on nobody reaches the server with that raft id, and it reaches nobody.
    pub fn part(&self, raft_id: u64) {
        let now = self.clock.passed();
        self.inner().away.entry(raft_id).or_insert(now);
    }

    /// Its clock is that much ahead, in milliseconds, or behind where that is negative.
    pub fn skew(&self, raft_id: u64, ahead: i64) {
        self.inner().ahead.insert(raft_id, ahead);
    }

    /// It is reached again.
    pub fn join(&self, raft_id: u64) {
        self.inner().away.remove(&raft_id);
    }

    /// Whether that server can be reached.
    #[must_use]
    pub fn reaches(&self, raft_id: u64) -> bool {
        !self.inner().away.contains_key(&raft_id)
    }

    /// What the leader hears of everybody.
    fn standing(&self) -> Standing {
        let inner = self.inner();
        let now = self.clock.passed();
        let since = |at: Span| Span(now.0.saturating_sub(at.0));
        let part = |raft_id: u64| Part {
            voter: true,
            heard: match inner.away.get(&raft_id) {
                None => Some(Span(0)),
                // Whom it never heard in its leadership, it knows nothing of.
                Some(at) if *at <= inner.elected => None,
                Some(at) => Some(since(*at)),
            },
            holds: Some(inner.index),
        };
        let servers = || inner.state.servers.values();
        let ahead = |raft_id: u64| inner.ahead.get(&raft_id).copied().unwrap_or(0);
        let mine = ahead(inner.leader);
        Standing {
            clocks: servers()
                .map(|s| (s.raft_id, ahead(s.raft_id) - mine))
                .collect(),
            last: inner.index,
            applied: inner.index,
            majority: Some(Span(0)),
            parts: servers().map(|s| (s.raft_id, part(s.raft_id))).collect(),
        }
    }

    /// From now on every entry is judged by `witness`.
    pub fn set_witness(&self, witness: Witness) {
        self.inner().witness = Some(witness);
    }

    /// What entries said that was not true.
    #[must_use]
    pub fn untruths(&self) -> Vec<String> {
        self.inner().untruths.clone()
    }

    /// Who leads.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.inner().leader
    }

    /// The term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.inner().term
    }

    /// The newest state.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.inner().state)
    }

    /// Entries since the first `seen`.
    #[must_use]
    pub fn since(&self, seen: usize) -> Vec<Logged> {
        self.inner()
            .entries
            .get(seen..)
            .unwrap_or_default()
            .to_vec()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner().entries.len()
    }

    /// Whether nothing was ever agreed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state's digest when the whole log is applied again from its beginning.
    #[must_use]
    pub fn replayed(&self) -> Digest {
        let mut state = self.base.clone();
        for logged in &self.inner().entries {
            apply(&mut state, logged.term, logged.index, &logged.envelope);
        }
        state.digest()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry as it comes back from its bytes: what does not survive them is not agreed on.
fn reread(envelope: &Envelope) -> Envelope {
    let mut bytes = Vec::new();
    ciborium::into_writer(envelope, &mut bytes).expect("an entry always encodes");
    ciborium::from_reader(bytes.as_slice()).expect("an entry reads its own bytes")
}

impl SimAgreement {
    /// Its replica applies what was agreed by now.
    pub fn catch_up(&self) {
        if !self.log.reaches(self.raft_id) {
            return;
        }
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = self.log.state();
    }

    /// From now on the log answers badly now and then.
    pub fn set_unrest(&self, unrest: Unrest) {
        self.fate().unrest = unrest;
    }

    /// From now on no majority answers this server, or one does again. It knows it at once.
    pub fn set_alone(&self, since: Option<Timestamp>) {
        self.fate().alone = since;
    }

    /// The daemon dies there.
    pub fn crash_at(&self, point: CrashPoint) {
        self.fate().crash = Some(point);
    }

    /// Whether the daemon has died.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.fate().dead
    }

    /// Another daemon uses it. Its replica begins with what it holds on disk, which is what it had applied.
    pub fn revive(&self) {
        let mut fate = self.fate();
        fate.dead = false;
        fate.crash = None;
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. `true`: the daemon dies, before its effect or after.
    fn dies(&self) -> Option<Moment> {
        let mut fate = self.fate();
        if fate.dead {
            return Some(Moment::Before);
        }
        match &mut fate.crash {
            Some(point) if point.call > 0 => {
                point.call -= 1;
                None
            }
            Some(point) => {
                let moment = point.moment;
                fate.dead = true;
                fate.crash = None;
                Some(moment)
            }
            None => None,
        }
    }

    fn hides(&self) -> (bool, bool) {
        let mut fate = self.fate();
        let Unrest { refused, lost } = fate.unrest;
        let alone = fate.alone.is_some();
        let refused = fate.chance.per_mille(refused) || alone;
        (refused, fate.chance.per_mille(lost))
    }
}

fn no_quorum() -> AgreementError {
    AgreementError::NoQuorum("the simulation says so".to_owned())
}

impl Agreement for SimAgreement {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        Box::pin(async move {
            let dies = self.dies();
            if dies == Some(Moment::Before) {
                return pending().await;
            }
            let (refused, lost) = self.hides();
            if !self.log.reaches(self.raft_id) || refused && dies.is_none() {
                return Err(no_quorum());
            }
            let outcome = self.log.append(entry);
            if dies.is_some() {
                return pending().await;
            }
            if lost {
                return Err(no_quorum());
            }
            self.catch_up();
            Ok(outcome)
        })
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        Box::pin(async move {
            if self.dies().is_some() {
                return pending().await;
            }
            if !self.log.reaches(self.raft_id) || self.hides().0 {
                return Err(no_quorum());
            }
            // What is read is the grid's; the replica here may still lag behind it.
            Ok(self.log.state())
        })
    }

    fn local(&self) -> Arc<State> {
        Arc::clone(&self.local.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        let (sender, receiver) = channel(1);
        self.log.inner().watchers.push(sender);
        Box::pin(receiver)
    }

    fn leadership(&self) -> Leadership {
        let inner = self.log.inner();
        let (raft_id, term) = (inner.leader, inner.term);
        if raft_id == self.raft_id {
            Leadership::Here { term }
        } else {
            Leadership::There { raft_id, term }
        }
    }

    fn degraded(&self) -> Option<Timestamp> {
        self.fate().alone
    }

    fn standing(&self) -> Standing {
        match self.leadership() {
            Leadership::Here { .. } => self.log.standing(),
            // Who does not lead knows who votes, and hears of nobody.
            Leadership::There { .. } | Leadership::Nobody => {
                let mut parts = self.log.standing().parts;
                for part in parts.values_mut() {
                    (part.heard, part.holds) = (None, None);
                }
                Standing {
                    parts,
                    ..Standing::default()
                }
            }
        }
    }
}
