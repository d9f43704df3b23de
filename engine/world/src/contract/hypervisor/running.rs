//! Domains that run.

use coppice_schema::units::{Size, Span};
use futures::StreamExt;
use tokio::time::timeout;

use super::{PATIENCE, Subject, is_off, is_running};
use crate::contract::{Outcome, ensure};
use crate::hypervisor::HypervisorError;

pub(super) async fn watch(subject: &Subject) -> Result<(), Outcome> {
    let definition = subject.definition(1)?;
    subject.hypervisor.define(&definition).await?;
    let mut changes = subject.hypervisor.watch();
    subject.hypervisor.start(definition.spec.uuid).await?;
    let woken = timeout(PATIENCE, changes.next()).await;
    ensure!(woken == Ok(Some(())), "the start woke nobody: {woken:?}");
    let mut changes = subject.hypervisor.watch();
    subject.hypervisor.power_off(definition.spec.uuid).await?;
    let woken = timeout(PATIENCE, changes.next()).await;
    ensure!(woken == Ok(Some(())), "the end woke nobody: {woken:?}");
    Ok(())
}

pub(super) async fn since(subject: &Subject) -> Result<(), Outcome> {
    let definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    let first = subject.power(uuid).await?;
    ensure!(is_running(&first), "started, it is {first:?}");
    let again = subject.power(uuid).await?;
    ensure!(first == again, "{first:?} became {again:?} by looking");
    subject.hypervisor.power_off(uuid).await?;
    subject.hypervisor.start(uuid).await?;
    let second = subject.power(uuid).await?;
    ensure!(is_running(&second), "started again, it is {second:?}");
    ensure!(
        first != second,
        "a restart cannot be told from running on: {first:?}"
    );
    Ok(())
}

pub(super) async fn stale(subject: &Subject) -> Result<(), Outcome> {
    let mut definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    let written = || async move {
        let seen = subject.seen(uuid).await?;
        seen.written
            .ok_or_else(|| Outcome::Failed("it is not taken for ours".to_owned()))
    };
    ensure!(
        !written().await?.stale_until_reboot,
        "just started, it is stale"
    );
    definition.mark.stamp.index += 1;
    subject.hypervisor.define(&definition).await?;
    ensure!(
        !written().await?.stale_until_reboot,
        "a new mark makes it stale"
    );
    definition.spec.hardware.disk_limit = Some(Size::gib(1));
    subject.hypervisor.define(&definition).await?;
    ensure!(
        !written().await?.stale_until_reboot,
        "how far its disk may grow makes it stale"
    );
    definition.spec.hardware.cpus = 2;
    subject.hypervisor.define(&definition).await?;
    let told = written().await?;
    ensure!(
        told.hardware.cpus == 2,
        "its persistent form has {} processors",
        told.hardware.cpus
    );
    ensure!(
        told.stale_until_reboot,
        "it runs with other hardware and is not stale"
    );
    ensure!(is_running(&subject.power(uuid).await?), "defining ended it");
    subject.hypervisor.power_off(uuid).await?;
    ensure!(!written().await?.stale_until_reboot, "off, it is stale");
    subject.hypervisor.start(uuid).await?;
    ensure!(
        !written().await?.stale_until_reboot,
        "started again, it is stale"
    );
    Ok(())
}

pub(super) async fn undefine_running(subject: &Subject) -> Result<(), Outcome> {
    let uuid = subject.started(1).await?.spec.uuid;
    let told = subject.hypervisor.undefine(uuid).await;
    ensure!(
        matches!(told, Err(HypervisorError::Refused { .. })),
        "undefining what runs: {told:?}"
    );
    ensure!(
        is_running(&subject.power(uuid).await?),
        "it does not run any more"
    );
    Ok(())
}

pub(super) async fn stop(subject: &Subject) -> Result<(), Outcome> {
    let uuid = subject.started(1).await?.spec.uuid;
    // A guest that has just begun to boot hears neither agent nor button.
    subject.hypervisor.stop(uuid, Span(1)).await?;
    let power = subject.power(uuid).await?;
    ensure!(is_off(&power), "stopped, it is {power:?}");
    Ok(())
}
