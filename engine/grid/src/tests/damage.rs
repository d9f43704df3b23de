//! Files that are not as they were written: found, or harmless; never a silent loss.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_state::Agreement;

use super::world::{found, open, scratch, secret, secrets};
use crate::GridError;
use crate::directory::{Directory, DirectoryError};
use crate::log::{Log, LogError};
use crate::snapshots::SnapshotError;
use crate::types::Real;

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Cuts a journal to `length`; it is created longer than it is filled.
fn cut(journal: &Path, length: usize) {
    let file = fs::OpenOptions::new().write(true).open(journal).unwrap();
    file.set_len(length as u64).unwrap();
}

fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

fn journal(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jnl"))
        .collect();
    files.sort();
    files.pop().expect("a journal")
}

/// What became of a log: refused, or open with this last entry.
async fn last(dir: &Path) -> Result<Option<u64>, String> {
    let directory = Directory::open(dir, None).map_err(|e| e.to_string())?.0;
    let log = Log::<Real>::open(&Arc::new(directory), |why| panic!("{why}"))
        .map_err(|e| e.to_string())?;
    let (_, last) = log.bounds();
    log.close().await.unwrap();
    Ok(last.map(|id| id.index()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_in_the_log_loses_anything_in_silence() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    for n in 0..40 {
        grid.propose(secret(&format!("n{n}"), 40)).await.unwrap();
    }
    let end = grid.local().index;
    grid.abandon().await;
    let used = used(&fs::read(journal(dir.path())).unwrap());
    cut(&journal(dir.path()), used);
    let (mut refused, mut harmless) = (0, 0);
    // A prime step meets heads, bodies and tails of records alike.
    for at in (0..used).step_by((used / 90).max(1) | 1) {
        let place = scratch();
        copy(dir.path(), place.path());
        let file = journal(place.path());
        let mut bytes = fs::read(&file).unwrap();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&file, bytes).unwrap();
        match last(place.path()).await {
            Ok(found) => {
                assert_eq!(
                    found,
                    Some(end),
                    "byte {at} of {used} lost entries in silence"
                );
                harmless += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "no flip was noticed ({harmless} harmless)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_tail_is_noticed_and_says_what_to_do() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    for n in 0..20 {
        grid.propose(secret(&format!("n{n}"), 500)).await.unwrap();
    }
    grid.abandon().await;
    let file = journal(dir.path());
    let bytes = fs::read(&file).unwrap();
    cut(&file, used(&bytes) - 2_000);
    let refused = open(dir.path()).await.err().unwrap();
    let GridError::Log(LogError::TailLost { mark, .. }) = &refused else {
        panic!("{refused}");
    };
    // A person accepts the loss: what is left is a whole prefix.
    fs::remove_file(mark).unwrap();
    let grid = open(dir.path()).await.unwrap();
    let left = secrets(&grid).len();
    assert!((10..20).contains(&left), "{left}");
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_record_that_nobody_was_told_of_is_dropped() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    for n in 0..20 {
        grid.propose(secret(&format!("n{n}"), 500)).await.unwrap();
    }
    let before = grid.local().index;
    grid.abandon().await;
    // Half a record behind the last one.
    let file = journal(dir.path());
    let mut bytes = fs::read(&file).unwrap();
    let end = used(&bytes);
    let half = bytes[end - 700..end - 350].to_vec();
    bytes.truncate(end);
    bytes.extend(half);
    fs::write(&file, bytes).unwrap();
    match last(dir.path()).await {
        Ok(found) => assert_eq!(found, Some(before)),
        Err(why) => assert!(why.contains("cannot be opened"), "{why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_under_a_founded_grid_is_noticed() {
    let dir = scratch();
    found(dir.path()).await.shutdown().await.unwrap();
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Log(LogError::TailLost { .. })),
        "{refused}"
    );
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(dir.join("snapshots")).unwrap();
    let mut files: Vec<_> = items.map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

fn halve(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_falls_back_to_the_one_before_and_the_log() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    let mut middle = 0;
    for n in 0..30 {
        grid.propose(secret(&format!("n{n}"), 40)).await.unwrap();
        if n % 10 == 9 {
            grid.replica().snapshot().await.unwrap();
        }
        if n == 19 {
            middle = grid.local().index;
        }
    }
    // As the settings do it: no further than to the snapshot before the newest.
    grid.replica()
        .raft()
        .trigger()
        .purge_log(middle)
        .await
        .unwrap();
    grid.propose(secret("last", 40)).await.unwrap();
    let lived = secrets(&grid);
    grid.abandon().await;
    let files = snapshots(dir.path());
    assert_eq!(files.len(), 2, "the newest and the one before are kept");

    halve(&files[1]);
    let grid = open(dir.path()).await.unwrap();
    assert_eq!(secrets(&grid), lived);
    grid.abandon().await;

    halve(&files[0]);
    let refused = open(dir.path()).await.err().unwrap();
    let GridError::Snapshot(SnapshotError::Unconnected { needed, found, .. }) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*needed, middle);
    assert!(found.contains("damaged"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_byte_of_a_snapshot_is_found() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    grid.propose(secret("one", 40)).await.unwrap();
    let covered = {
        grid.replica().snapshot().await.unwrap();
        grid.local().index
    };
    grid.replica()
        .raft()
        .trigger()
        .purge_log(covered)
        .await
        .unwrap();
    grid.propose(secret("two", 40)).await.unwrap();
    grid.abandon().await;
    let file = snapshots(dir.path()).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let directory = Arc::new(Directory::open(dir.path(), None).unwrap().0);
    let log = Log::<Real>::open(&directory, |why| panic!("{why}")).unwrap();
    let (purged, _) = log.bounds();
    assert_eq!(purged.map(|id| id.index()), Some(covered));
    log.close().await.unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&file, bytes).unwrap();
        let opened = crate::snapshots::SnapshotFiles::open(&directory, purged);
        assert!(
            matches!(opened, Err(SnapshotError::Unconnected { .. })),
            "byte {at} of {}",
            whole.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_is_refused_and_left_alone() {
    let dir = scratch();
    found(dir.path()).await.shutdown().await.unwrap();
    let file = snapshots(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[43] = 9;
    let digest = coppice_schema::Digest::of(&bytes[40..]).0;
    bytes[8..40].copy_from_slice(&digest);
    fs::write(&file, bytes).unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(
            refused,
            GridError::Snapshot(SnapshotError::Newer { form: 9, .. })
        ),
        "{refused}"
    );

    // A newer version's file may say things that this one does not know.
    #[derive(serde::Serialize)]
    struct Newer {
        version: u32,
        shards: Vec<u8>,
    }
    let newer = Newer {
        version: 2,
        shards: vec![1],
    };
    let format = dir.path().join("format");
    let mut bytes = Vec::new();
    ciborium::into_writer(&newer, &mut bytes).unwrap();
    fs::write(&format, bytes).unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(
            refused,
            GridError::Directory(DirectoryError::Newer { found: 2, .. })
        ),
        "{refused}"
    );
    fs::write(&format, b"\xff\xff").unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(
            refused,
            GridError::Directory(DirectoryError::Damaged { .. })
        ),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founding_that_was_cut_short_is_begun_again_and_a_foreign_log_is_not_touched() {
    let dir = scratch();
    // As far as a founding gets before its last step, and as it begins.
    found(dir.path()).await.shutdown().await.unwrap();
    fs::rename(dir.path().join("format"), dir.path().join("founding")).unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Directory(DirectoryError::NoGrid(_))),
        "{refused}"
    );
    let grid = found(dir.path()).await;
    assert_eq!(grid.local().grid, Some(super::world::GRID));
    grid.shutdown().await.unwrap();
    drop(grid);

    fs::remove_file(dir.path().join("format")).unwrap();
    let refused = open(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Directory(DirectoryError::Unclaimed(_))),
        "{refused}"
    );
    let refused = Directory::claim(dir.path()).err().unwrap();
    assert!(matches!(refused, DirectoryError::Unclaimed(_)), "{refused}");
    assert!(dir.path().join("log").exists());
}
