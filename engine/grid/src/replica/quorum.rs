//! Whether a majority answers. Who leads, as a server heard last, says nothing about that: with pre-votes on, the one that
//! is left of two goes on naming the leader that is gone. So it is asked, by a read that a majority must confirm.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coppice_schema::units::Timestamp;
use coppice_state::{Agreement, AgreementError};
use openraft::Instant;
use openraft::type_config::TypeConfigExt;

use super::Replica;
use crate::types::GridTypes;

/// So long nobody may answer before a server says that it is on its own: longer than two elections on a slow machine.
pub const ALONE_AFTER: Duration = Duration::from_secs(10);
/// How often it is asked while all is well,
const ASK_EVERY: Duration = Duration::from_secs(3);
/// and while it is not.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Since when no majority answers; clones are the same one.
#[derive(Clone, Default, Debug)]
pub(super) struct Quorum(Arc<Mutex<Option<Timestamp>>>);

impl Quorum {
    pub(super) fn lost(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Option<Timestamp>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<C: GridTypes> Replica<C> {
    /// Asks for ever whether a majority answers, so that [`Agreement::degraded`] knows. Ends when this replica is closed.
    pub async fn heed(self) {
        let mut last = C::now();
        loop {
            let left = ALONE_AFTER.saturating_sub(C::now().saturating_duration_since(last));
            let asked = C::timeout(left.max(ASK_AGAIN), self.read()).await;
            match asked {
                Ok(Ok(_)) => {
                    last = C::now();
                    self.quorum.set(|lost| {
                        if lost.take().is_some() {
                            tracing::info!("a majority of the grid's voters answers again");
                        }
                    });
                    C::sleep(ASK_EVERY).await;
                }
                Ok(Err(AgreementError::Closed(_))) => return,
                Ok(Err(AgreementError::NoQuorum(_) | AgreementError::TooLarge { .. })) | Err(_) => {
                    if C::now().saturating_duration_since(last) >= ALONE_AFTER {
                        let now = self.clock.now();
                        self.quorum.set(|lost| {
                            if lost.is_none() {
                                *lost = Some(now);
                                tracing::error!(
                                    "no majority of the grid's voters answers: desktops run on here, and nothing can be changed"
                                );
                            }
                        });
                    }
                    C::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}
