//! A grid of one server, as its callers see it.

use std::collections::BTreeSet;

use coppice_schema::ids::GridId;
use coppice_schema::units::Timestamp;
use coppice_state::{Agreement, AgreementError, Entry, Leadership, Outcome};
use futures::StreamExt;
use openraft::{EntryPayload, RaftLogReader};

use super::world::{GRID, Hands, found, founding, open, secret};
use crate::directory::DirectoryError;
use crate::{Grid, GridError};

/// The entries that the log of a running grid holds, from its own reader.
pub(super) async fn entries(grid: &Grid) -> Vec<(u64, Timestamp, Entry)> {
    let mut log = grid.log();
    let all = log.try_get_log_entries(..).await.unwrap();
    all.into_iter()
        .filter_map(|e| match e.payload {
            EntryPayload::Normal(p) => Some((e.log_id.index(), p.0.at, p.0.entry)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let grid = found(dir.path()).await;
    assert!(matches!(grid.leadership(), Leadership::Here { .. }));
    for n in 0..20 {
        let outcome = grid.propose(secret(&format!("s{n}"), 10)).await.unwrap();
        assert_eq!(outcome, Outcome::Done);
    }
    let before = grid.read().await.unwrap();
    assert_eq!(before.index, grid.local().index);
    grid.shutdown().await.unwrap();
    assert!(matches!(
        grid.propose(Entry::Tick).await,
        Err(AgreementError::Closed(why)) if why.contains("shut down")
    ));
    assert!(grid.failed().await.contains("shut down"));

    let grid = open(dir.path()).await.unwrap();
    let after = grid.local();
    assert!(
        after.index > before.index,
        "the new leader's own entry is applied"
    );
    assert!(after.term > before.term);
    assert_eq!(after.secrets, before.secrets);
    assert_eq!(after.tokens, before.tokens);
    assert_eq!(after.time, before.time);
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_made_at_once_are_each_applied_once_in_the_order_of_their_times() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(5_000);
    let grid = Grid::found(dir.path(), clock.clone(), founding(GRID))
        .await
        .unwrap();
    let first = grid.local().index;
    let ticking = clock.clone();
    let proposals = (0..500).map(|n| {
        // A clock that jumps to and fro must not show in the log.
        ticking.0.store(
            5_000 + (n * 7_919) % 1_000,
            std::sync::atomic::Ordering::SeqCst,
        );
        grid.propose(secret(&format!("n{n}"), 100))
    });
    let outcomes = futures::future::join_all(proposals).await;
    assert!(outcomes.iter().all(|o| *o == Ok(Outcome::Done)));
    assert_eq!(grid.local().index, first + 500);

    let log = entries(&grid).await;
    let mut names = BTreeSet::new();
    let mut last = Timestamp(0);
    for (_, at, entry) in &log {
        assert!(last <= *at);
        last = *at;
        if let Entry::SecretSet { name, .. } = entry {
            assert!(names.insert(name.clone()), "{name} is there twice");
        }
    }
    assert_eq!(names.len(), 500);
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn time_never_goes_back_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let grid = Grid::found(dir.path(), Hands::at(9_000), founding(GRID))
        .await
        .unwrap();
    grid.shutdown().await.unwrap();
    let grid = Grid::open(dir.path(), Hands::at(4_000), None)
        .await
        .unwrap();
    grid.propose(Entry::Tick).await.unwrap();
    let (_, at, _) = entries(&grid).await.pop().unwrap();
    assert_eq!(at, Timestamp(9_000));
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_hears_of_the_last_entry() {
    let dir = tempfile::tempdir().unwrap();
    let grid = found(dir.path()).await;
    let mut watch = grid.watch();
    for _ in 0..50 {
        grid.propose(Entry::Tick).await.unwrap();
    }
    let wanted = grid.local().index;
    let mut last = 0;
    while last < wanted {
        let index = watch.next().await.unwrap();
        assert!(index > last);
        last = index;
    }
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_one_grids_and_one_processs() {
    let dir = tempfile::tempdir().unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Directory(DirectoryError::NoGrid(_))),
        "{refused}"
    );

    let grid = found(dir.path()).await;
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Directory(DirectoryError::InUse(_))),
        "{refused}"
    );
    grid.shutdown().await.unwrap();
    drop(grid);

    let other = GridId([9; 16]);
    let refused = Grid::open(dir.path(), Hands::at(0), Some(other))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            refused,
            GridError::Directory(DirectoryError::OtherGrid { found: GRID, .. })
        ),
        "{refused}"
    );
    let refused = Grid::found(dir.path(), Hands::at(0), founding(other))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            refused,
            GridError::Directory(DirectoryError::Occupied { grid: GRID, .. })
        ),
        "{refused}"
    );
}
