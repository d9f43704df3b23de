//! The other servers: how they reach this one, and how it ends when it is none of them any more.

use std::sync::Arc;

use coppice_grid::wire::PROTOCOL;
use coppice_grid::{Grid, Renewal};
use coppice_portal::Callers;
use coppice_schema::known::ServerState;
use coppice_schema::units::Span;
use coppice_state::Agreement;
use coppice_world::clock::Clock;
use futures::StreamExt;
use futures::future::{Either, select};

use crate::failure::Failure;

/// How long a start waits for the grid's state.
const PATIENCE: Span = Span::seconds(20);

/// What takes the connections of other servers, on the API's port. From now on this server reaches them too.
///
/// # Errors
/// When TLS cannot be set up.
pub(super) fn callers(grid: &Arc<Grid>, certificate: &Renewal) -> Result<Callers, Failure> {
    let tls = grid
        .connect(certificate)
        .map_err(|e| Failure::new("cannot set up the connections to other servers").because(&e))?;
    let grid = Arc::clone(grid);
    Ok(Callers {
        protocol: PROTOCOL,
        tls,
        take: Arc::new(move |shown, stream| grid.admit(&shown, stream)),
    })
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

/// Resolves when this server was removed from the grid.
pub(super) async fn removed(grid: Arc<Grid>) -> Failure {
    let mut watch = grid.watch();
    loop {
        let state = grid.local();
        let mine = |s: &&coppice_state::state::Server| s.raft_id == grid.raft_id();
        let me = state.servers.values().find(mine);
        if let Some(me) = me.filter(|me| me.state == ServerState::Removed) {
            return out(&me.name.to_string(), &grid.id().to_string());
        }
        if watch.next().await.is_none() {
            return futures::future::pending().await;
        }
    }
}

fn out(name: &str, grid: &str) -> Failure {
    Failure::new(format!("server {name} was removed from grid {grid}"))
        .hint("to be a member again it joins anew, in an empty directory: coppice join ADDRESS TOKEN --data DIR")
}
