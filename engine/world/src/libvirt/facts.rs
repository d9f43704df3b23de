//! What a hypervisor can carry, and what it is.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::known::{Capacity, Feature};
use coppice_schema::units::Size;
use virt::connect::Connect;
use virt::error::Error;

use super::Accelerate;
use super::tree::Element;

/// The kind of domain that a connection makes: `kvm`, `qemu`, `test`, …
pub(super) fn kind(driver: &str, accelerate: Accelerate) -> String {
    if driver != "QEMU" {
        return driver.to_lowercase();
    }
    let fast = match accelerate {
        Accelerate::Auto => has_virtualization(),
        Accelerate::Kvm => true,
        Accelerate::Emulated => false,
    };
    if fast { "kvm" } else { "qemu" }.to_owned()
}

/// Whether guests can run on the processor itself. That `/dev/kvm` opens is not enough: there are machines on which
/// it does, and whose processor still cannot run a guest.
fn has_virtualization() -> bool {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = told
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let able = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    able && std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// What the connection's machine can carry. Disk and networks are told by others.
pub(super) fn capacity(connection: &Connect, kind: &str) -> Result<Capacity, Error> {
    let node = connection.node_info()?;
    let driver = connection.driver_type()?;
    let own = connection.hyp_version().map(version)?;
    let library = Connect::version().map(version)?;
    let how = match kind {
        "kvm" => ", accelerated by KVM",
        "qemu" => ", emulated",
        _ => "",
    };
    Ok(Capacity {
        cpus: node.cpus,
        memory: Size(node.memory.saturating_mul(1024)),
        disk: Size(0),
        hypervisor: format!("{driver} {own}, libvirt {library}{how}"),
        missing: missing(connection, kind),
        networks: BTreeMap::new(),
        moves: None,
    })
}

/// How running desktops move between embedded hypervisors like this one: QEMU takes over what the same QEMU sent, and a
/// guest that runs on the processor itself finds the same processor.
pub(super) fn moves(connection: &Connect, kind: &str) -> Result<String, Error> {
    let own = connection.hyp_version().map(version)?;
    let processor = match kind {
        "kvm" => processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        _ => "emulated".to_owned(),
    };
    Ok(format!("embedded QEMU {own}, {processor}"))
}

/// The name of the first processor.
fn processor(told: &str) -> String {
    let line = told.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| Some(line.split_once(':')?.1.trim()));
    name.unwrap_or("an unknown processor").to_owned()
}

/// libvirt's numbers are major × 1,000,000 + minor × 1,000 + patch.
fn version(number: u32) -> String {
    format!(
        "{}.{}.{}",
        number / 1_000_000,
        number / 1_000 % 1_000,
        number % 1_000
    )
}

fn missing(connection: &Connect, kind: &str) -> BTreeSet<Feature> {
    let all = [
        Feature::Uefi,
        Feature::SecureBoot,
        Feature::Spice,
        Feature::Agent,
        Feature::Disks,
    ];
    if kind == "test" {
        // libvirt's test driver keeps domains as XML and runs nothing.
        return all.into();
    }
    // UEFI needs the machine type that we use it with.
    let told = connection.domain_capabilities(None, Some("x86_64"), Some("q35"), Some(kind), 0);
    let told = told.ok().and_then(|xml| Element::parse(&xml).ok());
    let mut missing = told.map_or_else(
        || BTreeSet::from([Feature::Uefi, Feature::SecureBoot, Feature::Spice]),
        |told| not_told(&told),
    );
    if kind != "kvm" && kind != "qemu" {
        missing.insert(Feature::Agent);
    }
    missing
}

/// <https://libvirt.org/formatdomaincaps.html>
fn not_told(capabilities: &Element) -> BTreeSet<Feature> {
    let has = |path: &[&str], list: &str, value: &str| {
        capabilities.find(path).is_some_and(|element| {
            let mut lists = element
                .all("enum")
                .filter(|e| e.attribute("name") == Some(list));
            lists.any(|list| list.all("value").any(|v| v.text() == value))
        })
    };
    let efi = has(&["os"], "firmware", "efi");
    let present = [
        (Feature::Uefi, efi),
        (
            Feature::SecureBoot,
            efi && has(&["os", "loader"], "secure", "yes"),
        ),
        (
            Feature::Spice,
            has(&["devices", "graphics"], "type", "spice"),
        ),
    ];
    present
        .into_iter()
        .filter(|(_, present)| !present)
        .map(|(feature, _)| feature)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_capabilities_do_not_tell_is_missing() {
        let full = "<domainCapabilities><os><enum name='firmware'><value>efi</value></enum><loader><enum name='secure'>\
            <value>yes</value></enum></loader></os><devices><graphics><enum name='type'><value>spice</value></enum>\
            </graphics></devices></domainCapabilities>";
        assert_eq!(not_told(&Element::parse(full).unwrap()), BTreeSet::new());
        let bios = full.replace("efi", "bios").replace("spice", "vnc");
        let expected = BTreeSet::from([Feature::Uefi, Feature::SecureBoot, Feature::Spice]);
        assert_eq!(not_told(&Element::parse(&bios).unwrap()), expected);
    }

    #[test]
    fn an_order_to_emulate_is_obeyed_and_other_drivers_have_their_own_kind() {
        assert_eq!(kind("QEMU", Accelerate::Emulated), "qemu");
        assert_eq!(kind("QEMU", Accelerate::Kvm), "kvm");
        assert_eq!(kind("TEST", Accelerate::Kvm), "test");
        assert_eq!(version(7_002_022), "7.2.22");
    }
}
