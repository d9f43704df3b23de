//! Windows, networks, locations and servers; and the times that other blocks share with windows.

use std::collections::BTreeSet;

use crate::calendar;
use crate::desired::{
    Location, Network, NetworkTarget, Opening, Recurrence, ServerRule, Weekly, Window,
};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::units::Span;

pub(super) fn window(fields: &Fields, report: &Report) -> Option<Window> {
    let clock = either(
        fields,
        &["days", "from", "to"],
        &["cron", "duration"],
        report,
    )?;
    let opening = if clock {
        Opening::Weekly(weekly(fields)?)
    } else {
        let (cron, duration) = (fields.cron("cron")?, fields.span("duration")?);
        if !calendar::ever(&cron) || duration == Span(0) {
            let problem = Problem::error("V0407", fields.place("cron"), "this window never opens");
            report.push(problem.label("no month has such a day").help(
                "the longest February has 29 days; April, June, September and November have 30",
            ));
        }
        Opening::Cron { cron, duration }
    };
    Some(Window {
        opening,
        deny: fields.flag("deny"),
    })
}

/// Days with a beginning and an end.
pub(super) fn weekly(fields: &Fields) -> Option<Weekly> {
    Some(Weekly {
        days: fields.days("days")?,
        from: fields.clock("from")?,
        to: fields.clock("to")?,
    })
}

/// Repeated moments: `days` and `from`, or `cron`.
pub(super) fn recurrence(fields: &Fields, report: &Report) -> Option<Recurrence> {
    if either(fields, &["days", "from"], &["cron"], report)? {
        return Some(Recurrence::Weekly {
            days: fields.days("days")?,
            at: fields.clock("from")?,
        });
    }
    let cron = fields.cron("cron")?;
    if !calendar::ever(&cron) {
        let problem = Problem::error("V0407", fields.place("cron"), "this moment never comes");
        report.push(problem.label("no month has such a day"));
    }
    Some(Recurrence::Cron(cron))
}

/// Whether `fields` says all of `one` (true) or all of `other` (false), and nothing of the other.
fn either(fields: &Fields, one: &[&str], other: &[&str], report: &Report) -> Option<bool> {
    let said = |names: &[&str]| names.iter().filter(|name| fields.says(name)).count();
    let words = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let block = fields.row.name;
    let (first, second) = (said(one), said(other));
    if first > 0 && second > 0 {
        let problem = Problem::error(
            "V0211",
            fields.at,
            format!("`{block}` has both clock times and cron"),
        );
        report.push(problem.help(format!("write {} or {}", words(one), words(other))));
        return None;
    }
    let (set, names) = if second > 0 {
        (second, other)
    } else {
        (first, one)
    };
    if set < names.len() {
        let missing: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !fields.says(name))
            .collect();
        let message = if set == 0 {
            format!("`{block}` needs {} or {}", words(one), words(other))
        } else {
            format!("`{block}` needs {} too", words(&missing))
        };
        report.push(Problem::error("V0204", fields.at, message));
        return None;
    }
    Some(second == 0)
}

pub(super) fn network(fields: &Fields, report: &Report) -> Option<Network> {
    let said: Vec<&str> = ["bridge", "libvirt", "user"]
        .into_iter()
        .filter(|name| fields.says(name))
        .collect();
    let vlan = fields
        .number("vlan")
        .and_then(|vlan| u16::try_from(vlan).ok());
    let target = match said.as_slice() {
        ["bridge"] => {
            let bridge = fields.text("bridge")?;
            let fine =
                bridge.len() <= 15 && bridge.chars().all(|c| c.is_ascii_graphic() && c != '/');
            if !fine {
                let problem = Problem::error(
                    "V0210",
                    fields.place("bridge"),
                    "`bridge` must be the name of an interface",
                );
                report.push(
                    problem.help("at most 15 printable ASCII characters without space and '/'"),
                );
            }
            NetworkTarget::Bridge { bridge, vlan }
        }
        ["libvirt"] => NetworkTarget::Libvirt {
            network: fields.text("libvirt")?,
            vlan,
        },
        ["user"] => {
            if !fields.flag("user") && !fields.failed("user") {
                let problem =
                    Problem::error("V0211", fields.place("user"), "a network that is nothing");
                report.push(problem.help("write `user = true`, or `bridge` or `libvirt` instead"));
            }
            if fields.says("vlan") {
                let problem = Problem::error(
                    "V0211",
                    fields.place("vlan"),
                    "`vlan` has no meaning for `user`",
                );
                report.push(problem.help("remove it"));
            }
            NetworkTarget::User
        }
        [] => {
            let problem = Problem::error(
                "V0204",
                fields.at,
                "`network` needs `bridge`, `libvirt` or `user`",
            );
            report.push(
                problem
                    .help("`user = true` needs no privileges, and is not reachable from outside"),
            );
            return None;
        }
        [_] => return None,
        [first, second, ..] => {
            let problem = Problem::error(
                "V0211",
                fields.place(second),
                format!("`{second}` beside `{first}`"),
            );
            report.push(
                problem
                    .also(fields.place(first), format!("`{first}` is here"))
                    .help("keep one of them"),
            );
            return None;
        }
    };
    Some(Network { target })
}

pub(super) fn location(fields: &Fields) -> Option<Location> {
    Some(Location {
        clients: fields.texts("clients")?,
        printers: fields.texts("printers").unwrap_or_default(),
    })
}

pub(super) fn server(fields: &Fields) -> ServerRule {
    let labels: BTreeSet<String> = fields
        .texts("labels")
        .unwrap_or_default()
        .into_iter()
        .collect();
    ServerRule {
        labels,
        keep_free_memory: fields.size("keep_free_memory").unwrap_or_default(),
        keep_free_disk: fields.size("keep_free_disk").unwrap_or_default(),
        cordon: fields.flag("cordon"),
    }
}
