//! What a desktop should be, written out.

use coppice_schema::Known;
use coppice_schema::desired::{Assignment, Cache, Desired, Display, Pool, Template, Video};
use coppice_schema::ids::{Member, ServerId};
use coppice_schema::known::{DesktopSpec, Hardware, ImageVersion, KnownServer};

use crate::plan::{Applies, Edit};

/// The desktop `member` of `pool` on `server`, made of `image`.
pub(crate) fn of(
    desired: &Desired,
    known: &Known,
    pool: &Pool,
    template: &Template,
    image: &ImageVersion,
    member: &Member,
    server: ServerId,
) -> DesktopSpec {
    let id = &member.desktop;
    DesktopSpec {
        uuid: id.uuid(known.grid, known.epoch, member.incarnation),
        hostname: pool.hostname.fill(&id.pool, id.slot),
        image: image.root,
        hardware: hardware(desired, pool, template, image, known.servers.get(&server)),
        member: member.clone(),
    }
}

/// The hardware of a pool's desktops on one server.
pub(crate) fn hardware(
    desired: &Desired,
    pool: &Pool,
    template: &Template,
    image: &ImageVersion,
    server: Option<&KnownServer>,
) -> Hardware {
    let block = desired.images.get(&template.image);
    let networks = template.networks.iter().filter_map(|name| {
        let here = server.and_then(|server| server.capacity.networks.get(name));
        here.or_else(|| desired.networks.get(name).map(|network| &network.target))
            .cloned()
    });
    let spice = template.displays.contains(&Display::Spice);
    Hardware {
        cpus: template.cpus,
        memory: template.memory,
        disk: template.disk.unwrap_or(image.size),
        disk_limit: template.disk_limit,
        firmware: template.firmware,
        networks: networks.collect(),
        displays: template
            .displays
            .iter()
            .copied()
            .filter(|display| *display != Display::Rdp)
            .collect(),
        video: template
            .video
            .unwrap_or(if spice { Video::Qxl } else { Video::Vga }),
        // A pooled desktop's disk is thrown away with it, so it may live in the host's page cache, which all
        // clones of an image share; a personal one must not lose what the guest was told is written.
        cache: template.cache.unwrap_or(match pool.assignment {
            Assignment::Personal => Cache::None,
            Assignment::Pooled | Assignment::Client => Cache::Writeback,
        }),
        os: block.map_or(coppice_schema::desired::Os::Other, |block| block.os),
        agent: block.is_none_or(|block| block.agent),
        libvirt_xml: template.libvirt_xml.clone(),
    }
}

/// A field that is written: its path, when a change of it takes effect, and its value in words.
type Field = (&'static str, Applies, fn(&DesktopSpec) -> String);

/// Every field that may differ between two forms of one desktop.
const FIELDS: &[Field] = &[
    ("image", Applies::Regrow, |spec| spec.image.short()),
    ("hostname", Applies::Regrow, |spec| spec.hostname.clone()),
    ("disk", Applies::Regrow, |spec| {
        spec.hardware.disk.to_string()
    }),
    ("disk_limit", Applies::Live, |spec| limit(&spec.hardware)),
    ("firmware", Applies::Regrow, |spec| {
        word(&spec.hardware.firmware)
    }),
    ("network", Applies::Regrow, |spec| {
        words(&spec.hardware.networks)
    }),
    ("agent", Applies::Regrow, |spec| {
        spec.hardware.agent.to_string()
    }),
    ("os", Applies::Regrow, |spec| word(&spec.hardware.os)),
    ("cpus", Applies::NextBoot, |spec| {
        spec.hardware.cpus.to_string()
    }),
    ("memory", Applies::NextBoot, |spec| {
        spec.hardware.memory.to_string()
    }),
    ("display", Applies::NextBoot, |spec| {
        words(&spec.hardware.displays)
    }),
    ("video", Applies::NextBoot, |spec| {
        word(&spec.hardware.video)
    }),
    ("cache", Applies::NextBoot, |spec| {
        word(&spec.hardware.cache)
    }),
    ("libvirt_xml", Applies::NextBoot, |spec| xml(&spec.hardware)),
];

/// What differs between two forms of one desktop, and when each difference takes effect.
pub(crate) fn edits(before: &DesktopSpec, after: &DesktopSpec) -> Vec<Edit> {
    // Nearly all desktops are as they should be: they are not written out to find that.
    if before == after {
        return Vec::new();
    }
    let edit = |(path, applies, value): &Field| {
        let (before, after) = (value(before), value(after));
        (before != after).then(|| Edit {
            path: (*path).to_owned(),
            before: Some(before),
            after: Some(after),
            applies: *applies,
        })
    };
    FIELDS.iter().filter_map(edit).collect()
}

fn limit(hardware: &Hardware) -> String {
    hardware
        .disk_limit
        .map_or_else(|| "none".to_owned(), |size| size.to_string())
}

fn xml(hardware: &Hardware) -> String {
    hardware.libvirt_xml.clone().unwrap_or_default()
}

/// A value as the language writes it: the serialised form of the enums is the language's word.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn words<T: serde::Serialize>(values: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = values.into_iter().map(|value| word(&value)).collect();
    format!("[{}]", words.join(", "))
}
