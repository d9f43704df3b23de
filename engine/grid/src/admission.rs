//! The authority's files, as the API asks for them when a machine joins.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId, ServerName};
use coppice_state::admission::{Admission, AdmissionError};
use coppice_world::clock::Clock;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use crate::authority::{AuthorityError, Enrolment, Identity, Subject};
use crate::vault::GridKey;
use crate::wire::{WIRE, WIRE_OLDEST};

/// A member's own files, with which it admits others.
pub struct Gate {
    grid: GridId,
    identity: PathBuf,
    authority: String,
    fingerprint: Digest,
    grid_key: Option<Arc<GridKey>>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    /// The gate of the server whose files are in `directory`. A witness has no grid key, and admits nobody.
    #[must_use]
    pub fn new(
        grid: GridId,
        directory: PathBuf,
        identity: &Identity,
        grid_key: Option<Arc<GridKey>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            grid,
            identity: directory,
            authority: identity.ca_pem().to_owned(),
            fingerprint: identity.ca_fingerprint(),
            grid_key,
            clock,
        }
    }

    fn sign(&self, request: &str, subject: &Subject) -> Result<String, AdmissionError> {
        let grid_key = self.grid_key.as_ref().ok_or_else(no_key)?;
        let now = self.clock.now();
        match Enrolment::certify(&self.identity, grid_key, request, subject, now) {
            Ok(certificate) => Ok(certificate),
            Err(AuthorityError::NoKey) => Err(no_key()),
            Err(e @ (AuthorityError::Name(_) | AuthorityError::Make(_))) => Err(unusable(&e)),
            Err(
                e @ (AuthorityError::Private(_)
                | AuthorityError::Directory(_)
                | AuthorityError::Damaged { .. }
                | AuthorityError::OtherGrid { .. }
                | AuthorityError::Expired { .. }
                | AuthorityError::Sealed(_)
                | AuthorityError::NotOurs(_)
                | AuthorityError::Tls(_)
                | AuthorityError::Random(_)),
            ) => Err(AdmissionError::Failed(e.to_string())),
        }
    }
}

fn no_key() -> AdmissionError {
    AdmissionError::Unreachable("the one that was asked has it not".to_owned())
}

fn unusable(why: &dyn Display) -> AdmissionError {
    AdmissionError::Request(why.to_string())
}

impl Admission for Gate {
    fn authority(&self) -> String {
        self.authority.clone()
    }

    fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    fn speaks(&self) -> RangeInclusive<u32> {
        WIRE_OLDEST..=WIRE
    }

    fn examine(&self, request: &str) -> Result<Digest, AdmissionError> {
        Enrolment::examine(request).map_err(|e| unusable(&e))
    }

    fn certify(
        &self,
        request: String,
        id: ServerId,
        server: ServerName,
        names: BTreeSet<String>,
    ) -> BoxFuture<'_, Result<String, AdmissionError>> {
        let grid = self.grid;
        let subject = Subject {
            grid,
            id,
            server,
            names,
        };
        ready(self.sign(&request, &subject)).boxed()
    }

    fn grid_key(&self) -> Option<Vec<u8>> {
        self.grid_key.as_ref().map(|key| key.for_member())
    }
}
