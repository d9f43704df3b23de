//! A server's part of a grid, wired from the real world: log and state, hypervisor, disks, rounds and API.

mod answers;
mod boot;
mod certificate;
pub(crate) mod hypervisor;
mod others;
mod witness;

use std::io::ErrorKind;
use std::sync::Arc;

use coppice_grid::{Grid, GridKey, keeper};
use coppice_portal::{App, Listens};
use coppice_reconcile::server::{Carrier, Description, Ports, Server};
use coppice_reconcile::{lease, scrub};
use coppice_schema::ids::{ServerId, ServerName};
use coppice_state::Agreement;
use coppice_world::addresses::LinuxAddresses;
use coppice_world::clock::{Clock, SystemClock};
use coppice_world::peers::Purpose;
use coppice_world::stamps::{StampFile, Stamps};
use coppice_world::watchdog::Watchdog;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::answers::Answering;
use self::others::Others;
use crate::config::Config;
use crate::failure::Failure;
use crate::layout::Layout;

/// A server that runs.
pub(crate) struct Running {
    grid: Arc<Grid>,
    api: JoinHandle<()>,
    rounds: Vec<(&'static str, JoinHandle<()>)>,
    /// Says that this server is there again.
    wake: JoinHandle<()>,
    /// What has desktops with copies run on when it is stopped; `None` for a witness.
    lease: Option<Lease>,
    stop_api: oneshot::Sender<()>,
    /// What to tell when it is ready.
    pub(crate) ready: String,
}

/// The lease of a server that carries desktops.
struct Lease {
    name: ServerName,
    watchdog: Arc<dyn Watchdog>,
    renews: JoinHandle<()>,
}

impl Running {
    /// Opens everything and begins; on the socket that is given, or where `config` says.
    ///
    /// # Errors
    /// With whatever cannot be opened, and what to do about it. What was opened before is closed again.
    pub(crate) async fn start(
        config: &Config,
        listens: Option<std::net::TcpListener>,
    ) -> Result<Self, Failure> {
        let layout = Layout::new(&config.data);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // First of all: a port in use most often means that this server runs already.
        let listener = match listens {
            Some(socket) => adopt(socket)?,
            None => listen(config).await?,
        };
        let grid = open_grid(config, &layout, Arc::clone(&clock)).await?;
        match Self::begin(config, &layout, clock, Arc::clone(&grid), listener).await {
            Ok(running) => Ok(running),
            Err(failure) => {
                if let Err(error) = grid.shutdown().await {
                    tracing::warn!(%error, "the grid's log was not closed in order");
                }
                Err(failure)
            }
        }
    }

