//! Sentences about parts of a plan, without colour, for text and markdown alike.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use coppice_schema::ids::PoolName;
use coppice_schema::units::{Span, Timestamp};
use jiff::tz::TimeZone;

use crate::document::{Document, DriftLine, Group};
use crate::plan::{
    Applies, Basis, Drift, DriftKind, Edit, Estimate, Gate, Impact, Kind, PoolForecast, Reason,
    Response, Risk, UnderWay, Verdict, Wait,
};

/// A kind's sign.
#[must_use]
pub fn symbol(kind: Kind) -> &'static str {
    match kind {
        Kind::Create => "+",
        Kind::Update => "~",
        Kind::ReplaceCreateFirst => "+/-",
        Kind::ReplaceDeleteFirst => "-/+",
        Kind::Delete => "-",
        Kind::Forget => ".",
        Kind::Adopt => "<",
        Kind::Move => ">",
        Kind::Migrate => ">>",
        Kind::CopyImage => "=>",
        Kind::Drain => "<>",
        Kind::Reboot => "^v",
        Kind::PowerOn => "^",
        Kind::PowerOff => "v",
    }
}

/// A kind's verb.
#[must_use]
pub fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Create => "create",
        Kind::Update => "change",
        Kind::ReplaceCreateFirst | Kind::ReplaceDeleteFirst => "regrow",
        Kind::Delete => "delete",
        Kind::Forget => "forget",
        Kind::Adopt => "adopt",
        Kind::Move | Kind::Migrate => "move",
        Kind::CopyImage => "copy",
        Kind::Drain => "drain",
        Kind::Reboot => "reboot",
        Kind::PowerOn => "start",
        Kind::PowerOff => "switch off",
    }
}

pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

pub(crate) fn what(group: &Group) -> String {
    let verb = kind_word(group.kind);
    if matches!(group.reason, Reason::Unnamed { .. }) {
        return format!("{verb} an image file");
    }
    if matches!(group.reason, Reason::Surplus { .. }) {
        let copies = if group.count == 1 { "copy" } else { "copies" };
        return format!("{verb} {} {copies}", group.count);
    }
    if !group
        .objects
        .iter()
        .any(|object| object.desktop().is_some())
    {
        return verb.to_owned();
    }
    let count = usize::try_from(group.count).unwrap_or(usize::MAX);
    let subject = match group.objects.iter().next() {
        Some(object) if count == 1 => object.to_string(),
        _ => format!("{count} desktop{}", plural(count)),
    };
    // How far one is that is on its way, its reason says.
    if matches!(group.reason, Reason::Moving { .. }) {
        return format!("{verb} {subject}");
    }
    let at = if group.kind == Kind::Migrate {
        "to"
    } else {
        "on"
    };
    let places: Vec<String> = group
        .servers
        .iter()
        .map(|(server, n)| match group.servers.len() {
            1 => format!("{at} {server}"),
            _ => format!("{n} {at} {server}"),
        })
        .collect();
    let places = match places.as_slice() {
        [] => String::new(),
        [only] => format!(" {only}"),
        some if some.len() <= 3 => format!(" ({})", some.join(", ")),
        many => format!(" {at} {} servers", many.len()),
    };
    format!("{verb} {subject}{places}")
}

/// A reason as a phrase.
#[must_use]
pub fn reason(reason: &Reason) -> String {
    match reason {
        Reason::NotPresent => "wanted, and not there".to_owned(),
        Reason::AttributesChanged => "attributes changed".to_owned(),
        Reason::CannotUpdateInPlace { paths } => {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            format!("{} cannot change in place", paths.join(", "))
        }
        Reason::ImageVersion { image, from, to } => match from {
            Some(from) => format!("image {image} {from} -> {to}"),
            None => format!("image {image} -> {to}"),
        },
        Reason::RemovedFromConfig => "no longer in the configuration".to_owned(),
        Reason::Scale { from, to } => format!("{from} -> {to} desktops"),
        Reason::Drift { what } => format!("drift: {}", drift_word(*what)),
        Reason::HostGone { server } => format!("in place of one on {server}, which is lost"),
        Reason::FromCopy { server, taken } => format!(
            "server {server} is lost, and the copy of {} takes over",
            moment(*taken)
        ),
        Reason::Draining { server } => format!("server {server} is being emptied"),
        Reason::Returned { from, to } => {
            format!("a server came back: {from} -> {to} desktops")
        }
        Reason::Moving { from, to } => format!("on its way from {from} to {to}"),
        Reason::Requested => "asked for".to_owned(),
        Reason::Broken { why } => why.clone(),
        Reason::RolledBack { image, from, to } => {
            format!("image {image} goes back, {from} -> {to}")
        }
        Reason::Refresh { trigger } => match trigger.as_str() {
            "disk" => "its server's disk runs full".to_owned(),
            "disk_limit" => "its disk is beyond disk_limit".to_owned(),
            other => format!("refresh: {other}"),
        },
        Reason::Power { target } => format!("{target} are to run"),
        Reason::Rebalance { from, to } => format!("the load is levelled: {from} -> {to}"),
        Reason::PendingHardware => "new hardware waits for a boot".to_owned(),
        Reason::Unused => "no longer needed".to_owned(),
        Reason::Surplus { copies } => format!("copies = {copies}"),
        Reason::Unnamed { image } => format!("no version is made of {}", image.short()),
    }
}

