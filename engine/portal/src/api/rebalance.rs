//! Levelling the load of servers.

use coppice_plans::document::Document;
use coppice_schema::Digest;
use coppice_schema::ids::{DesktopId, ServerName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST rebalance`: let desktops move.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebalanceRequest {
    /// Id of the plan that was shown to a person. When the plan made now is another one, nothing moves.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub expect_plan: Option<Digest>,
    /// What was to move and has not yet stays where it is, and nothing else moves.
    #[serde(default)]
    pub stop: bool,
}

/// Which desktops move to level the load. Only idle pooled ones do, each once another is ready in its place.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rebalance {
    /// Each of them.
    pub moves: Vec<RebalanceMove>,
    /// Those that were to move until now, and have not yet.
    pub before: Vec<RebalanceMove>,
    /// The same as a plan document: what is done first, and what waits for its turn.
    pub document: Document,
}

/// A desktop that moves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RebalanceMove {
    /// It. The one that takes its place has another slot.
    #[schema(value_type = String)]
    pub desktop: DesktopId,
    /// Where it is.
    #[schema(value_type = String)]
    pub from: ServerName,
    /// Where the one that takes its place is grown.
    #[schema(value_type = String)]
    pub to: ServerName,
}
