//! Hypervisors through libvirt: embedded QEMU, a daemon's QEMU, its test driver, and whatever else it drives.
//!
//! libvirt's calls block, and some block for as long as a guest does. So every call runs on a thread of ours with a
//! deadline of ours; per domain at most one changing call and one question to the guest is under way; and what
//! tells us what there is uses only calls that no guest can hold up.

mod copying;
mod embedded;
mod facts;
mod ffi;
mod frozen;
mod gate;
mod guest;
mod inventory;
mod leftovers;
mod link;
mod merge;
mod moves;
mod passage;
mod picture;
mod power;
mod process;
mod read;
mod screen;
mod seed;
mod threads;
mod tree;
mod uri;
mod viewers;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coppice_schema::desired::Display;
use coppice_schema::ids::GridId;
use coppice_schema::known::{Capacity, GuestState};
use coppice_schema::units::Span;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain as VirtDomain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use crate::hypervisor::{ByteStream, Definition, Domain, Hypervisor, HypervisorError};
pub(crate) use copying::Copying;
use gate::{Gates, Way};
use inventory::{Looker, Memory};
use link::Link;
pub use passage::{barred, let_pass};
use read::read;
use threads::Threads;
pub use uri::{BadUri, HypervisorUri};
use write::Style;

/// How guests run on QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accelerate {
    /// On the processor where it can, that is where `/proc/cpuinfo` shows `vmx` or `svm` and `/dev/kvm` opens; else
    /// emulated.
    #[default]
    Auto,
    /// On the processor, by KVM; a domain that cannot is refused when it starts.
    Kvm,
    /// Emulated.
    Emulated,
}

/// How a hypervisor is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Whose domains are ours.
    pub grid: GridId,
    /// How guests run.
    pub accelerate: Accelerate,
    /// A directory of ours for the small disks from which guests learn their names. The hypervisor's processes must
    /// be able to read it.
    pub seeds: PathBuf,
    /// Deadlines.
    pub limits: Limits,
}

/// Deadlines of single calls. Each operation ends within the sum of its calls'.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connecting. The first time in an empty directory QEMU is asked what it can do, which takes seconds.
    pub open: Span,
    /// What no guest can hold up.
    pub look: Span,
    /// Changes to one domain, other than the two below.
    pub change: Span,
    /// Starting one.
    pub start: Span,
    /// Cutting the power, before a domain's process is killed.
    pub destroy: Span,
    /// Questions to a guest, two of 5 s each.
    pub ask: Span,
    /// A desktop on its way to another server, as long as nothing of it moves.
    pub stall: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open: Span::seconds(90),
            look: Span::seconds(20),
            change: Span::seconds(30),
            start: Span::seconds(120),
            destroy: Span::seconds(10),
            ask: Span::seconds(12),
            stall: Span::minutes(1),
        }
    }
}

/// Threads for calls that a guest can hold up: as many domains can hang before others wait.
const ACTS: usize = 32;
/// Threads for looks.
const LOOKS: usize = 4;

/// Opens a hypervisor. It ends within `options.limits.open`.
///
/// One that is not there yet is opened nevertheless, as when a server boots and its libvirt daemon comes up after
/// us: it is [`HypervisorError::Away`] in every call until it answers. Not so the embedded one, whose driver starts
/// once in a process or never.
///
/// # Errors
/// [`HypervisorError::Away`] when the embedded one cannot start, when another process has its directory open (the
/// error says who), or when the address is `sim://`, which is not libvirt's.
pub async fn open(uri: &HypervisorUri, options: Options) -> Result<Arc<Libvirt>, HypervisorError> {
    let (wake, _) = watch::channel(0);
    let shared = Arc::new(Shared {
        link: Link::new(uri.clone(), wake.clone()),
        wake,
        memory: Memory::default(),
        gates: Gates::default(),
        visits: moves::Visits::default(),
        acts: Threads::new("libvirt-acts", ACTS),
        looks: Threads::new("libvirt-looks", LOOKS),
        pid_files: uri.pid_files(),
        local: uri.is_local(),
        limits: options.limits.clone(),
        options,
        kind: OnceLock::new(),
    });
    if let HypervisorUri::Sim(_) = uri {
        return Err(shared.link.away("libvirt does not simulate".to_owned()));
    }
    let hypervisor = Libvirt { shared };
    let shared = hypervisor.shared.clone();
    let Limits { open, look, .. } = shared.limits;
    let embedded = matches!(uri, HypervisorUri::Embedded { .. });
    let limit = if embedded { open } else { look };
    let kind = move || shared.kind().map(|_| ());
    let opened = match hypervisor.shared.looks.call(duration(limit), kind).await {
        Ok(opened) => opened,
        Err(_) => Err(hypervisor.shared.late(limit)),
    };
    match opened {
        Err(error) if embedded => Err(error),
        Err(_) | Ok(()) => Ok(Arc::new(hypervisor)),
    }
}

