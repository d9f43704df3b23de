//! A server that only votes: no hypervisor, no desktops, no API.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_grid::Grid;
use coppice_schema::ids::ServerId;
use coppice_schema::known::{Capacity, ServerState};
use coppice_schema::units::Span;
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::{Agreement, Entry};
use coppice_world::clock::Clock;
use futures::StreamExt;

/// After a failure it is tried again that soon.
const AGAIN: Span = Span::seconds(2);

/// Tells the grid where this witness answers and what it can apply, whenever the grid knows otherwise, or takes it for
/// lost: nothing else says that it is back. Never ends.
pub(super) async fn describe(grid: Arc<Grid>, me: ServerId, api: String, clock: Arc<dyn Clock>) {
    let mut watch = grid.watch();
    loop {
        let state = grid.local();
        let told = state.servers.get(&me).is_none_or(|known| {
            let same = known.api == api && known.feature_level == FEATURE_LEVEL;
            same && !matches!(known.state, ServerState::Joining | ServerState::Lost)
        });
        if told {
            if watch.next().await.is_none() {
                return futures::future::pending().await;
            }
            continue;
        }
        let entry = Entry::ServerDescribed {
            server: me,
            labels: BTreeSet::new(),
            capacity: Capacity::default(),
            api: api.clone(),
            feature_level: FEATURE_LEVEL,
        };
        if let Err(error) = grid.propose(entry).await {
            tracing::debug!(%error, "the grid does not know this witness yet");
            clock.sleep(AGAIN).await;
        }
    }
}
