//! What the promises of this crate are held to.

mod crash;
mod damage;
mod frames;
mod full;
mod grid;
mod lanes;
mod many;
mod recovery;
mod replay;
mod simulated;
mod sites;
#[path = "../../../tests/skip.rs"]
mod skip;
mod strangers;
mod suite;
mod world;
