//! A domain of libvirt as we understand it: the mark, and the fields that we write.

use std::collections::BTreeSet;
use std::path::PathBuf;

use coppice_schema::desired::{Cache, Display, Firmware, NetworkTarget, Os, Video};
use coppice_schema::ids::Epoch;
use coppice_schema::known::Hardware;
use coppice_schema::units::Size;
use uuid::Uuid;

use super::merge::is_agent;
use super::tree::{Element, NotXml};
use super::write::{HOSTNAME_KEY, NAMESPACE, mac, os_name, written_memory};
use crate::hypervisor::Mark;

/// A domain's XML, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Description {
    /// `None`: it carries none that we can read, so it is not ours.
    pub(super) mark: Option<Mark>,
    /// The fields that we write; meaningless without a mark.
    pub(super) hostname: String,
    pub(super) hardware: Hardware,
    pub(super) disk: PathBuf,
    /// Whether the guest's agent is connected; only a running domain's XML tells.
    pub(super) agent: Connection,
    /// Sockets of its displays; only a running domain's XML tells.
    pub(super) sockets: Vec<(Display, PathBuf)>,
}

/// Whether somebody listens at the guest's end of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Connection {
    Connected,
    Not,
}

/// Cards of a desktop that carry addresses of ours.
const MOST_CARDS: usize = 64;

/// Reads a domain.
pub(super) fn read(xml: &str) -> Result<Description, NotXml> {
    let domain = Element::parse(xml)?;
    let nothing = Element::new("none");
    let devices = domain.find(&["devices"]).unwrap_or(&nothing);
    let noted = domain
        .find(&["metadata"])
        .and_then(|metadata| {
            metadata
                .elements()
                .find(|e| e.namespace.as_deref() == Some(NAMESPACE))
        })
        .unwrap_or(&nothing);
    Ok(Description {
        mark: mark(noted),
        hostname: hostname(&domain, noted),
        hardware: hardware(&domain, devices, noted),
        disk: system_disk(devices)
            .and_then(source_file)
            .map(PathBuf::from)
            .unwrap_or_default(),
        agent: agent(devices),
        sockets: devices.all("graphics").filter_map(socket).collect(),
    })
}

fn mark(noted: &Element) -> Option<Mark> {
    let field = |name| noted.attribute(name);
    Some(Mark {
        grid: field("grid")?.parse().ok()?,
        epoch: Epoch {
            number: field("epoch")?.parse().ok()?,
            recovery: field("recovery")?.parse().ok()?,
        },
        member: field("member")?.parse().ok()?,
        image: field("image")?.parse().ok()?,
        stamp: field("stamp")?.parse().ok()?,
    })
}

fn hostname(domain: &Element, noted: &Element) -> String {
    let mut entries = domain
        .all("sysinfo")
        .flat_map(|sysinfo| sysinfo.all("entry"));
    let told = entries.find(|entry| entry.attribute("name") == Some(HOSTNAME_KEY));
    told.map(Element::text)
        .unwrap_or_else(|| noted.attribute("hostname").unwrap_or_default().to_owned())
}

fn hardware(domain: &Element, devices: &Element, noted: &Element) -> Hardware {
    let number = |name| noted.attribute(name).and_then(|text| text.parse().ok());
    let libvirt_xml = noted
        .elements()
        .find(|child| child.name == "libvirt-xml")
        .map(Element::text);
    Hardware {
        cpus: domain
            .find(&["vcpu"])
            .and_then(|vcpu| vcpu.text().trim().parse().ok())
            .unwrap_or(0),
        memory: memory(domain, number("memory").map(Size)),
        disk: Size(number("disk").unwrap_or(0)),
        disk_limit: number("disk-limit").map(Size),
        firmware: firmware(domain),
        networks: networks(domain, devices, libvirt_xml.is_some()),
        displays: displays(devices, noted),
        video: video(devices),
        cache: cache(devices),
        os: [Os::Linux, Os::Windows]
            .into_iter()
            .find(|os| noted.attribute("os") == Some(os_name(*os)))
            .unwrap_or(Os::Other),
        agent: devices.all("channel").any(is_agent),
        libvirt_xml,
    }
}

/// The exact size where it is the one that was written, or else the domain's own.
fn memory(domain: &Element, noted: Option<Size>) -> Size {
    let Some(element) = domain.find(&["memory"]) else {
        return Size(0);
    };
    let unit = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => 1 << 10, // libvirt itself writes KiB always
    };
    let amount = element.text().trim().parse::<u64>().unwrap_or(0);
    let found = Size(amount.saturating_mul(unit));
    match noted {
        Some(exact) if Size(written_memory(exact).saturating_mul(1 << 10)) == found => exact,
        Some(_) | None => found,
    }
}

fn firmware(domain: &Element) -> Firmware {
    let Some(os) = domain.find(&["os"]) else {
        return Firmware::Bios;
    };
    let loader = os.find(&["loader"]);
    let flash = loader.is_some_and(|loader| loader.attribute("type") == Some("pflash"));
    if os.attribute("firmware") != Some("efi") && !flash {
        return Firmware::Bios;
    }
    if loader.is_some_and(|loader| loader.attribute("secure") == Some("yes")) {
        Firmware::UefiSecure
    } else {
        Firmware::Uefi
    }
}

