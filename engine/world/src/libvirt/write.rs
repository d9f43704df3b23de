//! A desktop as a domain of libvirt: <https://libvirt.org/formatdomain.html>.

use std::path::PathBuf;

use coppice_schema::desired::{Cache, Display, Firmware, NetworkTarget, Os, Video};
use coppice_schema::units::Size;
use uuid::Uuid;

use super::merge::{BadFragment, merge};
use super::tree::{Element, Unwritable};
use crate::hypervisor::Definition;

/// The namespace of our mark in a domain's metadata.
pub(super) const NAMESPACE: &str = "urn:coppice:1";

/// The firmware variable from which a guest of QEMU can read its host name.
pub(super) const HOSTNAME_KEY: &str = "opt/io.coppice/hostname";

/// What a hypervisor's kind decides about the form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Style {
    /// The domain's type: `kvm`, `qemu`, `test`, …
    pub(super) kind: String,
    /// The disk that carries the guest's name.
    pub(super) seed: Option<PathBuf>,
}

/// Why a desktop cannot be written as a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDefinition {
    /// `libvirt_xml`.
    #[error(transparent)]
    Fragment(#[from] BadFragment),
    /// A character that XML has not.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// A path that is not text.
    #[error("the path {0:?} is not UTF-8")]
    Path(PathBuf),
}

/// The domain as XML.
pub(super) fn write(definition: &Definition, style: &Style) -> Result<String, BadDefinition> {
    let (spec, hardware) = (&definition.spec, &definition.spec.hardware);
    let mut domain = Element::new("domain").with("type", &style.kind);
    domain.push(Element::new("name").saying(name(definition)));
    domain.push(Element::new("uuid").saying(spec.uuid));
    domain.push(Element::new("metadata").holding(mark(definition)));
    let memory = Element::new("memory").with("unit", "KiB");
    domain.push(memory.saying(written_memory(hardware.memory)));
    domain.push(Element::new("vcpu").saying(hardware.cpus));
    for sysinfo in identity(&spec.hostname, spec.uuid) {
        domain.push(sysinfo);
    }
    domain.push(os(hardware.firmware));
    domain.push(features(hardware.firmware, style));
    if style.kind == "kvm" {
        domain.push(Element::new("cpu").with("mode", "host-passthrough"));
    }
    domain.push(clock(hardware.os));
    domain.push(Element::new("on_poweroff").saying("destroy"));
    domain.push(Element::new("on_reboot").saying("restart"));
    domain.push(Element::new("on_crash").saying("destroy"));
    domain.push(devices(definition, style)?);
    if let Some(fragment) = &hardware.libvirt_xml {
        merge(&mut domain, fragment)?;
    }
    Ok(domain.to_text()?)
}

/// A domain's name: the desktop's. Its lives follow each other under one name.
pub(super) fn name(definition: &Definition) -> String {
    definition.spec.member.desktop.to_string()
}

/// Memory in KiB, in whole MiB, upwards: QEMU takes no other, and libvirt would round it only when it starts.
pub(super) fn written_memory(memory: Size) -> u64 {
    memory.0.div_ceil(1 << 20).saturating_mul(1 << 10)
}

/// The address of a network card: derived, so that it is the same on every definition. Unicast and locally
/// administered (IEEE 802, bits of the first byte); with 40 bits of its own, since every life of a desktop has another
/// one: the 24 behind QEMU's 52:54:00 would repeat within a year on a network of 400 desktops regrown each night.
pub(super) fn mac(uuid: Uuid, index: usize) -> String {
    let mut seed = uuid.as_bytes().to_vec();
    seed.extend(index.to_le_bytes());
    let digest = coppice_schema::Digest::of(&seed).0;
    format!(
        "52:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        digest[0], digest[1], digest[2], digest[3], digest[4]
    )
}

/// Everything that the domain's other elements cannot tell, or not exactly.
fn mark(definition: &Definition) -> Element {
    let (mark, hardware) = (&definition.mark, &definition.spec.hardware);
    let mut element = Element::new("desktop")
        .within(NAMESPACE)
        .with("grid", mark.grid)
        .with("epoch", mark.epoch.number)
        .with("recovery", mark.epoch.recovery)
        .with("member", &mark.member)
        .with("image", mark.image)
        .with("stamp", mark.stamp)
        .with("hostname", &definition.spec.hostname)
        .with("memory", hardware.memory.0)
        .with("disk", hardware.disk.0)
        .with("os", os_name(hardware.os))
        .with("rdp", hardware.displays.contains(&Display::Rdp));
    if let Some(limit) = hardware.disk_limit {
        element.set("disk-limit", limit.0.to_string());
    }
    if let Some(fragment) = &hardware.libvirt_xml {
        element.push(
            Element::new("libvirt-xml")
                .within(NAMESPACE)
                .saying(fragment),
        );
    }
    element
}

