//! What happens, as it happens: server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use coppice_schema::units::Span;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::{self, BoxStream, Stream};
use serde::Serialize;

use crate::api::{EventsAfter, RunStatus};
use crate::auth::Who;
use crate::history::{events_after, newest};
use crate::params::Asked;
use crate::portal::Portal;
use crate::status;

/// How often a quiet stream shows that it lives.
const HEARTBEAT: Span = Span::seconds(10);
/// Events taken from the state at once.
const BATCH: usize = 200;

/// Events: `history` with an [`EventRecord`](crate::api::EventRecord), `run` with a [`RunStatus`], `gap` when some
/// are no longer kept. Resumes after `Last-Event-ID`, or after `after`; else it begins now.
#[utoipa::path(get, path = "/api/v1/events",
    params(("after" = Option<u64>, Query), ("last-event-id" = Option<u64>, Header)), responses(
    (status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn events(
    portal: Portal,
    who: Who,
    Asked(query): Asked<EventsAfter>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // First the watch, then the state: nothing between the two is missed.
    let watch = portal.app.agreement.watch();
    let header = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let resume = header.and_then(|text| text.trim().parse().ok());
    let state = portal.app.agreement.local();
    let after = resume.or(query.after).unwrap_or_else(|| newest(&state));
    let follower = Follower {
        portal,
        who,
        watch,
        // A number from the grid's earlier life would make it wait for long.
        after: after.min(newest(&state)),
        run: None,
        ready: VecDeque::new(),
        ended: false,
    };
    Sse::new(stream::unfold(follower, Follower::next))
}

struct Follower {
    portal: Portal,
    who: Who,
    watch: BoxStream<'static, u64>,
    after: u64,
    run: Option<RunStatus>,
    ready: VecDeque<Event>,
    /// The grid's state is closed: nothing more will come.
    ended: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            if !self.who.still_welcome(&self.portal) {
                return None;
            }
            self.look();
            if !self.ready.is_empty() {
                continue;
            }
            if self.ended {
                return None;
            }
            let heartbeat = self.portal.app.clock.sleep(HEARTBEAT);
            match select(self.watch.next(), heartbeat).await {
                Either::Left((Some(_), _)) => {}
                Either::Left((None, _)) => self.ended = true,
                Either::Right(_) => self.ready.push_back(Event::default().comment("")),
            }
        }
    }

    /// Takes in what is new in the state.
    fn look(&mut self) {
        let state = self.portal.app.agreement.local();
        if self.after < state.forgotten {
            let lost = state.forgotten - self.after;
            self.ready
                .push_back(event("gap", Some(state.forgotten), &lost));
            self.after = state.forgotten;
        }
        for record in events_after(&state, self.after, BATCH) {
            self.after = record.index;
            self.ready
                .push_back(event("history", Some(record.index), &record));
        }
        let newest = state.runs.last_key_value();
        let run = newest.map(|(revision, run)| status::run(&state, *revision, run));
        if run != self.run {
            if let Some(run) = &run {
                self.ready.push_back(event("run", None, run));
            }
            self.run = run;
        }
    }
}

fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> Event {
    // JSON has no raw line breaks, so it always fits into one event.
    let text = serde_json::to_string(data).unwrap_or_default();
    let event = Event::default().event(name).data(text);
    match id {
        Some(id) => event.id(id.to_string()),
        None => event,
    }
}
