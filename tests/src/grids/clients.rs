//! Clients: each asks one thing at a time, of whichever server, and remembers what it heard.

use std::sync::Arc;
use std::time::Duration;

use coppice_state::Agreement;
use futures::channel::oneshot;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::Grid;
use super::history::{Asked, Deed, Heard, Key};
use super::lives::{self, true_nanos};
use super::trace::Event;

/// How long a client waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(3_000);

/// Asks until the run is over.
pub async fn client(grid: Arc<Grid>, number: u64) {
    for request in 1u64.. {
        let (think, key, deed, server) = grid.draw(|chance| {
            let key = *chance.pick(&Key::ALL).unwrap_or(&Key::Secret(0));
            let deed = match chance.below(10) {
                0..4 => Deed::Put((number << 32) | request),
                4..6 => Deed::Drop,
                _ => Deed::Read,
            };
            (chance.between(1, 80), key, deed, chance.bits())
        });
        SimRuntime::sleep(Duration::from_millis(think)).await;
        if grid.is_over() {
            return;
        }
        let author = format!("client {number}, request {request}");
        let began = true_nanos();
        let heard = ask(&grid, server, key, deed, author.clone()).await;
        grid.note(Event::Heard {
            author: author.clone(),
            what: format!("{deed:?} {key:?}: {heard:?}"),
        });
        grid.tally(|tally| match heard {
            Heard::Unknown => tally.unknown += 1,
            Heard::Written { .. } => tally.written += 1,
            Heard::Read { .. } => tally.read += 1,
        });
        grid.remember(Asked {
            author,
            key,
            deed,
            began,
            ended: true_nanos(),
            heard,
        });
    }
}

/// Asks one of the servers that are up, which `server` picks.
async fn ask(grid: &Arc<Grid>, server: u64, key: Key, deed: Deed, author: String) -> Heard {
    let there = grid.access_to_any(server);
    SimRuntime::sleep(grid.takes()).await;
    let Some((life, access)) = there else {
        return Heard::Unknown;
    };
    let (sender, answer) = oneshot::channel();
    let back = grid.takes();
    drop(lives::spawn(Some(life), async move {
        let heard = if deed == Deed::Read {
            access
                .read()
                .await
                .map_or(Heard::Unknown, |state| Heard::Read {
                    index: state.index,
                    value: key.value(&state),
                })
        } else {
            let proposed = access.propose(key.entry(deed, author)).await;
            proposed.map_or(Heard::Unknown, |outcome| Heard::of(&outcome))
        };
        drop(lives::spawn(None, async move {
            SimRuntime::sleep(back).await;
            // The client may have stopped waiting.
            drop(sender.send(heard));
        }));
    }));
    let heard = SimRuntime::timeout(PATIENCE, answer).await;
    heard.ok().and_then(Result::ok).unwrap_or(Heard::Unknown)
}
