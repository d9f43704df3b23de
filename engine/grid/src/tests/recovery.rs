//! Grids that go on from a backup, or from one server's log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use coppice_schema::ids::{Epoch, Kin};
use coppice_schema::units::Timestamp;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::{Agreement, Entry, Leadership, Outcome, Refusal, State};
use openraft::impls::BasicNode;
use openraft::{ChangeMembers, async_runtime::WatchReceiver};

use super::world::{GRID, Hands, found, open, scratch, secret, secrets};
use crate::directory::DirectoryError;
use crate::{Grid, GridError};

fn recovery(state: &State, from: Origin, name: &str, raft_id: u64, chance: u64) -> Recovery {
    Recovery {
        epoch: state.epoch.next(chance),
        from,
        server: NewServer {
            name: name.parse().unwrap(),
            raft_id,
            api: "127.0.0.1:8443".to_owned(),
        },
        off: BTreeSet::new(),
        author: "test".to_owned(),
    }
}

/// A server of a grid of two voters, of which the other never comes: it holds acknowledged entries, and one that nobody
/// agreed on.
async fn left_alone(dir: &Path) {
    let grid = found(dir).await;
    for n in 0..20 {
        grid.propose(secret(&format!("n{n}"), 40)).await.unwrap();
    }
    let raft = grid.replica().raft().clone();
    let other = BasicNode {
        addr: "127.0.0.1:1".to_owned(),
    };
    raft.add_learner(2, other, false).await.unwrap();
    // Not waited for: it is never agreed on, and is in the log all the same.
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([2]));
    let before = raft.metrics().borrow_watched().last_log_index;
    let changing = tokio::spawn(async move { raft.change_membership(change, true).await });
    let raft = grid.replica().raft().clone();
    let mut metrics = raft.metrics();
    while metrics.borrow_watched().last_log_index <= before {
        metrics.changed().await.unwrap();
    }
    grid.abandon().await;
    changing.abort();
}

async fn alone(dir: &Path, chance: u64) -> Arc<State> {
    let survey = Grid::survey(dir).await.unwrap();
    let recovery = recovery(&survey.state, Origin::Log, "alpha", survey.raft_id, chance);
    Grid::recover(dir, Hands::at(3_000), recovery)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_left_alone_goes_on_from_its_own_log() {
    let dir = scratch();
    left_alone(dir.path()).await;
    let survey = Grid::survey(dir.path()).await.unwrap();
    assert_eq!(survey.voters, BTreeSet::from([1, 2]));
    assert!(!survey.is_alone() && !survey.may_lack());
    assert_eq!(survey.state.secrets.len(), 20);

    let state = alone(dir.path(), 7).await;
    assert_eq!(
        state.epoch,
        Epoch {
            number: 2,
            recovery: 7
        }
    );
    let after = Grid::survey(dir.path()).await.unwrap();
    assert!(after.is_alone());
    assert!(after.last.0 > survey.last.0 && after.last.1 > survey.last.1);
    // It agrees by itself, and has lost nothing.
    let grid = open(dir.path()).await.unwrap();
    assert!(matches!(grid.leadership(), Leadership::Here { .. }));
    assert_eq!(
        grid.propose(secret("more", 40)).await.unwrap(),
        Outcome::Done
    );
    assert_eq!(secrets(&grid).len(), 21);
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_cut_short_is_begun_again() {
    let dir = scratch();
    left_alone(dir.path()).await;
    let survey = Grid::survey(dir.path()).await.unwrap();
    let first = recovery(&survey.state, Origin::Log, "alpha", 1, 7);
    // The process is gone as soon as it is written: nothing was started.
    let opened = crate::recovery::open(dir.path()).await.unwrap();
    crate::recovery::write(&opened, Timestamp(3_000), first.clone())
        .await
        .unwrap();
    opened.log.close().await.unwrap();
    drop(opened);
    // The same again does not fit any more: that life has begun. It only has to be started.
    let refused = Grid::recover(dir.path(), Hands::at(3_000), first).await;
    assert!(matches!(
        refused,
        Err(GridError::Refused(Refusal::Exists(_)))
    ));
    let grid = open(dir.path()).await.unwrap();
    assert_eq!(grid.local().epoch.recovery, 7);
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_recovered_know_that_they_are_apart() {
    let (here, there) = (scratch(), scratch());
    left_alone(here.path()).await;
    left_alone(there.path()).await;
    let (mine, theirs) = (alone(here.path(), 7).await, alone(there.path(), 8).await);
    assert_eq!(mine.kin(theirs.epoch), Kin::Split);
    assert_eq!(theirs.kin(mine.epoch), Kin::Split);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_runs_is_in_the_way() {
    let dir = scratch();
    let grid = found(dir.path()).await;
    let refused = Grid::survey(dir.path()).await.err().unwrap();
    assert!(
        matches!(refused, GridError::Directory(DirectoryError::InUse(_))),
        "{refused}"
    );
    grid.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_goes_on_from_a_backup_in_another_life() {
    let (dir, other) = (scratch(), scratch());
    let grid = found(dir.path()).await;
    for n in 0..20 {
        grid.propose(secret(&format!("n{n}"), 40)).await.unwrap();
    }
    let kept = grid.read().await.unwrap().as_ref().clone();
    grid.propose(secret("later", 40)).await.unwrap();
    grid.shutdown().await.unwrap();

    let raft_id = coppice_state::join::raft_id(kept.epoch.next(5), kept.index + 1);
    let from = Origin::Backup { keys: true };
    let begun = recovery(&kept, from, "beta", raft_id, 5);
    let target = other.path().join("grid");
    let state = Grid::restore(&target, Hands::at(9_000), kept.clone(), begun.clone())
        .await
        .unwrap();
    assert_eq!(state.epoch.number, 2);
    let names: BTreeMap<_, _> = state
        .servers
        .values()
        .map(|s| (s.name.to_string(), s.raft_id))
        .collect();
    assert_eq!(names["beta"], raft_id);
    // Never twice, and never over what is there.
    let refused = Grid::restore(&target, Hands::at(9_000), kept.clone(), begun).await;
    assert!(matches!(
        refused,
        Err(GridError::Directory(DirectoryError::Occupied {
            grid: GRID,
            ..
        }))
    ));
    let grid = open(&target).await.unwrap();
    assert_eq!(grid.raft_id(), raft_id);
    assert_eq!(
        secrets(&grid).len(),
        20,
        "and not what came after the backup"
    );
    // Indexes go on, so that no generation is given twice.
    assert!(grid.local().index > kept.index);
    assert_eq!(grid.propose(Entry::Tick).await.unwrap(), Outcome::Done);
    grid.abandon().await;
    let grid = open(&target).await.unwrap();
    assert_eq!(secrets(&grid).len(), 20);
    grid.shutdown().await.unwrap();
}
