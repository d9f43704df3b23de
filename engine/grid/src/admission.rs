//! The authority's files, as they are asked for when a machine joins and when servers need certificates.
//!
//! The key of the authority is on servers that vote, and on no witness. Whoever has it not asks one that has: for a
//! certificate on behalf of a machine that joins through it, for a new one of its own, and, once it votes itself, for a
//! copy of the key, which travels as it lies: sealed by the grid's key.

mod succession;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId};
use coppice_schema::known::ServerState;
use coppice_schema::units::{Span, Timestamp};
use coppice_state::Agreement;
use coppice_state::admission::{Admission, AdmissionError};
use coppice_state::authority::Successor;
use coppice_state::join::Role;
use coppice_state::secret::Keyring;
use coppice_world::clock::Clock;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{Peers, Purpose, Serves};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use serde::{Deserialize, Serialize};

use crate::authority::{self, AuthorityError, Enrolment, Renewal, Subject};
use crate::keys::KeyFiles;
use crate::vault::GridKey;
use crate::wire::{WIRE, WIRE_OLDEST, read_frame, write_frame};

/// Requests and certificates have one or two kilobytes.
const FRAME_MOST: u64 = 64 << 10;

/// An answer takes no longer, also of a server that is busy: one that stands still is not waited for, another is asked.
const WITHIN: Span = Span::seconds(10);

/// What a server asks another.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// A certificate for whoever asks, which is reached under `names`.
    Renew {
        request: String,
        names: BTreeSet<String>,
    },
    /// A certificate for a machine that joins through whoever asks.
    Admit {
        server: ServerId,
        request: String,
        names: BTreeSet<String>,
    },
    /// The authority's key.
    Key,
    /// An authority that can take over from the one that signs.
    Successor,
}

/// What it is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Certificate(String),
    Key(#[serde(with = "serde_bytes")] Vec<u8>),
    Successor(Box<Successor>),
    /// In words.
    Refused(String),
}

/// A member's own files, with which it admits others. Clones are the same one.
#[derive(Clone)]
pub struct Gate(Arc<Files>);

struct Files {
    me: ServerId,
    grid: GridId,
    identity: PathBuf,
    shown: Renewal,
    /// Held while the authority's files are read or changed: they belong together.
    hand: Mutex<()>,
    grid_key: Option<Arc<GridKey>>,
    agreement: Arc<dyn Agreement>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
}

