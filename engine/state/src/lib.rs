//! What the replicas of a grid agree on.
//!
//! [`State`] is the whole memory of a grid; [`Entry`] is everything that can happen to it; [`apply()`] is the only
//! way from one to the next. All three are values: no clock, no I/O, no runtime. The same entries in the same
//! order give the same state on every server, today and when replayed next year.

pub mod admission;
pub mod agreement;
pub mod apply;
pub mod backup;
pub mod clocks;
pub mod entry;
pub mod join;
pub mod known;
mod phase;
pub mod secret;
pub mod state;
pub mod token;

pub use agreement::{Agreement, AgreementError, Leadership, Part, Standing};
pub use apply::apply;
pub use entry::{Entry, Envelope, Outcome, Refusal};
pub use state::State;
