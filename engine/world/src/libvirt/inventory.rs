//! What there is: every domain, by calls that no guest can hold up.
//!
//! libvirt answers these from its own memory, also while a QEMU process stands still (measured; statistics and
//! metadata calls would wait for it).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use coppice_schema::known::PowerState;
use coppice_schema::units::Timestamp;
use uuid::Uuid;
use virt::domain::{
    Domain as VirtDomain, DomainPausedReason, DomainShutoffReason, DomainState, DomainStateReason,
};
use virt::enumutil::Enum;
use virt::error::{Error, ErrorNumber};
use virt::sys::VIR_DOMAIN_XML_INACTIVE;

use super::link::Link;
use super::process;
use super::read::{Description, read};
use super::threads::locked;
use super::viewers::Clients;
use crate::hypervisor::{Domain, HypervisorError, Written};

/// What is remembered between looks, by domain.
#[derive(Default)]
pub(super) struct Memory {
    known: Mutex<BTreeMap<Uuid, Remembered>>,
}

#[derive(Default, Clone)]
struct Remembered {
    /// libvirt's number of the present run, and since when it lasts.
    run: Option<(u32, Timestamp)>,
    /// We ended it ourselves past libvirt, which takes that for a crash.
    killed: bool,
}

/// Whose state is looked at.
pub(super) struct Looker<'a> {
    pub(super) link: &'a Link,
    pub(super) memory: &'a Memory,
    pub(super) pid_files: Option<PathBuf>,
    pub(super) local: bool,
}

impl Memory {
    /// Notes that we ended the domain's process.
    pub(super) fn note_killed(&self, uuid: Uuid) {
        locked(&self.known).entry(uuid).or_default().killed = true;
    }

    fn keep_only(&self, present: &[Domain]) {
        locked(&self.known).retain(|uuid, _| present.iter().any(|domain| domain.uuid == *uuid));
    }
}

