//! What a server that joins is told of the grid.

use std::collections::BTreeMap;

use coppice_schema::ids::{Epoch, GridId, ServerId};
use serde::{Deserialize, Serialize};

/// What a server that joins a grid is told of it: what it goes by until it has a state of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// The grid.
    pub grid: GridId,
    /// Its life.
    pub epoch: Epoch,
    /// Which member the new server is.
    pub server: ServerId,
    /// Its number in raft.
    pub raft_id: u64,
    /// The members, the new one among them or not.
    pub members: BTreeMap<ServerId, Member>,
}

/// A member, as the others reach it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its number in raft.
    pub raft_id: u64,
    /// Where it answers: `HOST:PORT`.
    pub address: String,
}
