//! A server's part of a grid, on its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use coppice_state::entry::NewServer;
use coppice_state::token::{Token, TokenId};
use coppice_state::{
    Agreement, AgreementError, Entry, Leadership, Outcome, Refusal, Standing, State,
};
use coppice_world::clock::Clock;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{Peers, Purpose, Serves};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use openraft::async_runtime::WatchSender;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::WatchReceiverOf;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use crate::authority::{AuthorityError, Renewal};
use crate::dial::Caller;
use crate::directory::{Directory, DirectoryError, FORMAT_VERSION, Format};
use crate::introduction::Introduction;
use crate::link::Link;
use crate::log::{Log, LogError};
use crate::machine::Machine;
use crate::peers::OverWire;
use crate::replica::{Fate, Replica};
use crate::roster::Roster;
use crate::snapshots::{SnapshotError, SnapshotFiles};
use crate::tls;
use crate::types::Real;
use crate::wire::{Door, PROTOCOL, Wire};

/// How often it is looked whether a lost server is there.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// What a grid begins with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Its identity.
    pub grid: GridId,
    /// Its life.
    pub epoch: Epoch,
    /// Its first server.
    pub server: NewServer,
    /// Its first token.
    pub token: (TokenId, Token),
}

/// Why a grid cannot be founded or opened.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It did not come to agree.
    #[error("the grid does not start: {0}")]
    Agreement(#[from] AgreementError),
    /// The first entry was refused.
    #[error("the grid cannot be founded: {0}")]
    Refused(Refusal),
    /// The log is another grid's than the directory says.
    #[error("{} says it belongs to grid {expected}, but its log is {}: a part of it was put there from elsewhere; \
             put the whole directory back from one backup", .dir.display(), whose(.found))]
    Mixed {
        /// The directory.
        dir: std::path::PathBuf,
        /// Whose it says it is.
        expected: GridId,
        /// Whose its log is.
        found: Option<GridId>,
    },
    /// The task that reads the disk ended early.
    #[error("the grid was not read: {0}")]
    Interrupted(String),
}

fn whose(grid: &Option<GridId>) -> String {
    grid.map_or_else(|| "no grid's".to_owned(), |id| format!("that of grid {id}"))
}

/// A server's part of a grid. Stop it with [`shutdown`](Self::shutdown); a process that ends without it loses
/// nothing, but reads more at its next start.
pub struct Grid {
    replica: Replica<Real>,
    log: Log<Real>,
    log_failed: WatchReceiverOf<Real, Option<String>>,
    format: Format,
    wire: Wire<Real>,
    door: Door<Real>,
    /// Keeps the directory locked until this is shut down.
    directory: Mutex<Option<Arc<Directory>>>,
}

