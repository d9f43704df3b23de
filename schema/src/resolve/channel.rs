//! What displays can carry.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Channels, Clipboard, Desired, Display, Pool};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::ids::TemplateName;

/// Whether a display can carry a channel. VNC (RFC 6143) has the clipboard only; SPICE has no printers; RDP has all
/// ([MS-RDPECLIP], [MS-RDPEUSB], [MS-RDPEPC], [MS-RDPEFS], [MS-RDPEA], [MS-RDPEAI], [MS-RDPESC]).
fn carries(display: Display, channel: &str) -> bool {
    match display {
        Display::Vnc => channel == "clipboard",
        Display::Spice => channel != "printers",
        Display::Rdp => true,
    }
}

fn wanted(channels: &Channels) -> Vec<&'static str> {
    let all = [
        ("clipboard", channels.clipboard != Clipboard::None),
        ("usb", !channels.usb.is_empty()),
        ("printers", channels.printers),
        ("drives", channels.drives),
        ("audio", channels.audio),
        ("microphone", channels.microphone),
        ("smartcards", channels.smartcards),
    ];
    all.into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(name, _)| name)
        .collect()
}

/// Finds channels that none of the displays of a pool's template carries.
pub(super) fn check(
    fields: &Fields,
    pool: &Pool,
    desired: &Desired,
    templates: &BTreeMap<TemplateName, Fields>,
    report: &Report,
) {
    let (Some(channels), Some(template)) =
        (&pool.policy.channels, desired.templates.get(&pool.template))
    else {
        return;
    };
    let displays: &BTreeSet<Display> = &template.displays;
    for channel in wanted(channels) {
        if displays.iter().any(|display| carries(*display, channel)) {
            continue;
        }
        let message = format!(
            "no display of `template.{}` carries `{channel}`, which a policy of `pool.{}` declares",
            pool.template, fields.name
        );
        let mut problem = Problem::error("V0409", fields.place("policies"), message);
        if let Some(template) = templates.get(&pool.template) {
            problem = problem.also(template.place("display"), "its displays");
        }
        let able: Vec<&str> = [("spice", Display::Spice), ("rdp", Display::Rdp)]
            .into_iter()
            .filter(|(_, display)| carries(*display, channel))
            .map(|(name, _)| name)
            .collect();
        report.push(problem.help(format!("add a display that does: {}", able.join(" or "))));
    }
}
