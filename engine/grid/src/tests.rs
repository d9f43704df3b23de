//! What the promises of this crate are held to.

mod crash;
mod damage;
mod full;
mod grid;
mod recovery;
mod replay;
mod simulated;
#[path = "../../../tests/skip.rs"]
mod skip;
mod suite;
mod world;
