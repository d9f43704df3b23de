//! History and the event stream.

use axum::body::Body;
use axum::http::{Request, header};
use coppice_portal::api::{EventRecord, HistoryPage};
use coppice_schema::ids::{Address, Revision};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::entry::Entry;
use coppice_state::state::{HISTORY_MAX, Run};
use coppice_state::token::{Scope, TokenId};
use futures::StreamExt;
use tower::ServiceExt;

use crate::world::{World, secret};

/// A stream of events, as a client that reads line by line.
struct Stream {
    body: axum::body::BodyDataStream,
    rest: String,
}

/// One event.
#[derive(Debug, Default, PartialEq)]
struct Told {
    name: String,
    id: Option<u64>,
    data: String,
}

impl Stream {
    async fn open(world: &World, scope: Scope, query: &str, last: Option<u64>) -> Self {
        let request = Request::builder()
            .uri(format!("/api/v1/events{query}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", secret(scope)));
        let request = match last {
            Some(last) => request.header("last-event-id", last),
            None => request,
        };
        let request = request.body(Body::empty()).unwrap();
        let response = world.router.clone().oneshot(request).await.unwrap();
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/event-stream"
        );
        Self {
            body: response.into_body().into_data_stream(),
            rest: String::new(),
        }
    }

    /// The next event; `None` at the end. A comment is an event without a name.
    async fn next(&mut self) -> Option<Told> {
        while !self.rest.contains("\n\n") {
            let part = self.body.next().await?.unwrap();
            self.rest.push_str(std::str::from_utf8(&part).unwrap());
        }
        let (event, rest) = self.rest.split_once("\n\n").unwrap();
        let mut told = Told::default();
        for line in event.lines() {
            match line.split_once(':').unwrap() {
                ("event", name) => told.name = name.trim().to_owned(),
                ("id", id) => told.id = Some(id.trim().parse().unwrap()),
                ("data", data) => told.data = data.trim().to_owned(),
                ("", _) => {}
                other => panic!("{other:?}"),
            }
        }
        self.rest = rest.to_owned();
        Some(told)
    }

    async fn record(&mut self) -> EventRecord {
        let told = self.next().await.unwrap();
        assert_eq!(told.name, "history");
        let record: EventRecord = serde_json::from_str(&told.data).unwrap();
        assert_eq!(told.id, Some(record.index));
        record
    }
}

fn happen(world: &World, n: u32) {
    let address: Address = format!("pool.p{n}").parse().unwrap();
    let author = "test".to_owned();
    world.grid.agree(Entry::Paused {
        address,
        until: None,
        author,
    });
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens_and_resumed_without_a_gap() {
    let world = World::new();
    let before: HistoryPage = world.get(Scope::Viewer, "/history").await;
    let newest = before.events.last().unwrap().index;

    let mut stream = Stream::open(&world, Scope::Viewer, "", None).await;
    happen(&world, 1);
    let first = stream.record().await;
    assert_eq!(
        (first.index, first.about.to_string().as_str()),
        (newest + 1, "pool.p1")
    );
    drop(stream);

    happen(&world, 2);
    happen(&world, 3);
    let mut stream = Stream::open(&world, Scope::Viewer, "", Some(first.index)).await;
    assert_eq!(stream.record().await.about.to_string(), "pool.p2");
    assert_eq!(stream.record().await.about.to_string(), "pool.p3");
    let mut stream = Stream::open(
        &world,
        Scope::Viewer,
        &format!("?after={}", newest + 2),
        None,
    )
    .await;
    assert_eq!(stream.record().await.about.to_string(), "pool.p3");
}

#[tokio::test]
async fn events_that_are_no_longer_kept_are_said_to_be_missing() {
    let world = World::new();
    for n in 0..u32::try_from(HISTORY_MAX).unwrap() + 10 {
        happen(&world, n);
    }
    let forgotten = world.grid.now().forgotten;
    assert!(forgotten > 0);
    let mut stream = Stream::open(&world, Scope::Viewer, "?after=1", None).await;
    let gap = stream.next().await.unwrap();
    assert_eq!((gap.name.as_str(), gap.id), ("gap", Some(forgotten)));
    assert_eq!(gap.data, (forgotten - 1).to_string());
    assert_eq!(stream.record().await.index, forgotten + 1);

    let page: HistoryPage = world.get(Scope::Viewer, "/history?after=1").await;
    assert_eq!((page.lost, page.events.len()), (forgotten - 1, 500));
    let next: HistoryPage = world
        .get(
            Scope::Viewer,
            &format!("/history?after={}", page.next.unwrap()),
        )
        .await;
    assert_eq!(next.events[0].index, page.events[499].index + 1);
    assert_eq!((next.lost, next.next), (0, None));
}

#[tokio::test]
async fn the_run_is_told_whenever_it_moves() {
    let world = World::new();
    world.grid.edit(|state| {
        let run = Run {
            plan: coppice_schema::Digest([1; 32]),
            author: "ada".to_owned(),
            started: Timestamp(5),
            finished: None,
            reviewed: Vec::new(),
            bounds: Default::default(),
            done: 0,
            failed: 0,
        };
        state.runs.insert(Revision(1), run);
    });
    let mut stream = Stream::open(&world, Scope::Viewer, "", None).await;
    let told = stream.next().await.unwrap();
    assert_eq!(told.name, "run");
    assert!(told.data.contains("\"author\":\"ada\""), "{told:?}");
    world
        .grid
        .edit(|state| state.runs.get_mut(&Revision(1)).unwrap().done = 3);
    let told = stream.next().await.unwrap();
    assert!(
        told.name == "run" && told.data.contains("\"done\":3"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_lives() {
    let world = World::new();
    let mut stream = Stream::open(&world, Scope::Viewer, "", None).await;
    let next = stream.next();
    let mut next = std::pin::pin!(next);
    assert!(futures::poll!(next.as_mut()).is_pending());
    world.clock.pass(Span::seconds(10));
    assert_eq!(next.await, Some(Told::default()));
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked() {
    let world = World::new();
    let mut stream = Stream::open(&world, Scope::Viewer, "", None).await;
    let id = TokenId("test-viewer".to_owned());
    world.grid.agree(Entry::TokenRevoked {
        id,
        author: "test".to_owned(),
    });
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_number_that_was_never_given_does_not_hide_what_comes() {
    let world = World::new();
    let mut stream = Stream::open(&world, Scope::Viewer, "?after=18446744073709551615", None).await;
    happen(&world, 1);
    assert_eq!(stream.record().await.about.to_string(), "pool.p1");
}
