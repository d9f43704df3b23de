//! Laws of placement, over grids of many servers by chance. What shrinks is the seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "placement/copies.rs"]
mod copies;
#[path = "placement/even.rs"]
mod even;
#[path = "placement/loss.rs"]
mod loss;
#[path = "placement/session.rs"]
mod session;
#[path = "placement/spread.rs"]
mod spread;

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// The same grids every time, so that a failure is the change's own.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 0,
        rng_seed: RngSeed::Fixed(2026),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
