//! What the language calls the parts of a resolved configuration.

use coppice_schema::ids::Address;

/// An attribute that has a value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Attribute {
    /// What a plan calls it, with the names of blocks within: `power.schedule.lessons.spare`.
    pub(super) path: String,
    /// Its path in the language's table, without them: `policy.power.schedule.spare`. `None` for what no attribute
    /// says, such as the grid's name.
    pub(super) said: Option<String>,
}

/// Where the resolved form has another shape than the language: block, resolved path, path in the language. `*` is
/// the name of a block within.
const SHAPES: &[(&str, &str, &str)] = &[
    ("image", "origin.version", "version"),
    ("image", "origin.source.path", "source"),
    ("image", "update.at.weekly.days", "update.days"),
    ("image", "update.at.weekly.at", "update.from"),
    ("image", "update.at.cron.text", "update.cron"),
    ("template", "displays", "display"),
    ("template", "networks", "network"),
    ("network", "target.bridge.bridge", "bridge"),
    ("network", "target.bridge.vlan", "vlan"),
    ("network", "target.libvirt.network", "libvirt"),
    ("network", "target.libvirt.vlan", "vlan"),
    ("network", "target", "user"),
    ("window", "opening.weekly.days", "days"),
    ("window", "opening.weekly.from", "from"),
    ("window", "opening.weekly.to", "to"),
    ("window", "opening.cron.cron.text", "cron"),
    ("window", "opening.cron.duration", "duration"),
    ("policy", "refresh.at.weekly.days", "refresh.at.days"),
    ("policy", "refresh.at.weekly.at", "refresh.at.from"),
    ("policy", "refresh.at.cron.text", "refresh.at.cron"),
    (
        "policy",
        "power.schedules.*.hours.days",
        "power.schedule.*.days",
    ),
    (
        "policy",
        "power.schedules.*.hours.from",
        "power.schedule.*.from",
    ),
    (
        "policy",
        "power.schedules.*.hours.to",
        "power.schedule.*.to",
    ),
    (
        "policy",
        "power.schedules.*.spare",
        "power.schedule.*.spare",
    ),
    (
        "policy",
        "power.schedules.*.powered_on_max",
        "power.schedule.*.powered_on_max",
    ),
    ("directory", "kind", "type"),
    ("directory", "ca", "ca_file"),
    ("pool", "bookings.*.from", "booking.*.from"),
    ("pool", "bookings.*.to", "booking.*.to"),
    ("pool", "bookings.*.template", "booking.*.template"),
    ("pool", "bookings.*.entitled", "booking.*.entitled"),
    (
        "grid",
        "certificate.files.certificate",
        "certificate.files.certificate_file",
    ),
];

/// The parsed form of a cron expression says nothing that its text does not.
const PARSED: [&str; 6] = [
    "minutes",
    "hours",
    "days",
    "months",
    "weekdays",
    "either_day",
];

/// The attribute at a resolved path; `None` where it repeats what another says.
pub(super) fn attribute(address: &Address, path: &[String]) -> Option<Attribute> {
    let block = block(address)?;
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    match (block, words.as_slice()) {
        // The merged policy repeats what the policies' own actions say.
        ("pool", ["policy", ..]) => return None,
        (_, [.., "cron", part]) if PARSED.contains(part) => return None,
        ("image", ["origin", "source", "digest"]) => {
            return Some(Attribute {
                path: "digest of the source".to_owned(),
                said: Some("image.source".to_owned()),
            });
        }
        // Blocks of their own in the language, and part of the grid's address here.
        ("grid", ["server", name, word]) => {
            return Some(Attribute {
                path: format!("server.{name}.{word}"),
                said: Some(format!("server.{word}")),
            });
        }
        ("grid", ["name" | "moved"]) => {
            return Some(Attribute {
                path: words.concat(),
                said: None,
            });
        }
        (_, _) => {}
    }
    for (_, resolved, said) in SHAPES.iter().filter(|(of, ..)| *of == block) {
        let Some(name) = matches(resolved, &words) else {
            continue;
        };
        return Some(Attribute {
            path: said.replace('*', name),
            said: Some(format!("{block}.{}", said.replace(".*", ""))),
        });
    }
    let path = words.join(".");
    Some(Attribute {
        said: Some(format!("{block}.{path}")),
        path,
    })
}

/// Whether `words` are the path `pattern`, and what stands for its `*`.
fn matches<'a>(pattern: &str, words: &[&'a str]) -> Option<&'a str> {
    let mut name = "";
    let mut rest = words.iter();
    for expected in pattern.split('.') {
        let word = rest.next()?;
        if expected == "*" {
            name = word;
        } else if expected != *word {
            return None;
        }
    }
    rest.next().is_none().then_some(name)
}

/// Days of the week as the language writes them; bit 0 is Monday.
pub(super) fn days(bits: u64) -> String {
    const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let named = NAMES.iter().enumerate();
    let set: Vec<&str> = named
        .filter(|(day, _)| bits >> day & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    set.join(",")
}

/// The block that an address is written as.
fn block(address: &Address) -> Option<&'static str> {
    Some(match address {
        Address::Grid => "grid",
        Address::Window(_) => "window",
        Address::Network(_) => "network",
        Address::Directory(_) => "directory",
        Address::Location(_) => "location",
        Address::Image(_) => "image",
        Address::Template(_) => "template",
        Address::Policy(_) => "policy",
        Address::Pool(_) => "pool",
        Address::Server(_) | Address::Desktop(_) | Address::Secret(_) => return None,
    })
}
