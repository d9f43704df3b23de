//! What a loop waits for between two rounds.

use coppice_schema::units::Span;
use coppice_world::clock::Clock;
use futures::future::{Either, select};
use futures::stream::{BoxStream, StreamExt};

use crate::backoff::spread;

/// Between two full passes that nothing asked for: what every event was missed for is found after that long.
const FULL_PASS: Span = Span::seconds(60);
/// Rounds come no closer than that: entries and domain events come in bursts, and one look serves them all.
const BREATH: Span = Span(200);

/// [`FULL_PASS`] ± 20 %, other for each server and each pass, so that servers do not look in step.
pub(crate) fn full_pass(who: &str, pass: u64) -> Span {
    let fifth = FULL_PASS.0 / 5;
    Span(FULL_PASS.0 - fifth + spread(&format!("{who} {pass}")) % (2 * fifth + 1))
}

/// Waits as long as there must be between two rounds.
pub(crate) async fn breathe(clock: &dyn Clock) {
    clock.sleep(BREATH).await;
}

/// Waits until one of `streams` has something, or until `longest` is over. Streams that ended are left out.
pub(crate) async fn event(clock: &dyn Clock, streams: &mut Streams, longest: Span) {
    let over = clock.sleep(longest);
    match select(over, streams.next()).await {
        // Every stream has ended: only time is left.
        Either::Right((None, over)) => over.await,
        Either::Right((Some(()), _)) | Either::Left(_) => {}
    }
}

/// Several streams that wake.
pub(crate) type Streams = futures::stream::SelectAll<BoxStream<'static, ()>>;
