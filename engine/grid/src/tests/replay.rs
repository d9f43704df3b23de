//! The same entries give the same state, whichever way they come back.

use std::sync::Arc;

use coppice_schema::ids::Address;
use coppice_schema::units::Timestamp;
use coppice_state::{Agreement, Entry, State};
use futures::stream;
use openraft::RaftLogReader;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use super::world::{GRID, found, founding, open, secret};
use crate::directory::Directory;
use crate::log::Log;
use crate::machine::{Machine, Snapshot};
use crate::memory::MemoryDisk;
use crate::snapshots::SnapshotFiles;
use crate::types::{LogEntry, Real};

fn varied(n: u64) -> Entry {
    match n % 5 {
        0 => secret(&format!("s{}", n % 7), 20),
        1 => Entry::TokenCreated {
            id: coppice_state::token::TokenId(format!("t{}", n % 9)),
            token: founding(GRID).token.1,
            author: "test".to_owned(),
        },
        2 => Entry::Paused {
            address: Address::Pool("lab".parse().unwrap()),
            until: Some(Timestamp(n * 100)),
            author: "test".to_owned(),
        },
        3 => Entry::SecretRemoved {
            name: format!("s{}", n % 4).parse().unwrap(),
            author: "test".to_owned(),
        },
        _ => Entry::Tick,
    }
}

async fn applied(from: Option<Snapshot>, entries: &[LogEntry]) -> (Machine<Real>, Arc<State>) {
    let mut machine = Machine::new(
        Arc::new(MemoryDisk::<Real>::new(1, std::time::Duration::ZERO).snapshots()),
        from,
    );
    let entries: Vec<_> = entries.iter().map(|e| Ok((e.clone(), None))).collect();
    machine.apply(stream::iter(entries)).await.unwrap();
    let state = machine.published().state();
    (machine, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_log_and_any_snapshot_with_its_tail_give_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let grid = found(dir.path()).await;
    for n in 0..120 {
        grid.propose(varied(n)).await.unwrap();
    }
    let lived = grid.local();
    grid.abandon().await;

    let directory = Arc::new(Directory::open(dir.path(), None).unwrap().0);
    let mut log = Log::<Real>::open(&directory, |why| panic!("{why}")).unwrap();
    let entries = log.try_get_log_entries(..).await.unwrap();
    let (_, replayed) = applied(None, &entries).await;
    assert_eq!(replayed.digest(), lived.digest());

    for cut in [1, 2, 40, 77, entries.len()] {
        // Through a file, as a start does it.
        let (mut machine, _) = applied(None, &entries[..cut]).await;
        let snapshot = machine
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await
            .unwrap();
        let place = tempfile::tempdir().unwrap();
        let claimed = Arc::new(Directory::claim(place.path()).unwrap());
        let (files, none) = SnapshotFiles::open(&claimed, None).unwrap();
        assert!(none.is_none());
        let snapshot = Snapshot {
            meta: snapshot.meta,
            state: snapshot.snapshot,
        };
        crate::machine::Snapshots::save(&files, snapshot)
            .await
            .unwrap();
        let (_, from_file) = SnapshotFiles::open(&claimed, None).unwrap();
        let (_, state) = applied(from_file, &entries[cut..]).await;
        assert_eq!(state.digest(), lived.digest(), "cut at {cut}");
    }
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_a_newer_feature_level_is_never_moved_on() {
    let newer = Arc::new(State {
        feature_level: coppice_state::state::FEATURE_LEVEL + 1,
        ..State::default()
    });
    let entry = LogEntry {
        log_id: openraft::testing::log_id::<Real>(1, 1, 0),
        payload: openraft::EntryPayload::Blank,
    };
    let meta = crate::types::SnapshotMeta::default();
    let store = Arc::new(MemoryDisk::<Real>::new(1, std::time::Duration::ZERO).snapshots());
    let mut machine = Machine::<Real>::new(store.clone(), None);
    let refused = machine
        .install_snapshot(&meta, newer.clone())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("start a newer version"),
        "{refused}"
    );
    assert_eq!(machine.published().state().feature_level, 0);

    let snapshot = Snapshot { meta, state: newer };
    let mut machine = Machine::<Real>::new(store, Some(snapshot));
    let refused = machine
        .apply(stream::iter([Ok((entry, None))]))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("start a newer version"),
        "{refused}"
    );
}

/// A snapshot is begun, a newer one is installed meanwhile, and the first one is finished. What the machine has, and what
/// `kept` then finds where snapshots are kept, is the newer one.
async fn overtaken(store: Arc<dyn crate::machine::Snapshots>, kept: impl Fn() -> Option<Snapshot>) {
    let entry = |index| LogEntry {
        log_id: openraft::testing::log_id::<Real>(1, 1, index),
        payload: openraft::EntryPayload::Blank,
    };
    let mut machine = Machine::<Real>::new(store, None);
    let all = (0..4).map(|index| Ok((entry(index), None)));
    machine.apply(stream::iter(all)).await.unwrap();
    let mut slow = machine.get_snapshot_builder().await;
    let meta = crate::types::SnapshotMeta {
        last_log_id: Some(entry(9).log_id),
        ..Default::default()
    };
    let state = Arc::new(State {
        index: 9,
        ..State::default()
    });
    machine.install_snapshot(&meta, state).await.unwrap();
    slow.build_snapshot().await.unwrap();
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, meta.last_log_id);
    assert_eq!(kept().unwrap().meta.last_log_id, meta.last_log_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_took_long_never_replaces_a_newer_one() {
    let disk = MemoryDisk::<Real>::new(1, std::time::Duration::ZERO);
    overtaken(Arc::new(disk.snapshots()), || disk.snapshot()).await;

    let place = tempfile::tempdir().unwrap();
    let claimed = Arc::new(Directory::claim(place.path()).unwrap());
    let (files, _) = SnapshotFiles::open(&claimed, None).unwrap();
    overtaken(Arc::new(files), || {
        SnapshotFiles::open(&claimed, None).unwrap().1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_needs_only_the_snapshot_and_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let grid = found(dir.path()).await;
    for n in 0..60 {
        grid.propose(varied(n)).await.unwrap();
    }
    grid.replica().snapshot().await.unwrap();
    let covered = grid.local().index;
    grid.replica()
        .raft()
        .trigger()
        .purge_log(covered)
        .await
        .unwrap();
    for n in 60..80 {
        grid.propose(varied(n)).await.unwrap();
    }
    let lived = grid.local();
    grid.abandon().await;
    let grid = open(dir.path()).await.unwrap();
    assert_eq!(grid.log().bounds().0.map(|id| id.index()), Some(covered));
    let state = grid.local();
    assert_eq!(state.secrets, lived.secrets);
    assert_eq!(state.tokens, lived.tokens);
    assert_eq!(state.history, lived.history);
    grid.shutdown().await.unwrap();
}
