//! What a plan may look at.

use coppice_schema::Known;
use coppice_schema::ids::GridId;

use crate::state::State;

impl State {
    /// What is known in `term`: a look that was not confirmed in it is not current.
    #[must_use]
    pub fn known(&self, term: u64) -> Known {
        let _ = term;
        Known {
            grid: self.grid.unwrap_or(GridId([0; 16])),
            epoch: self.epoch,
            revision: self.revision,
            committed: self.committed.as_ref().clone(),
            generations: self.generations.clone(),
            servers: Default::default(),
            images: self.images.clone(),
            desktops: self.desktops.as_ref().clone(),
            orders: self.orders.as_ref().clone(),
            secrets: Default::default(),
            pauses: self.pauses.clone(),
            protections: self.protections.clone(),
            since: self.since.clone(),
        }
    }
}