fn networks(domain: &Element, devices: &Element, merged: bool) -> Vec<NetworkTarget> {
    let uuid = domain
        .find(&["uuid"])
        .and_then(|uuid| uuid.text().trim().parse::<Uuid>().ok());
    let ours: BTreeSet<String> = match uuid {
        // A fragment may have added cards; they are not the template's.
        Some(uuid) if merged => (0..MOST_CARDS).map(|index| mac(uuid, index)).collect(),
        Some(_) | None => BTreeSet::new(),
    };
    let counts = |card: &&Element| {
        let address = card.find(&["mac"]).and_then(|mac| mac.attribute("address"));
        !merged || address.is_some_and(|address| ours.contains(&address.to_lowercase()))
    };
    devices
        .all("interface")
        .filter(counts)
        .map(network)
        .collect()
}

fn network(card: &Element) -> NetworkTarget {
    let source = |name| {
        card.find(&["source"])
            .and_then(|source| source.attribute(name))
            .map(str::to_owned)
    };
    let tag = card
        .find(&["vlan", "tag"])
        .and_then(|tag| tag.attribute("id"));
    let vlan = tag.and_then(|id| id.parse().ok());
    // First the network: a running domain's XML also tells the bridge that the network has.
    if let Some(network) = source("network") {
        return NetworkTarget::Libvirt { network, vlan };
    }
    match (card.attribute("type"), source("bridge")) {
        (Some("bridge"), Some(bridge)) => NetworkTarget::Bridge { bridge, vlan },
        (Some("user"), _) => NetworkTarget::User,
        // Of a kind that we never write: told by a name that no network has.
        (kind, _) => NetworkTarget::Libvirt {
            network: format!("({})", kind.unwrap_or("unknown")),
            vlan,
        },
    }
}

fn displays(devices: &Element, noted: &Element) -> BTreeSet<Display> {
    let rdp = (noted.attribute("rdp") == Some("true")).then_some(Display::Rdp);
    devices
        .all("graphics")
        .filter_map(display)
        .chain(rdp)
        .collect()
}

fn display(graphics: &Element) -> Option<Display> {
    match graphics.attribute("type") {
        Some("vnc") => Some(Display::Vnc),
        Some("spice") => Some(Display::Spice),
        Some(_) | None => None,
    }
}

fn socket(graphics: &Element) -> Option<(Display, PathBuf)> {
    let listens = graphics
        .all("listen")
        .find_map(|listen| listen.attribute("socket"));
    let path = listens.or_else(|| graphics.attribute("socket"))?;
    Some((display(graphics)?, path.into()))
}

fn video(devices: &Element) -> Video {
    let model = devices
        .find(&["video", "model"])
        .and_then(|model| model.attribute("type"));
    match model {
        Some("virtio") => Video::Virtio,
        Some("qxl") => Video::Qxl,
        Some(_) | None => Video::Vga,
    }
}

fn cache(devices: &Element) -> Cache {
    let driver = system_disk(devices).and_then(|disk| disk.find(&["driver"]));
    match driver.and_then(|driver| driver.attribute("cache")) {
        Some("none") => Cache::None,
        Some(_) | None => Cache::Writeback,
    }
}

fn system_disk(devices: &Element) -> Option<&Element> {
    devices.all("disk").find(|disk| {
        disk.find(&["target"])
            .and_then(|target| target.attribute("dev"))
            == Some("vda")
    })
}

fn source_file(disk: &Element) -> Option<&str> {
    disk.find(&["source"])
        .and_then(|source| source.attribute("file"))
}