/// The adapter.
pub struct Libvirt {
    shared: Arc<Shared>,
}

/// What calls in threads need.
struct Shared {
    link: Link,
    wake: ffi::Wake,
    memory: Memory,
    gates: Gates,
    visits: moves::Visits,
    acts: Threads,
    looks: Threads,
    pid_files: Option<PathBuf>,
    local: bool,
    limits: Limits,
    options: Options,
    kind: OnceLock<String>,
}

fn duration(span: Span) -> Duration {
    Duration::from_millis(span.0)
}

impl Shared {
    fn looker(&self) -> Looker<'_> {
        Looker {
            link: &self.link,
            memory: &self.memory,
            pid_files: self.pid_files.clone(),
            local: self.local,
        }
    }

    /// The type of our domains.
    fn kind(&self) -> Result<&str, HypervisorError> {
        if let Some(kind) = self.kind.get() {
            return Ok(kind);
        }
        let connection = self.link.connection()?;
        let driver = connection
            .driver_type()
            .map_err(|error| self.link.away(error.message().to_owned()))?;
        Ok(self
            .kind
            .get_or_init(|| facts::kind(&driver, self.options.accelerate)))
    }

    fn has_no_agents(&self) -> bool {
        self.kind
            .get()
            .is_some_and(|kind| kind != "qemu" && kind != "kvm")
    }

    fn late(&self, limit: Span) -> HypervisorError {
        self.link.away(format!("no answer within {limit}"))
    }

    /// Whether a domain carries our grid's mark, or an error that says whose it is.
    fn ours(
        &self,
        what: &'static str,
        uuid: Uuid,
        domain: &VirtDomain,
    ) -> Result<(), HypervisorError> {
        let failed = |error: Error| self.link.failed(what, uuid, &error);
        let xml = domain
            .xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)
            .map_err(failed)?;
        let owner = read(&xml)
            .ok()
            .and_then(|description| description.mark)
            .map(|mark| mark.grid);
        if owner == Some(self.options.grid) {
            return Ok(());
        }
        Err(HypervisorError::NotOurs {
            domain: domain.name().map_err(failed)?,
            owner,
        })
    }

    fn define(&self, definition: &Definition) -> Result<(), HypervisorError> {
        const WHAT: &str = "define";
        let uuid = definition.spec.uuid;
        let name = write::name(definition);
        let refused = |cause: String| HypervisorError::Refused {
            what: WHAT,
            domain: name.clone(),
            cause,
        };
        let connection = self.link.connection()?;
        // Another domain of that name would be refused by libvirt, too; but in its words.
        for found in [
            connection.lookup_domain_by_uuid(uuid),
            connection.lookup_domain_by_name(&name),
        ] {
            match found {
                Ok(domain) => {
                    self.ours(WHAT, uuid, &domain)?;
                    let other = domain
                        .uuid()
                        .map_err(|error| self.link.failed(WHAT, uuid, &error))?;
                    if other != uuid {
                        return Err(refused(format!(
                            "another life of it, {other}, is still defined"
                        )));
                    }
                }
                Err(error) if error.code().known() == Some(ErrorNumber::NoDomain) => {}
                Err(error) => return Err(self.link.failed(WHAT, uuid, &error)),
            }
        }
        let seed =
            seed::write(&self.options.seeds, uuid, &definition.spec.hostname).map_err(|error| {
                refused(format!(
                    "cannot write its seed below {}: {error}",
                    self.options.seeds.display()
                ))
            })?;
        let style = Style {
            kind: self.kind()?.to_owned(),
            seed: Some(seed),
        };
        let written = write::write(definition, &style)
            .map_err(|error| error.to_string())
            .and_then(|xml| {
                connection
                    .define_domain_xml(&xml)
                    .map_err(|error| error.message().to_owned())
            });
        match written {
            Ok(_) => Ok(()),
            Err(cause) => {
                // Nothing is left behind of a domain that never was.
                if connection.lookup_domain_by_uuid(uuid).is_err() {
                    let _kept = seed::remove(&self.options.seeds, uuid);
                }
                Err(refused(cause))
            }
        }
    }

    fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        const WHAT: &str = "undefine";
        match self.link.domain(WHAT, uuid) {
            Ok((_, domain)) => {
                self.ours(WHAT, uuid, &domain)?;
                let failed = |error: Error| self.link.failed(WHAT, uuid, &error);
                if domain.is_active().map_err(failed)? {
                    // libvirt would make it a domain that only runs.
                    return Err(HypervisorError::Refused {
                        what: WHAT,
                        domain: uuid.to_string(),
                        cause: "it is running".to_owned(),
                    });
                }
                forget(&domain).map_err(failed)?;
            }
            Err(HypervisorError::Absent(_)) => {}
            Err(error) => return Err(error),
        }
        seed::remove(&self.options.seeds, uuid).map_err(|error| HypervisorError::Refused {
            what: WHAT,
            domain: uuid.to_string(),
            cause: format!(
                "its seed below {} stays: {error}",
                self.options.seeds.display()
            ),
        })
    }
}

