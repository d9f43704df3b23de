//! A server that is killed while it writes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use coppice_state::{Agreement, Outcome};
use futures::stream::{FuturesUnordered, StreamExt};

use super::skip::skip;
use super::world::{acting, again, found, open, secret, secrets};
use crate::GridError;
use crate::directory::DirectoryError;

/// How the writer ends when it is told that the disk failed under it, as a daemon would end.
const DISK_FAILED: i32 = 3;

/// Proposes from several clients at once, for ever, saying on standard output what was acknowledged; a snapshot now
/// and then.
async fn write(dir: &Path) {
    let grid = open(dir).await.unwrap();
    let start = grid.local().index;
    let mut running = FuturesUnordered::new();
    for n in 0u64.. {
        let name = format!("k{start}-{n}");
        let proposal = secret(&name, 200);
        let grid = &grid;
        running.push(async move { (name, grid.propose(proposal).await) });
        if running.len() >= 16 {
            let (name, outcome) = running.next().await.unwrap();
            match outcome {
                Ok(outcome) => assert_eq!(outcome, Outcome::Done),
                Err(_) => std::process::exit(DISK_FAILED),
            }
            let mut out = std::io::stdout().lock();
            writeln!(out, "acked {name}").unwrap();
            out.flush().unwrap();
        }
        if n % 200 == 199 {
            // Whichever of the two hears of the failed disk first.
            if grid.replica().snapshot().await.is_err() {
                std::process::exit(DISK_FAILED);
            }
        }
    }
}

fn acked(line: &str) -> Option<String> {
    // The test runner may have printed something before it on the same line.
    line.rsplit_once("acked ").map(|(_, name)| name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_survives_kill_9() {
    if let Some(dir) = acting() {
        return write(&dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    found(dir.path()).await.shutdown().await.unwrap();
    let mut all = Vec::new();
    for round in 0..6 {
        let mut child = again(
            "tests::crash::whatever_was_acknowledged_survives_kill_9",
            dir.path(),
            &[],
        )
        .spawn()
        .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok).filter_map(|l| acked(&l));
        // At another point of each round; between and amid snapshots.
        let before = all.len();
        all.extend(lines.by_ref().take(20 + round * 137));
        assert!(all.len() > before, "the writer said nothing");
        child.kill().unwrap();
        // What it said before it died counts too.
        all.extend(lines);
        child.wait().unwrap();

        let grid = open(dir.path()).await.unwrap();
        let there = secrets(&grid);
        let lost: Vec<_> = all.iter().filter(|name| !there.contains(name)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        if round % 2 == 0 {
            grid.shutdown().await.unwrap();
        } else {
            grid.abandon().await;
        }
    }
}

/// Writes as `test` under `strace`, which lets syncs fail as `inject` says, and sees that the directory is not opened
/// again before a person accepts it, and that nothing acknowledged is lost then.
async fn fails_and_is_not_trusted(test: &str, trace: &[&str], dir: &Path, doing: &str) {
    let mut through = vec!["strace", "-f", "-qq", "-o", "/dev/null"];
    through.extend(trace);
    let mut child = again(test, dir, &through).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let all: Vec<_> = lines
        .map_while(Result::ok)
        .filter_map(|l| acked(&l))
        .collect();
    let status = child.wait().unwrap();
    assert_eq!(
        status.code(),
        Some(DISK_FAILED),
        "the writer was not told that its disk failed"
    );

    let refused = open(dir).await.err().unwrap();
    let GridError::Directory(DirectoryError::Suspect { file, why, .. }) = &refused else {
        panic!("{refused}");
    };
    assert!(
        why.starts_with(doing) && why.contains("os error 5"),
        "{why}"
    );
    // Accepted by a person; nothing acknowledged was lost, since the disk is whole after all.
    std::fs::remove_file(file).unwrap();
    let grid = open(dir).await.unwrap();
    let there = secrets(&grid);
    assert!(!all.is_empty() && all.iter().all(|name| there.contains(name)));
    grid.shutdown().await.unwrap();
}

fn can_trace() -> bool {
    let there = std::process::Command::new("strace").arg("-V").output();
    if there.is_err() {
        skip("strace is not installed, so no sync can be made to fail");
    }
    there.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_failed_never_comes_back_as_if_nothing_had_happened() {
    if let Some(dir) = acting() {
        return write(&dir).await;
    }
    if !can_trace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    found(dir.path()).await.shutdown().await.unwrap();
    // Counted in each thread: the log's writer is the first to sync so often.
    let trace = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=40+"];
    fails_and_is_not_trusted(
        "tests::crash::a_server_whose_disk_failed_never_comes_back_as_if_nothing_had_happened",
        &trace,
        dir.path(),
        "writing the log: ",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_may_not_last_is_not_trusted_either() {
    if let Some(dir) = acting() {
        return write(&dir).await;
    }
    if !can_trace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    found(dir.path()).await.shutdown().await.unwrap();
    let snapshots = dir.path().join("snapshots");
    // Its name may be lost with the power, and by then the log behind it would be cut.
    let trace = [
        "-P",
        snapshots.to_str().unwrap(),
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=EIO",
    ];
    fails_and_is_not_trusted(
        "tests::crash::a_snapshot_that_may_not_last_is_not_trusted_either",
        &trace,
        dir.path(),
        "writing a snapshot: ",
    )
    .await;
}
