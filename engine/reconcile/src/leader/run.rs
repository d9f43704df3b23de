//! The leader's rounds, one after the other.

use std::sync::Arc;

use coppice_schema::units::Span;
use coppice_state::Agreement;
use coppice_world::clock::Clock;
use futures::future::join;
use futures::stream::StreamExt;

use super::{LeaderReport, round, vigil};
use crate::{backoff, wake};

/// Runs rounds for ever, and the watch over servers beside them, on every server: where it does not lead, a round does nothing. Whatever is agreed wakes
/// it, a deadline, or a slow full pass.
///
/// Dropping it is safe at any point. It never ends by itself: what goes wrong is logged and tried again, later each
/// time.
pub async fn run(agreement: Arc<dyn Agreement>, clock: Arc<dyn Clock>) {
    let watch = vigil::keep(agreement.as_ref(), clock.as_ref());
    join(rounds(&agreement, &clock), watch).await;
}

async fn rounds(agreement: &Arc<dyn Agreement>, clock: &Arc<dyn Clock>) {
    let mut streams = wake::Streams::new();
    streams.push(agreement.watch().map(|_| ()).boxed());
    let mut failures = 0;
    for pass in 0u64.. {
        let now = clock.now();
        let report = round(agreement.as_ref(), now).await;
        log(&report);
        if report.trouble.is_empty() && report.violations.is_empty() {
            failures = 0;
        } else {
            // Also when entries come in: a planner that fails its check would fill the log of the machine.
            clock.sleep(backoff::wait("leader", failures)).await;
            failures = failures.saturating_add(1);
        }
        let slow = wake::full_pass("leader", pass);
        let next = report.next.map(|at| at.since(now).max(Span(1)));
        let longest = next.map_or(slow, |next| next.min(slow));
        wake::breathe(clock.as_ref()).await;
        wake::event(clock.as_ref(), &mut streams, longest).await;
    }
}

fn log(report: &LeaderReport) {
    for what in &report.ordered {
        tracing::info!(what, "ordered");
    }
    for what in &report.withdrawn {
        tracing::warn!(what, "order taken back");
    }
    for server in &report.restored {
        tracing::info!(server, "takes part again");
    }
    for violation in &report.violations {
        tracing::error!(violation, "the plan fails its check; nothing of it is done");
    }
    for trouble in &report.trouble {
        tracing::warn!(trouble, "leader's round");
    }
}
