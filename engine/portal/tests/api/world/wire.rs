//! A wire from one world to another, as between two servers of a grid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coppice_portal::{App, passed_on, router};
use coppice_schema::ids::ServerId;
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{PeerError, Peers, Purpose, Serves};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::World;

/// Reaches one other server, whatever number is asked for.
pub(crate) struct Wire {
    serves: Arc<dyn Serves>,
    /// How many streams were opened.
    pub(crate) opened: AtomicU32,
}

impl World {
    /// From now on requests can be passed on to `other`.
    pub(crate) fn reach(&mut self, other: &Self) -> Arc<Wire> {
        let wire = Arc::new(Wire {
            serves: passed_on(other.app.clone()),
            opened: AtomicU32::new(0),
        });
        self.app = App {
            peers: Arc::clone(&wire) as _,
            ..self.app.clone()
        };
        self.router = router(self.app.clone());
        wire
    }
}

impl Peers for Wire {
    fn connect(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        assert_eq!(purpose, Purpose::Consoles);
        self.opened.fetch_add(1, Ordering::SeqCst);
        let (mine, theirs) = tokio::io::duplex(1 << 12);
        tokio::spawn(self.serves.serve(server, Box::pin(theirs.compat())));
        ready(Ok(Box::pin(mine.compat()) as ByteStream)).boxed()
    }
}
