//! An authority that signs by saying so.

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::units::Timestamp;
use coppice_state::admission::{Admission, AdmissionError};
use coppice_state::authority::{Authority, Successor};
use futures::future::{BoxFuture, FutureExt, ready};

pub(crate) struct Gate;

/// A signing request of the key called `key`.
pub(crate) fn request_of(key: &str) -> String {
    format!("request of {key}")
}

impl Admission for Gate {
    fn authority(&self) -> String {
        "the authority".to_owned()
    }

    fn fingerprint(&self) -> Digest {
        Digest::of(b"the authority")
    }

    fn expires(&self) -> Timestamp {
        Timestamp(u64::MAX)
    }

    fn successor(&self) -> BoxFuture<'_, Result<Successor, AdmissionError>> {
        let authority = |name: &str| Authority {
            key: Digest::of(name.as_bytes()),
            certificate: name.to_owned(),
        };
        ready(Ok(Successor {
            old: authority("the authority"),
            new: authority("the next authority"),
            cross: "the next authority, by the authority".to_owned(),
            sealed: b"its key".to_vec(),
        }))
        .boxed()
    }

    fn speaks(&self) -> std::ops::RangeInclusive<u32> {
        3..=5
    }

    fn examine(&self, request: &str) -> Result<Digest, AdmissionError> {
        let key = request.strip_prefix("request of ");
        key.map(|key| Digest::of(key.as_bytes()))
            .ok_or_else(|| AdmissionError::Request("it is none".to_owned()))
    }

    fn certify(
        &self,
        request: String,
        server: ServerId,
        names: BTreeSet<String>,
    ) -> BoxFuture<'_, Result<String, AdmissionError>> {
        let names: Vec<String> = names.into_iter().collect();
        ready(Ok(format!(
            "server {server} at {} for {request}",
            names.join(", ")
        )))
        .boxed()
    }

    fn grid_key(&self) -> Option<Vec<u8>> {
        Some(vec![8; 32])
    }
}
