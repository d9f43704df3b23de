//! A server's rounds, one after the other.

use std::pin::pin;
use std::sync::Arc;

use coppice_world::clock::Clock;
use futures::future::select;
use futures::stream::{BoxStream, StreamExt};

use super::{Ports, Server, ServerReport, round};
use crate::wake;

/// Runs rounds for ever: whenever the grid's state, the hypervisor, what has come, time or the end of an act asks for one.
///
/// Dropping it is safe at any point. It never ends by itself: what goes wrong is logged and tried again.
pub async fn run(
    mut server: Server,
    ports: Ports,
    arrivals: BoxStream<'static, ()>,
    clock: Arc<dyn Clock>,
) {
    // Watching begins before the first round, so that what happens during it is not missed.
    let mut streams = wake::Streams::new();
    streams.push(ports.agreement.watch().map(|_| ()).boxed());
    streams.push(ports.hypervisor.watch());
    streams.push(arrivals);
    let name = server.memory.name.to_string();
    for pass in 0u64.. {
        let report = round(&mut server, &ports, clock.now(), clock.passed()).await;
        log(&report);
        let slow = wake::full_pass(&name, pass);
        let longest = report.again.map_or(slow, |again| again.min(slow));
        server.along(wake::breathe(clock.as_ref())).await;
        let woken = pin!(wake::event(clock.as_ref(), &mut streams, longest));
        select(pin!(server.landing()), woken).await;
    }
}

fn log(report: &ServerReport) {
    for (stamp, what) in &report.begun {
        tracing::debug!(%stamp, what, "order begun");
    }
    for (stamp, what, attempt) in &report.tried {
        tracing::info!(%stamp, what, ?attempt, "order tried");
    }
    for trouble in &report.trouble {
        tracing::warn!(trouble, "round");
    }
}
