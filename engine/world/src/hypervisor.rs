//! The port to a hypervisor.

use std::path::Path;
use std::pin::Pin;

use coppice_schema::Digest;
use coppice_schema::desired::Display;
use coppice_schema::ids::{Epoch, GridId, Member, Stamp};
use coppice_schema::known::{Capacity, Feature};
use coppice_schema::known::{DesktopSpec, GuestState, Hardware, PowerState};
use coppice_schema::units::Span;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A hypervisor on this server.
///
/// Guarantees of every adapter, kept by the contract suite:
/// - Each call ends within the adapter's own deadline, also when the hypervisor hangs; then with
///   [`HypervisorError::Away`] or [`HypervisorError::Stuck`]. What it was doing may still come about.
/// - At most one changing call per domain is under way; a second waits for the first.
/// - Each changing call can be repeated: defining what is defined, starting what runs, stopping what is off and
///   undefining what is gone succeed and change nothing.
/// - A domain without our mark is listed and never touched: a call that would have to fails with
///   [`HypervisorError::NotOurs`].
/// - [`list`](Self::list) is whole or fails: a domain that is not in it does not exist.
pub trait Hypervisor: Send + Sync {
    /// What it can carry, and what it is.
    fn capacity(&self) -> BoxFuture<'_, Result<Capacity, HypervisorError>>;

    /// Every domain, ours and others'.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Domain>, HypervisorError>>;

    /// Writes a domain: its persistent form is as told afterwards. A running one goes on with the hardware it has.
    fn define<'a>(&'a self, domain: &'a Definition) -> BoxFuture<'a, Result<(), HypervisorError>>;

    /// Starts a defined domain.
    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Shuts it down: the agent is asked, then ACPI, each for `patience`, then the power goes. An agent that does not
    /// answer a ping within seconds is passed over.
    fn stop(&self, uuid: Uuid, patience: Span) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Cuts its power.
    fn power_off(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Forgets a domain that is off, with what the hypervisor keeps for it (firmware variables, saved state).
    fn undefine(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>>;

    /// Asks the guest. A guest that does not answer in time is [`GuestState::Silent`], not an error.
    fn ask_guest(&self, uuid: Uuid) -> BoxFuture<'_, Result<GuestState, HypervisorError>>;

    /// A stream to a running domain's display.
    fn console(
        &self,
        uuid: Uuid,
        display: Display,
    ) -> BoxFuture<'_, Result<ByteStream, HypervisorError>>;

    /// A picture of its screen, as PNG.
    fn screenshot(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<u8>, HypervisorError>>;

    /// Wakes whenever something may have changed. Several changes may be one; the stream never says what changed:
    /// whoever wakes looks again. It ends when the hypervisor is gone for good.
    fn watch(&self) -> BoxStream<'static, ()>;
}

/// A stream of bytes in both directions.
pub type ByteStream = Pin<Box<dyn Duplex>>;

/// Both directions of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// Who a domain, or an overlay, belongs to: kept in the domain's metadata and beside each overlay. Nothing is ours
/// by its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The grid.
    pub grid: GridId,
    /// Its life when it was made.
    pub epoch: Epoch,
    /// The desktop's life.
    pub member: Member,
    /// Root of the image.
    pub image: Digest,
    /// The order that last wrote it.
    pub stamp: Stamp,
}

/// What is to be defined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// The desktop.
    pub spec: DesktopSpec,
    /// Its mark.
    pub mark: Mark,
    /// Its overlay's path.
    pub overlay: std::path::PathBuf,
}

/// A domain as the hypervisor has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// Its name there.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its mark; `None`: not ours. A mark of another grid is another's.
    pub mark: Option<Mark>,
    /// Whether it runs.
    pub power: PowerState,
    /// The fields that we write, in our words; `None` where `mark` is.
    pub written: Option<Written>,
    /// How many clients have one of its displays open; `None`: that is not known.
    pub viewers: Option<u32>,
}

/// The fields of a domain that we write, read back from what the hypervisor has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Host name given to the guest.
    pub hostname: String,
    /// Hardware of its persistent form.
    pub hardware: Hardware,
    /// Path of its disk.
    pub disk: std::path::PathBuf,
    /// It runs with other hardware than its persistent form has.
    pub stale_until_reboot: bool,
}

/// Why a hypervisor did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HypervisorError {
    /// The hypervisor as a whole does not answer.
    #[error("the hypervisor at {uri} does not answer: {cause}")]
    Away {
        /// Which.
        uri: String,
        /// Why, in its words.
        cause: String,
    },
    /// One domain hangs; the rest may be well.
    #[error("{what} of domain {domain} did not end within {limit}, or an earlier call to it hangs")]
    Stuck {
        /// The operation.
        what: &'static str,
        /// The domain's name or UUID.
        domain: String,
        /// The deadline.
        limit: Span,
    },
    /// It answered, and refused.
    #[error("the hypervisor refused to {what} domain {domain}: {cause}")]
    Refused {
        /// The operation.
        what: &'static str,
        /// The domain's name or UUID.
        domain: String,
        /// Why, in its words.
        cause: String,
    },
    /// A domain without our mark, or with another grid's, stands where ours would.
    #[error("domain {domain} is not ours and is left alone{}", .owner.map(|g| format!(" (it belongs to grid {g})")).unwrap_or_default())]
    NotOurs {
        /// Its name.
        domain: String,
        /// The grid whose mark it carries.
        owner: Option<GridId>,
    },
    /// No such domain.
    #[error("there is no domain {0}")]
    Absent(Uuid),
    /// It cannot do that at all.
    #[error("this hypervisor has no {0:?}")]
    Lacks(Feature),
    /// It has no such display.
    #[error("domain {domain} has no {display:?} display")]
    NoDisplay {
        /// The domain.
        domain: String,
        /// What was asked for.
        display: Display,
    },
}

/// Whether `path` fits into a unix socket's address with room for what hypervisors add below it.
#[must_use]
pub fn short_enough(path: &Path) -> bool {
    // sun_path holds 108 bytes; libvirt adds "/lib/qemu/domain-NNNN-NAME…/monitor.sock", up to 54 of them.
    path.as_os_str().len() <= 54
}
