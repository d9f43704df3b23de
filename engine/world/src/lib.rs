//! The ports to the world, and their adapters, real and simulated side by side.
//!
//! A port says what the rest may rely on; every adapter of it passes the same contract suite. No port retries,
//! decides or remembers: each call is tried once, within its own deadline, and says what happened.

pub mod addresses;
pub mod clock;
pub mod contract;
pub mod disks;
pub mod hypervisor;
pub mod libvirt;
pub mod moves;
pub mod peers;
pub mod replicas;
pub mod sim;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
pub mod stamps;
pub mod watchdog;