    async fn begin(
        config: &Config,
        layout: &Layout,
        clock: Arc<dyn Clock>,
        grid: Arc<Grid>,
        listener: TcpListener,
    ) -> Result<Self, Failure> {
        let server = member(config, &grid)?;
        let key = if config.witness {
            None
        } else {
            let key = GridKey::open(&layout.identity());
            Some(Arc::new(key.map_err(|e| {
                Failure::new("cannot open the grid's key").because(&e)
            })?))
        };
        let shown = certificate::open(config, layout, &grid, server, key.as_ref(), &clock)?;
        let listens = listener.local_addr().unwrap_or(config.listen);
        let api = config.reached_at(listens);
        let agreement: Arc<dyn Agreement> = grid.clone();
        let mut rounds = vec![("the certificate's renewal", tokio::spawn(shown.renewal))];
        let mut held = None;
        let (addresses, also) = Answering::new(LinuxAddresses, listens);
        let router = match key {
            None => {
                let describe =
                    witness::describe(Arc::clone(&grid), server, api, Arc::clone(&clock));
                rounds.push(("the witness's word", tokio::spawn(describe)));
                coppice_portal::witness()
            }
            Some(key) => {
                let fetch = certificate::fetch_key(
                    shown.gate.clone(),
                    Arc::clone(&grid),
                    Arc::clone(&clock),
                );
                rounds.push(("the authority's key", tokio::spawn(fetch)));
                let world = hypervisor::open(config, layout, grid.id(), Arc::clone(&clock)).await?;
                let app = App {
                    agreement: Arc::clone(&agreement),
                    clock: Arc::clone(&clock),
                    vault: key,
                    keys: Arc::new(shown.gate.clone()),
                    admission: Arc::new(shown.gate),
                    hypervisor: Arc::clone(&world.hypervisor),
                    disks: Arc::clone(&world.disks),
                    peers: grid.peers(),
                    server,
                    uploads: layout.uploads(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                world.disks.meet(grid.peers());
                grid.serve(Purpose::Images, Arc::clone(&world.images));
                grid.serve(Purpose::Consoles, coppice_portal::passed_on(app.clone()));
                let scrub = scrub::run(Arc::clone(&world.disks), Arc::clone(&clock));
                rounds.push(("reading images at rest", tokio::spawn(scrub)));
                held = Some(renew(config, &world, &grid, &clock));
                rounds.extend(carry(
                    config,
                    layout,
                    (api, addresses),
                    world,
                    &grid,
                    &clock,
                )?);
                coppice_portal::router(app)
            }
        };
        let others = Others {
            grid: Arc::clone(&grid),
            tls: shown.between,
        };
        let replica = grid.replica();
        let keeper = keeper::keep(replica.clone());
        rounds.push(("the keeper of voters", tokio::spawn(keeper)));
        let heed = replica.clone().heed();
        rounds.push(("asking for a majority", tokio::spawn(heed)));
        let lost = Arc::clone(&grid);
        let lost = async move { lost.look_for_lost().await };
        rounds.push(("looking for lost servers", tokio::spawn(lost)));
        let wake = tokio::spawn(keeper::wake(replica.clone()));
        let (stop_api, stopped) = oneshot::channel::<()>();
        let api = tokio::spawn(coppice_portal::serve(
            Listens::on(listener, also),
            shown.tls,
            router,
            Some(Arc::new(others)),
            coppice_portal::Limits::default(),
            async move {
                // Also when nobody is left to say so.
                let _ = stopped.await;
            },
        ));
        others::introduced(&grid, &clock).await;
        let ready = format!(
            "ready: {} {} of grid {} answers at https://{listens}",
            if config.witness { "witness" } else { "server" },
            config.name,
            grid.id()
        );
        Ok(Self {
            grid,
            api,
            rounds,
            wake,
            lease: held,
            stop_api,
            ready,
        })
    }

    /// Runs until `stop` is ready or something fails for good. Desktops run on in either case.
    pub(crate) async fn until(
        mut self,
        stop: impl Future<Output = &'static str>,
    ) -> Result<(), Failure> {
        let storage = self.grid.failed();
        let removed = others::removed(Arc::clone(&self.grid), Arc::new(SystemClock));
        let failed = {
            let rounds = self.rounds.iter_mut().map(|(name, task)| async move {
                let ended = task.await;
                (
                    *name,
                    ended.map_or_else(|e| e.to_string(), |()| "it ended".to_owned()),
                )
            });
            let any_round = futures::future::select_all(rounds.map(Box::pin));
            tokio::select! {
                signal = stop => {
                    tracing::info!(signal, "stopping; desktops run on");
                    // The others need not find out by themselves that this server is gone.
                    self.wake.abort();
                    self.rest().await;
                    keeper::rest(self.grid.replica()).await;
                    None
                }
                why = storage => Some(storage_failed(&why)),
                failure = removed => Some(failure),
                ((name, why), ..) = any_round => Some(Failure::new(format!("{name} ended")).cause(why).hint("this is a bug; start it again: coppice serve")),
                ended = &mut self.api => {
                    let why = ended.map_or_else(|e| e.to_string(), |()| "it ended".to_owned());
                    Some(Failure::new("the API ended").cause(why).hint("this is a bug; start it again: coppice serve"))
                }
            }
        };
        self.close(failed).await
    }

    /// Has desktops with copies run on until this server is there again.
    async fn rest(&mut self) {
        if let Some(held) = self.lease.take() {
            held.renews.abort();
            // Aborted, it ends where it waits.
            let _ended = held.renews.await;
            let watchdog = held.watchdog.as_ref();
            lease::rest(held.name, self.grid.as_ref(), watchdog, &SystemClock).await;
        }
    }

    async fn close(self, failed: Option<Failure>) -> Result<(), Failure> {
        // Rounds can be cut off anywhere; requests get a moment to end.
        self.wake.abort();
        if let Some(held) = &self.lease {
            held.renews.abort();
        }
        for (_, task) in &self.rounds {
            task.abort();
        }
        let _ = self.stop_api.send(());
        if !self.api.is_finished()
            && let Err(error) = self.api.await
        {
            tracing::warn!(%error, "the API ended badly");
        }
        let closed = self.grid.shutdown().await;
        match (failed, closed) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) => Err(storage_failed(&error.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Begins to renew the lease of a server that carries desktops.
fn renew(
    config: &Config,
    world: &hypervisor::World,
    grid: &Arc<Grid>,
    clock: &Arc<dyn Clock>,
) -> Lease {
    let (name, watchdog) = (config.name.clone(), Arc::clone(&world.watchdog));
    let renews = lease::run(
        name.clone(),
        Arc::clone(grid) as _,
        Arc::clone(&watchdog),
        Arc::clone(clock),
    );
    Lease {
        name,
        watchdog,
        renews: tokio::spawn(renews),
    }
}

/// The rounds of a server that carries desktops.
fn carry(
    config: &Config,
    layout: &Layout,
    (api, addresses): (String, Answering<LinuxAddresses>),
    world: hypervisor::World,
    grid: &Arc<Grid>,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<(&'static str, JoinHandle<()>)>, Failure> {
    let stamps = StampFile::open(layout.stamps())
        .map_err(|e| Failure::new("cannot open the memory of orders").because(&e).hint("put it back from a backup of this server; without it, old orders could be carried out again"))?;
    let boot = boot::count(&layout.boot(), clock.now())?;
    let agreement: Arc<dyn Agreement> = grid.clone();
    let ports = Ports {
        agreement: Arc::clone(&agreement),
        hypervisor: world.hypervisor,
        disks: world.disks,
        stamps: Arc::new(stamps) as Arc<dyn Stamps>,
        moves: world.moves,
        peers: grid.peers(),
        replicas: world.replicas,
        watchdog: world.watchdog,
    };
    let (carrier, arrivals) = Carrier::new(config.name.clone(), ports.clone());
    grid.serve(Purpose::Desktops, Arc::new(carrier));
    let description = Description {
        labels: config.labels.clone(),
        networks: config.networks.clone(),
        api,
    };
    let mine = Server::new(config.name.clone(), boot, description);
    let leader = coppice_reconcile::leader::run(Arc::clone(&agreement), Arc::clone(clock));
    let address =
        coppice_reconcile::address::run(agreement, Arc::new(addresses), Arc::clone(clock));
    let copies =
        coppice_reconcile::replicas::run(config.name.clone(), ports.clone(), Arc::clone(clock));
    let own = coppice_reconcile::server::run(mine, ports, arrivals, Arc::clone(clock));
    Ok(vec![
        ("the leader's rounds", tokio::spawn(leader)),
        ("this server's rounds", tokio::spawn(own)),
        ("copies of personal desktops", tokio::spawn(copies)),
        ("the grid's address", tokio::spawn(address)),
    ])
}

fn storage_failed(why: &str) -> Failure {
    Failure::new("the grid's log cannot be written any more, so this server ends; desktops run on")
        .cause(why)
        .hint("look at the disk of the data directory (df, dmesg), then: coppice serve")
}

/// A socket that listens already.
fn adopt(socket: std::net::TcpListener) -> Result<TcpListener, Failure> {
    let adopted = socket
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(socket));
    adopted.map_err(|e| Failure::new("cannot listen on the socket that was given").because(&e))
}

async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    TcpListener::bind(config.listen).await.map_err(|e| {
        let failure = Failure::new(format!("cannot listen on {}", config.listen)).because(&e);
        let kind = e.kind();
        if kind == ErrorKind::AddrInUse {
            let port = config.listen.port();
            failure
                .hint("does this server run already? `coppice status` tells")
                .hint(format!("see who has the port: ss -ltnp 'sport = :{port}'"))
                .hint("or choose another one: `listen` in coppice.toml")
        } else if kind == ErrorKind::AddrNotAvailable {
            failure.hint(
                "this machine has no such address: correct `listen` in coppice.toml, or use 0.0.0.0",
            )
        } else if kind == ErrorKind::PermissionDenied {
            failure.hint("ports below 1024 are root's: choose another one")
        } else {
            failure
        }
    })
}

async fn open_grid(
    config: &Config,
    layout: &Layout,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Grid>, Failure> {
    let open = Grid::open(&layout.grid(), clock, None).await;
    open.map(Arc::new).map_err(|e| {
        let failure =
            Failure::new(format!("cannot open the grid in {}", config.data.display())).because(&e);
        if layout.grid().exists() {
            failure
        } else {
            failure.hint(format!("coppice init --data {}", config.data.display()))
        }
    })
}

/// Which member of the grid this server is. Its name in its own file must be the one the grid knows.
fn member(config: &Config, grid: &Grid) -> Result<ServerId, Failure> {
    let state = grid.local();
    let id = grid.server().ok_or_else(|| {
        Failure::new(format!(
            "this server is no member of grid {} any more",
            grid.id()
        ))
        .hint("make a new grid in an empty directory: coppice init --data DIR")
    })?;
    if let Some(known) = state
        .servers
        .get(&id)
        .filter(|known| known.name != config.name)
    {
        let (theirs, ours) = (&known.name, &config.name);
        return Err(Failure::new(format!(
            "this server is {theirs} in the grid, and {ours} in its coppice.toml"
        ))
        .hint(format!(
            "a member's name does not change: set name = \"{theirs}\""
        )));
    }
    Ok(id)
}
