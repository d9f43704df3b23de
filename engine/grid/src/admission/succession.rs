//! What a server does when one authority takes over from another: it makes its own files what is agreed on, and says so.

use coppice_state::admission::AdmissionError;
use coppice_state::authority::{Step, Successor};
use coppice_state::{Entry, Outcome};

use super::{Gate, MutexGuard, PoisonError, files, unreachable};
use crate::authority::{self, AuthorityError, Identity};

impl Gate {
    /// Makes the authority's files here what is agreed on; whether they were something else. What is shown and trusted
    /// changes when the identity is opened again.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn follow(&self) -> Result<bool, AuthorityError> {
        let state = self.0.agreement.local();
        let Some(wanted) = state.authorities.wanted() else {
            return Ok(false);
        };
        let _hand = self.hand();
        authority::follow(&self.0.identity, self.0.grid_key.as_deref(), &wanted)
    }

    /// Whether another authority takes over at present.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.0.agreement.local().authorities.rotation.is_some()
    }

    /// Tells the grid what this server trusts and shows by now, where a change of authority waits for that. Whether it
    /// waits for this server still.
    pub async fn tell(&self, identity: &Identity) -> bool {
        let state = self.0.agreement.local();
        let Some(rotation) = &state.authorities.rotation else {
            return false;
        };
        let key = rotation.successor.new.key;
        let trusted = authority::fingerprints(identity.ca_pem().as_bytes());
        let shows = identity.is_current() && identity.ca_fingerprint() == key;
        let (open, so) = match rotation.step {
            Step::Trust => (&rotation.trust, trusted.contains(&key)),
            Step::Show => (&rotation.show, shows),
        };
        if open.contains(&self.0.me) {
            return false;
        }
        if !so {
            return true;
        }
        let entry = Entry::AuthorityFollowed {
            server: self.0.me,
            key,
            shows,
        };
        match self.0.agreement.propose(entry).await {
            Ok(Outcome::Done | Outcome::Committed { .. } | Outcome::Already { .. }) => false,
            Ok(Outcome::Refused(why)) => {
                tracing::debug!(%why, "the change of authority went on meanwhile");
                false
            }
            Err(error) => {
                tracing::debug!(%error, "the grid does not know yet what this server trusts");
                true
            }
        }
    }

    /// Makes an authority that can take over, where the key of the one that signs is here.
    pub(super) fn succeed(&self) -> Result<Successor, AdmissionError> {
        let grid_key = self.0.grid_key.as_ref();
        let grid_key = grid_key.ok_or_else(|| unreachable("this is a witness"))?;
        let _hand = self.hand();
        let now = self.0.clock.now();
        authority::succeed(&self.0.identity, self.0.grid, now, grid_key).map_err(|e| {
            if matches!(e, AuthorityError::NoKey) {
                unreachable("the one that was asked has it not")
            } else {
                files(&e)
            }
        })
    }

    pub(super) fn hand(&self) -> MutexGuard<'_, ()> {
        self.0.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
