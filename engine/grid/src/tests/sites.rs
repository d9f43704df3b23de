//! Several servers in one process, each with a port of its own and real certificates.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId, ServerName};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::join::{JoinToken, Joiner, Role};
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::token::TokenId;
use coppice_state::{Agreement, Entry, Outcome, State};
use futures::StreamExt;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::world::{Hands, founding, scratch};
use crate::replica::{Former, MembersError};
use crate::{Grid, GridKey, Identity, Introduction, Member, Renewal, Subject};

pub(super) use super::world::GRID;

/// Beyond all that any log here comes to: the id of a server that nobody has heard of yet.
pub(super) const LATER: ServerId = ServerId(1_000_000);

pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Timestamp(u64::try_from(since.as_millis()).unwrap())
}

/// A certificate of `grid` for `server`, by the authority in `dir`, which is made if there is none.
pub(super) fn identity(dir: &Path, grid: GridId, server: ServerId, at: Timestamp) -> Identity {
    let subject = Subject {
        grid,
        id: server,
        server: format!("s{server}").parse().unwrap(),
        names: BTreeSet::new(),
    };
    let key = GridKey::open(dir)
        .or_else(|_| GridKey::create(dir))
        .unwrap();
    if dir.join("ca.pem").exists() {
        Identity::open(dir, &subject, at, Some(&key)).unwrap()
    } else {
        Identity::found(dir, &subject, at, &key).unwrap()
    }
}

/// A directory with the authority that is in `from`, and no certificate.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_string_lossy().starts_with("server.") {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// One server.
pub(super) struct Site {
    pub(super) grid: Arc<Grid>,
    pub(super) server: ServerId,
    pub(super) address: String,
    pub(super) port: JoinHandle<()>,
}

impl Site {
    pub(super) fn raft_id(&self) -> u64 {
        self.grid.raft_id()
    }

    /// Ends as a killed process would.
    pub(super) async fn kill(self) {
        self.port.abort();
        assert!(self.port.await.is_err());
        self.grid.abandon().await;
    }

    pub(super) async fn stop(self) {
        self.port.abort();
        assert!(self.port.await.is_err());
        self.grid.shutdown().await.unwrap();
    }

    /// Waits until what is applied here is as `wanted`.
    pub(super) async fn until(&self, wanted: impl Fn(&State) -> bool) -> Arc<State> {
        let mut watch = self.grid.watch();
        loop {
            let state = self.grid.local();
            if wanted(&state) {
                return state;
            }
            watch.next().await.unwrap();
        }
    }
}

/// Everything of some servers but themselves.
pub(super) struct Sites {
    root: tempfile::TempDir,
}

impl Sites {
    /// Founds a grid, and lets `more` servers join. Only the first votes.
    pub(super) async fn with(more: u64) -> (Self, Vec<Site>) {
        let root = scratch();
        let first = root.path().join("0");
        let listen = || TcpListener::bind("127.0.0.1:0");
        let listener = listen().await.unwrap();
        let mut begin = founding(GRID);
        begin.server.api = listener.local_addr().unwrap().to_string();
        let grid = Grid::found(&first.join("grid"), Hands::at(1_000), begin)
            .await
            .unwrap();
        let founder = grid.server().unwrap();
        std::fs::create_dir(first.join("identity")).unwrap();
        // Long ago: there may be certificates of this authority that are over.
        let then = Timestamp(now().since(Timestamp(Span::hours(24 * 200).0)).0);
        identity(&first.join("identity"), GRID, founder, then);
        let sites = Self { root };
        let mut all = vec![sites.run(0, grid, founder, listener).await];
        for n in 1..=more {
            all.push(sites.join(&all[0], n).await);
        }
        (sites, all)
    }

    pub(super) fn dir(&self, n: u64) -> std::path::PathBuf {
        self.root.path().join(n.to_string())
    }

