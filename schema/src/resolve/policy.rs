use std::collections::BTreeMap;

use crate::calendar;
use crate::desired::{
    Channels, Clipboard, Desired, DriftRule, DriftRules, Policy, Power, PowerSchedule, Refresh,
    RefreshOn, Rollout, SessionRules,
};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::source::At;

/// The policy that `fields` describes, defaults included where a block was written.
pub(super) fn policy(fields: &Fields) -> Policy {
    // What is wrong with moments is said by `check`.
    let silent = Report::default();
    Policy {
        refresh: fields.inner("refresh").map(|refresh| Refresh {
            on: refresh.word("on").map(|word| match word {
                "logoff" => RefreshOn::Logoff,
                "disconnect" => RefreshOn::Disconnect,
                _ => RefreshOn::Never,
            }),
            every: refresh.span("every"),
            at: refresh
                .inner("at")
                .and_then(|at| super::site::recurrence(at, &silent)),
            max_age: refresh.span("max_age"),
            deadline: refresh.span("deadline"),
            warn: refresh.span("warn"),
        }),
        rollout: fields.inner("rollout").map(rollout).unwrap_or_default(),
        power: fields.inner("power").map(|power| Power {
            spare: power.count("spare").unwrap_or_default(),
            powered_on_max: power.count("powered_on_max"),
            schedules: power
                .inners("schedule")
                .iter()
                .filter_map(schedule)
                .collect(),
        }),
        session: fields.inner("session").map(|session| SessionRules {
            idle_disconnect: session.span("idle_disconnect"),
            disconnected_logoff: session.span("disconnected_logoff"),
            max_duration: session.span("max_duration"),
            warn: session.span("warn"),
            per_user: session.count("per_user").unwrap_or(1),
        }),
        channels: fields.inner("channels").map(|channels| Channels {
            clipboard: match channels.word("clipboard") {
                Some("in") => Clipboard::In,
                Some("out") => Clipboard::Out,
                Some("both") => Clipboard::Both,
                Some(_) | None => Clipboard::None,
            },
            usb: channels.texts("usb").unwrap_or_default(),
            printers: channels.flag("printers"),
            drives: channels.flag("drives"),
            audio: channels.flag("audio"),
            microphone: channels.flag("microphone"),
            smartcards: channels.flag("smartcards"),
        }),
        drift: fields.inner("drift").map(drift).unwrap_or_default(),
    }
}

fn rollout(fields: &Fields) -> Rollout {
    let default = Rollout::default();
    Rollout {
        max_unavailable: fields
            .share("max_unavailable")
            .unwrap_or(default.max_unavailable),
        max_surge: fields.share("max_surge").unwrap_or(default.max_surge),
        canary: fields.count("canary").unwrap_or(default.canary),
        healthy_after: fields
            .span("healthy_after")
            .unwrap_or(default.healthy_after),
        pause_after_failures: fields
            .count("pause_after_failures")
            .unwrap_or(default.pause_after_failures),
        rollback: fields.flag("rollback"),
        window: fields.name("window").and_then(|name| super::known(&name)),
    }
}

fn drift(fields: &Fields) -> DriftRules {
    let rule = |name| {
        fields.word(name).map(|word| match word {
            "enforce" => DriftRule::Enforce,
            "warn" => DriftRule::Warn,
            _ => DriftRule::Ignore,
        })
    };
    let default = DriftRules::default();
    DriftRules {
        domain: rule("domain"),
        disk: rule("disk").unwrap_or(default.disk),
        image: rule("image").unwrap_or(default.image),
        server: rule("server").unwrap_or(default.server),
    }
}

fn schedule(fields: &Fields) -> Option<(String, PowerSchedule)> {
    let hours = super::site::weekly(fields)?;
    let spare = fields.count("spare")?;
    Some((
        fields.name.clone(),
        PowerSchedule {
            hours,
            spare,
            powered_on_max: fields.count("powered_on_max"),
        },
    ))
}