/// What is waited for, as a phrase.
#[must_use]
pub fn wait(wait: &Wait) -> String {
    match wait {
        Wait::Window { name, opens } => match opens {
            Some(at) => format!("window.{name} opens {}", moment(*at)),
            None => format!("window.{name}, which does not open within a year"),
        },
        Wait::Freeze { name, closes } => match closes {
            Some(at) => format!("window.{name} denies until {}", moment(*at)),
            None => format!("window.{name} denies"),
        },
        Wait::Approval { revision } => format!(
            "approval: it was not in the plan of revision {revision}; plan and apply again to review it"
        ),
        Wait::Logoff { users, until } => {
            let who = if *users == 1 { "person" } else { "people" };
            match until {
                Some(at) => format!("{users} {who} to log off, until {} at most", moment(*at)),
                None => format!("{users} {who} to log off"),
            }
        }
        Wait::Budget { name } => format!("its turn ({name})"),
        Wait::Backoff { .. } => "a pause after a failure".to_owned(),
        Wait::Order { what } => format!("{what}, which is under way"),
        Wait::Image { image, version } => match version {
            Some(version) => format!("image {image}@{version} to be imported"),
            None => format!("a version of image {image} to be imported"),
        },
        Wait::Disk { disk, image } => {
            format!("a template disk of {image} or more instead of {disk}")
        }
        Wait::Observation { server } => format!("server {server} to be seen"),
        Wait::Copy {
            image,
            version,
            servers,
        } => {
            let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
            format!(
                "a copy of image {image}@{version} on {}",
                servers.join(" or ")
            )
        }
        Wait::Room { lacking } => format!("room: {lacking}"),
        Wait::Paused { until } => match until {
            Some(at) => format!("a pause until {}", moment(*at)),
            None => "a pause to end (coppice resume)".to_owned(),
        },
        Wait::RolloutStopped { failures } => {
            format!("a person: the roll-out stopped after {failures} failed")
        }
        Wait::Return { server } => format!("server {server}, which is lost, to come back"),
        Wait::Successor => "another in its place to be ready elsewhere".to_owned(),
        Wait::Vacancy { until } => {
            let most = until.map(|at| format!(", until {} at most", moment(at)));
            let most = most.unwrap_or_default();
            format!("a sign that nobody uses it{most}")
        }
    }
}

/// A moment in UTC, to the minute.
#[must_use]
pub fn moment(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(moment) => moment
            .to_zoned(TimeZone::UTC)
            .strftime("%Y-%m-%d %H:%M UTC")
            .to_string(),
        Err(_) => "at the end of time".to_owned(),
    }
}

