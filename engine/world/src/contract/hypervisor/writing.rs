//! Writing domains and reading them back.

use std::collections::BTreeSet;

use coppice_schema::desired::{Cache, Display, Firmware, NetworkTarget, Os, Video};
use coppice_schema::known::{Feature, Hardware, PowerState};
use coppice_schema::units::Size;

use super::{Subject, is_off, is_running};
use crate::contract::{Outcome, ensure};
use crate::hypervisor::{Definition, HypervisorError, Written};

pub(super) async fn capacity(subject: &Subject) -> Result<(), Outcome> {
    let capacity = subject.hypervisor.capacity().await?;
    ensure!(capacity.cpus > 0, "no processors");
    ensure!(capacity.memory > Size(0), "no memory");
    ensure!(!capacity.hypervisor.is_empty(), "no name");
    Ok(())
}

/// Hardware that differs from the usual in every field somewhere.
async fn variants(subject: &Subject, usual: &Hardware) -> Result<Vec<Hardware>, Outcome> {
    let displays = if subject.lacks(Feature::Spice).await? {
        BTreeSet::from([Display::Rdp])
    } else {
        BTreeSet::from([Display::Vnc, Display::Spice, Display::Rdp])
    };
    let mut variants = vec![
        usual.clone(),
        Hardware {
            cpus: 3,
            // Not whole in any unit.
            memory: Size((100 << 20) + 1),
            disk: Size(12345),
            disk_limit: Some(Size::gib(7)),
            displays,
            video: Video::Virtio,
            cache: Cache::None,
            os: Os::Windows,
            agent: false,
            ..usual.clone()
        },
        Hardware {
            networks: vec![
                NetworkTarget::User,
                NetworkTarget::Libvirt { network: "default".to_owned(), vlan: None },
                NetworkTarget::Bridge { bridge: "br7".to_owned(), vlan: Some(4094) },
                NetworkTarget::User,
            ],
            displays: BTreeSet::new(),
            os: Os::Other,
            ..usual.clone()
        },
        Hardware {
            networks: vec![NetworkTarget::User],
            libvirt_xml: Some(
                "<domain>\n\t<title>fish &amp; chips</title>\r\n  <devices><interface type='user'/></devices></domain>"
                    .to_owned(),
            ),
            ..usual.clone()
        },
    ];
    for (firmware, feature) in [
        (Firmware::Uefi, Feature::Uefi),
        (Firmware::UefiSecure, Feature::SecureBoot),
    ] {
        if !subject.lacks(feature).await? {
            variants.push(Hardware {
                firmware,
                ..usual.clone()
            });
        }
    }
    Ok(variants)
}

async fn reads_back(
    subject: &Subject,
    definition: &Definition,
    stale: bool,
) -> Result<(), Outcome> {
    let seen = subject.seen(definition.spec.uuid).await?;
    ensure!(
        seen.mark.as_ref() == Some(&definition.mark),
        "the mark reads {:?}, not {:?}",
        seen.mark,
        definition.mark
    );
    let expected = Written {
        hostname: definition.spec.hostname.clone(),
        hardware: definition.spec.hardware.clone(),
        disk: definition.overlay.clone(),
        stale_until_reboot: stale,
    };
    ensure!(
        seen.written.as_ref() == Some(&expected),
        "it reads {:#?}, not {expected:#?}",
        seen.written
    );
    Ok(())
}

pub(super) async fn round_trip(subject: &Subject) -> Result<(), Outcome> {
    let usual = subject.definition(1)?;
    for (number, hardware) in (1..).zip(variants(subject, &usual.spec.hardware).await?) {
        let mut definition = subject.definition(number)?;
        definition.spec.hardware = hardware;
        subject.hypervisor.define(&definition).await?;
        reads_back(subject, &definition, false).await?;
        let power = subject.power(definition.spec.uuid).await?;
        ensure!(
            power == PowerState::Off,
            "a domain that was only defined is {power:?}"
        );
    }
    Ok(())
}

pub(super) async fn redefine(subject: &Subject) -> Result<(), Outcome> {
    let mut definition = subject.definition(1)?;
    let usual = definition.spec.hardware.clone();
    for (number, hardware) in (1..).zip(variants(subject, &usual).await?) {
        definition.spec.hardware = hardware;
        definition.spec.hostname = format!("renamed-{number}");
        definition.mark.stamp.index += 1;
        subject.hypervisor.define(&definition).await?;
        reads_back(subject, &definition, false).await?;
    }
    Ok(())
}

pub(super) async fn repeated(subject: &Subject) -> Result<(), Outcome> {
    let definition = subject.definition(1)?;
    let uuid = definition.spec.uuid;
    for _ in 0..2 {
        subject.hypervisor.define(&definition).await?;
        reads_back(subject, &definition, false).await?;
    }
    subject.hypervisor.start(uuid).await?;
    let first = subject.power(uuid).await?;
    ensure!(is_running(&first), "started, it is {first:?}");
    subject.hypervisor.start(uuid).await?;
    subject.hypervisor.define(&definition).await?;
    reads_back(subject, &definition, false).await?;
    let second = subject.power(uuid).await?;
    ensure!(
        first == second,
        "starting what runs changed {first:?} to {second:?}"
    );
    for _ in 0..2 {
        subject.hypervisor.power_off(uuid).await?;
        let power = subject.power(uuid).await?;
        ensure!(is_off(&power), "without power it is {power:?}");
    }
    subject.hypervisor.stop(uuid, super::GENTLE).await?;
    for _ in 0..2 {
        subject.hypervisor.undefine(uuid).await?;
        ensure!(
            subject.find(uuid).await?.is_none(),
            "undefined, it is still listed"
        );
    }
    Ok(())
}

pub(super) async fn two_lives(subject: &Subject) -> Result<(), Outcome> {
    let first = subject.definition(1)?;
    let second = subject.of_life(1, 2, subject.grid)?;
    subject.hypervisor.define(&first).await?;
    let told = subject.hypervisor.define(&second).await;
    ensure!(
        matches!(told, Err(HypervisorError::Refused { .. })),
        "a second life was not refused: {told:?}"
    );
    reads_back(subject, &first, false).await?;
    subject.hypervisor.undefine(first.spec.uuid).await?;
    subject.hypervisor.define(&second).await?;
    reads_back(subject, &second, false).await
}

pub(super) async fn nothing_left(subject: &Subject) -> Result<(), Outcome> {
    let definition = subject.started(1).await?;
    let uuid = definition.spec.uuid;
    subject.hypervisor.power_off(uuid).await?;
    subject.hypervisor.undefine(uuid).await?;
    let left = subject.means.leftovers(uuid);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
