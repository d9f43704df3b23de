//! The certificate with which the API answers, from the first start to long after.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use coppice_grid::{Gate, Grid, GridKey, Identity, Means, Renewal, Subject};
use coppice_schema::ids::ServerId;
use coppice_schema::units::Span;
use coppice_state::Agreement;
use coppice_world::clock::Clock;
use coppice_world::peers::Purpose;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use rustls::ServerConfig;

use crate::config::Config;
use crate::failure::Failure;
use crate::layout::Layout;
use crate::names;

/// How often it is looked whether the certificate is to be renewed: a month is left when it first is.
const LOOK_EVERY: Span = Span::hours(24);

/// How often it is looked whether this server is to have the authority's key.
const LOOK_SOON: Span = Span::seconds(1);

/// How soon it is looked again after others could not help.
const LOOK_AGAIN: Span = Span::seconds(10);

/// What the API answers with.
pub(super) struct Shown<W> {
    /// Always the newest certificate.
    pub(super) tls: Arc<ServerConfig>,
    /// The same between servers, each of which shows its own.
    pub(super) between: Arc<ServerConfig>,
    /// What machines are admitted by.
    pub(super) gate: Gate,
    /// The work that keeps it valid, which never ends.
    pub(super) renewal: W,
}

/// Opens what the API answers with.
///
/// # Errors
/// When the identity cannot be used.
pub(super) fn open(
    config: &Config,
    layout: &Layout,
    grid: &Arc<Grid>,
    server_id: ServerId,
    grid_key: Option<&Arc<GridKey>>,
    clock: &Arc<dyn Clock>,
) -> Result<Shown<impl Future<Output = ()> + Send + use<>>, Failure> {
    let failed =
        |e: &dyn std::error::Error| Failure::new("cannot use the grid's identity").because(e);
    let (listen, more) = (config.listen.ip(), config.names.clone());
    let server = config.name.clone();
    let agreed = Arc::clone(grid);
    // The grid's address is in every server's certificate: each may have to answer there.
    let subject = move || {
        let mut names = names::of(listen, &more);
        let address = agreed.local().committed.grid.address;
        names.extend(address.map(|address| address.to_string()));
        Subject {
            grid: agreed.id(),
            id: server_id,
            server: server.clone(),
            names,
        }
    };
    let key = grid_key.map(AsRef::as_ref);
    let identity =
        Identity::open(&layout.identity(), &subject(), clock.now(), key).map_err(|e| failed(&e))?;
    tell(&identity);
    let renewal = Renewal::of(&identity).map_err(|e| failed(&e))?;
    let tls = renewal.tls(&["http/1.1"]).map_err(|e| failed(&e))?;
    let between = grid.connect(&renewal).map_err(|e| failed(&e))?;
    let gate = Gate::new(
        &identity,
        Means {
            me: server_id,
            grid: grid.id(),
            identity: layout.identity(),
            grid_key: grid_key.cloned(),
            agreement: Arc::clone(grid) as _,
            peers: grid.peers(),
            clock: Arc::clone(clock),
        },
    );
    grid.serve(Purpose::Keys, Arc::new(gate.clone()));
    let address = {
        let agreed = Arc::clone(grid);
        move || agreed.local().committed.grid.address
    };
    let changed = grid.watch().map(move |_| address()).boxed();
    let kept = Kept {
        renewal,
        directory: layout.identity(),
        grid_key: grid_key.cloned(),
        others: Some(gate.clone()),
    };
    let renewal = keep(kept, subject, identity.due(), changed, Arc::clone(clock));
    Ok(Shown {
        tls,
        between,
        gate,
        renewal,
    })
}

/// What is kept valid, and by what.
struct Kept {
    renewal: Renewal,
    directory: PathBuf,
    grid_key: Option<Arc<GridKey>>,
    /// Who gives a certificate where the authority's key is not here.
    others: Option<Gate>,
}

impl Kept {
    /// Shows what is on the disk, renewed if it must be and can be. Whether it is to be looked at again soon.
    async fn look(&self, subject: &Subject, clock: &dyn Clock) -> bool {
        let look = || {
            let key = self.grid_key.as_deref();
            self.renewal
                .look(&self.directory, subject, clock.now(), key)
        };
        let identity = match look() {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(%error, "the API's certificate could not be looked at; the old one stays");
                return false;
            }
        };
        tell(&identity);
        let Some(others) = self.others.as_ref().filter(|_| identity.due()) else {
            return false;
        };
        if let Err(error) = others.renew(subject.names.clone()).await {
            tracing::warn!(%error, "no other server gave a new certificate; the old one stays");
            return true;
        }
        tracing::info!("this server has a new certificate");
        if let Err(error) = look() {
            tracing::warn!(%error, "the new certificate could not be looked at; the old one stays");
        }
        false
    }
}