/// A length of time as people say it.
pub(crate) fn rough(span: Span) -> String {
    match span.0 / 1_000 {
        0..=119 => format!("{} s", span.0 / 1_000),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A figure, and how far it can be trusted.
#[must_use]
pub fn estimate<T: Copy>(figure: Estimate<T>, words: &impl Fn(T) -> String) -> String {
    let value = words(figure.value);
    match figure.basis {
        Basis::Exact => value,
        Basis::Measured => format!("{value} (measured)"),
        Basis::Guess => format!("{value} (a guess)"),
    }
}

/// When a change takes effect, where that is not at once.
pub(crate) fn applies(applies: Applies) -> Option<&'static str> {
    match applies {
        Applies::Live => None,
        Applies::NextBoot => Some("at next boot"),
        Applies::Regrow => Some("when regrown"),
    }
}

pub(crate) struct EditColours {
    pub(crate) on: bool,
}

pub(crate) fn edit(edit: &Edit, colours: &EditColours) -> String {
    let paint = |code: &str, text: &str| {
        if colours.on {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    };
    let applies = applies(edit.applies)
        .map(|when| format!("   # {when}"))
        .unwrap_or_default();
    let change = match (&edit.before, &edit.after) {
        (Some(before), Some(after)) => {
            format!(
                "~ {}  {} -> {}",
                edit.path,
                paint("31", before),
                paint("32", after)
            )
        }
        (None, Some(after)) => format!("+ {}  {}", edit.path, paint("32", after)),
        (Some(before), None) => format!("- {}  {}", edit.path, paint("31", before)),
        (None, None) => edit.path.clone(),
    };
    format!("{change}{applies}")
}

/// What a group does to people and data; nothing where it does nothing.
pub(crate) fn impact(group: &Group) -> Vec<String> {
    let mut notes = Vec::new();
    let impact = &group.impact;
    if impact.sessions_interrupted.value > 0 {
        notes.push(cut_off(impact));
    }
    if impact.sessions_drained.value > 0 {
        notes.push(format!(
            "{} sessions are waited for",
            impact.sessions_drained.value
        ));
    }
    if impact.personal_bytes_lost.value.0 > 0 || group.risk == Risk::DataLoss {
        let size = estimate(
            impact.personal_bytes_lost,
            &|size: coppice_schema::units::Size| size.rounded(),
        );
        notes.push(format!("personal data is lost: up to {size}"));
    }
    if impact.pause.value > Span(0) {
        let people = match impact.users.value {
            0 => "nobody is at it".to_owned(),
            1 => "1 person is at it".to_owned(),
            users => format!("{users} people are at it"),
        };
        let pause = estimate(impact.pause, &rough);
        notes.push(format!("it stands still for up to {pause}; {people}"));
    }
    notes.extend(waves(group));
    notes
}

/// How much of the grid was looked at, and how old that is.
pub(crate) fn looked(document: &Document) -> String {
    let servers = document.observed.values();
    let seen = servers.clone().filter(|server| server.current).count();
    let all = document.observed.len();
    let age = servers
        .filter_map(|server| server.age)
        .max()
        .map(|age| format!(", last change seen {} ago", rough(age)))
        .unwrap_or_default();
    format!("Looked at {seen} of {all} server{}{age}", plural(all))
}

/// What stands before an apply; nothing of what simply passes.
pub(crate) fn gate(gate: &Gate) -> Option<String> {
    match gate.verdict {
        Verdict::Pass => None,
        Verdict::NeedsApproval => Some(format!(
            "Needs approval: {} (--approve {})",
            gate.reason,
            crate::specs::word(&gate.kind)
        )),
        Verdict::Denied => Some(format!("Denied: {}", gate.reason)),
    }
}

/// Something that a server was told and has not finished.
pub(crate) fn work(work: &UnderWay) -> String {
    match &work.last_error {
        Some(error) => format!(
            "{} (tried {} times; last: {error})",
            work.what, work.attempts
        ),
        None => work.what.clone(),
    }
}

/// All of it in one line.
pub(crate) fn summary(document: &Document) -> String {
    if document.is_empty() {
        return if !document.unseen.is_empty() {
            "No changes as far as was seen.".to_owned()
        } else if document.under_way.is_empty() {
            "No changes: the grid is as the configuration wants it.".to_owned()
        } else {
            "No changes beyond what is under way.".to_owned()
        };
    }
    let summary = &document.summary;
    let parts: Vec<String> = [
        (summary.create, "to create"),
        (summary.update, "to change"),
        (summary.replace, "to regrow"),
        (summary.power, "to switch"),
        (summary.moves, "to move"),
        (summary.delete, "to delete"),
        (summary.other, "other"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    let impact = &summary.impact;
    let mut line = format!("Plan: {}. {}", parts.join(", "), people(impact));
    if impact.takes.value > Span(0) {
        let _ = write!(line, " About {} per wave.", estimate(impact.takes, &rough));
    }
    line
}

/// Which servers were not seen.
pub(crate) fn unseen(document: &Document) -> Option<String> {
    let names: Vec<&str> = document.unseen.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| {
        let were = if names.len() == 1 { "was" } else { "were" };
        format!("incomplete: {} {were} not seen whole", names.join(", "))
    })
}

/// What alone was looked at.
pub(crate) fn only(document: &Document) -> Option<String> {
    let targets: Vec<String> = document.targets.iter().map(ToString::to_string).collect();
    (!targets.is_empty()).then(|| {
        format!(
            "Only {} and what it needs: such a plan cannot be applied",
            targets.join(", ")
        )
    })
}

/// Which waves of a roll-out a group is done in; nothing of what is done in one go.
fn waves(group: &Group) -> Option<String> {
    let (first, last) = (group.in_waves.first()?, group.in_waves.last()?);
    match (first, last) {
        (1, 1) => None,
        (first, last) if first == last => Some(format!("in wave {first}")),
        (first, last) => Some(format!("in waves {first} to {last}")),
    }
}

/// One sentence about people.
pub(crate) fn people(impact: &Impact) -> String {
    match (
        impact.sessions_interrupted.value,
        impact.sessions_drained.value,
    ) {
        (0, 0) => "Nobody is interrupted.".to_owned(),
        (0, drained) => format!("Nobody is interrupted; {drained} sessions are waited for."),
        (_, 0) => format!("{}.", capitalised(&cut_off(impact))),
        (_, drained) => format!(
            "{}, {drained} are waited for.",
            capitalised(&cut_off(impact))
        ),
    }
}

/// How many sessions end without their people's doing; fewer, where some may have ended by then.
#[must_use]
pub fn cut_off(impact: &Impact) -> String {
    let Estimate { value, basis } = impact.sessions_interrupted;
    let most = match basis {
        Basis::Exact => "",
        Basis::Measured | Basis::Guess => "up to ",
    };
    let who = if value == 1 {
        "session is"
    } else {
        "sessions are"
    };
    format!("{most}{value} {who} cut off")
}

/// How the number of a pool's desktops moves; `None` where nothing is to be said.
pub(crate) fn pool((name, pool): (&PoolName, &PoolForecast)) -> Option<String> {
    let (now, after) = (pool.available_now, pool.available_after);
    let dips = pool.lowest < now.min(after);
    if !dips && now == after && after >= pool.wanted {
        return None;
    }
    let mut line = format!("Available desktops of pool.{name}: {now}");
    if dips {
        let _ = write!(line, " -> lowest {}", pool.lowest);
        if let Some(span) = pool.lowest_for {
            let _ = write!(line, " for {}", estimate(span, &rough));
        }
    }
    let _ = write!(line, " -> {after}");
    if after < pool.wanted {
        let _ = write!(line, " of {} wanted", pool.wanted);
    }
    Some(line)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn drift_word(kind: DriftKind) -> &'static str {
    match kind {
        DriftKind::DomainChanged => "its domain was changed",
        DriftKind::DomainUndefined => "its domain was undefined",
        DriftKind::PoweredOff => "it was switched off or killed",
        DriftKind::OverlayMissing => "its disk was removed",
        DriftKind::OverlayChanged => "its disk was changed",
        DriftKind::ImageBad => "its copy is damaged",
        DriftKind::ImageMissing => "its copy was removed",
        DriftKind::Stray => "something with our mark that the grid does not know",
    }
}

pub(crate) fn drift(line: &DriftLine, now: Timestamp) -> String {
    let drift = &line.drift;
    let place = line
        .server_name
        .as_ref()
        .map(|name| format!(" on {name}"))
        .unwrap_or_default();
    let since = drift
        .since
        .map(|at| format!(", seen for {}", rough(now.since(at))))
        .unwrap_or_default();
    format!(
        "{}{place}: {}{since}; {}",
        drift.object,
        drift_word(drift.kind),
        response(drift)
    )
}

/// What is done about drift, as a phrase.
#[must_use]
pub fn response(drift: &Drift) -> String {
    match drift.response {
        Response::Repaired if drift.waits.is_empty() => "is being repaired".to_owned(),
        Response::Repaired => {
            let waits: Vec<String> = drift.waits.iter().map(wait).collect();
            format!("its repair waits for {}", waits.join(" and "))
        }
        Response::Told => "is left (policy drift: warn)".to_owned(),
        Response::Contended => {
            "is left for ten minutes: somebody keeps changing it back".to_owned()
        }
        Response::NeedsAdmin => "needs a person".to_owned(),
    }
}

/// What the signs in use mean.
pub(crate) fn legend(document: &Document) -> String {
    let kinds: BTreeSet<Kind> = document.actions.iter().map(|group| group.kind).collect();
    let parts: Vec<String> = kinds
        .into_iter()
        .map(|kind| format!("{} {}", symbol(kind), kind_word(kind)))
        .collect();
    parts.join("   ")
}