/// Finds what is wrong within one policy, or within several merged.
pub(super) fn check(fields: &Fields, policy: &Policy, desired: &Desired, report: &Report) {
    if let Some(refresh) = fields.inner("refresh") {
        check_refresh(refresh, report);
    }
    if let (Some(inner), Some(window)) = (fields.inner("rollout"), &policy.rollout.window)
        && desired
            .windows
            .get(window)
            .is_some_and(|window| window.deny)
    {
        let message = format!("a roll-out within `window.{window}` never begins");
        let problem = Problem::error("V0407", inner.place("window"), message);
        report.push(
            problem.help(
                "that window is a freeze (`deny = true`): name one in which work may be done",
            ),
        );
    }
    if let (Some(inner), Some(power)) = (fields.inner("power"), &policy.power) {
        check_power(inner, power, report);
    }
    if let Some(channels) = fields.inner("channels") {
        for device in channels.texts("usb").unwrap_or_default() {
            if !is_usb(&device) {
                let shown: String = device.chars().take(40).collect();
                let problem = Problem::error(
                    "V0210",
                    channels.place("usb"),
                    format!("{shown:?} is no USB device"),
                );
                report.push(problem.help("write VENDOR:PRODUCT in four hexadecimal digits each, such as \"046d:c52b\", or `*` for any"));
            }
        }
    }
}

fn is_usb(text: &str) -> bool {
    let part = |part: &str| {
        part == "*" || part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    text == "*"
        || text
            .split_once(':')
            .is_some_and(|(vendor, product)| part(vendor) && part(product))
}

/// The triggers that `refresh` has beside `on = "never"`: name and place.
pub(super) fn triggers(refresh: &Fields) -> Vec<(&'static str, At)> {
    let mut found = Vec::new();
    if refresh.word("on").is_some_and(|on| on != "never") {
        found.push(("on", refresh.place("on")));
    }
    found.extend(
        ["every", "max_age"]
            .into_iter()
            .filter(|name| refresh.says(name))
            .map(|name| (name, refresh.place(name))),
    );
    found.extend(refresh.inner("at").map(|at| ("at", at.at)));
    found
}

fn check_refresh(refresh: &Fields, report: &Report) {
    if let Some(at) = refresh.inner("at") {
        let _moment = super::site::recurrence(at, report);
    }
    if refresh.word("on") == Some("disconnect") {
        let problem = Problem::note(
            "V0501",
            refresh.place("on"),
            "`on = \"disconnect\"`: known, not carried out by this version",
        );
        report.push(problem.label("read, checked and kept; it has no effect yet"));
    }
    if refresh.word("on") == Some("never")
        && let Some((name, at)) = triggers(refresh).first()
    {
        let problem = Problem::error(
            "V0410",
            refresh.place("on"),
            format!("`never`, and `{name}` beside it"),
        );
        report.push(
            problem
                .also(*at, format!("`{name}` is here"))
                .help("remove one of them"),
        );
    }
    if let (Some(deadline), Some(warn)) = (refresh.span("deadline"), refresh.span("warn"))
        && warn > deadline
    {
        let problem = Problem::error(
            "V0209",
            refresh.place("warn"),
            "`warn` is longer than `deadline`",
        );
        report.push(problem.also(
            refresh.place("deadline"),
            format!("{deadline} after the trigger"),
        ));
    }
}

fn check_power(fields: &Fields, power: &Power, report: &Report) {
    let too_few = |fields: &Fields, spare: u32, most: Option<u32>| {
        if let Some(most) = most.filter(|most| *most < spare) {
            let message = format!("{spare} spare desktops, and at most {most} may run");
            let problem = Problem::error("V0402", fields.place("spare"), message);
            report.push(problem.also(fields.place("powered_on_max"), "the most that may run"));
        }
    };
    too_few(fields, power.spare, power.powered_on_max);
    let schedules: BTreeMap<&str, &Fields> = fields
        .inners("schedule")
        .iter()
        .map(|s| (s.name.as_str(), s))
        .collect();
    let pairs: Vec<(&String, &PowerSchedule)> = power.schedules.iter().collect();
    for (i, (name, schedule)) in pairs.iter().enumerate() {
        let Some(place) = schedules.get(name.as_str()) else {
            continue;
        };
        too_few(
            place,
            schedule.spare,
            schedule.powered_on_max.or(power.powered_on_max),
        );
        for (other, before) in &pairs[..i] {
            if calendar::overlap(&schedule.hours, &before.hours) {
                let message = format!("the schedules \"{other}\" and \"{name}\" overlap");
                let problem = Problem::error("V0408", place.at, message);
                let first = schedules
                    .get(other.as_str())
                    .map_or(place.at, |fields| fields.at);
                report.push(
                    problem
                        .also(first, "the other is here")
                        .help("at any moment at most one schedule may hold"),
                );
            }
        }
        // Hundreds of schedules would be compared with each other.
        if i > 200 {
            report.push(Problem::error(
                "V0209",
                fields.at,
                "more than 200 schedules",
            ));
            return;
        }
    }
}