impl Grid {
    /// Founds a grid in an empty or new directory, with this server as its only voter. On return the first entry is
    /// durable. A founding that was cut short is begun again by calling this again, with whatever identity.
    ///
    /// # Errors
    /// When the directory holds a grid, or cannot be written.
    pub async fn found(
        dir: &Path,
        clock: Arc<dyn Clock>,
        founding: Founding,
    ) -> Result<Self, GridError> {
        let path = dir.to_owned();
        let directory = blocking(move || Ok(Arc::new(Directory::claim(&path)?))).await?;
        let mut format = Format {
            version: FORMAT_VERSION,
            grid: founding.grid,
            raft_id: founding.server.raft_id,
            server: ServerId(0),
            introduction: None,
            epoch: founding.epoch,
        };
        let mut grid = Self::start(&directory, clock, format.clone()).await?;
        grid.replica.initialize(founding.server.api.clone()).await?;
        let entry = Entry::Founded {
            grid: founding.grid,
            epoch: founding.epoch,
            server: founding.server,
            token: founding.token,
        };
        match grid.replica.propose(entry).await? {
            Outcome::Refused(refusal) => return Err(GridError::Refused(refusal)),
            Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. } => {}
        }
        format.server = grid.server().unwrap_or(format.server);
        grid.format = format.clone();
        blocking(move || Ok(directory.complete(&format)?)).await?;
        Ok(grid)
    }

    /// Prepares an empty or new directory for a server that joins a grid: with an empty log, and what the server was
    /// told. Nothing happens where it was told the same before.
    ///
    /// # Errors
    /// When the directory holds a grid, or cannot be written.
    pub async fn enter(dir: &Path, introduction: Introduction) -> Result<(), GridError> {
        let path = dir.to_owned();
        let format = Format {
            version: FORMAT_VERSION,
            grid: introduction.grid,
            raft_id: introduction.raft_id,
            server: introduction.server,
            epoch: introduction.epoch,
            introduction: Some(introduction),
        };
        blocking(move || {
            let directory = Directory::claim(&path)?;
            Ok(directory.complete(&format)?)
        })
        .await
    }

    /// Opens the grid of a directory; with `expected`, that grid only. On return, if it is the only voter, this server
    /// leads, and everything that was ever acknowledged here is applied. One of several catches up once it is
    /// [connected](Self::connect); until then it has what it knew when it ended.
    ///
    /// # Errors
    /// When the directory is another grid's, a newer version's, in use, or damaged in a way that loses something.
    pub async fn open(
        dir: &Path,
        clock: Arc<dyn Clock>,
        expected: Option<GridId>,
    ) -> Result<Self, GridError> {
        let path = dir.to_owned();
        let (directory, format) = blocking(move || {
            let (directory, format) = Directory::open(&path, expected)?;
            Ok((Arc::new(directory), format))
        })
        .await?;
        let grid = Self::start(&directory, clock, format).await?;
        let mixed = |found| GridError::Mixed {
            dir: dir.to_owned(),
            expected: grid.format.grid,
            found,
        };
        // A founded grid's log never is empty: without its first entry nobody votes. One that was joined may be.
        if grid.log.bounds().1.is_none() && grid.format.introduction.is_none() {
            return Err(mixed(None));
        }
        let members = grid.replica.members();
        let alone = members.voters == BTreeSet::from([grid.raft_id()]);
        let state = if alone {
            grid.replica.caught_up().await?
        } else {
            grid.local()
        };
        if state.grid != Some(grid.format.grid) && (alone || state.grid.is_some()) {
            return Err(mixed(state.grid));
        }
        Ok(grid)
    }

    pub(crate) async fn start(
        directory: &Arc<Directory>,
        clock: Arc<dyn Clock>,
        format: Format,
    ) -> Result<Self, GridError> {
        let (failed, log_failed) = Real::watch_channel(None);
        let fate = Fate::default();
        let log_fate = fate.clone();
        let held = Arc::clone(directory);
        let directory = Arc::clone(directory);
        let (log, files, latest) = blocking(move || {
            let log = Log::<Real>::open(&directory, move |why| {
                log_fate.close(&why);
                // Nobody is left to be told when the receivers are gone.
                drop(failed.send(Some(why)));
            })?;
            let (purged, _) = log.bounds();
            match SnapshotFiles::open(&directory, purged) {
                Ok((files, latest)) => Ok((log, files, latest)),
                Err(e) => {
                    // Nothing was written; what counts is that the directory is free when this is told.
                    let _closed = futures::executor::block_on(log.close());
                    Err(e.into())
                }
            }
        })
        .await?;
        let machine = Machine::new(Arc::new(files), latest);
        let mut me = format.introduction.clone().unwrap_or_else(|| Introduction {
            grid: format.grid,
            epoch: Epoch::default(),
            server: format.server,
            raft_id: format.raft_id,
            members: BTreeMap::new(),
        });
        if format.epoch.number > me.epoch.number {
            me.epoch = format.epoch;
        }
        let roster = Roster::new(me, machine.published());
        let wire = Wire::new(roster.clone());
        let link: Arc<dyn Link<Real>> = Arc::new(wire.clone());
        let id = format.raft_id;
        let replica = Replica::linked(id, log.clone(), machine, link, clock, fate).await?;
        let door = Door::new(replica.clone(), roster);
        Ok(Self {
            replica,
            log,
            log_failed,
            format,
            wire,
            door,
            directory: Mutex::new(Some(held)),
        })
    }

    /// Connects this server to the others, as the one that `identity` shows it to be. Returns what their connections to
    /// it are told in the TLS handshake; whoever listens hands them to [`admit`](Self::admit) after that. Until this is
    /// called, nobody is reached.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn connect(&self, identity: &Renewal) -> Result<Arc<ServerConfig>, AuthorityError> {
        let (called, calls) = identity.between_servers(PROTOCOL)?;
        self.wire.connect(Arc::new(Caller::new(calls)));
        Ok(called)
    }

    /// Serves a connection that another server opened, to its end. `certificates` are those that it showed in a
    /// handshake by what [`connect`](Self::connect) returned.
    pub fn admit(
        &self,
        certificates: &[CertificateDer<'_>],
        stream: ByteStream,
    ) -> BoxFuture<'static, ()> {
        let door = self.door.clone();
        let server = tls::shown(certificates);
        async move {
            if let Some(server) = server {
                door.serve(server, stream).await;
            }
        }
        .boxed()
    }

    /// Whether another server said that this one was removed.
    #[must_use]
    pub fn expelled(&self) -> bool {
        self.wire.expelled()
    }

    /// The other servers.
    #[must_use]
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::new(OverWire::new(self.wire.clone()))
    }

    /// Looks now and then, on the server that leads, whether a server that is lost is there after all. What comes of it is
    /// no more than that each learns of the other: of two that went on apart, neither would ever call.
    pub async fn look_for_lost(&self) {
        loop {
            Real::sleep(LOOK_EVERY).await;
            let Leadership::Here { .. } = self.leadership() else {
                continue;
            };
            let state = self.local();
            let lost = state.servers.iter();
            let lost = lost.filter(|(_, server)| server.state == ServerState::Lost);
            for (id, _) in lost {
                // Whatever it answers: what is to be known of it, the greeting says.
                drop(self.peers().connect(*id, Purpose::Consoles).await);
            }
        }
    }

    /// From now on `serves` takes the streams that other servers open for `purpose`.
    pub fn serve(&self, purpose: Purpose, serves: Arc<dyn Serves>) {
        self.door.register(purpose, serves);
    }

    #[cfg(test)]
    pub(crate) fn log(&self) -> Log<Real> {
        self.log.clone()
    }

    /// This server's replica: who takes part in the log is read and changed there.
    #[must_use]
    pub fn replica(&self) -> &Replica<Real> {
        &self.replica
    }

    /// Which grid this is.
    #[must_use]
    pub fn id(&self) -> GridId {
        self.format.grid
    }

    /// This server's number in raft.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.format.raft_id
    }

    /// Which member this server is; `None` where the state, as applied here, says that it is none.
    #[must_use]
    pub fn server(&self) -> Option<ServerId> {
        let state = self.local();
        let found = state.server_by_raft_id(self.format.raft_id);
        let found = found.filter(|(_, server)| server.state != ServerState::Removed);
        // Ids are indexes of the log: the entry that made this server a member may not have come yet.
        let told = Some(self.format.server).filter(|told| told.0 > state.index);
        found.map(|(id, _)| id).or(told)
    }

    /// Resolves with the reason when nothing can be agreed on here any more, because storage failed or the grid was
    /// shut down. The process should end then: only a new start reads what is really on the disk.
    pub fn failed(&self) -> BoxFuture<'static, String> {
        let mut log_failed = self.log_failed.clone();
        let log = async move {
            loop {
                if let Some(why) = log_failed.borrow_watched().clone() {
                    return why;
                }
                if log_failed.changed().await.is_err() {
                    // Closed without failing: what the replica says counts.
                    return std::future::pending().await;
                }
            }
        };
        let replica = self.replica.failed();
        async move {
            match select(log.boxed(), replica).await {
                Either::Left((why, _)) | Either::Right((why, _)) => why,
            }
        }
        .boxed()
    }

    /// Writes a snapshot, stops, and closes the directory: the next start reads that one file and little more.
    /// Stops also when the snapshot cannot be written; the log has everything.
    ///
    /// # Errors
    /// When the snapshot or the end of the log could not be written.
    pub async fn shutdown(&self) -> Result<(), AgreementError> {
        let snapshot = self.replica.snapshot().await;
        self.replica.stop("it was shut down").await;
        let closed = self.log.close().await;
        self.release();
        snapshot?;
        closed.map_err(|e| AgreementError::Closed(format!("closing the log: {e}")))
    }
}

impl Grid {
    fn release(&self) {
        *self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends as a killed process would, but for what its system still keeps: no snapshot, no farewell.
    #[cfg(test)]
    pub(crate) async fn abandon(&self) {
        self.replica.stop("abandoned").await;
        self.log.close().await.unwrap();
        self.release();
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GridError> + Send + 'static,
) -> Result<T, GridError> {
    Real::spawn_blocking(work)
        .await
        .map_err(|e| GridError::Interrupted(e.to_string()))?
}

impl Agreement for Grid {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        self.replica.propose(entry)
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
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

    fn degraded(&self) -> Option<Timestamp> {
        self.replica.degraded()
    }

    fn apart(&self) -> BTreeMap<ServerId, Epoch> {
        self.wire.apart()
    }

    fn standing_as_led(&self) -> BoxFuture<'_, Standing> {
        self.replica.standing_as_led()
    }

    fn standing(&self) -> Standing {
        self.replica.standing()
    }
}
