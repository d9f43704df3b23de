//! The certificate with which the API answers, from the first start to long after.

use std::path::PathBuf;
use std::sync::Arc;

use coppice_grid::{Gate, GridKey, Identity, Renewal, Subject};
use coppice_schema::ids::GridId;
use coppice_schema::units::Span;
use coppice_world::clock::Clock;
use rustls::ServerConfig;

use crate::config::Config;
use crate::failure::Failure;
use crate::layout::Layout;
use crate::names;

/// How often it is looked whether the certificate is to be renewed: a month is left when it first is.
const LOOK_EVERY: Span = Span::hours(24);

/// What the API answers with.
pub(super) struct Shown<W> {
    /// Always the newest certificate.
    pub(super) tls: Arc<ServerConfig>,
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
    grid: GridId,
    grid_key: Option<&Arc<GridKey>>,
    clock: &Arc<dyn Clock>,
) -> Result<Shown<impl Future<Output = ()> + Send + use<>>, Failure> {
    let failed =
        |e: &dyn std::error::Error| Failure::new("cannot use the grid's identity").because(e);
    let (listen, more) = (config.listen.ip(), config.names.clone());
    let server = config.name.clone();
    let subject = move || Subject {
        grid,
        server: server.clone(),
        names: names::of(listen, &more),
    };
    let key = grid_key.map(AsRef::as_ref);
    let identity =
        Identity::open(&layout.identity(), &subject(), clock.now(), key).map_err(|e| failed(&e))?;
    tell(&identity);
    let renewal = Renewal::of(&identity).map_err(|e| failed(&e))?;
    let tls = renewal.tls(&["http/1.1"]).map_err(|e| failed(&e))?;
    let key = grid_key.cloned();
    let gate = Gate::new(grid, layout.identity(), &identity, key, Arc::clone(clock));
    let key = grid_key.cloned();
    let renewal = keep(renewal, layout.identity(), subject, key, Arc::clone(clock));
    Ok(Shown { tls, gate, renewal })
}

/// Looks each day. A server runs for longer than a certificate lives.
async fn keep(
    renewal: Renewal,
    directory: PathBuf,
    subject: impl Fn() -> Subject,
    grid_key: Option<Arc<GridKey>>,
    clock: Arc<dyn Clock>,
) {
    loop {
        clock.sleep(LOOK_EVERY).await;
        match renewal.look(&directory, &subject(), clock.now(), grid_key.as_deref()) {
            Ok(identity) => tell(&identity),
            Err(error) => {
                tracing::warn!(%error, "the API's certificate could not be looked at; the old one stays");
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
    use coppice_schema::units::Timestamp;
    use coppice_world::sim::SimClock;
    use futures::FutureExt;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_server_that_is_never_restarted_never_has_an_old_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SimClock::new(Timestamp(1_795_000_000_000));
        let subject = || Subject {
            grid: GridId([3; 16]),
            server: "alpha".parse().unwrap(),
            names: Default::default(),
        };
        let key = GridKey::create(dir.path()).unwrap();
        let first = Identity::found(dir.path(), &subject(), clock.now(), &key).unwrap();
        let renewal = Renewal::of(&first).unwrap();
        let directory = dir.path().to_path_buf();
        let key = Some(Arc::new(key));
        let work = keep(renewal, directory, subject, key, Arc::new(clock.clone()));
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
}
