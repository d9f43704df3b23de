//! The HTTP API of a grid.
//!
//! The portal takes no decisions: it reads the agreed state, shows previews of plans, and turns requests into
//! entries. Everything that crosses the wire is a type in [`api`].

pub mod api;
mod seam;