/// Looks each day, since a server runs for longer than a certificate lives; and when `addresses` brings another address of
/// the grid than before. One that is `due` is looked at soon.
async fn keep(
    kept: Kept,
    subject: impl Fn() -> Subject,
    mut due: bool,
    mut addresses: BoxStream<'static, Option<IpAddr>>,
    clock: Arc<dyn Clock>,
) {
    // What it is at first is in the certificate already, or comes with the first entry that is applied.
    let mut named = None;
    loop {
        let mut day = clock.sleep(if due { LOOK_AGAIN } else { LOOK_EVERY });
        loop {
            match select(day, addresses.next()).await {
                Either::Left(_) => break,
                Either::Right((Some(address), rest)) => {
                    day = rest;
                    if named.replace(address) != Some(address) {
                        break;
                    }
                }
                // Nothing more is agreed on here.
                Either::Right((None, rest)) => {
                    rest.await;
                    break;
                }
            }
        }
        due = kept.look(&subject(), clock.as_ref()).await;
    }
}

/// Brings the authority's key to a server that votes, soon after it does: until then it may be on one disk only. Never
/// ends.
pub(super) async fn fetch_key(gate: Gate, grid: Arc<Grid>, clock: Arc<dyn Clock>) {
    let mut told = false;
    loop {
        clock.sleep(LOOK_SOON).await;
        if !grid.replica().members().voters.contains(&grid.raft_id()) {
            continue;
        }
        match gate.fetch_key().await {
            Ok(()) => told = false,
            Err(error) if told => {
                tracing::debug!(%error, "the key of the grid's authority is not here yet")
            }
            Err(error) => {
                told = true;
                tracing::warn!(%error, "the key of the grid's authority is not here yet");
            }
        }
    }
}

fn tell(identity: &Identity) {
    if identity.renewed() {
        tracing::info!("this server has a new certificate");
    }
}

#[cfg(test)]
mod tests {
    use coppice_schema::ids::GridId;
    use coppice_schema::units::Timestamp;
    use coppice_world::sim::SimClock;
    use futures::FutureExt;
    use rustls::pki_types::pem::PemObject;

    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_server_that_is_never_restarted_never_has_an_old_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SimClock::new(Timestamp(1_795_000_000_000));
        let subject = || Subject {
            grid: GridId([3; 16]),
            id: ServerId(1),
            server: "alpha".parse().unwrap(),
            names: Default::default(),
        };
        let key = GridKey::create(dir.path()).unwrap();
        let first = Identity::found(dir.path(), &subject(), clock.now(), &key).unwrap();
        let renewal = Renewal::of(&first).unwrap();
        let directory = dir.path().to_path_buf();
        let key = Some(Arc::new(key));
        let kept = Kept {
            renewal,
            directory,
            grid_key: key,
            others: None,
        };
        let work = keep(
            kept,
            subject,
            false,
            futures::stream::empty().boxed(),
            Arc::new(clock.clone()),
        );
        let mut work = Box::pin(work);
        for day in 0..400 {
            assert!((&mut work).now_or_never().is_none(), "it ended");
            let file = std::fs::read(dir.path().join("server.pem")).unwrap();
            let shown = rustls::pki_types::CertificateDer::from_pem_slice(&file).unwrap();
            let until = coppice_grid::authority::valid_until(&shown).unwrap();
            let left = until.since(clock.now());
            assert!(left >= Span::hours(28 * 24), "{left:?} on day {day}");
            clock.advance(LOOK_EVERY);
        }
    }

    #[test]
    fn another_address_of_the_grid_is_in_the_certificate_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SimClock::new(Timestamp(1_795_000_000_000));
        let address: Arc<Mutex<Option<IpAddr>>> = Arc::default();
        let shown = Arc::clone(&address);
        let subject = move || Subject {
            grid: GridId([3; 16]),
            id: ServerId(1),
            server: "alpha".parse().unwrap(),
            names: shown
                .lock()
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        let key = GridKey::create(dir.path()).unwrap();
        let first = Identity::found(dir.path(), &subject(), clock.now(), &key).unwrap();
        let renewal = Renewal::of(&first).unwrap();
        let (say, heard) = futures::channel::mpsc::unbounded();
        let directory = dir.path().to_path_buf();
        let key = Some(Arc::new(key));
        let clock = Arc::new(clock);
        let kept = Kept {
            renewal,
            directory,
            grid_key: key,
            others: None,
        };
        let work = keep(kept, subject, false, heard.boxed(), clock);
        let mut work = Box::pin(work);
        let mut after = |now: Option<&str>| {
            let now = now.map(|text| text.parse().unwrap());
            *address.lock().unwrap() = now;
            say.unbounded_send(now).unwrap();
            assert!((&mut work).now_or_never().is_none(), "it ended");
            std::fs::read(dir.path().join("server.pem")).unwrap()
        };
        let none = after(None);
        assert_eq!(none, after(None), "for nothing it is not made anew");
        let one = after(Some("10.0.0.100"));
        assert_ne!(one, none);
        assert_eq!(one, after(Some("10.0.0.100")));
        assert_ne!(one, after(Some("10.0.0.101")));
    }
}
