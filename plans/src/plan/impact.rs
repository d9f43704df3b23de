//! How much of something an action costs, and whom.

use coppice_schema::units::{Size, Span};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whom an action touches. Absent: nobody, or not known; the estimate says which.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Impact {
    /// Sessions that end at once.
    pub sessions_interrupted: Estimate<u32>,
    /// Sessions that are waited for.
    pub sessions_drained: Estimate<u32>,
    /// People touched.
    pub users: Estimate<u32>,
    /// Bytes of personal disks that are lost.
    #[schema(value_type = Estimate<u64>)]
    pub personal_bytes_lost: Estimate<Size>,
    /// Bytes that move between servers, or into one.
    #[schema(value_type = Estimate<u64>)]
    pub bytes_copied: Estimate<Size>,
    /// How long it takes.
    #[schema(value_type = Estimate<u64>)]
    pub takes: Estimate<Span>,
    /// How long whoever is at it waits, at most, while it stands still.
    #[schema(value_type = Estimate<u64>)]
    pub pause: Estimate<Span>,
}

/// A figure, and how much it can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Estimate<T> {
    /// The figure.
    pub value: T,
    /// Where it is from.
    pub basis: Basis,
}

/// Where a figure is from.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// It follows from what is known.
    #[default]
    Exact,
    /// It was measured before in this grid.
    Measured,
    /// It is a guess.
    Guess,
}
