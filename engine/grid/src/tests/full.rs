//! A disk that is full.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use coppice_state::{Agreement, AgreementError};

use super::skip::skip;
use super::world::{found, open, secret, secrets};

struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn tmpfs(at: &Path, options: &str) -> bool {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .output();
        mount.is_ok_and(|o| o.status.success())
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|s| s.success()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_server_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    if !Mounted::tmpfs(dir.path(), "size=3m,mode=0700") {
        return skip("no tmpfs can be mounted (that needs root), so no disk can be filled");
    }
    let mounted = Mounted(dir.path());
    let data = dir.path().join("data");
    let grid = found(&data).await;
    let mut acked = Vec::new();
    let refused = loop {
        let name = format!("f{}", acked.len());
        match grid.propose(secret(&name, 32 << 10)).await {
            Ok(_) => acked.push(name),
            Err(e) => break e,
        }
        assert!(acked.len() < 200, "3 MiB cannot hold this");
    };
    assert!(acked.len() > 10, "only {} fitted", acked.len());
    let AgreementError::Closed(why) = &refused else {
        panic!("{refused}");
    };
    assert!(
        why.contains("os error 28") || why.contains("code: 28"),
        "{why}"
    );
    let why = grid.failed().await;
    assert!(
        why.contains("os error 28") || why.contains("code: 28"),
        "{why}"
    );
    assert!(grid.shutdown().await.is_err());
    drop(grid);

    // Still full, also where what was cut off was cleared away: it says so, and takes nothing away.
    let mut filler = std::fs::File::create(dir.path().join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    match open(&data).await {
        Err(refused) => {
            let refused = refused.to_string();
            assert!(
                refused.contains("os error 28") || refused.contains("No space left"),
                "{refused}"
            );
            assert!(!refused.contains("rejoin"), "nothing is damaged: {refused}");
        }
        // Rarely the database gives back at its end what it had reserved, and that is enough for a start.
        Ok(grid) => {
            let there = secrets(&grid);
            assert!(acked.iter().all(|name| there.contains(name)));
            drop(grid.shutdown().await);
        }
    }

    assert!(Mounted::tmpfs(dir.path(), "remount,size=64m"));
    let grid = open(&data).await.unwrap();
    let there = secrets(&grid);
    assert!(acked.iter().all(|name| there.contains(name)));
    grid.propose(secret("more", 10)).await.unwrap();
    grid.shutdown().await.unwrap();
    drop(grid);
    drop(mounted);
}
