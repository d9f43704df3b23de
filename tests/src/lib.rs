//! What the tests share: worlds that are made from a seed, the log that their servers agree by, and the judges.
//!
//! Nothing here has a clock, a thread or a network: a seed decides everything, so a failure found once is found
//! again.

pub mod agreement;
pub mod configs;
pub mod fleet;
pub mod grids;
pub mod judge;
pub mod moving;
pub mod plants;
pub mod scenario;
pub mod storm;
pub mod world;
