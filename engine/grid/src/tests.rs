//! What the promises of this crate are held to.

mod crash;
mod damage;
mod full;
mod grid;
mod replay;
mod simulated;
mod suite;
mod world;
