//! The connection to libvirt: opened when it is first needed, and again when it was lost.

use std::sync::Mutex;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorDomain, ErrorNumber};

use super::embedded;
use super::ffi::{Events, Wake, start_event_loop};
use super::threads::locked;
use super::uri::HypervisorUri;
use crate::hypervisor::HypervisorError;

/// Seconds between signs of life of a daemon, and how many may be missed: a daemon that stands still lets go of
/// our threads after this time.
const KEEPALIVE: (i32, u32) = (5, 3);

/// A connection that mends itself. All its calls block.
pub(super) struct Link {
    uri: HypervisorUri,
    wake: Wake,
    open: Mutex<Option<Open>>,
}

struct Open {
    // Before the connection: fields are dropped in order, and events hold on to it.
    _events: Events,
    connection: Connect,
}

impl Link {
    /// Not open yet.
    pub(super) fn new(uri: HypervisorUri, wake: Wake) -> Self {
        Self {
            uri,
            wake,
            open: Mutex::new(None),
        }
    }

    /// Where it leads.
    pub(super) fn uri(&self) -> &HypervisorUri {
        &self.uri
    }

    /// The connection.
    pub(super) fn connection(&self) -> Result<Connect, HypervisorError> {
        let mut open = locked(&self.open);
        if let Some(present) = open.as_ref() {
            if present.connection.is_alive().unwrap_or(false) {
                return Ok(present.connection.clone());
            }
            *open = None;
        }
        let connection = self.connect()?;
        // Drivers inside this process have nothing to keep alive, and say so.
        let _unsupported = connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
        *open = Some(Open {
            _events: Events::watch(&connection, &self.wake),
            connection: connection.clone(),
        });
        drop(open);
        // Whatever happened before nobody was told of.
        self.wake
            .send_modify(|changes| *changes = changes.wrapping_add(1));
        Ok(connection)
    }

    fn connect(&self) -> Result<Connect, HypervisorError> {
        start_event_loop().map_err(|cause| self.away(cause))?;
        if let HypervisorUri::Embedded { root } = &self.uri {
            embedded::claim(root).map_err(|cause| self.away(cause))?;
            embedded::prepare(root).map_err(|error| {
                self.away(format!("cannot prepare {}: {error}", root.display()))
            })?;
        }
        Connect::open(Some(&self.uri.to_string()))
            .map_err(|error| self.away(error.message().to_owned()))
    }

    /// The hypervisor as a whole does not answer.
    pub(super) fn away(&self, cause: String) -> HypervisorError {
        HypervisorError::Away {
            uri: self.uri.to_string(),
            cause,
        }
    }

    /// What a failed call means.
    pub(super) fn failed(&self, what: &'static str, uuid: Uuid, error: &Error) -> HypervisorError {
        let code = error.code().known();
        let lost = error.domain().known() == Some(ErrorDomain::Rpc);
        if code == Some(ErrorNumber::NoDomain) {
            HypervisorError::Absent(uuid)
        } else if lost || code == Some(ErrorNumber::NoConnect) {
            self.away(error.message().to_owned())
        } else {
            HypervisorError::Refused {
                what,
                domain: uuid.to_string(),
                cause: error.message().to_owned(),
            }
        }
    }

    /// A domain by its UUID.
    pub(super) fn domain(
        &self,
        what: &'static str,
        uuid: Uuid,
    ) -> Result<(Connect, Domain), HypervisorError> {
        let connection = self.connection()?;
        let domain = connection
            .lookup_domain_by_uuid(uuid)
            .map_err(|error| self.failed(what, uuid, &error))?;
        Ok((connection, domain))
    }
}
