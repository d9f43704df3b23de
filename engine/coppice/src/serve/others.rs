//! The other servers: how they reach this one, and how it ends when it is none of them any more.

use std::sync::Arc;

use coppice_grid::{Grid, wire};
use coppice_portal::Beside;
use coppice_schema::known::ServerState;
use coppice_schema::units::Span;
use coppice_state::Agreement;
use coppice_world::clock::Clock;
use coppice_world::hypervisor::ByteStream;
use futures::StreamExt;
use futures::future::{BoxFuture, Either, select};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use crate::failure::Failure;

/// How often it is looked whether this server is still a member.
const LOOK_EVERY: Span = Span::seconds(1);

/// How long a server that is out goes on answering.
const ANSWERS: Span = Span(500);

/// How long a start waits for the grid's state.
const PATIENCE: Span = Span::seconds(20);

/// Lets the other servers of the grid in, on the API's port.
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

/// Waits until this server knows the grid's state: one that has just joined gets it from whoever leads. Not for ever:
/// the others may be down, and then it goes on by itself later.
pub(super) async fn introduced(grid: &Arc<Grid>, clock: &Arc<dyn Clock>) {
    let knows = async {
        let mut watch = grid.watch();
        while grid.local().grid.is_none() && watch.next().await.is_some() {}
    };
    let patience = clock.sleep(PATIENCE);
    if let Either::Right(_) = select(std::pin::pin!(knows), patience).await {
        tracing::warn!(
            "this server has heard nothing from the grid yet; it goes on trying. Do the others reach it? \
             `advertise` in coppice.toml says where they try"
        );
    }
}

/// Resolves when this server was removed from the grid: its own copy of the state says so, or another server does.
pub(super) async fn removed(grid: Arc<Grid>, clock: Arc<dyn Clock>) -> Failure {
    loop {
        // The state is not held while it waits: whoever holds it has every change made on a copy.
        let me = grid
            .local()
            .server_by_raft_id(grid.raft_id())
            .map(|(_, me)| (me.name.clone(), me.state));
        let removed = me
            .as_ref()
            .is_some_and(|(_, part)| *part == ServerState::Removed);
        if removed || grid.expelled() {
            // Whoever asked for it by way of this server, which led until now, is to be answered yet.
            clock.sleep(ANSWERS).await;
            let name = me.map_or_else(String::new, |(name, _)| format!(" {name}"));
            return out(&name, &grid.id().to_string());
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

fn out(name: &str, grid: &str) -> Failure {
    Failure::new(format!("this server{name} was removed from grid {grid}"))
        .hint("to be a member again it joins anew, in an empty directory: coppice join ADDRESS TOKEN --data DIR")
}
