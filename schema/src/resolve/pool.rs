use std::collections::BTreeMap;

use crate::desired::{Assignment, Booking, Desired, HostnamePattern, Policy, Pool};
use crate::diagnostic::{Problem, Report};
use crate::fields::Fields;
use crate::ids::PolicyName;
use crate::source::At;
use crate::table;

pub(super) fn pool(
    fields: &Fields,
    policies: &BTreeMap<PolicyName, Fields>,
    desired: &Desired,
    report: &Report,
) -> Option<Pool> {
    let assignment = match fields.word("assignment")? {
        "pooled" => Assignment::Pooled,
        "personal" => Assignment::Personal,
        _ => {
            let at = fields
                .field("assignment")
                .map_or(fields.at, |field| field.key);
            let problem = Problem::note(
                "V0501",
                at,
                "`assignment = \"client\"`: known, not carried out by this version",
            );
            report.push(problem.label("read, checked and kept; it has no effect yet"));
            Assignment::Client
        }
    };
    let names: Vec<PolicyName> = fields
        .names("policies")
        .unwrap_or_default()
        .iter()
        .filter_map(super::known)
        .collect();
    let listed: Vec<(&PolicyName, &Fields)> = names
        .iter()
        .filter_map(|name| policies.get(name).map(|fields| (name, fields)))
        .collect();
    // One alone was read and checked already: with many pools on few policies that is most of the work.
    let alone = match listed.as_slice() {
        [(name, only)] => desired.policies.get(*name).map(|policy| (*only, policy)),
        _ => None,
    };
    let several;
    let (merged, policy) = if let Some((only, policy)) = alone {
        (only, policy.clone())
    } else {
        check_policies(fields, &listed, report);
        several = merge(&listed, fields.at);
        let policy = super::policy::policy(&several);
        if listed.len() > 1 {
            super::policy::check(&several, &policy, desired, report);
        }
        (&several, policy)
    };
    check_sizes(fields, merged, &policy, report);
    check_assignment(fields, assignment, merged, report);
    let bookings = fields
        .inners("booking")
        .iter()
        .filter_map(|inner| booking(inner, report))
        .collect();
    Some(Pool {
        template: super::known(&fields.name("template")?)?,
        desktops: fields.count("desktops")?,
        slots: fields.count("slots"),
        hostname: HostnamePattern(fields.text("hostname")?),
        assignment,
        policies: names,
        policy,
        entitled: fields.entitlements("entitled").unwrap_or_default(),
        hours: fields.name("hours").and_then(|name| super::known(&name)),
        servers: fields
            .texts("servers")
            .unwrap_or_default()
            .into_iter()
            .collect(),
        copies: fields.count("copies")?,
        max_copy_age: fields.span("max_copy_age"),
        bookings,
        protect: fields.flag("protect"),
    })
}

/// All that the policies say, in one.
fn merge(listed: &[(&PolicyName, &Fields)], at: At) -> Fields {
    let row = table::BLOCKS
        .iter()
        .find(|row| row.name == "policy")
        .unwrap_or(&table::BLOCKS[0]);
    let mut merged = Fields::empty(row, at, "");
    for (_, policy) in listed {
        merged.absorb(policy);
    }
    merged
}

/// Everything that a policy sets, by path; what repeats counts as a whole.
fn said(policy: &Fields) -> Vec<(String, At)> {
    let mut found = Vec::new();
    for row in policy.row.blocks {
        for part in policy.inners(row.name) {
            found.extend(
                part.set()
                    .map(|(name, field)| (format!("{}.{name}", row.name), field.key)),
            );
            for inner in row.blocks.iter().flat_map(|inner| part.inners(inner.name)) {
                let name = [inner.row.name, inner.name.as_str()].join(" ");
                found.push((format!("{}.{}", row.name, name.trim_end()), inner.at));
            }
        }
    }
    found
}

