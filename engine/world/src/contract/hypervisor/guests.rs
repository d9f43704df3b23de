//! Guests: only where domains boot.

use coppice_schema::desired::Display;
use coppice_schema::known::{Feature, GuestState, PowerState};
use futures::AsyncReadExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::{GENTLE, PATIENCE, Subject};
use crate::contract::{Outcome, ensure};
use crate::hypervisor::{Definition, HypervisorError};

async fn booted(subject: &Subject, definition: &Definition) -> Result<(), Outcome> {
    let uuid = definition.spec.uuid;
    let answers = || async { Ok(subject.hypervisor.ask_guest(uuid).await? != GuestState::Silent) };
    subject.until("the answer of a guest", answers).await
}

pub(super) async fn answers(subject: &Subject) -> Result<(), Outcome> {
    subject.need_guests()?;
    subject.need(Feature::Agent).await?;
    for number in [1, 2] {
        let definition = subject.started(number).await?;
        booted(subject, &definition).await?;
        let told = subject.hypervisor.ask_guest(definition.spec.uuid).await?;
        let expected = &definition.spec.hostname;
        ensure!(
            matches!(&told, GuestState::Answers { hostname, .. } if hostname == expected),
            "{expected} calls itself {told:?}"
        );
    }
    Ok(())
}

pub(super) async fn shuts_down(subject: &Subject) -> Result<(), Outcome> {
    subject.need_guests()?;
    subject.need(Feature::Agent).await?;
    let definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    booted(subject, &definition).await?;
    subject.hypervisor.stop(uuid, GENTLE).await?;
    let power = subject.power(uuid).await?;
    ensure!(
        power == PowerState::Off,
        "shut down by its agent, it is {power:?}"
    );
    let told = subject.hypervisor.ask_guest(uuid).await?;
    ensure!(told == GuestState::Silent, "off, its guest says {told:?}");
    Ok(())
}

pub(super) async fn by_button(subject: &Subject) -> Result<(), Outcome> {
    subject.need_guests()?;
    subject.need(Feature::Agent).await?;
    let definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    booted(subject, &definition).await?;
    subject.means.stop_agent(uuid)?;
    let silent = || async { Ok(subject.hypervisor.ask_guest(uuid).await? == GuestState::Silent) };
    subject.until("the silence of an agent", silent).await?;
    subject.hypervisor.stop(uuid, GENTLE).await?;
    let power = subject.power(uuid).await?;
    ensure!(power == PowerState::Off, "stopped, it is {power:?}");
    ensure!(
        subject.means.shut_down_by_itself(uuid)?,
        "its power was cut without asking it"
    );
    Ok(())
}

pub(super) async fn display(subject: &Subject) -> Result<(), Outcome> {
    subject.need_guests()?;
    let definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    greets(subject, uuid).await?;
    let spice = subject.hypervisor.console(uuid, Display::Spice).await.err();
    let expected = HypervisorError::NoDisplay {
        domain: uuid.to_string(),
        display: Display::Spice,
    };
    ensure!(
        spice == Some(expected),
        "a display that it has not: {spice:?}"
    );
    let picture = subject.hypervisor.screenshot(uuid).await?;
    ensure!(
        picture.starts_with(b"\x89PNG\r\n\x1a\n"),
        "a picture of {} bytes is no PNG",
        picture.len()
    );
    subject.hypervisor.power_off(uuid).await?;
    let off = subject.hypervisor.screenshot(uuid).await;
    ensure!(
        matches!(off, Err(HypervisorError::Refused { .. })),
        "a picture of what is off: {off:?}"
    );
    let off = subject.hypervisor.console(uuid, Display::Vnc).await.err();
    ensure!(
        matches!(off, Some(HypervisorError::Refused { .. })),
        "a console of what is off: {off:?}"
    );
    Ok(())
}

/// RFC 6143, 7.1.1: the server speaks first.
async fn greets(subject: &Subject, uuid: Uuid) -> Result<(), Outcome> {
    let mut console = subject.hypervisor.console(uuid, Display::Vnc).await?;
    let mut greeting = [0; 4];
    let read = timeout(PATIENCE, console.read_exact(&mut greeting)).await;
    ensure!(
        matches!(read, Ok(Ok(()))),
        "the display says nothing: {read:?}"
    );
    ensure!(&greeting == b"RFB ", "the display says {greeting:?}");
    Ok(())
}