/// What a gate stands on.
pub struct Means {
    /// Which member this server is.
    pub me: ServerId,
    /// The grid.
    pub grid: GridId,
    /// The directory for keys and certificates.
    pub identity: PathBuf,
    /// The grid's key; a witness has none, and admits nobody.
    pub grid_key: Option<Arc<GridKey>>,
    /// Who is a member.
    pub agreement: Arc<dyn Agreement>,
    /// The others.
    pub peers: Arc<dyn Peers>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Gate {
    /// The gate of a server that shows `shown`.
    #[must_use]
    pub fn new(shown: Renewal, means: Means) -> Self {
        let Means {
            me,
            grid,
            identity: directory,
            grid_key,
            agreement,
            peers,
            clock,
        } = means;
        Self(Arc::new(Files {
            me,
            grid,
            identity: directory,
            shown,
            hand: Mutex::default(),
            grid_key,
            agreement,
            peers,
            clock,
        }))
    }

    /// Asks the others for a new certificate for this server, and keeps it. The key stays what it is: a pair of files
    /// cannot be replaced at once, and this server could not make itself another certificate.
    ///
    /// # Errors
    /// When nobody gives one, or it cannot be kept.
    pub async fn renew(&self, names: BTreeSet<String>) -> Result<(), AdmissionError> {
        let enrolment = Enrolment::begin(&self.0.identity).map_err(|e| files(&e))?;
        let ask = Ask::Renew {
            request: enrolment.request().to_owned(),
            names,
        };
        let certificate = match self.ask_others(&ask).await? {
            Told::Certificate(certificate) => certificate,
            Told::Key(_) | Told::Successor(_) | Told::Refused(_) => {
                return Err(unreachable("their answer is none"));
            }
        };
        enrolment
            .finish(&self.0.identity, &self.authority(), &certificate)
            .map_err(|e| files(&e))
    }

    /// Asks the others for the authority's key, and keeps it. Nothing happens where it is here already.
    ///
    /// # Errors
    /// When nobody gives it, or it cannot be kept.
    pub async fn fetch_key(&self) -> Result<(), AdmissionError> {
        let Some(grid_key) = &self.0.grid_key else {
            return Ok(());
        };
        if authority::has_key(&self.0.identity) {
            return Ok(());
        }
        let sealed = match self.ask_others(&Ask::Key).await? {
            Told::Key(sealed) => sealed,
            Told::Certificate(_) | Told::Successor(_) | Told::Refused(_) => {
                return Err(unreachable("their answer is none"));
            }
        };
        let _hand = self.hand();
        authority::adopt_key(&self.0.identity, grid_key, &sealed).map_err(|e| files(&e))
    }

    fn sign(
        &self,
        request: &str,
        id: ServerId,
        names: BTreeSet<String>,
    ) -> Result<String, AdmissionError> {
        let grid_key = self
            .0
            .grid_key
            .as_ref()
            .ok_or_else(|| unreachable("this is a witness"))?;
        let state = self.0.agreement.local();
        let member = state.servers.get(&id);
        let member = member.filter(|member| member.state != ServerState::Removed);
        let server = member.map(|member| member.name.clone());
        let subject = Subject {
            grid: self.0.grid,
            id,
            server: server.ok_or_else(|| {
                AdmissionError::Request(format!("server {id} is no member of this grid"))
            })?,
            names,
        };
        let now = self.0.clock.now();
        let _hand = self.hand();
        Enrolment::certify(&self.0.identity, grid_key, request, &subject, now).map_err(|e| {
            if matches!(e, AuthorityError::NoKey) {
                unreachable("the one that was asked has it not")
            } else if matches!(e, AuthorityError::Name(_) | AuthorityError::Make(_)) {
                unusable(&e)
            } else {
                files(&e)
            }
        })
    }

    /// Asks those that may have the authority's key, one after the other.
    async fn ask_others(&self, ask: &Ask) -> Result<Told, AdmissionError> {
        let mut why = "there is no other server".to_owned();
        let state = self.0.agreement.local();
        let standing = self.0.agreement.standing();
        let votes = |raft_id: u64| standing.parts.get(&raft_id).is_some_and(|part| part.voter);
        let mut others: Vec<_> = state
            .servers
            .iter()
            .filter(|(id, other)| {
                let there = !matches!(other.state, ServerState::Removed | ServerState::Lost);
                **id != self.0.me && other.role == Role::Server && there
            })
            .map(|(id, other)| (!votes(other.raft_id), *id))
            .collect();
        others.sort_unstable();
        for (_, server) in others {
            match asked(&*self.0.peers, &*self.0.clock, server, ask).await {
                Ok(Told::Refused(refused)) => why = refused,
                Ok(told) => return Ok(told),
                Err(error) => why = error,
            }
        }
        Err(AdmissionError::Unreachable(why))
    }

    fn answer(&self, from: ServerId, ask: Ask) -> Told {
        let state = self.0.agreement.local();
        let certified = match ask {
            Ask::Successor => {
                let made = self.succeed();
                return made.map_or_else(
                    |e| Told::Refused(e.to_string()),
                    |made| Told::Successor(Box::new(made)),
                );
            }
            Ask::Renew { request, names } => self.sign(&request, from, names),
            Ask::Admit {
                server,
                request,
                names,
            } => {
                // Only for the key with which that machine joined: no member makes itself another.
                let joined = state.servers.get(&server).and_then(|member| member.key);
                let key = Enrolment::examine(&request).ok();
                if joined.is_none() || joined != key {
                    return Told::Refused(format!("server {server} joined with another key"));
                }
                self.sign(&request, server, names)
            }
            Ask::Key => {
                let member = state.servers.get(&from);
                if member.is_none_or(|member| member.role == Role::Witness) {
                    return Told::Refused("a witness has no key of the authority".to_owned());
                }
                let _hand = self.hand();
                let sealed = authority::sealed_key(&self.0.identity);
                return sealed.map_or_else(|e| Told::Refused(e.to_string()), Told::Key);
            }
        };
        certified.map_or_else(|e| Told::Refused(e.to_string()), Told::Certificate)
    }
}

/// Asks one server, and gives up by itself.
async fn asked(
    peers: &dyn Peers,
    clock: &dyn Clock,
    server: ServerId,
    ask: &Ask,
) -> Result<Told, String> {
    let exchange = async {
        let opened = peers.connect(server, Purpose::Keys).await;
        let mut stream = opened.map_err(|e| e.to_string())?;
        let sent = write_frame(&mut stream, ask, FRAME_MOST).await;
        sent.map_err(|e| e.to_string())?;
        let told = read_frame(&mut stream, FRAME_MOST).await;
        let told: Option<Told> = told.map_err(|e| e.to_string())?;
        told.ok_or_else(|| format!("server {server} did not answer"))
    };
    match select(std::pin::pin!(exchange), clock.sleep(WITHIN)).await {
        Either::Left((told, _)) => told,
        Either::Right(((), _)) => Err(format!("server {server} did not answer within {WITHIN}")),
    }
}

fn unreachable(why: &str) -> AdmissionError {
    AdmissionError::Unreachable(why.to_owned())
}

fn unusable(why: &dyn Display) -> AdmissionError {
    AdmissionError::Request(why.to_string())
}

fn files(why: &AuthorityError) -> AdmissionError {
    AdmissionError::Failed(why.to_string())
}

/// The keys for a backup: read while nobody changes them.
impl Keyring for Gate {
    fn seal(&self, passphrase: &str) -> Result<Vec<u8>, String> {
        let _hand = self.hand();
        KeyFiles::of(self.0.identity.clone(), self.0.grid).seal(passphrase)
    }
}

impl Serves for Gate {
    fn serve(&self, from: ServerId, mut stream: ByteStream) -> BoxFuture<'static, ()> {
        let gate = self.clone();
        async move {
            while let Ok(Some(ask)) = read_frame::<Ask>(&mut stream, FRAME_MOST).await {
                let told = gate.answer(from, ask);
                if let Err(error) = write_frame(&mut stream, &told, FRAME_MOST).await {
                    return tracing::debug!(%from, %error, "an answer about certificates was lost");
                }
            }
        }
        .boxed()
    }
}

