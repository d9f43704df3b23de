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

/// As much of `wanted` as a desktop can become that is not grown anew: what [`edits`] calls
/// [`Applies::Regrow`] stays as it is.
pub(crate) fn without_regrowing(before: &DesktopSpec, wanted: DesktopSpec) -> DesktopSpec {
    DesktopSpec {
        image: before.image,
        hostname: before.hostname.clone(),
        hardware: Hardware {
            disk: before.hardware.disk,
            firmware: before.hardware.firmware,
            networks: before.hardware.networks.clone(),
            agent: before.hardware.agent,
            os: before.hardware.os,
            ..wanted.hardware
        },
        ..wanted
    }
}

/// What differs between two forms of one desktop, and when each difference takes effect.
pub(crate) fn edits(before: &DesktopSpec, after: &DesktopSpec) -> Vec<Edit> {
    let (b, a) = (&before.hardware, &after.hardware);
    let mut edits = Vec::new();
    let mut field = |path: &str, before: String, after: String, applies| {
        if before != after {
            let (before, after) = (Some(before), Some(after));
            edits.push(Edit {
                path: path.to_owned(),
                before,
                after,
                applies,
            });
        }
    };
    field(
        "image",
        before.image.short(),
        after.image.short(),
        Applies::Regrow,
    );
    field(
        "hostname",
        before.hostname.clone(),
        after.hostname.clone(),
        Applies::Regrow,
    );
    field(
        "disk",
        b.disk.to_string(),
        a.disk.to_string(),
        Applies::Regrow,
    );
    field("disk_limit", limit(b), limit(a), Applies::Live);
    field(
        "firmware",
        word(&b.firmware),
        word(&a.firmware),
        Applies::Regrow,
    );
    field(
        "network",
        words(&b.networks),
        words(&a.networks),
        Applies::Regrow,
    );
    field(
        "agent",
        b.agent.to_string(),
        a.agent.to_string(),
        Applies::Regrow,
    );
    field("os", word(&b.os), word(&a.os), Applies::Regrow);
    field(
        "cpus",
        b.cpus.to_string(),
        a.cpus.to_string(),
        Applies::NextBoot,
    );
    field(
        "memory",
        b.memory.to_string(),
        a.memory.to_string(),
        Applies::NextBoot,
    );
    field(
        "display",
        words(&b.displays),
        words(&a.displays),
        Applies::NextBoot,
    );
    field("video", word(&b.video), word(&a.video), Applies::NextBoot);
    field("cache", word(&b.cache), word(&a.cache), Applies::NextBoot);
    field("libvirt_xml", xml(b), xml(a), Applies::NextBoot);
    edits
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
