//! Host names of the whole grid.

use std::collections::BTreeMap;

use crate::desired::{Desired, HostnamePattern, Os, Pool};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::ids::{PoolName, Slot};

/// Most slots of a grid that are looked at; more are refused.
const SLOTS_MAX: u32 = 200_000;

/// Longest NetBIOS name, which Windows makes of a host name.
const WINDOWS_MAX: usize = 15;
/// Longest label of a DNS name (RFC 1035, 2.3.4).
const LABEL_MAX: usize = 63;

/// How many slots a pool may come to have: what it says, or its desktops and as many more as one server carries,
/// which is at most all of them.
fn slots(pool: &Pool) -> u32 {
    pool.slots
        .unwrap_or_else(|| pool.desktops.saturating_mul(2))
}

pub(super) fn check(desired: &Desired, pools: &BTreeMap<PoolName, Fields>, report: &Report) {
    let mut left = SLOTS_MAX;
    let mut taken: BTreeMap<String, (&PoolName, u32)> = BTreeMap::new();
    for (name, pool) in &desired.pools {
        let Some(fields) = pools.get(name) else {
            continue;
        };
        let Some(rest) = left.checked_sub(slots(pool)) else {
            let problem = Problem::error(
                "V0412",
                fields.at,
                format!("more than {SLOTS_MAX} slots in all pools"),
            );
            return report.push(
                problem
                    .label("here they become too many")
                    .help("set `slots`, or divide the grid"),
            );
        };
        left = rest;
        if check_pattern(fields, pool, report) {
            check_names(name, pool, desired, fields, pools, &mut taken, report);
        }
    }
}

/// Whether the pattern has only known place-holders.
fn check_pattern(fields: &Fields, pool: &Pool, report: &Report) -> bool {
    let at = fields.place("hostname");
    let HostnamePattern(pattern) = &pool.hostname;
    let mut rest = pattern.as_str();
    let mut has_slot = false;
    while let Some(open) = rest.find(['{', '}']) {
        let inner = rest[open..]
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let known = inner.is_some_and(|(word, _)| {
            let width = word
                .strip_prefix("slot:0")
                .and_then(|n| n.parse::<u8>().ok());
            has_slot |= word == "slot" || width.is_some();
            word == "pool" || word == "slot" || width.is_some_and(|width| (1..=9).contains(&width))
        });
        let Some((_, after)) = inner.filter(|_| known) else {
            let problem = Problem::error("V0405", at, "`hostname` has an unknown place-holder");
            report.push(
                problem.help("known are {pool}, {slot} and {slot:02} (two digits, zeros in front)"),
            );
            return false;
        };
        rest = after;
    }
    if !has_slot && slots(pool) > 1 {
        let problem = Problem::error(
            "V0403",
            at,
            format!(
                "all desktops of `pool.{}` would have the same host name",
                fields.name
            ),
        );
        report.push(problem.help("put {slot} into it, such as \"{pool}-{slot:02}\""));
        return false;
    }
    true
}

fn check_names<'d>(
    name: &'d PoolName,
    pool: &Pool,
    desired: &Desired,
    fields: &Fields,
    pools: &BTreeMap<PoolName, Fields>,
    taken: &mut BTreeMap<String, (&'d PoolName, u32)>,
    report: &Report,
) {
    let at = fields.place("hostname");
    let template = desired.templates.get(&pool.template);
    let os = template
        .and_then(|template| desired.images.get(&template.image))
        .map(|image| image.os);
    let most = if os == Some(Os::Windows) {
        WINDOWS_MAX
    } else {
        LABEL_MAX
    };
    for slot in 1..=slots(pool) {
        let host = pool.hostname.fill(name, Slot(slot));
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let shown = || host.chars().take(80).collect::<String>();
        if host.is_empty()
            || !host.chars().all(fine)
            || host.starts_with('-')
            || host.ends_with('-')
        {
            let problem = Problem::error("V0405", at, format!("{:?} is no host name", shown()));
            return report.push(problem.help("letters, digits and '-', neither first nor last; set `hostname` where the pool's name has '_'"));
        }
        if host.len() > most {
            let message = format!("the host name {:?} has {} characters", shown(), host.len());
            let problem = Problem::error("V0404", at, message);
            let label = if most == WINDOWS_MAX {
                "windows allows 15"
            } else {
                "63 are allowed"
            };
            return report.push(
                problem
                    .label(label)
                    .help("shorten `hostname`; without `slots`, twice the desktops must fit"),
            );
        }
        if let Some((other, first)) = taken.insert(host.to_ascii_lowercase(), (name, slot)) {
            let message = format!(
                "the host name {:?} comes up twice: slot {first} of `pool.{other}` and slot {slot} of `pool.{name}`",
                shown()
            );
            let problem = Problem::error("V0403", at, message);
            let problem = match pools.get(other) {
                Some(fields) if other != name => {
                    problem.also(fields.place("hostname"), "the other pattern")
                }
                Some(_) | None => problem,
            };
            return report.push(
                problem
                    .help("put {pool} into the patterns; upper and lower case count as the same"),
            );
        }
    }
}
