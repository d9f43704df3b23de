//! What tests have in common.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::Entry;
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_world::clock::Clock;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::{Founding, Grid, GridError};

pub(super) const GRID: GridId = GridId([7; 16]);

/// A clock that stands wherever it is put.
#[derive(Default)]
pub(super) struct Hands(pub(super) AtomicU64);

impl Hands {
    pub(super) fn at(millis: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(millis)))
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, span: Span) -> BoxFuture<'static, ()> {
        self.0.fetch_add(span.0, Ordering::SeqCst);
        futures::future::ready(()).boxed()
    }
}

pub(super) fn founding(grid: GridId) -> Founding {
    Founding {
        grid,
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server: NewServer {
            name: "alpha".parse().unwrap(),
            raft_id: 1,
            api: "127.0.0.1:8443".to_owned(),
        },
        token: (
            TokenId("admin".to_owned()),
            Token {
                hash: Digest::of(b"secret"),
                scope: Scope::Admin,
                created: Timestamp(0),
                expires: None,
            },
        ),
    }
}

pub(super) async fn found(dir: &Path) -> Grid {
    Grid::found(dir, Hands::at(1_000), founding(GRID))
        .await
        .unwrap()
}

pub(super) async fn open(dir: &Path) -> Result<Grid, GridError> {
    Grid::open(dir, Hands::at(2_000), Some(GRID)).await
}

/// An entry that can be told from others, and is `size` bytes and some more.
pub(super) fn secret(name: &str, size: usize) -> Entry {
    let mut sealed = vec![0; size];
    blake3::Hasher::new()
        .update(name.as_bytes())
        .finalize_xof()
        .fill(&mut sealed);
    Entry::SecretSet {
        name: name.parse().unwrap(),
        // Not all alike: the log compresses.
        sealed,
        author: "test".to_owned(),
    }
}

/// The names of the secrets of a state, in order.
pub(super) fn secrets(grid: &Grid) -> Vec<String> {
    let state = coppice_state::Agreement::local(grid);
    state.secrets.keys().map(ToString::to_string).collect()
}

/// Runs `test` of this very binary again as another process, which finds `COPPICE_TEST_DIR` set and acts on it.
pub(super) fn again(test: &str, dir: &Path, through: &[&str]) -> std::process::Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match through.split_first() {
        Some((program, arguments)) => {
            let mut command = std::process::Command::new(program);
            command.args(arguments).arg(this);
            command
        }
        None => std::process::Command::new(this),
    };
    command
        .args([test, "--exact", "--nocapture"])
        .env("COPPICE_TEST_DIR", dir)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped());
    command
}

/// The directory to act on, where this process is one started by [`again`].
pub(super) fn acting() -> Option<std::path::PathBuf> {
    std::env::var_os("COPPICE_TEST_DIR").map(Into::into)
}

/// A directory for tests that are not about durability: in memory, where that is offered.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
