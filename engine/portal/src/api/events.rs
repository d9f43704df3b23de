//! What happened.

use coppice_schema::ids::Address;
use coppice_schema::units::Timestamp;
use coppice_state::state::Happening;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that happened. `GET events` sends one as data of an event `history` whose id is [`Self::index`];
/// beside them it sends [`super::RunStatus`] as data of an event `run` whenever the run moved, and an event `gap`
/// when what was asked for is no longer kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventRecord {
    /// Counted from 1 in the grid's life.
    pub index: u64,
    /// When.
    #[schema(value_type = u64)]
    pub at: Timestamp,
    /// About what.
    #[schema(value_type = String)]
    pub about: Address,
    /// What.
    #[schema(value_type = Object)]
    pub what: Happening,
}

/// Query of `GET history` and `GET events`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsAfter {
    /// Only events with a higher index. `GET events` without it begins now; `GET history` at the oldest kept.
    #[serde(default)]
    pub after: Option<u64>,
}

/// `GET history`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// Events, the oldest first, at most 500.
    pub events: Vec<EventRecord>,
    /// Events after those that were asked for that are no longer kept.
    pub lost: u64,
    /// Ask with this for the next page; absent: these are the newest.
    pub next: Option<u64>,
}
