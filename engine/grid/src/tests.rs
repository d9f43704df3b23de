//! What the promises of this crate are held to.

mod grid;
mod suite;
mod world;
