//! The side that opens connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::Purpose;
use futures::future::BoxFuture;
use futures::io::BufReader;
use futures::lock::MutexGuard;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use super::frame::{FrameError, frame, read_frame, write_frame};
use super::hello::{Greeting, Hello, Opens, Rejection, told};
use super::parcel::{PARCEL_MOST, Parcel};
use super::severed::Severed;
use crate::link::{Answer, Lane, Link, LinkError, Question, Target};
use crate::replica::ENTRY_MOST;
use crate::roster::{Roster, Verdict};
use crate::tls;
use crate::types::GridTypes;

/// A hello and its answer.
pub(super) const HELLO_MOST: u64 = 16 << 10;
/// Any answer.
pub(super) const ANSWER_MOST: u64 = 1 << 20;
/// Several entries at once. One alone may be larger.
const BATCH_MOST: u64 = 4 << 20;

/// How long a connection may take to be there. On a network where it takes longer no leader keeps its place.
const CONNECT: Duration = Duration::from_secs(5);
/// From a failure to the next attempt on the same lane, at first.
const AGAIN: Duration = Duration::from_millis(50);
/// And at most: a server that comes back is to be heard within an election.
const AGAIN_MOST: Duration = Duration::from_millis(400);
/// A question takes longer by so much for each byte: on a megabyte a second, it still arrives.
const PER_BYTE: Duration = Duration::from_micros(1);

/// The most that a question on a lane may have.
pub(super) fn question_most(lane: Lane) -> u64 {
    match lane {
        Lane::Heartbeat | Lane::Votes => 64 << 10,
        // The log's members, who may be hundreds, are in it.
        Lane::Snapshot => 1 << 20,
        // One entry, and what says what it is.
        Lane::Log | Lane::Calls => ENTRY_MOST + (64 << 10),
    }
}

/// How connections are made: TCP and TLS, or a simulation's.
pub trait Dial: Send + Sync {
    /// A connection to `address` (`HOST:PORT`), and which member of this grid is at its other end, as it has proven.
    fn dial(
        &self,
        address: String,
    ) -> BoxFuture<'static, Result<(ServerId, ByteStream), LinkError>>;
}

/// All connections that were laid, by whom they lead to.
type Laid<C> = BTreeMap<(u64, Lane), Arc<Cables<C>>>;

/// A connection that was greeted.
pub(super) type Greeted = Severed<BufReader<ByteStream>>;

/// The way to the other servers. Clones are the same one.
pub struct Wire<C: GridTypes>(Arc<Inner<C>>);

struct Inner<C: GridTypes> {
    roster: Roster<C>,
    dial: OnceLock<Arc<dyn Dial>>,
    /// A member said that this server is none.
    expelled: AtomicBool,
    /// Where a certificate, ours or theirs, was not accepted, and why. Said once: it is tried again all the time.
    noted: Mutex<BTreeMap<String, String>>,
    cables: Mutex<Laid<C>>,
}

impl<C: GridTypes> Clone for Wire<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The connections of one lane to one server. On each, one question is under way at a time, so a question that is
/// given up takes its connection with it and no answer is ever taken for another's.
struct Cables<C: GridTypes> {
    slots: Vec<futures::lock::Mutex<Slot<C>>>,
    next: AtomicUsize,
}

struct Slot<C: GridTypes> {
    idle: Option<Greeted>,
    /// Kept when whoever began it gives up: it goes on with the next one who asks. Signs of life are more frequent
    /// than a connection over a long way is quick.
    connecting: Option<BoxFuture<'static, Result<Greeted, LinkError>>>,
    failed: Option<Failed<C>>,
}

struct Failed<C: GridTypes> {
    why: LinkError,
    until: InstantOf<C>,
    pause: Duration,
}

/// Whom to connect to.
#[derive(Clone)]
struct Callee {
    server: Option<ServerId>,
    raft_id: Option<u64>,
    address: String,
}

impl<C: GridTypes> Wire<C> {
    /// To the members of `roster`. Nobody can be reached before it is [connected](Self::connect).
    pub(crate) fn new(roster: Roster<C>) -> Self {
        Self(Arc::new(Inner {
            roster,
            dial: OnceLock::new(),
            expelled: AtomicBool::new(false),
            noted: Mutex::default(),
            cables: Mutex::default(),
        }))
    }