/// Two policies of one pool that set the same attribute.
fn check_policies(pool: &Fields, listed: &[(&PolicyName, &Fields)], report: &Report) {
    let mut known: BTreeMap<String, (&PolicyName, At)> = BTreeMap::new();
    let mut seen: Vec<&PolicyName> = Vec::new();
    for (name, policy) in listed {
        if seen.contains(name) {
            let problem = Problem::error(
                "V0401",
                pool.place("policies"),
                format!("`policy.{name}` is listed twice"),
            );
            report.push(problem.help("remove one"));
            continue;
        }
        seen.push(name);
        for (path, at) in said(policy) {
            if let Some((other, first)) = known.get(&path) {
                let message = format!(
                    "`policy.{other}` and `policy.{name}` both set `{path}`, and `pool.{}` lists both",
                    pool.name
                );
                let problem = Problem::error("V0401", at, message)
                    .also(*first, format!("set by `policy.{other}`"));
                report.push(
                    problem
                        .also(pool.place("policies"), "both are listed here")
                        .help("let one of them say it"),
                );
            } else {
                known.insert(path, (name, at));
            }
        }
    }
}

fn check_sizes(fields: &Fields, merged: &Fields, policy: &Policy, report: &Report) {
    let Some(desktops) = fields.count("desktops") else {
        return;
    };
    if let Some(slots) = fields.count("slots").filter(|slots| *slots < desktops) {
        let problem = Problem::error(
            "V0412",
            fields.place("slots"),
            format!("{desktops} desktops in {slots} slots"),
        );
        report.push(
            problem
                .also(fields.place("desktops"), "the desktops")
                .help("each desktop needs a slot of its own; leave `slots` out for enough"),
        );
    }
    let (Some(power), Some(inner)) = (&policy.power, merged.inner("power")) else {
        return;
    };
    let too_many = |spare: u32, at: At| {
        if spare > desktops {
            let problem = Problem::error(
                "V0402",
                at,
                format!(
                    "{spare} spare desktops, and `pool.{}` has {desktops}",
                    fields.name
                ),
            );
            report.push(
                problem
                    .also(fields.place("desktops"), "all its desktops")
                    .help("lower `spare`, or raise `desktops`"),
            );
        }
    };
    too_many(power.spare, inner.place("spare"));
    for schedule in inner.inners("schedule") {
        if let Some(known) = power.schedules.get(&schedule.name) {
            too_many(known.spare, schedule.place("spare"));
        }
    }
}

fn check_assignment(fields: &Fields, assignment: Assignment, merged: &Fields, report: &Report) {
    let personal = assignment == Assignment::Personal;
    let at = fields.place("assignment");
    if let (true, Some(refresh)) = (personal, merged.inner("refresh"))
        && let Some((name, place)) = super::policy::triggers(refresh).first()
    {
        let message = format!(
            "the desktops of `pool.{}` are personal, and its policies regrow them",
            fields.name
        );
        let problem =
            Problem::error("V0411", at, message).also(*place, format!("`{name}` is set here"));
        report.push(problem.help("regrowing would lose what people keep there: remove the trigger, or make the pool pooled"));
    }
    if !personal && fields.count("copies").is_some_and(|copies| copies > 0) {
        let problem = Problem::error(
            "V0411",
            fields.place("copies"),
            "only personal desktops are copied",
        );
        report.push(problem.help("set `assignment = \"personal\"`, or remove `copies`"));
    }
    if fields.says("max_copy_age") && fields.count("copies") == Some(0) {
        let problem = Problem::error(
            "V0411",
            fields.place("max_copy_age"),
            "`max_copy_age` without `copies`",
        );
        report.push(problem.help("set `copies` to 1 or 2, or remove it"));
    }
}

fn booking(fields: &Fields, report: &Report) -> Option<(String, Booking)> {
    let (from, to) = (fields.moment("from")?, fields.moment("to")?);
    if to <= from {
        let problem = Problem::error(
            "V0407",
            fields.place("to"),
            "this booking ends before it begins",
        );
        report.push(problem.also(fields.place("from"), "it begins here"));
    }
    let text = |moment: jiff::civil::DateTime| moment.strftime("%Y-%m-%d %H:%M").to_string();
    let booking = Booking {
        from: text(from),
        to: text(to),
        template: fields.name("template").and_then(|name| super::known(&name)),
        entitled: fields.entitlements("entitled").unwrap_or_default(),
    };
    Some((fields.name.clone(), booking))
}
