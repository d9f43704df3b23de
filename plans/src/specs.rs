//! What a desktop should be, written out.

use coppice_schema::Known;
use coppice_schema::desired::{
    Assignment, Cache, Desired, Display, NetworkTarget, Pool, Template, Video,
};
use coppice_schema::ids::{Member, ServerId};
use coppice_schema::known::{DesktopSpec, Hardware, ImageVersion, KnownServer};
use coppice_schema::table::{self, TakesEffect};

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
    let spice = template.displays.contains(&Display::Spice);
    Hardware {
        cpus: template.cpus,
        memory: template.memory,
        disk: template.disk.unwrap_or(image.size),
        disk_limit: template.disk_limit,
        firmware: template.firmware,
        networks: networks(desired, template, server),
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

/// What a template's cards are plugged into on one server.
pub(crate) fn networks(
    desired: &Desired,
    template: &Template,
    server: Option<&KnownServer>,
) -> Vec<NetworkTarget> {
    let networks = template.networks.iter().filter_map(|name| {
        let here = server.and_then(|server| server.capacity.networks.get(name));
        here.or_else(|| desired.networks.get(name).map(|network| &network.target))
            .cloned()
    });
    networks.collect()
}

/// A field of a desktop's form that is compared.
struct Field {
    /// What plans call it.
    path: &'static str,
    /// Where the language says it; the table says when a change of it takes effect.
    said: &'static str,
    /// Its value, as the language writes it.
    value: fn(&DesktopSpec) -> String,
}

/// Every field, those that need a regrown desktop first.
const FIELDS: &[Field] = &[
    field("image", "template.image", |spec| spec.image.short()),
    field("hostname", "pool.hostname", |spec| spec.hostname.clone()),
    field("disk", "template.disk", |spec| {
        spec.hardware.disk.to_string()
    }),
    field("disk_limit", "template.disk_limit", limit),
    field("firmware", "template.firmware", |spec| {
        word(&spec.hardware.firmware)
    }),
    field("network", "template.network", |spec| {
        words(&spec.hardware.networks)
    }),
    field("agent", "image.agent", |spec| {
        spec.hardware.agent.to_string()
    }),
    field("os", "image.os", |spec| word(&spec.hardware.os)),
    field("cpus", "template.cpus", |spec| {
        spec.hardware.cpus.to_string()
    }),
    field("memory", "template.memory", |spec| {
        spec.hardware.memory.to_string()
    }),
    field("display", "template.display", |spec| {
        words(&spec.hardware.displays)
    }),
    field("video", "template.video", |spec| word(&spec.hardware.video)),
    field("cache", "template.cache", |spec| word(&spec.hardware.cache)),
    field("libvirt_xml", "template.libvirt_xml", |spec| {
        spec.hardware.libvirt_xml.clone().unwrap_or_default()
    }),
];

const fn field(path: &'static str, said: &'static str, value: fn(&DesktopSpec) -> String) -> Field {
    Field { path, said, value }
}

/// What differs between two forms of one desktop, and when each difference takes effect.
pub(crate) fn edits(before: &DesktopSpec, after: &DesktopSpec) -> Vec<Edit> {
    if before == after {
        return Vec::new();
    }
    let mut edits = Vec::new();
    for field in FIELDS {
        let (before, after) = ((field.value)(before), (field.value)(after));
        if before != after {
            edits.push(Edit {
                path: field.path.to_owned(),
                before: Some(before),
                after: Some(after),
                applies: applies(field.said),
            });
        }
    }
    edits
}

/// When a change of an attribute reaches a desktop, by the language's own table: the only place that says it.
pub(crate) fn applies(path: &str) -> Applies {
    match table::takes_effect(path) {
        TakesEffect::Live => Applies::Live,
        TakesEffect::NextBoot => Applies::NextBoot,
        TakesEffect::Regrow => Applies::Regrow,
    }
}

fn limit(spec: &DesktopSpec) -> String {
    spec.hardware
        .disk_limit
        .map_or_else(|| "none".to_owned(), |size| size.to_string())
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

#[cfg(test)]
mod tests {
    use coppice_schema::table;

    use super::FIELDS;

    #[test]
    fn every_field_stands_in_the_table() {
        // What the table does not have would silently count as the most careful letter.
        for field in FIELDS {
            assert!(table::find(field.said).is_some(), "{}", field.said);
        }
    }
}