    /// From now on connections are made with `dial`. Only the first one counts.
    pub(crate) fn connect(&self, dial: Arc<dyn Dial>) {
        // Whoever connects twice has the same identity both times.
        let _ = self.0.dial.set(dial);
    }

    /// Who was met and is of another life of the grid.
    pub(crate) fn apart(&self) -> std::collections::BTreeMap<ServerId, coppice_schema::ids::Epoch> {
        self.0.roster.apart()
    }

    /// Whether a member, which knows of every member up to this server's number, said that this server is none: it was
    /// removed. Its own log may never say so, since nobody sends it entries any more.
    pub(crate) fn expelled(&self) -> bool {
        self.0.expelled.load(Ordering::Relaxed)
    }

    /// A stream to a member.
    pub(crate) async fn stream(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> Result<ByteStream, LinkError> {
        let Verdict::Member(member) = self.0.roster.verdict(server) else {
            return Err(LinkError::Distrusted(Rejection::Stranger(server)));
        };
        let callee = Callee {
            server: Some(server),
            raft_id: Some(member.raft_id),
            address: member.address,
        };
        let stream = self.clone().open(callee, Opens::Stream(purpose)).await?;
        Ok(Box::pin(stream))
    }

    fn callee(&self, to: &Target) -> Callee {
        let known = self.0.roster.by_raft_id(to.raft_id);
        let (server, address) = match known {
            Some((server, member)) if dialable(&member.address) => (Some(server), member.address),
            Some((server, _)) => (Some(server), to.address.clone()),
            None => (None, to.address.clone()),
        };
        Callee {
            server,
            raft_id: Some(to.raft_id),
            address,
        }
    }

    fn cables(&self, to: u64, lane: Lane) -> Arc<Cables<C>> {
        let mut all = self.0.cables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(&(to, lane)) {
            return Arc::clone(found);
        }
        // A new one comes rarely: a good moment to let go of those who left.
        let roster = &self.0.roster;
        all.retain(|(raft_id, _), _| roster.by_raft_id(*raft_id).is_some());
        let made = Arc::new(Cables::new(lane));
        all.insert((to, lane), Arc::clone(&made));
        made
    }

    /// A connection, greeted. Gives up by itself.
    async fn open(self, callee: Callee, opens: Opens) -> Result<Greeted, LinkError> {
        let address = callee.address.clone();
        let opening = self.greeted(callee, opens);
        let opened = C::timeout(CONNECT, opening).await.unwrap_or_else(|_| {
            let why = format!("{address} does not answer within {CONNECT:?}");
            Err(LinkError::Unreachable(why))
        });
        self.note(address, opened.as_ref().err());
        opened
    }

    /// Says what only a person can mend. What else comes in between passes, or is a finding.
    fn note(&self, address: String, why: Option<&LinkError>) {
        let mut noted = self.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = |r: &Rejection| matches!(r, Rejection::Certificate(_));
        match why {
            None => drop(noted.remove(&address)),
            Some(why @ (LinkError::Rejected(r) | LinkError::Distrusted(r))) if lasts(r) => {
                let why = why.to_string();
                if noted.get(&address) != Some(&why) {
                    tracing::warn!(address, why, "there is no connection to a server");
                    noted.insert(address, why);
                }
            }
            Some(_) => {}
        }
    }

    async fn greeted(&self, callee: Callee, opens: Opens) -> Result<Greeted, LinkError> {
        let roster = &self.0.roster;
        let dial = self.0.dial.get().ok_or_else(|| {
            LinkError::Unreachable("this server is not connected to others yet".to_owned())
        })?;
        let address = callee.address;
        let (server, stream) = dial.dial(address.clone()).await?;
        if let Some(wanted) = callee.server.filter(|wanted| *wanted != server) {
            let why =
                format!("server {wanted} is looked for at {address}, and server {server} is there");
            return Err(LinkError::Unreachable(why));
        }
        let lately = opens.lately();
        match roster.verdict(server) {
            Verdict::Member(_) => {}
            Verdict::Later if lately => {}
            Verdict::Later => return Err(LinkError::Distrusted(Rejection::NotYet(server))),
            Verdict::Gone => return Err(LinkError::Distrusted(Rejection::Stranger(server))),
        }
        let broken = |error: FrameError| match &error {
            FrameError::Io(e) => match tls::alert(e) {
                Some(why) => LinkError::Rejected(Rejection::Certificate(why)),
                None => LinkError::Unreachable(format!("{address}: {error}")),
            },
            FrameError::TooLarge { .. } | FrameError::Cut | FrameError::Malformed(_) => {
                LinkError::Unreachable(format!("{address} greets with {error}"))
            }
        };
        let mut stream = BufReader::new(stream);
        let hello = Hello::from(roster, callee.raft_id, opens.word());
        write_frame(&mut stream, &hello, HELLO_MOST)
            .await
            .map_err(broken)?;
        match read_frame(&mut stream, HELLO_MOST).await.map_err(broken)? {
            Some(Greeting::Welcome { raft_id, .. }) => {
                if let Some(wanted) = callee.raft_id.filter(|wanted| *wanted != raft_id) {
                    let here = raft_id;
                    let somebody = Rejection::SomebodyElse { wanted, here };
                    return Err(LinkError::Distrusted(somebody));
                }
                roster.met(server, None);
                let roster = roster.clone();
                Ok(Severed::new(stream, move || {
                    roster.clone().left(server, lately)
                }))
            }
            Some(Greeting::Rejected { text, why }) => {
                let why = told(text, &why);
                if why == Rejection::Stranger(roster.me().server) {
                    self.0.expelled.store(true, Ordering::Relaxed);
                }
                if let Rejection::OtherEpoch { ours: there, .. } = &why {
                    roster.met(server, Some(*there));
                }
                Err(LinkError::Rejected(why))
            }
            None => Err(broken(FrameError::Cut)),
        }
    }

    async fn exchange(
        &self,
        to: &Target,
        lane: Lane,
        asked: &Asked,
        sent: &AtomicBool,
    ) -> Result<Answer<C>, LinkError> {
        let cables = self.cables(to.raft_id, lane);
        let mut slot = cables.free().await;
        loop {
            let (mut stream, used) = slot.take(self, to, lane).await?;
            sent.store(true, Ordering::Relaxed);
            match asked.on(&mut stream).await {
                Ok(answer) => {
                    slot.idle = Some(stream);
                    return Ok(answer);
                }
                // A connection that lay idle may have ended unheard.
                Err(_) if used && asked.repeats => sent.store(false, Ordering::Relaxed),
                Err(error) => {
                    let raft_id = to.raft_id;
                    let why = format!("the server with raft id {raft_id} did not answer: {error}");
                    return Err(LinkError::Lost(why));
                }
            }
        }
    }
}

/// A question, ready to be sent.
struct Asked {
    frame: Vec<u8>,
    parcel: Option<Parcel>,
    repeats: bool,
}

impl Asked {
    fn of<C: GridTypes>(question: &Question<C>, lane: Lane) -> Result<Self, LinkError> {
        let most = match question {
            Question::Append(request) if request.entries.len() > 1 => BATCH_MOST,
            Question::Append(_)
            | Question::Vote(_)
            | Question::PreVote(_)
            | Question::Lead(_)
            | Question::Snapshot(_)
            | Question::Propose(_)
            | Question::Read
            | Question::Standing
            | Question::Clock => question_most(lane),
        };
        let frame = match frame(question, most) {
            Ok(frame) => frame,
            Err(FrameError::TooLarge { bytes, most }) => {
                return Err(LinkError::TooLarge { bytes, most });
            }
            Err(error) => return Err(LinkError::Unreachable(error.to_string())),
        };
        let parcel = match question {
            Question::Snapshot(handed) => Some(Parcel::of(&handed.state)),
            Question::Append(_)
            | Question::Vote(_)
            | Question::PreVote(_)
            | Question::Lead(_)
            | Question::Propose(_)
            | Question::Read
            | Question::Standing
            | Question::Clock => None,
        };
        if let Some(bytes) = parcel
            .as_ref()
            .map(Parcel::len)
            .filter(|l| *l > PARCEL_MOST)
        {
            let most = PARCEL_MOST;
            return Err(LinkError::TooLarge { bytes, most });
        }
        Ok(Self {
            frame,
            parcel,
            repeats: question.repeats(),
        })
    }

