//! Stamps in memory, which outlive the daemon that uses them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coppice_schema::ids::{DesktopId, Stamp};
use futures::future::BoxFuture;

use crate::stamps::{StampError, Stamps};

/// The simulated twin of a file of stamps. Clones are the same memory.
#[derive(Clone, Default, Debug)]
pub struct SimStamps(Arc<Mutex<BTreeMap<DesktopId, Stamp>>>);

impl Stamps for SimStamps {
    fn all(&self) -> BoxFuture<'_, Result<BTreeMap<DesktopId, Stamp>, StampError>> {
        let all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move { Ok(all) })
    }

    fn remember(&self, stamps: Vec<(DesktopId, Stamp)>) -> BoxFuture<'_, Result<(), StampError>> {
        Box::pin(async move {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (slot, stamp) in stamps {
                let last = held.entry(slot).or_default();
                *last = stamp.max(*last);
            }
            Ok(())
        })
    }
}
