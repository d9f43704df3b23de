//! What every handler has at hand.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use coppice_schema::Known;
use coppice_schema::ids::{ServerId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::admission::Admission;
use coppice_state::agreement::SUSPECT;
use coppice_state::entry::{Entry, Outcome, Refusal};
use coppice_state::secret::{Keyring, Vault};
use coppice_state::{Agreement, AgreementError, Leadership, Part, Standing, State};
use coppice_world::clock::Clock;
use coppice_world::disks::Disks;
use coppice_world::hypervisor::Hypervisor;
use coppice_world::peers::Peers;

use crate::api::{Code, LogPart, LogRole, Problem};
use crate::auth::Failures;
use crate::standing;

/// What the API stands on.
#[derive(Clone)]
pub struct App {
    /// Where requests become entries, and where the state is read.
    pub agreement: Arc<dyn Agreement>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The grid's key.
    pub vault: Arc<dyn Vault>,
    /// All keys of the grid that are here: for backups only.
    pub keys: Arc<dyn Keyring>,
    /// The grid's authority, for machines that join.
    pub admission: Arc<dyn Admission>,
    /// This server's hypervisor: for consoles and screenshots only.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// This server's disks: for imports, and to say where overlays are.
    pub disks: Arc<dyn Disks>,
    /// The other servers: for consoles and screenshots of desktops that are there.
    pub peers: Arc<dyn Peers>,
    /// This server.
    pub server: ServerId,
    /// A directory of ours alone, for image files on their way in; made when it is first needed.
    pub uploads: PathBuf,
    /// Version of the program.
    pub version: String,
}

/// An [`App`] and what the portal itself remembers while it runs.
#[derive(Clone)]
pub(crate) struct Portal {
    pub(crate) app: Arc<App>,
    pub(crate) failures: Arc<Failures>,
    /// Requests come from other servers, and are not passed on once more.
    pub(crate) passed_on: bool,
    /// Uploads that a request is working on.
    busy: Arc<Mutex<BTreeSet<String>>>,
}

/// A state, and how good it is.
pub(crate) struct Seen {
    pub(crate) state: Arc<State>,
    /// A majority said that it is the newest.
    pub(crate) quorum: bool,
    /// The term of whoever leads; `None`: nobody is known to.
    term: Option<u64>,
    /// Who that is, by raft id.
    leader: Option<u64>,
    /// Who takes part in the log, as that one sees it.
    pub(crate) standing: Standing,
}

/// Holds an upload for one request; lets it go when dropped.
pub(crate) struct Held {
    id: String,
    busy: Arc<Mutex<BTreeSet<String>>>,
}

impl Portal {
    pub(crate) fn new(app: App) -> Self {
        Self {
            app: Arc::new(app),
            failures: Arc::new(Failures::new()),
            passed_on: false,
            busy: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.app.clock.now()
    }

    /// The newest state, or, without a majority, the one that this server last heard of.
    pub(crate) async fn look(&self) -> Seen {
        // Known to be on its own, it does not wait once more to be told so.
        if self.app.agreement.degraded().is_some() {
            return self.seen(self.app.agreement.local(), false);
        }
        let read = self.app.agreement.read().await;
        if let Err(error) = &read {
            tracing::warn!(%error, "answering from this server's own copy of the state");
        }
        let quorum = read.is_ok();
        let state = read.unwrap_or_else(|_| self.app.agreement.local());
        self.seen(state, quorum)
    }

    /// The same, and who takes part in the log.
    pub(crate) async fn look_at_all(&self) -> Seen {
        let seen = self.look().await;
        let standing = self.app.agreement.standing_as_led().await;
        Seen { standing, ..seen }
    }

    fn seen(&self, state: Arc<State>, quorum: bool) -> Seen {
        let (leader, term) = match self.app.agreement.leadership() {
            Leadership::Here { term } => {
                let me = state.servers.get(&self.app.server);
                (me.map(|server| server.raft_id), Some(term))
            }
            Leadership::There { raft_id, term } => (Some(raft_id), Some(term)),
            Leadership::Nobody => (None, None),
        };
        Seen {
            state,
            quorum,
            term,
            leader,
            standing: Standing::default(),
        }
    }

    /// The newest state, by a majority.
    pub(crate) async fn look_surely(&self) -> Result<Seen, Box<Problem>> {
        self.not_alone()?;
        let state = self.app.agreement.read().await.map_err(no_quorum)?;
        Ok(self.seen(state, true))
    }

    fn not_alone(&self) -> Result<(), Box<Problem>> {
        match self.app.agreement.degraded() {
            Some(since) => Err(standing::refused(self, since)),
            None => Ok(()),
        }
    }

    /// Agrees on an entry, or says why not.
    pub(crate) async fn propose(&self, entry: Entry) -> Result<Outcome, Box<Problem>> {
        self.not_alone()?;
        match self.app.agreement.propose(entry).await {
            Ok(Outcome::Refused(refusal)) => Err(refused(refusal)),
            Ok(outcome @ (Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. })) => {
                Ok(outcome)
            }
            Err(error) => Err(no_quorum(error)),
        }
    }

    /// Holds an upload, unless another request does.
    pub(crate) fn hold(&self, id: &str) -> Option<Held> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(id.to_owned()).then(|| Held {
            id: id.to_owned(),
            busy: Arc::clone(&self.busy),
        })
    }
}