impl Looker<'_> {
    /// All of them, or an error.
    pub(super) fn list(&self) -> Result<Vec<Domain>, HypervisorError> {
        let connection = self.link.connection()?;
        let all = connection
            .list_all_domains(0)
            .map_err(|error| self.link.away(error.message().to_owned()))?;
        let mut domains = Vec::with_capacity(all.len());
        let clients = Clients::now();
        for domain in all {
            match self.look(&domain, &clients) {
                Ok(seen) => domains.push(seen),
                // It went between the two calls.
                Err(error) if error.code().known() == Some(ErrorNumber::NoDomain) => {}
                Err(error) => return Err(self.link.away(error.message().to_owned())),
            }
        }
        domains.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        self.memory.keep_only(&domains);
        Ok(domains)
    }

    fn look(&self, domain: &VirtDomain, clients: &Clients) -> Result<Domain, Error> {
        let (name, uuid) = (domain.name()?, domain.uuid()?);
        let power = self.power(domain, &name, uuid)?;
        // Of a domain that only runs, this is the form that it runs with.
        let persistent = describe(&domain.xml_desc(VIR_DOMAIN_XML_INACTIVE)?, &name);
        let ours = persistent.filter(|description| description.mark.is_some());
        let live = match power {
            PowerState::Running { .. } | PowerState::Paused(_) if ours.is_some() => {
                describe(&domain.xml_desc(0)?, &name)
            }
            PowerState::Running { .. }
            | PowerState::Paused(_)
            | PowerState::Off
            | PowerState::Crashed => None,
        };
        let written = ours.as_ref().map(|description| Written {
            hostname: description.hostname.clone(),
            hardware: description.hardware.clone(),
            disk: description.disk.clone(),
            // A domain that ended meanwhile shows its persistent form, and is not stale.
            stale_until_reboot: live.as_ref().is_some_and(|live| differs(live, description)),
        });
        let viewers = live.filter(|_| self.local).and_then(|live| {
            let sockets = live.sockets.iter().map(|(_, path)| path.as_path());
            clients.of(sockets)
        });
        Ok(Domain {
            name,
            uuid,
            mark: ours.and_then(|description| description.mark),
            power,
            written,
            viewers,
        })
    }

    /// Whether a domain runs, and since when.
    pub(super) fn power(
        &self,
        domain: &VirtDomain,
        name: &str,
        uuid: Uuid,
    ) -> Result<PowerState, Error> {
        let (state, reason) = domain.state()?;
        // `state` hides a failure behind a number that no state has.
        let state = state.known().ok_or_else(Error::last_error)?;
        let reason = match reason {
            Enum::Known(reason) => Some(reason),
            Enum::Unknown(_) => None,
        };
        Ok(match state {
            DomainState::Running
            | DomainState::Blocked
            | DomainState::NoState
            | DomainState::Shutdown => PowerState::Running {
                since: self.since(domain, name, uuid),
            },
            DomainState::Paused => PowerState::Paused(paused(reason)),
            DomainState::PMSuspended => PowerState::Paused("suspended by the guest".to_owned()),
            DomainState::Crashed => self.ended(uuid, true),
            DomainState::Shutoff => {
                let crashed = match reason {
                    Some(DomainStateReason::Shutoff(reason)) => matches!(
                        reason.known(),
                        // `Daemon`: its process was gone when libvirt came back.
                        Some(DomainShutoffReason::Crashed | DomainShutoffReason::Daemon)
                    ),
                    Some(_) | None => false,
                };
                self.ended(uuid, crashed)
            }
        })
    }

    fn ended(&self, uuid: Uuid, crashed: bool) -> PowerState {
        let mut known = locked(&self.memory.known);
        let killed = known.get_mut(&uuid).is_some_and(|remembered| {
            remembered.run = None;
            remembered.killed
        });
        if crashed && !killed {
            PowerState::Crashed
        } else {
            PowerState::Off
        }
    }

    /// Which start of the domain this is, as its time: from its process where there is one on this machine, and
    /// else the time at which this run was first seen by us (then it is another after a restart of ours).
    fn since(&self, domain: &VirtDomain, name: &str, uuid: Uuid) -> Timestamp {
        let id = domain.id().unwrap_or_default();
        let mut known = locked(&self.memory.known);
        let remembered = known.entry(uuid).or_default();
        remembered.killed = false;
        if let Some((known_id, since)) = remembered.run
            && known_id == id
        {
            return since;
        }
        let process = if self.local {
            process::find(self.pid_files.as_deref(), name, uuid)
        } else {
            None
        };
        let since = process.map_or_else(now, |process| process.since);
        remembered.run = Some((id, since));
        since
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn describe(xml: &str, name: &str) -> Option<Description> {
    match read(xml) {
        Ok(description) => Some(description),
        Err(error) => {
            tracing::warn!(domain = name, %error, "a domain cannot be understood and is taken for another's");
            None
        }
    }
}

fn differs(live: &Description, persistent: &Description) -> bool {
    !persistent.hardware.runs_as(&live.hardware)
        || live.hostname != persistent.hostname
        || live.disk != persistent.disk
}

fn paused(reason: Option<DomainStateReason>) -> String {
    let reason = match reason {
        Some(DomainStateReason::Paused(reason)) => reason.known(),
        Some(_) | None => None,
    };
    let text = match reason {
        Some(DomainPausedReason::IOError) => "input or output failed, such as on a full disk",
        Some(DomainPausedReason::User) => "paused by hand",
        Some(DomainPausedReason::Watchdog) => "its watchdog fired",
        Some(DomainPausedReason::Crashed) => "the guest crashed",
        Some(
            DomainPausedReason::Migration
            | DomainPausedReason::PostCopy
            | DomainPausedReason::PostCopyFailed,
        ) => "being migrated",
        Some(
            DomainPausedReason::Save
            | DomainPausedReason::Dump
            | DomainPausedReason::FromSnapshot
            | DomainPausedReason::Snapshot,
        ) => "being saved or restored",
        Some(DomainPausedReason::StartingUp) => "starting",
        Some(DomainPausedReason::ShuttingDown) => "shutting down",
        Some(DomainPausedReason::APIError) => "a call of the hypervisor failed halfway",
        Some(DomainPausedReason::Unknown) | None => "the hypervisor gives no reason",
    };
    text.to_owned()
}
