use std::collections::BTreeSet;

use crate::desired::{Cache, Desired, Display, Firmware, Guest, Os, Template, Video};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::ids::ImageName;

pub(super) fn template(fields: &Fields, desired: &Desired, report: &Report) -> Option<Template> {
    let displays: Option<BTreeSet<Display>> = fields
        .words("display")
        .map(|words| words.into_iter().map(display).collect());
    if displays.as_ref().is_some_and(BTreeSet::is_empty) {
        let problem = Problem::error(
            "V0209",
            fields.place("display"),
            "a desktop that nobody can see",
        );
        report.push(problem.help("name at least one of vnc, spice and rdp"));
    }
    let image: ImageName = super::known(&fields.name("image")?)?;
    let os = desired.images.get(&image).map(|image| image.os);
    let firmware = match fields.word("firmware") {
        Some("bios") => Firmware::Bios,
        Some("uefi") => Firmware::Uefi,
        Some(_) => Firmware::UefiSecure,
        None if os == Some(Os::Windows) => Firmware::UefiSecure,
        None => Firmware::Bios,
    };
    let guest = fields.inner("guest").map(|inner| Guest {
        hostname: inner.flag("hostname"),
        script: inner.text("script"),
        join: inner.name("join").and_then(|name| super::known(&name)),
        profile_path: inner.text("profile_path"),
        specialize: inner.text("specialize"),
    });
    Some(Template {
        image,
        cpus: fields.count("cpus")?,
        memory: fields.size("memory")?,
        disk: fields.size("disk"),
        disk_limit: fields.size("disk_limit"),
        firmware,
        tpm: fields.flag("tpm"),
        networks: fields
            .names("network")
            .unwrap_or_default()
            .iter()
            .filter_map(super::known)
            .collect(),
        displays: displays?,
        video: fields.word("video").map(|word| match word {
            "vga" => Video::Vga,
            "qxl" => Video::Qxl,
            _ => Video::Virtio,
        }),
        cache: fields.word("cache").map(|word| {
            if word == "none" {
                Cache::None
            } else {
                Cache::Writeback
            }
        }),
        guest,
        libvirt_xml: fields.text("libvirt_xml"),
    })
}

fn display(word: &str) -> Display {
    match word {
        "spice" => Display::Spice,
        "rdp" => Display::Rdp,
        _ => Display::Vnc,
    }
}