/// Undefines with all that belongs to it, or with as much of that as the driver knows.
fn forget(domain: &VirtDomain) -> Result<(), Error> {
    let most = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let all = most | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_TPM;
    let mut result = Ok(());
    for flags in [all, most, 0] {
        result = domain.undefine_flags(flags);
        match &result {
            Err(error) if unsupported(error) => {}
            Ok(()) | Err(_) => break,
        }
    }
    result
}

fn unsupported(error: &Error) -> bool {
    let code = error.code().known();
    code == Some(ErrorNumber::InvalidArg) || code == Some(ErrorNumber::ArgumentUnsupported)
}

impl Libvirt {
    /// A call that no guest can hold up.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let limit = self.shared.limits.look;
        match self.shared.looks.call(duration(limit), work).await {
            Ok(result) => result,
            Err(_) => Err(self.shared.late(limit)),
        }
    }

    /// A call that a guest can hold up, through its domain's gate.
    async fn through<T: Send + 'static>(
        &self,
        way: Way,
        what: &'static str,
        uuid: Uuid,
        limit: Span,
        work: impl FnOnce(&Shared) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let stuck = || HypervisorError::Stuck {
            what,
            domain: uuid.to_string(),
            limit,
        };
        let gate = self.shared.gates.of(uuid);
        let passage = gate.pass(way, duration(limit)).await.ok_or_else(stuck)?;
        let shared = self.shared.clone();
        let call = self.shared.acts.call(duration(limit), move || {
            let _passage = passage;
            work(&shared)
        });
        match call.await {
            Ok(result) => result,
            Err(_) => {
                gate.note_late(way);
                Err(stuck())
            }
        }
    }

    /// A changing call to a domain of ours.
    async fn change(
        &self,
        what: &'static str,
        uuid: Uuid,
        limit: Span,
        work: impl FnOnce(&Connect, &VirtDomain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), HypervisorError> {
        self.through(Way::Change, what, uuid, limit, move |shared| {
            let (connection, domain) = shared.link.domain(what, uuid)?;
            shared.ours(what, uuid, &domain)?;
            work(&connection, &domain).map_err(|error| shared.link.failed(what, uuid, &error))
        })
        .await
    }

    /// Whether the domain is there and ours; also while it hangs.
    async fn own(&self, what: &'static str, uuid: Uuid) -> Result<(), HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain(what, uuid)?;
            shared.ours(what, uuid, &domain)
        })
        .await
    }
}

impl Hypervisor for Libvirt {
    fn capacity(&self) -> BoxFuture<'_, Result<Capacity, HypervisorError>> {
        let shared = self.shared.clone();
        Box::pin(self.look(move || {
            let connection = shared.link.connection()?;
            let kind = shared.kind()?;
            let failed = |error: Error| shared.link.away(error.message().to_owned());
            let mut capacity = facts::capacity(&connection, kind).map_err(failed)?;
            if matches!(shared.link.uri(), HypervisorUri::Embedded { .. }) {
                capacity.moves = Some(facts::moves(&connection, kind).map_err(failed)?);
            }
            Ok(capacity)
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Domain>, HypervisorError>> {
        self.shared.gates.prune();
        let shared = self.shared.clone();
        Box::pin(self.look(move || shared.looker().list()))
    }

    fn define<'a>(&'a self, domain: &'a Definition) -> BoxFuture<'a, Result<(), HypervisorError>> {
        let definition = domain.clone();
        let limit = self.shared.limits.change;
        Box::pin(self.through(
            Way::Change,
            "define",
            domain.spec.uuid,
            limit,
            move |shared| shared.define(&definition),
        ))
    }

    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.start_domain(uuid))
    }

    fn stop(&self, uuid: Uuid, patience: Span) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.stop_domain(uuid, patience))
    }

    fn power_off(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>> {
        Box::pin(self.cut_power(uuid))
    }

    fn undefine(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), HypervisorError>> {
        let limit = self.shared.limits.change;
        Box::pin(
            self.through(Way::Change, "undefine", uuid, limit, move |shared| {
                shared.undefine(uuid)
            }),
        )
    }

    fn ask_guest(&self, uuid: Uuid) -> BoxFuture<'_, Result<GuestState, HypervisorError>> {
        Box::pin(self.ask(uuid))
    }

    fn console(
        &self,
        uuid: Uuid,
        display: Display,
    ) -> BoxFuture<'_, Result<ByteStream, HypervisorError>> {
        Box::pin(self.open_console(uuid, display))
    }

    fn screenshot(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<u8>, HypervisorError>> {
        Box::pin(self.picture(uuid))
    }

    fn watch(&self) -> BoxStream<'static, ()> {
        let changes = self.shared.wake.subscribe();
        stream::unfold(changes, |mut changes| async move {
            // An error means that the adapter is gone.
            changes.changed().await.ok().map(|()| ((), changes))
        })
        .boxed()
    }
}
