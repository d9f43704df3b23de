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
    Entry::SecretSet {
        name: name.parse().unwrap(),
        sealed: vec![7; size],
        author: "test".to_owned(),
    }
}
