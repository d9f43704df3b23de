//! The form of a running domain: what of it binds it to its server, and what it is on another.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::merge::is_agent;
use super::super::tree::{Element, Node};
use super::super::write::{interface, mac, name};
use crate::hypervisor::Definition;
use crate::moves::MoveError;

/// libvirt's namespace for what QEMU alone understands.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The file of its disk, if a domain has nothing that cannot be taken along.
pub(super) fn movable(uuid: Uuid, form: &str) -> Result<PathBuf, MoveError> {
    let bound = |cause: String| MoveError::Bound {
        domain: uuid,
        cause,
    };
    let domain = Element::parse(form).map_err(|error| bound(error.to_string()))?;
    let nothing = Element::new("none");
    let devices = domain.find(&["devices"]).unwrap_or(&nothing);
    for (device, why) in [
        ("hostdev", "it uses a device of this server"),
        ("tpm", "it has a TPM, whose secrets stay on this server"),
        ("filesystem", "it uses a directory of this server"),
        ("shmem", "it shares memory with others on this server"),
    ] {
        if devices.all(device).next().is_some() {
            return Err(bound(why.to_owned()));
        }
    }
    let mut own = None;
    for disk in devices.all("disk") {
        let file = disk
            .find(&["source"])
            .and_then(|source| source.attribute("file"));
        match (target(disk), file) {
            (Some("vda"), Some(file)) => own = Some(PathBuf::from(file)),
            (_, Some(file)) if disk.find(&["readonly"]).is_none() => {
                return Err(bound(format!(
                    "it writes to {file}, which stays on this server"
                )));
            }
            (Some("vdb"), _) | (_, None) => {}
            (_, Some(file)) => {
                return Err(bound(format!(
                    "it reads {file}, which stays on this server"
                )));
            }
        }
    }
    own.ok_or_else(|| bound("its disk is no file".to_owned()))
}

fn target(disk: &Element) -> Option<&str> {
    disk.find(&["target"])?.attribute("dev")
}

/// The form in which a domain that ran as `offered` waits here for its memory. Everything that the guest sees is as it
/// was, with its addresses; everything that belongs to the server is this one's. Only what `guest` names is opened.
pub(super) fn received(
    offered: &str,
    guest: &Definition,
    seed: &Path,
    kind: &str,
) -> Result<String, String> {
    let mut domain = Element::parse(offered).map_err(|error| error.to_string())?;
    let uuid = guest.spec.uuid;
    let said = |part: &str| domain.find(&[part]).map(Element::text).unwrap_or_default();
    if said("uuid").trim() != uuid.to_string() || said("name").trim() != name(guest) {
        return Err(format!("what comes is not {uuid}"));
    }
    if domain.attribute("type") != Some(kind) {
        return Err(format!(
            "it runs as {:?} on the other server, and guests here run as {kind:?}",
            domain.attribute("type").unwrap_or_default()
        ));
    }
    movable(uuid, offered).map_err(|error| error.to_string())?;
    for part in &mut domain.children {
        match part {
            Node::Element(devices) if devices.name == "devices" => {
                for node in &mut devices.children {
                    if let Node::Element(device) = node {
                        here(device, guest, seed)?;
                    }
                }
                cards(devices, guest);
            }
            // The variables come with the memory, into a file of this server.
            Node::Element(os) if os.name == "os" => without_variables(os),
            Node::Element(_) | Node::Text(_) => {}
        }
    }
    let argument = |value: &str| Element::new("arg").within(QEMU).with("value", value);
    domain.push(
        Element::new("commandline")
            .within(QEMU)
            .holding(argument("-incoming"))
            .holding(argument("defer")),
    );
    domain.to_text().map_err(|error| error.to_string())
}

/// Turns what belongs to the sender into what belongs to this server.
fn here(device: &mut Element, guest: &Definition, seed: &Path) -> Result<(), String> {
    match device.name.as_str() {
        "disk" => {
            let file = match target(device) {
                Some("vda") => &guest.overlay,
                _ => seed,
            };
            let text = file.to_str().ok_or("a path here is not UTF-8")?;
            // What is below it is read from the file itself.
            device.children.retain(|node| !is_a(node, "backingStore"));
            for node in &mut device.children {
                if let Node::Element(source) = node
                    && source.name == "source"
                {
                    source.children.clear();
                    source.attributes.clear();
                    source.set("file", text.to_owned());
                }
            }
        }
        // Their sockets are where this hypervisor puts them.
        "channel" if is_agent(device) => device.children.retain(|node| !is_a(node, "source")),
        "graphics" => {
            device.attributes.retain(|(name, _)| name == "type");
            device.children.retain(|node| !is_a(node, "listen"));
            let listen = Element::new("listen").with("type", "socket");
            device.push(listen);
        }
        "serial" | "console" => device.children.retain(|node| !is_a(node, "source")),
        _ => {}
    }
    Ok(())
}

/// The cards that we write are plugged into this server's networks; their addresses in the guest stay.
fn cards(devices: &mut Element, guest: &Definition) {
    let cards = devices.children.iter_mut().filter_map(|node| match node {
        Node::Element(device) if device.name == "interface" => Some(device),
        Node::Element(_) | Node::Text(_) => None,
    });
    for card in cards {
        let address = card
            .find(&["mac"])
            .and_then(|mac| mac.attribute("address"))
            .map(str::to_owned);
        let ours = (0..)
            .zip(&guest.spec.hardware.networks)
            .find(|(index, _)| address.as_deref() == Some(mac(guest.spec.uuid, *index).as_str()));
        let Some((index, network)) = ours else {
            continue;
        };
        let mut plugged = interface(network, &mac(guest.spec.uuid, index));
        plugged.children.retain(|node| !is_a(node, "model"));
        for part in card.elements() {
            if ["model", "address", "alias", "boot", "rom"].contains(&part.name.as_str()) {
                plugged.push(part.clone());
            }
        }
        *card = plugged;
    }
}

fn without_variables(os: &mut Element) {
    for node in &mut os.children {
        if let Node::Element(nvram) = node
            && nvram.name == "nvram"
        {
            nvram.children.clear();
        }
    }
}

fn is_a(node: &Node, name: &str) -> bool {
    matches!(node, Node::Element(element) if element.name == name)
}