impl Seen {
    /// What a plan may look at. Without a leader nothing is current.
    pub(crate) fn known(&self) -> Known {
        self.state.known(self.term.unwrap_or(u64::MAX))
    }

    /// The name of a server, for people; `server-N` for one that is no member any more.
    pub(crate) fn server_name(&self, id: ServerId) -> Option<ServerName> {
        match self.state.servers.get(&id) {
            Some(server) => Some(server.name.clone()),
            None => format!("server-{id}").parse().ok(),
        }
    }

    /// How long the server with that raft id has been silent, where that is longer than it should be.
    pub(crate) fn silent(&self, raft_id: u64) -> Option<Span> {
        let heard = self.standing.parts.get(&raft_id)?.heard;
        heard.filter(|ago| *ago > SUSPECT)
    }

    /// Whether whoever leads heard the server with that raft id a moment ago.
    pub(crate) fn hears(&self, raft_id: u64) -> bool {
        self.standing.parts.get(&raft_id).is_some_and(Part::there)
    }

    /// A server's part in what the grid agrees on.
    pub(crate) fn log_part(&self, raft_id: u64) -> Option<LogPart> {
        let part = self.standing.parts.get(&raft_id)?;
        let leads = self.leader == Some(raft_id);
        let last = self.standing.last;
        Some(LogPart {
            part: match (leads, part.voter) {
                (true, _) => LogRole::Leader,
                (false, true) => LogRole::Voter,
                (false, false) => LogRole::Learner,
            },
            behind: part.holds.map(|holds| last.saturating_sub(holds)),
            heard: part.heard,
        })
    }

    /// Whether that server's last look is whole and of this term.
    pub(crate) fn confirmed(&self, term: u64) -> bool {
        self.term == Some(term)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// Handlers take the portal from the request; the router put it there.
impl FromRequestParts<Portal> for Portal {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        _: &mut axum::http::request::Parts,
        portal: &Portal,
    ) -> Result<Self, Self::Rejection> {
        Ok(portal.clone())
    }
}

pub(crate) fn no_quorum(error: AgreementError) -> Box<Problem> {
    let detail = format!("{error}; what was asked for may still come about");
    Problem::new(
        Code::Quorum,
        detail,
        "look with `coppice status` whether it did; if most of the grid's voters are down, start them",
    )
}

/// What the state machine refused, for a client.
pub(crate) fn refused(refusal: Refusal) -> Box<Problem> {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Stale(stale) => Box::new(Problem {
            stale,
            ..*Problem::new(
                Code::Stale,
                detail,
                "make a new plan, look at it, and apply that one",
            )
        }),
        Refusal::Absent(_) => Problem::new(
            Code::Absent,
            detail,
            "look at what there is, and check the name",
        ),
        Refusal::Exists(_) => Problem::new(
            Code::Exists,
            detail,
            "choose another name, or remove the other first",
        ),
        Refusal::LastAdmin(_) => Problem::new(
            Code::Conflict,
            detail,
            "make another first: `coppice token create NAME --scope admin`",
        ),
        Refusal::InUse { .. } => Problem::new(
            Code::InUse,
            detail,
            "take it out of use first, and wait until that is carried out",
        ),
        Refusal::Protected { .. } => Problem::new(
            Code::Conflict,
            detail,
            "set protect = false in its block, bringing it back if it is gone, and apply that",
        ),
        Refusal::LastServer(_) => Problem::new(
            Code::Conflict,
            detail,
            "let another join first: `coppice token create --role server`",
        ),
        Refusal::Join(refusal) => crate::join::not_joined(&refusal),
        Refusal::FeatureLevel { .. } => Problem::new(
            Code::Conflict,
            detail,
            "upgrade that server first: `coppice server upgrade-check`",
        ),
        Refusal::Founded(_)
        | Refusal::OutOfOrder { .. }
        | Refusal::Heard(_)
        | Refusal::CameUp(_)
        | Refusal::Deposed { .. } => Problem::new(Code::Conflict, detail, "nothing is to be done"),
    }
}
