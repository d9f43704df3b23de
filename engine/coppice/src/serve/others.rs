//! The other servers, on the API's port.

use std::sync::Arc;

use coppice_grid::{Grid, wire};
use coppice_portal::Beside;
use coppice_world::hypervisor::ByteStream;
use futures::future::BoxFuture;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

/// Lets the other servers of the grid in.
pub(super) struct Others {
    pub(super) grid: Arc<Grid>,
    /// The handshake in which both sides show who they are.
    pub(super) tls: Arc<ServerConfig>,
}

impl Beside for Others {
    fn protocol(&self) -> &'static str {
        wire::PROTOCOL
    }

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    fn serve(
        &self,
        shown: Vec<CertificateDer<'static>>,
        stream: ByteStream,
    ) -> BoxFuture<'static, ()> {
        self.grid.admit(&shown, stream)
    }
}