    /// What it may take longer than a small one.
    fn longer(&self) -> Duration {
        let frame = u64::try_from(self.frame.len()).unwrap_or(u64::MAX);
        let bytes = frame.saturating_add(self.parcel.as_ref().map_or(0, Parcel::len));
        PER_BYTE.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    async fn on<C: GridTypes>(&self, stream: &mut Greeted) -> Result<Answer<C>, FrameError> {
        stream.write_all(&self.frame).await?;
        if let Some(parcel) = &self.parcel {
            parcel.send(stream).await?;
        }
        stream.flush().await?;
        read_frame(stream, ANSWER_MOST)
            .await?
            .ok_or(FrameError::Cut)
    }
}

impl<C: GridTypes> Link<C> for Wire<C> {
    fn ask<'a>(
        &'a self,
        to: &'a Target,
        lane: Lane,
        question: &'a Question<C>,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer<C>, LinkError>> {
        async move {
            let asked = Asked::of(question, lane)?;
            let within = within.saturating_add(asked.longer());
            let sent = AtomicBool::new(false);
            let exchange = self.exchange(to, lane, &asked, &sent);
            let answered = C::timeout(within, exchange).await;
            answered.unwrap_or_else(|_| {
                let raft_id = to.raft_id;
                let why =
                    format!("the server with raft id {raft_id} did not answer within {within:?}");
                Err(if sent.load(Ordering::Relaxed) {
                    LinkError::Lost(why)
                } else {
                    LinkError::Unreachable(why)
                })
            })
        }
        .boxed()
    }
}

impl<C: GridTypes> Cables<C> {
    fn new(lane: Lane) -> Self {
        let many = match lane {
            Lane::Log | Lane::Heartbeat | Lane::Snapshot => 1,
            Lane::Votes => 2,
            Lane::Calls => 8,
        };
        let slot = || {
            futures::lock::Mutex::new(Slot {
                idle: None,
                connecting: None,
                failed: None,
            })
        };
        Self {
            slots: std::iter::repeat_with(slot).take(many).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// One that nobody uses; where all are used, one of them when it is free.
    async fn free(&self) -> MutexGuard<'_, Slot<C>> {
        if let Some(free) = self.slots.iter().find_map(|slot| slot.try_lock()) {
            return free;
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.slots[next].lock().await
    }
}

impl<C: GridTypes> Slot<C> {
    /// A connection, and whether it was used before. It is the caller's: who gives up drops it.
    async fn take(
        &mut self,
        wire: &Wire<C>,
        to: &Target,
        lane: Lane,
    ) -> Result<(Greeted, bool), LinkError> {
        if let Some(mut idle) = self.idle.take() {
            // Nothing is to come on it but its end.
            if idle.read(&mut [0]).now_or_never().is_none() {
                return Ok((idle, true));
            }
        }
        if let Some(failed) = self.failed.as_ref().filter(|f| C::now() < f.until) {
            return Err(failed.why.clone());
        }
        let connecting = self.connecting.get_or_insert_with(|| {
            let opening = wire.clone().open(wire.callee(to), Opens::Lane(lane));
            opening.boxed()
        });
        let connected = connecting.await;
        self.connecting = None;
        match connected {
            Ok(stream) => {
                self.failed = None;
                Ok((stream, false))
            }
            Err(why) => {
                let former = self.failed.take().map(|failed| failed.pause * 2);
                let pause = former.unwrap_or(AGAIN).min(AGAIN_MOST);
                self.failed = Some(Failed {
                    why: why.clone(),
                    until: C::now() + pause,
                    pause,
                });
                Err(why)
            }
        }
    }
}

/// Whether anybody can connect to `address`. One that means "everywhere" is where a server listens, and no place.
fn dialable(address: &str) -> bool {
    let parsed = address.parse::<std::net::SocketAddr>();
    !address.is_empty() && !parsed.is_ok_and(|a| a.ip().is_unspecified() || a.port() == 0)
}