impl Admission for Gate {
    fn authority(&self) -> String {
        self.0.shown.authority().pem.clone()
    }

    fn fingerprint(&self) -> Digest {
        self.0.shown.authority().fingerprint
    }

    fn expires(&self) -> Timestamp {
        self.0.shown.authority().expires
    }

    fn successor(&self) -> BoxFuture<'_, Result<Successor, AdmissionError>> {
        async move {
            match self.succeed() {
                Err(AdmissionError::Unreachable(_)) => {}
                here @ (Ok(_) | Err(AdmissionError::Request(_) | AdmissionError::Failed(_))) => {
                    return here;
                }
            }
            match self.ask_others(&Ask::Successor).await? {
                Told::Successor(made) => Ok(*made),
                Told::Certificate(_) | Told::Key(_) | Told::Refused(_) => {
                    Err(unreachable("their answer is none"))
                }
            }
        }
        .boxed()
    }

    fn speaks(&self) -> RangeInclusive<u32> {
        WIRE_OLDEST..=WIRE
    }

    fn examine(&self, request: &str) -> Result<Digest, AdmissionError> {
        Enrolment::examine(request).map_err(|e| unusable(&e))
    }

    fn certify(
        &self,
        request: String,
        server: ServerId,
        names: BTreeSet<String>,
    ) -> BoxFuture<'_, Result<String, AdmissionError>> {
        async move {
            match self.sign(&request, server, names.clone()) {
                Err(AdmissionError::Unreachable(_)) => {}
                here @ (Ok(_) | Err(AdmissionError::Request(_) | AdmissionError::Failed(_))) => {
                    return here;
                }
            }
            let ask = Ask::Admit {
                server,
                request,
                names,
            };
            match self.ask_others(&ask).await? {
                Told::Certificate(certificate) => Ok(certificate),
                Told::Key(_) | Told::Successor(_) | Told::Refused(_) => {
                    Err(unreachable("their answer is none"))
                }
            }
        }
        .boxed()
    }

    fn grid_key(&self) -> Option<Vec<u8>> {
        self.0.grid_key.as_ref().map(|key| key.for_member())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use coppice_world::peers::PeerError;
    use futures::{AsyncRead, AsyncWrite};

    use super::*;

    /// Takes everything, and says nothing.
    struct Frozen;

    impl AsyncRead for Frozen {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Frozen {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Peers for Frozen {
        fn connect(&self, _: ServerId, _: Purpose) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
            async { Ok(Box::pin(Self) as ByteStream) }.boxed()
        }
    }

    /// All time is over at once.
    struct Over;

    impl Clock for Over {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn sleep(&self, _: Span) -> BoxFuture<'static, ()> {
            async {}.boxed()
        }
    }

    #[test]
    fn a_server_that_stands_still_is_not_waited_for() {
        let asked = asked(&Frozen, &Over, ServerId(3), &Ask::Key);
        let told = asked.now_or_never().expect("it gives up");
        let Err(why) = told else {
            panic!("nobody answered");
        };
        assert!(why.contains("within 10"), "{why}");
    }
}