pub(super) fn os_name(os: Os) -> &'static str {
    match os {
        Os::Linux => "linux",
        Os::Windows => "windows",
        Os::Other => "other",
    }
}

/// The guest's name, in every place where guests look for it.
fn identity(hostname: &str, uuid: Uuid) -> [Element; 2] {
    let entry = |name: &str, value: String| Element::new("entry").with("name", name).saying(value);
    let firmware = Element::new("sysinfo")
        .with("type", "fwcfg")
        .holding(entry(HOSTNAME_KEY, hostname.to_owned()));
    // The form that cloud-init reads from the serial number.
    let serial = format!("ds=nocloud;h={hostname};i={uuid}");
    let system = Element::new("system").holding(entry("serial", serial));
    [
        firmware,
        Element::new("sysinfo")
            .with("type", "smbios")
            .holding(system),
    ]
}

fn os(firmware: Firmware) -> Element {
    let machine = match firmware {
        Firmware::Bios => "pc",
        Firmware::Uefi | Firmware::UefiSecure => "q35",
    };
    let mut os = Element::new("os");
    let kind = Element::new("type")
        .with("arch", "x86_64")
        .with("machine", machine);
    os.push(kind.saying("hvm"));
    if firmware != Firmware::Bios {
        // libvirt chooses the files, and keeps the variables with its own state until the domain is undefined.
        os.set("firmware", "efi".to_owned());
        let secure = if firmware == Firmware::UefiSecure {
            "yes"
        } else {
            "no"
        };
        let feature = |name: &str| {
            Element::new("feature")
                .with("enabled", secure)
                .with("name", name)
        };
        os.push(
            Element::new("firmware")
                .holding(feature("enrolled-keys"))
                .holding(feature("secure-boot")),
        );
        if firmware == Firmware::UefiSecure {
            os.push(Element::new("loader").with("secure", "yes"));
        }
    }
    os.push(Element::new("boot").with("dev", "hd"));
    os.push(Element::new("smbios").with("mode", "sysinfo"));
    os
}

fn features(firmware: Firmware, style: &Style) -> Element {
    let mut features = Element::new("features")
        .holding(Element::new("acpi"))
        .holding(Element::new("apic"));
    if firmware == Firmware::UefiSecure {
        features.push(Element::new("smm").with("state", "on"));
    }
    if style.kind == "qemu" {
        // Emulated: a smaller cache of translated code saves 30 MB a desktop and costs no time at start.
        let cache = Element::new("tb-cache").with("unit", "MiB").saying(32);
        features.push(Element::new("tcg").holding(cache));
    }
    features
}

/// Windows takes the machine's clock for local time, everything else for UTC.
fn clock(os: Os) -> Element {
    let offset = match os {
        Os::Windows => "localtime",
        Os::Linux | Os::Other => "utc",
    };
    Element::new("clock").with("offset", offset)
}