    /// The `n`th server becomes a member, as `by` agrees on it, and begins to run.
    pub(super) async fn join(&self, by: &Site, n: u64) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (token, secret) = (TokenId(format!("t{n}")), Digest::of(&n.to_be_bytes()));
        let made = by.grid.propose(Entry::JoinTokenCreated {
            id: token.clone(),
            token: JoinToken {
                hash: secret,
                role: Role::Server,
                created: Timestamp(0),
                expires: Timestamp(u64::MAX),
                spent: None,
            },
            author: "test".to_owned(),
        });
        assert_eq!(made.await, Ok(Outcome::Done));
        let name: ServerName = format!("s{n}").parse().unwrap();
        let joiner = Joiner {
            token,
            proof: secret,
            key: secret,
            name: name.clone(),
            role: Role::Server,
            api: listener.local_addr().unwrap().to_string(),
            feature_level: FEATURE_LEVEL,
            again: false,
        };
        let joined = by.grid.propose(Entry::ServerJoined(Box::new(joiner))).await;
        assert_eq!(joined, Ok(Outcome::Done));
        let state = by.grid.local();
        let (server, known) = state.server_named(&name).unwrap();
        let member = |(id, known): (&ServerId, &coppice_state::state::Server)| {
            let member = Member {
                raft_id: known.raft_id,
                address: known.api.clone(),
            };
            (*id, member)
        };
        let introduction = Introduction {
            grid: GRID,
            epoch: state.epoch,
            server,
            raft_id: known.raft_id,
            members: state.servers.iter().map(member).collect(),
        };
        let dir = self.dir(n);
        Grid::enter(&dir.join("grid"), introduction).await.unwrap();
        copy(&self.dir(0).join("identity"), &dir.join("identity"));
        self.open(n, server, listener).await
    }

    /// Starts the `n`th server, `server`, from its disk.
    pub(super) async fn open(&self, n: u64, server: ServerId, listener: TcpListener) -> Site {
        let dir = self.dir(n).join("grid");
        let grid = Grid::open(&dir, Hands::at(2_000), Some(GRID))
            .await
            .unwrap();
        self.run(n, grid, server, listener).await
    }

    async fn run(&self, n: u64, grid: Grid, server: ServerId, listener: TcpListener) -> Site {
        assert_eq!(grid.server(), Some(server));
        let grid = Arc::new(grid);
        let shown = identity(&self.dir(n).join("identity"), GRID, server, now());
        let tls = grid.connect(&Renewal::of(&shown).unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let port = tokio::spawn(answer(listener, tls, Arc::clone(&grid)));
        Site {
            grid,
            server,
            address,
            port,
        }
    }
}

/// What listens, in a whole server, is the portal.
async fn answer(listener: TcpListener, tls: Arc<ServerConfig>, grid: Arc<Grid>) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            Some(_) = connections.join_next() => continue,
        };
        let (acceptor, grid) = (acceptor.clone(), Arc::clone(&grid));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let shown = stream.get_ref().1.peer_certificates();
            let shown = shown.unwrap_or_default().to_vec();
            grid.admit(&shown, Box::pin(stream.compat())).await;
        });
    }
}

/// Makes all of `sites` vote, from the first, which leads.
pub(super) async fn all_vote(sites: &[Site]) {
    let leader = sites[0].grid.replica();
    for site in &sites[1..] {
        let basis = leader.members();
        leader
            .add_learner(&basis, site.raft_id(), site.address.clone())
            .await
            .unwrap();
    }
    let voters: BTreeSet<_> = sites.iter().map(Site::raft_id).collect();
    set_voters(&sites[0], &voters).await;
}

/// Makes `voters` vote, from `site`, which leads. They may be reached for the first time.
pub(super) async fn set_voters(site: &Site, voters: &BTreeSet<u64>) {
    let leader = site.grid.replica();
    loop {
        let (basis, wanted) = (leader.members(), voters.clone());
        match leader.set_voters(&basis, wanted, Former::Learn).await {
            Ok(()) => return,
            Err(MembersError::NotNow(_)) => pause().await,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// The one that leads, when all agree on it.
pub(super) async fn leader_of(sites: &[Site]) -> usize {
    loop {
        let leaders: BTreeSet<_> = sites
            .iter()
            .map(|site| match site.grid.leadership() {
                coppice_state::Leadership::Here { .. } => Some(site.raft_id()),
                coppice_state::Leadership::There { raft_id, .. } => Some(raft_id),
                coppice_state::Leadership::Nobody => None,
            })
            .collect();
        let mut leaders = leaders.into_iter();
        if let (Some(Some(leader)), None) = (leaders.next(), leaders.next())
            && let Some(at) = sites.iter().position(|site| site.raft_id() == leader)
        {
            return at;
        }
        pause().await;
    }
}
