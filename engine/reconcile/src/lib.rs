//! The two rounds that move a grid: the leader's, which decides, and each server's, which carries out.
//!
//! Both are level-triggered: whatever woke them, they look at everything again and act on the difference. Both can
//! be cut off at any point, and the next one goes on from what is there. Neither has a clock or a runtime: time is
//! an argument, waiting is the [`Clock`](coppice_world::clock::Clock) port's business.

pub mod address;
pub mod backoff;
pub mod leader;
pub mod lease;
pub mod replicas;
pub mod scrub;
pub mod server;
mod time;
mod wake;
