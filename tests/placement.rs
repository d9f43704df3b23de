//! Laws of placement, over grids of many servers by chance. What shrinks is the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "placement/spread.rs"]
mod spread;
