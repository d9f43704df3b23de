//! Faults.

use coppice_schema::known::{Feature, GuestState};
use tokio::time::timeout;

use super::{PATIENCE, Subject, is_off, is_running};
use crate::contract::{Outcome, ensure};
use crate::hypervisor::HypervisorError;

pub(super) async fn killed(subject: &Subject) -> Result<(), Outcome> {
    let uuid = subject.started(1).await?.spec.uuid;
    subject.means.kill(uuid)?;
    let ended = || async { Ok(is_off(&subject.power(uuid).await?)) };
    subject.until("the end of a killed domain", ended).await?;
    subject.hypervisor.start(uuid).await?;
    let power = subject.power(uuid).await?;
    ensure!(is_running(&power), "started again, it is {power:?}");
    Ok(())
}

/// The adapter must answer within its own deadlines, which are shorter than the patience of the checks.
pub(super) async fn hung(subject: &Subject) -> Result<(), Outcome> {
    let uuid = subject.started(1).await?.spec.uuid;
    let other = subject.definition(2)?;
    subject.hypervisor.define(&other).await?;
    if subject.boots {
        let answers =
            || async { Ok(subject.hypervisor.ask_guest(uuid).await? != GuestState::Silent) };
        subject.until("the answer of a guest", answers).await?;
    }
    subject.means.hang(uuid)?;
    let outcome = async {
        let hypervisor = &subject.hypervisor;
        let waits = async {
            (
                hypervisor.screenshot(uuid).await,
                hypervisor.ask_guest(uuid).await,
            )
        };
        let others = async {
            hypervisor.start(other.spec.uuid).await?;
            let power = subject.power(other.spec.uuid).await?;
            ensure!(
                is_running(&power),
                "beside a hung domain another one is {power:?}"
            );
            let hung = subject.power(uuid).await?;
            ensure!(is_running(&hung), "a hung domain is {hung:?}");
            hypervisor
                .power_off(other.spec.uuid)
                .await
                .map_err(Outcome::from)
        };
        let (others, (picture, guest)) = futures::join!(others, waits);
        others?;
        ensure!(picture.is_err(), "a hung domain gave a picture");
        ensure!(
            matches!(
                guest,
                Ok(GuestState::Silent) | Err(HypervisorError::Lacks(_))
            ),
            "a hung guest said {guest:?}"
        );
        let cut = timeout(PATIENCE, hypervisor.power_off(uuid)).await;
        ensure!(
            cut == Ok(Ok(())),
            "cutting the power of a hung domain: {cut:?}"
        );
        let power = subject.power(uuid).await?;
        ensure!(is_off(&power), "without power a hung domain is {power:?}");
        hypervisor.start(uuid).await?;
        Ok(())
    };
    let outcome = outcome.await;
    subject.means.unhang(uuid);
    outcome
}

pub(super) async fn no_disk(subject: &Subject) -> Result<(), Outcome> {
    subject.need(Feature::Disks).await?;
    let mut definition = subject.definition(1)?;
    definition.overlay.set_file_name("there-is-none.qcow2");
    subject.hypervisor.define(&definition).await?;
    let told = subject.hypervisor.start(definition.spec.uuid).await;
    ensure!(
        matches!(told, Err(HypervisorError::Refused { .. })),
        "starting without a disk: {told:?}"
    );
    let power = subject.power(definition.spec.uuid).await?;
    ensure!(is_off(&power), "without a disk it is {power:?}");
    Ok(())
}
