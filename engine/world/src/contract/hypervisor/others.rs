//! Domains that are not ours, or not there.

use coppice_schema::desired::Display;
use coppice_schema::ids::GridId;
use coppice_schema::units::Span;
use uuid::Uuid;

use super::{Subject, is_off};
use crate::contract::{Outcome, ensure};
use crate::hypervisor::HypervisorError;

pub(super) async fn absent(subject: &Subject) -> Result<(), Outcome> {
    let uuid = Uuid::from_u128(0xab5e_0000_0000_4000_8000_0000_0000_0001);
    let hypervisor = &subject.hypervisor;
    let told = [
        ("start", hypervisor.start(uuid).await.err()),
        ("stop", hypervisor.stop(uuid, Span::seconds(1)).await.err()),
        ("power_off", hypervisor.power_off(uuid).await.err()),
        ("ask_guest", hypervisor.ask_guest(uuid).await.err()),
        (
            "console",
            hypervisor.console(uuid, Display::Vnc).await.err(),
        ),
        ("screenshot", hypervisor.screenshot(uuid).await.err()),
    ];
    for (call, error) in told {
        ensure!(
            error == Some(HypervisorError::Absent(uuid)),
            "{call} of an absent domain: {error:?}"
        );
    }
    Ok(())
}

/// Every changing call is refused and says whose the domain is.
async fn untouched(subject: &Subject, uuid: Uuid, owner: Option<GridId>) -> Result<(), Outcome> {
    let hypervisor = &subject.hypervisor;
    let before = subject.seen(uuid).await?;
    let told = [
        ("start", hypervisor.start(uuid).await.err()),
        ("stop", hypervisor.stop(uuid, Span::seconds(1)).await.err()),
        ("power_off", hypervisor.power_off(uuid).await.err()),
        ("undefine", hypervisor.undefine(uuid).await.err()),
    ];
    let expected = HypervisorError::NotOurs {
        domain: before.name.clone(),
        owner,
    };
    for (call, error) in told {
        ensure!(
            error.as_ref() == Some(&expected),
            "{call} of a domain that is not ours: {error:?}"
        );
    }
    let after = subject.seen(uuid).await?;
    ensure!(
        before == after,
        "it was changed from {before:?} to {after:?}"
    );
    Ok(())
}

pub(super) async fn foreign(subject: &Subject) -> Result<(), Outcome> {
    let uuid = Uuid::from_u128(0xf0e1_0000_0000_4000_8000_0000_0000_0001);
    let ours = subject.definition(1)?;
    let name = ours.spec.member.desktop.to_string();
    subject.means.define_foreign(&name, uuid)?;
    let outcome = async {
        let seen = subject.seen(uuid).await?;
        ensure!(seen.name == name, "its name reads {}", seen.name);
        ensure!(
            seen.mark.is_none() && seen.written.is_none(),
            "it is taken for ours: {seen:?}"
        );
        ensure!(is_off(&seen.power), "only defined, it is {:?}", seen.power);
        let told = subject.hypervisor.define(&ours).await;
        let expected = HypervisorError::NotOurs {
            domain: name.clone(),
            owner: None,
        };
        ensure!(told == Err(expected), "defining over it: {told:?}");
        let mut same = ours.clone();
        same.spec.uuid = uuid;
        let told = subject.hypervisor.define(&same).await;
        ensure!(
            matches!(told, Err(HypervisorError::NotOurs { owner: None, .. })),
            "defining with its UUID: {told:?}"
        );
        untouched(subject, uuid, None).await
    };
    let outcome = outcome.await;
    subject.means.remove_foreign(uuid);
    outcome
}

pub(super) async fn of_another_grid(subject: &Subject) -> Result<(), Outcome> {
    let Some((other, grid)) = &subject.other else {
        return Err(Outcome::Skipped(
            "it was not opened for another grid".to_owned(),
        ));
    };
    let theirs = subject.of_life(1, 1, *grid)?;
    let uuid = theirs.spec.uuid;
    other.define(&theirs).await?;
    let outcome = async {
        let seen = subject.seen(uuid).await?;
        ensure!(
            seen.mark.as_ref() == Some(&theirs.mark),
            "its mark reads {:?}",
            seen.mark
        );
        let ours = subject.definition(1)?;
        let told = subject.hypervisor.define(&ours).await;
        ensure!(
            matches!(told, Err(HypervisorError::NotOurs { owner: Some(owner), .. }) if owner == *grid),
            "defining over it: {told:?}"
        );
        untouched(subject, uuid, Some(*grid)).await
    };
    let outcome = outcome.await;
    other.undefine(uuid).await?;
    outcome
}