fn agent(devices: &Element) -> Connection {
    let connected = devices
        .all("channel")
        .filter(|channel| is_agent(channel))
        .any(|channel| {
            channel
                .find(&["target"])
                .and_then(|target| target.attribute("state"))
                == Some("connected")
        });
    if connected {
        Connection::Connected
    } else {
        Connection::Not
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Definition;
    use crate::libvirt::write::{BadDefinition, Style, write};
    use coppice_schema::Digest;
    use coppice_schema::ids::{GridId, Incarnation, Member, Stamp};
    use coppice_schema::known::DesktopSpec;
    use proptest::collection::{btree_set, vec};
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn target() -> impl Strategy<Value = NetworkTarget> {
        let vlan = || of(1..4095u16);
        prop_oneof![
            ("[ -~]{1,12}", vlan())
                .prop_map(|(bridge, vlan)| NetworkTarget::Bridge { bridge, vlan }),
            ("[ -~]{1,12}", vlan())
                .prop_map(|(network, vlan)| NetworkTarget::Libvirt { network, vlan }),
            Just(NetworkTarget::User),
        ]
    }

    fn fragment() -> impl Strategy<Value = String> {
        select(vec![
            "<domain/>".to_owned(),
            "<domain>\r\n\t<title>a &amp; b</title> </domain>".to_owned(),
            "<domain><devices><interface type='user'/><video><model type='none'/></video></devices></domain>".to_owned(),
            "<domain><os><bootmenu enable='yes'/></os><sysinfo type='fwcfg'><entry name='a'>b</entry></sysinfo></domain>".to_owned(),
        ])
    }

    fn hardware() -> impl Strategy<Value = Hardware> {
        let sizes = (1..1u64 << 60, any::<u64>(), of(any::<u64>()));
        let choices = (
            select(vec![Firmware::Bios, Firmware::Uefi, Firmware::UefiSecure]),
            select(vec![Video::Vga, Video::Virtio, Video::Qxl]),
            select(vec![Cache::Writeback, Cache::None]),
            select(vec![Os::Linux, Os::Windows, Os::Other]),
            any::<bool>(),
        );
        let displays = btree_set(
            select(vec![Display::Vnc, Display::Spice, Display::Rdp]),
            0..4,
        );
        (
            1..512u32,
            sizes,
            choices,
            vec(target(), 0..4),
            displays,
            of(fragment()),
        )
            .prop_map(
                |(
                    cpus,
                    (memory, disk, limit),
                    (firmware, video, cache, os, agent),
                    networks,
                    displays,
                    libvirt_xml,
                )| Hardware {
                    cpus,
                    memory: Size(memory),
                    disk: Size(disk),
                    disk_limit: limit.map(Size),
                    firmware,
                    networks,
                    displays,
                    video,
                    cache,
                    os,
                    agent,
                    libvirt_xml,
                },
            )
    }

    fn definition() -> impl Strategy<Value = Definition> {
        let ids = (
            any::<[u8; 16]>(),
            any::<u64>(),
            any::<u64>(),
            any::<u128>(),
            any::<[u8; 32]>(),
        );
        let stamp = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        let names = (
            "[a-z][a-z0-9_-]{0,20}",
            1..5000u32,
            1..99u64,
            "\\PC{0,40}",
            "/\\PC{1,40}",
        );
        (ids, stamp, names, hardware()).prop_map(
            |(
                (grid, number, recovery, uuid, image),
                (epoch, term, index, ordinal),
                (pool, slot, life, hostname, overlay),
                hardware,
            )| {
                let member: Member = format!("{pool}-{slot:03}@{life}").parse().unwrap();
                assert_eq!(member.incarnation, Incarnation(life));
                Definition {
                    spec: DesktopSpec {
                        member: member.clone(),
                        uuid: Uuid::from_u128(uuid),
                        hostname,
                        image: Digest(image),
                        hardware,
                    },
                    mark: Mark {
                        grid: GridId(grid),
                        epoch: Epoch { number, recovery },
                        member,
                        image: Digest(image),
                        stamp: Stamp {
                            epoch,
                            term,
                            index,
                            ordinal,
                        },
                    },
                    overlay: overlay.into(),
                }
            },
        )
    }

    proptest! {
        /// What is read of a domain is what was written, whatever was written.
        #[test]
        fn every_desktop_reads_back_as_it_was_written(definition in definition(), kind in select(vec!["kvm", "qemu", "test"]), seed in of(Just(PathBuf::from("/seeds/x.iso")))) {
            match write(&definition, &Style { kind: kind.to_owned(), seed }) {
                Ok(xml) => {
                    let read = read(&xml).unwrap();
                    prop_assert_eq!(read.hardware, definition.spec.hardware);
                    prop_assert_eq!(read.hostname, definition.spec.hostname);
                    prop_assert_eq!(read.disk, definition.overlay);
                    prop_assert_eq!(read.mark, Some(definition.mark));
                }
                Err(error) => prop_assert!(matches!(error, BadDefinition::Unwritable(_)), "{}", error),
            }
        }
    }

    #[test]
    fn a_domain_with_a_broken_mark_is_not_ours() {
        for noted in [
            "",
            "<desktop xmlns='urn:coppice:1'/>",
            "<desktop xmlns='urn:coppice:1' grid='x' epoch='1' recovery='0' member='a-001@1' image='' stamp='1.1.1.1'/>",
            "<desktop grid='00000000000000000000000000000000'/>",
        ] {
            let xml = format!("<domain><metadata>{noted}</metadata></domain>");
            assert_eq!(read(&xml).unwrap().mark, None, "{noted}");
        }
    }

    #[test]
    fn what_another_hand_changed_is_seen() {
        let card = "<interface type='direct'><source dev='eth0'/></interface>";
        let xml = format!(
            "<domain><memory unit='MiB'>2</memory><metadata><desktop xmlns='urn:coppice:1' memory='1048576'/></metadata><devices>{card}</devices></domain>"
        );
        let read = read(&xml).unwrap();
        assert_eq!(read.hardware.memory, Size::mib(2));
        assert_eq!(
            read.hardware.networks,
            [NetworkTarget::Libvirt {
                network: "(direct)".to_owned(),
                vlan: None
            }]
        );
    }
}
