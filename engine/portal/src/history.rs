//! What happened, and what was committed.

use coppice_state::State;

use crate::api::{EventRecord, EventsAfter, HistoryPage, RevisionInfo};
use crate::params::Asked;
use crate::portal::Portal;
use crate::status;

/// Events in one answer.
const PAGE: usize = 500;

/// What happened, the oldest first.
#[utoipa::path(get, path = "/api/v1/history", params(("after" = Option<u64>, Query)), responses(
    (status = 200, body = HistoryPage)))]
pub(crate) async fn history(
    portal: Portal,
    Asked(EventsAfter { after }): Asked<EventsAfter>,
) -> axum::Json<HistoryPage> {
    let state = portal.look().await.state;
    let after = after.unwrap_or(state.forgotten);
    let events = events_after(&state, after, PAGE);
    let newest = newest(&state);
    let next = events
        .last()
        .map(|event| event.index)
        .filter(|last| *last < newest);
    axum::Json(HistoryPage {
        lost: state.forgotten.saturating_sub(after),
        events,
        next,
    })
}

/// Committed configurations, the newest first.
#[utoipa::path(get, path = "/api/v1/revisions", responses((status = 200, body = Vec<RevisionInfo>)))]
pub(crate) async fn revisions(portal: Portal) -> axum::Json<Vec<RevisionInfo>> {
    let state = portal.look().await.state;
    let newest_first = state.revisions.iter().rev();
    let all = newest_first.map(|(revision, record)| RevisionInfo {
        revision: *revision,
        author: record.author.clone(),
        at: record.at,
        plan: record.plan,
        texts: record.texts,
        run: state
            .runs
            .get(revision)
            .map(|run| status::run(&state, *revision, run)),
    });
    axum::Json(all.collect())
}

/// Number of the newest event; 0 before any.
pub(crate) fn newest(state: &State) -> u64 {
    state.forgotten + u64::try_from(state.history.len()).unwrap_or(u64::MAX)
}

/// At most `most` events that come after number `after`, as far as they are kept.
pub(crate) fn events_after(state: &State, after: u64, most: usize) -> Vec<EventRecord> {
    let skip = usize::try_from(after.saturating_sub(state.forgotten)).unwrap_or(usize::MAX);
    let numbers = state.forgotten + 1..;
    let numbered = numbers.zip(&state.history).skip(skip).take(most);
    let each = numbered.map(|(index, event)| EventRecord {
        index,
        at: event.at,
        about: event.about.clone(),
        what: event.what.clone(),
    });
    each.collect()
}