fn devices(definition: &Definition, style: &Style) -> Result<Element, BadDefinition> {
    let (spec, hardware) = (&definition.spec, &definition.spec.hardware);
    let mut devices = Element::new("devices");
    let cache = match hardware.cache {
        Cache::Writeback => "writeback",
        Cache::None => "none",
    };
    let driver = Element::new("driver")
        .with("name", "qemu")
        .with("type", "qcow2")
        .with("cache", cache)
        .with("discard", "unmap");
    devices.push(disk(&definition.overlay, "vda", driver)?);
    if let Some(seed) = &style.seed {
        let driver = Element::new("driver")
            .with("name", "qemu")
            .with("type", "raw");
        devices.push(disk(seed, "vdb", driver)?.holding(Element::new("readonly")));
    }
    devices.push(
        Element::new("controller")
            .with("type", "usb")
            .with("model", "none"),
    );
    for (index, network) in hardware.networks.iter().enumerate() {
        devices.push(interface(network, &mac(spec.uuid, index)));
    }
    if hardware.agent {
        let target = Element::new("target")
            .with("type", "virtio")
            .with("name", "org.qemu.guest_agent.0");
        devices.push(Element::new("channel").with("type", "unix").holding(target));
    }
    // Without an address: libvirt puts each socket into a directory of the domain's own, with the rights that its
    // QEMU needs, and removes it when the domain ends.
    for display in &hardware.displays {
        let kind = match display {
            Display::Vnc => "vnc",
            Display::Spice => "spice",
            Display::Rdp => continue,
        };
        let listen = Element::new("listen").with("type", "socket");
        devices.push(Element::new("graphics").with("type", kind).holding(listen));
    }
    devices.push(
        Element::new("input")
            .with("type", "tablet")
            .with("bus", "virtio"),
    );
    let video = match hardware.video {
        Video::Vga => "vga",
        Video::Virtio => "virtio",
        Video::Qxl => "qxl",
    };
    devices.push(Element::new("video").holding(Element::new("model").with("type", video)));
    devices.push(Element::new("memballoon").with("model", "virtio"));
    let random = Element::new("backend")
        .with("model", "random")
        .saying("/dev/urandom");
    devices.push(Element::new("rng").with("model", "virtio").holding(random));
    Ok(devices)
}

fn disk(file: &std::path::Path, target: &str, driver: Element) -> Result<Element, BadDefinition> {
    let path = file
        .to_str()
        .ok_or_else(|| BadDefinition::Path(file.to_owned()))?;
    let source = Element::new("source").with("file", path);
    let target = Element::new("target")
        .with("dev", target)
        .with("bus", "virtio");
    let disk = Element::new("disk")
        .with("type", "file")
        .with("device", "disk");
    Ok(disk.holding(driver).holding(source).holding(target))
}

pub(super) fn interface(network: &NetworkTarget, mac: &str) -> Element {
    let (kind, source, vlan) = match network {
        NetworkTarget::Bridge { bridge, vlan } => ("bridge", Some(("bridge", bridge)), *vlan),
        NetworkTarget::Libvirt { network, vlan } => ("network", Some(("network", network)), *vlan),
        NetworkTarget::User => ("user", None, None),
    };
    let mut interface = Element::new("interface").with("type", kind);
    interface.push(Element::new("mac").with("address", mac));
    if let Some((name, value)) = source {
        interface.push(Element::new("source").with(name, value));
    }
    if let Some(vlan) = vlan {
        interface.push(Element::new("vlan").holding(Element::new("tag").with("id", vlan)));
    }
    interface.holding(Element::new("model").with("type", "virtio"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms of <https://libvirt.org/formatdomain.html#network-interfaces>.
    #[test]
    fn a_network_is_written_as_the_card_that_libvirt_plugs_into_it() {
        let bridge = |vlan| NetworkTarget::Bridge {
            bridge: "br-lab".to_owned(),
            vlan,
        };
        let libvirt = |vlan| NetworkTarget::Libvirt {
            network: "default".to_owned(),
            vlan,
        };
        for (network, kind, inside) in [
            (bridge(None), "bridge", "<source bridge='br-lab'/>"),
            (
                bridge(Some(12)),
                "bridge",
                "<source bridge='br-lab'/><vlan><tag id='12'/></vlan>",
            ),
            (libvirt(None), "network", "<source network='default'/>"),
            (
                libvirt(Some(4094)),
                "network",
                "<source network='default'/><vlan><tag id='4094'/></vlan>",
            ),
            (NetworkTarget::User, "user", ""),
        ] {
            let card = interface(&network, "52:54:00:00:00:01").to_text().unwrap();
            assert_eq!(
                card,
                format!(
                    "<interface type='{kind}'><mac address='52:54:00:00:00:01'/>{inside}<model type='virtio'/></interface>"
                )
            );
        }
    }

    #[test]
    fn every_card_of_every_desktop_has_an_address_of_its_own_that_stays() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(mac(one, 0), mac(one, 0));
        let first = u8::from_str_radix(&mac(one, 0)[..2], 16).unwrap();
        assert_eq!(first & 0b11, 0b10, "not one card's, given here");
        assert_ne!(mac(one, 0), mac(one, 1));
        assert_ne!(mac(one, 0), mac(other, 0));
    }
}
