//! Starting and stopping.

use std::time::Duration;

use coppice_schema::known::PowerState;
use coppice_schema::units::Span;
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use virt::error::ErrorNumber;
use virt::sys::{VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, VIR_DOMAIN_SHUTDOWN_GUEST_AGENT};

use super::gate::Way;
use super::moves::Status;
use super::process;
use super::read::{Connection, read};
use super::{Libvirt, duration};
use crate::hypervisor::HypervisorError;

/// How often a domain is looked at while it is waited for. Events come sooner; this covers those that are lost.
const GLANCE: Duration = Duration::from_millis(500);

impl Libvirt {
    pub(super) async fn start_domain(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.is_not_on_its_way(uuid).await?;
        let shared = self.shared.clone();
        let result = self
            .change(
                "start",
                uuid,
                self.shared.limits.start,
                move |_, domain| match shared.looker().power(domain, &domain.name()?, uuid)? {
                    PowerState::Running { .. } => Ok(()),
                    PowerState::Paused(_) => domain.resume().map(|_| ()),
                    PowerState::Off | PowerState::Crashed => domain.create().map(|_| ()),
                },
            )
            .await;
        match result {
            // Somebody else was faster.
            Err(HypervisorError::Refused { .. }) if self.runs(uuid).await == Ok(true) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn stop_domain(
        &self,
        uuid: Uuid,
        patience: Span,
    ) -> Result<(), HypervisorError> {
        self.own("stop", uuid).await?;
        match self.power_of("stop", uuid).await? {
            PowerState::Off | PowerState::Crashed => return Ok(()),
            // It cannot hear anyone.
            PowerState::Paused(_) => return self.cut_power(uuid).await,
            PowerState::Running { .. } => {}
        }
        // One that hangs would hold up the button, too: libvirt asks it in a changing call.
        if self.agent_answers(uuid).await? {
            let asked = self
                .change(
                    "shut down by the agent of",
                    uuid,
                    self.shared.limits.change,
                    |_, domain| {
                        domain
                            .shutdown_flags(VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
                            .map(|_| ())
                    },
                )
                .await;
            if self.wait_off(uuid, asked, patience).await? {
                return Ok(());
            }
        }
        let asked = self
            .change("shut down", uuid, self.shared.limits.change, |_, domain| {
                domain
                    .shutdown_flags(VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    .map(|_| ())
            })
            .await;
        if self.wait_off(uuid, asked, patience).await? {
            return Ok(());
        }
        self.cut_power(uuid).await
    }

    /// Whether it was off within `patience` after it was asked. If it could not be asked, only whether it is off.
    async fn wait_off(
        &self,
        uuid: Uuid,
        asked: Result<(), HypervisorError>,
        patience: Span,
    ) -> Result<bool, HypervisorError> {
        let patience = match asked {
            Ok(()) => duration(patience),
            Err(error) => {
                tracing::debug!(%uuid, %error, "a gentler way to stop a domain failed");
                Duration::ZERO
            }
        };
        self.comes_off(uuid, patience).await
    }

    /// Waits until it is off, at most for `patience`.
    async fn comes_off(&self, uuid: Uuid, patience: Duration) -> Result<bool, HypervisorError> {
        let end = Instant::now() + patience;
        let mut changes = self.shared.wake.subscribe();
        loop {
            match self.power_of("stop", uuid).await? {
                PowerState::Off | PowerState::Crashed => return Ok(true),
                PowerState::Running { .. } | PowerState::Paused(_) => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Late or changed: look again either way.
            let _either = timeout(left.min(GLANCE), changes.changed()).await;
        }
    }

    pub(super) async fn cut_power(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.own("power off", uuid).await?;
        let destroyed = self
            .change(
                "power off",
                uuid,
                self.shared.limits.destroy,
                |_, domain| {
                    match domain.destroy() {
                        Err(error)
                            if error.code().known() != Some(ErrorNumber::OperationInvalid) =>
                        {
                            Err(error)
                        }
                        // Invalid: it is off.
                        Ok(_) | Err(_) => Ok(()),
                    }
                },
            )
            .await;
        match destroyed {
            Ok(()) => Ok(()),
            Err(error @ (HypervisorError::Stuck { .. } | HypervisorError::Refused { .. })) => {
                self.kill(uuid, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the domain's process past libvirt, for one that libvirt cannot end: its calls then return at once.
    async fn kill(&self, uuid: Uuid, why: HypervisorError) -> Result<(), HypervisorError> {
        let shared = self.shared.clone();
        let ended = self
            .shared
            .looks
            .call(duration(self.shared.limits.look), move || {
                let (_, domain) = shared.link.domain("power off", uuid).ok()?;
                let name = domain.name().ok()?;
                if !shared.local {
                    return None;
                }
                let process = process::find(shared.pid_files.as_deref(), &name, uuid)?;
                shared.memory.note_killed(uuid);
                process.kill(uuid).ok()
            });
        if let Ok(Some(_)) = ended.await {
            tracing::warn!(%uuid, %why, "a domain that hung was killed");
        }
        let limit = duration(self.shared.limits.destroy);
        if !self.comes_off(uuid, limit).await? {
            return Err(why);
        }
        // libvirt's call ends a little after the process, and until then the next one would be turned away.
        let gate = self.shared.gates.of(uuid);
        gate.opens(Way::Change, limit).await;
        Ok(())
    }

    /// One that stands still because it was sent to another server, or has come from one, goes on by what is decided
    /// about its move, and by nothing else: it would run twice.
    async fn is_not_on_its_way(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        if self.shared.has_no_agents() {
            return Ok(());
        }
        if !matches!(self.power_of("start", uuid).await?, PowerState::Paused(_)) {
            return Ok(());
        }
        let cause = match self.status(uuid).await? {
            Status::Postmigrate | Status::FinishMigrate => "it was sent to another server",
            Status::Inmigrate => "it is coming from another server",
            Status::Paused if !self.is_persistent(uuid).await? => "it has come from another server",
            Status::Paused | Status::Running | Status::Otherwise => return Ok(()),
        };
        Err(HypervisorError::Refused {
            what: "start",
            domain: uuid.to_string(),
            cause: format!("{cause}, and waits for what is decided there"),
        })
    }

    async fn is_persistent(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain("start", uuid)?;
            domain
                .is_persistent()
                .map_err(|error| shared.link.failed("start", uuid, &error))
        })
        .await
    }

    async fn runs(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        Ok(matches!(
            self.power_of("start", uuid).await?,
            PowerState::Running { .. }
        ))
    }

    async fn power_of(
        &self,
        what: &'static str,
        uuid: Uuid,
    ) -> Result<PowerState, HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain(what, uuid)?;
            domain
                .name()
                .and_then(|name| shared.looker().power(&domain, &name, uuid))
                .map_err(|error| shared.link.failed(what, uuid, &error))
        })
        .await
    }

    pub(super) async fn agent_connected(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        Ok(self.live("ask", uuid).await?.agent == Connection::Connected)
    }

    /// What a domain runs with, or would.
    pub(super) async fn live(
        &self,
        what: &'static str,
        uuid: Uuid,
    ) -> Result<super::read::Description, HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain(what, uuid)?;
            let xml = domain
                .xml_desc(0)
                .map_err(|error| shared.link.failed(what, uuid, &error))?;
            read(&xml).map_err(|error| HypervisorError::Refused {
                what,
                domain: uuid.to_string(),
                cause: error.to_string(),
            })
        })
        .await
    }
}
