//! `coppice doctor`: everything between a person and a grid, each in a line, with advice.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use coppice_plans::plan::Severity;
use coppice_plans::text;
use coppice_portal::api::{HealthReport, ServerStatus, Status};
use coppice_schema::known::DiskLevel;
use coppice_schema::units::{Span, Timestamp};
use coppice_state::join::Role;
use serde::Serialize;

use crate::client::{Client, ClientError};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Tone, paint};
use crate::times;

/// Check everything between you and the grid, with advice
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice doctor
  coppice doctor --json | jq '.[] | select(.verdict != \"ok\")'")]
pub(crate) struct Args {}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    what: String,
    advice: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Bad,
}

/// Clocks further apart than this make "3 min ago" wrong and, later, certificates invalid.
const SKEW: Span = Span::seconds(5);

/// A server renews its certificate when thirty days are left, so with less than this left it failed for a week.
const RENEWED: Span = Span::hours(23 * 24);

pub(crate) async fn run(_: Args, settings: &Settings, screen: &Screen) -> Ended {
    let mut found = Vec::new();
    examine(settings, &mut found).await;
    screen.value(&found)?;
    for finding in &found {
        let (word, tone) = match finding.verdict {
            Verdict::Ok => ("ok  ", Tone::Good),
            Verdict::Warn => ("warn", Tone::Warn),
            Verdict::Bad => ("bad ", Tone::Bad),
        };
        screen.text(&format!(
            "{} {:<11} {}\n",
            paint(screen.colours, tone, word),
            finding.check,
            finding.what
        ));
        for advice in finding.advice.iter().filter(|_| !screen.automation) {
            screen.text(&format!("                 try: {advice}\n"));
        }
    }
    let bad = found.iter().any(|f| f.verdict == Verdict::Bad);
    Ok(if bad { Exit::Error } else { Exit::Done })
}

/// Each check needs the ones before it; the first that fails ends the examination.
async fn examine(settings: &Settings, found: &mut Vec<Finding>) {
    let anonymous = match Client::anonymous(settings) {
        Ok(client) => client,
        Err(failure) => return found.push(bad("settings", failure)),
    };
    let begun = Instant::now();
    let health: HealthReport = match anonymous.get("/health").await {
        Ok(health) => health,
        Err(error) => {
            let check = if matches!(error, ClientError::Tls { .. }) {
                "tls"
            } else {
                "reach"
            };
            return found.push(bad(check, error.into()));
        }
    };
    let took = begun.elapsed().as_millis();
    found.push(ok(
        "reach",
        format!("{} answers in {took} ms", anonymous.target()),
    ));
    found.push(match anonymous.valid_until().await {
        Ok(until) => certificate(until, times::now()),
        Err(error) => bad("tls", error.into()),
    });
    found.push(version(&health));
    found.push(clock(&anonymous).await);
    let client = match token(settings, found) {
        Some(client) => client,
        None => return,
    };
    match client.get::<Status>("/status").await {
        Ok(status) => {
            found.push(ok("token", "the grid takes it".to_owned()));
            grid(&status, found);
        }
        Err(error) => found.push(bad("token", error.into())),
    }
}

/// What a certificate of this grid's authority is worth at `now`.
fn certificate(until: Option<Timestamp>, now: Timestamp) -> Finding {
    let whose = "its certificate is from this grid's authority";
    let Some(until) = until else {
        return ok("tls", whose.to_owned());
    };
    let left = until.since(now);
    let what = format!("{whose}, and valid for {} more", times::length(left));
    if left >= RENEWED {
        return ok("tls", what);
    }
    Finding {
        check: "tls",
        verdict: Verdict::Warn,
        what: format!("{what}: it should have been renewed by now"),
        advice: vec!["the log of `coppice serve` says why it was not; it tries again each day, and when it is started".to_owned()],
    }
}

fn version(health: &HealthReport) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if health.version == own {
        return ok("version", format!("both are {own}"));
    }
    Finding {
        check: "version",
        verdict: Verdict::Warn,
        what: format!("the server is {}, this command is {own}", health.version),
        advice: vec!["use the same version on both".to_owned()],
    }
}

async fn clock(client: &Client) -> Finding {
    let before = times::now();
    let theirs = match client.head("/health").await {
        Ok(headers) => headers
            .get(hyper::header::DATE)
            .and_then(|d| http_date(d.to_str().ok()?)),
        Err(error) => return bad("clock", error.into()),
    };
    let Some(theirs) = theirs else {
        return ok("clock", "the server does not tell its time".to_owned());
    };
    let after = times::now();
    let apart = skew(theirs, before, after);
    if apart <= SKEW {
        return ok("clock", "this machine's and the server's agree".to_owned());
    }
    Finding {
        check: "clock",
        verdict: Verdict::Warn,
        what: format!(
            "this machine's and the server's are {} apart",
            times::length(apart)
        ),
        advice: vec!["set both by NTP: timedatectl set-ntp true".to_owned()],
    }
}

/// How far `theirs` lies outside of the time in which it was asked for. It is cut to whole seconds.
fn skew(theirs: Timestamp, before: Timestamp, after: Timestamp) -> Span {
    let latest = theirs.after(Span::seconds(1));
    Span(theirs.since(after).0.max(before.since(latest).0))
}

/// `Sun, 22 Nov 2026 20:02:46 GMT`, the one form that servers write today (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let moment = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(moment.timestamp().as_millisecond())
        .ok()
        .map(Timestamp)
}

fn token(settings: &Settings, found: &mut Vec<Finding>) -> Option<Client> {
    let client = match Client::new(settings) {
        Ok(client) => client,
        Err(failure) => {
            found.push(bad("token", failure));
            return None;
        }
    };
    let mode = settings
        .token_file
        .as_deref()
        .and_then(|p| std::fs::metadata(p).ok())
        .map_or(0, |m| m.mode());
    if mode & 0o077 != 0 {
        let path = settings
            .token_file
            .as_deref()
            .unwrap_or(std::path::Path::new(""))
            .display()
            .to_string();
        found.push(Finding {
            check: "token file",
            verdict: Verdict::Warn,
            what: format!("others can read {path}"),
            advice: vec![format!("chmod 600 {path}")],
        });
    }
    Some(client)
}

fn grid(status: &Status, found: &mut Vec<Finding>) {
    found.push(if status.quorum {
        ok("agreement", "a majority of the voters answers".to_owned())
    } else {
        Finding {
            check: "agreement",
            verdict: Verdict::Bad,
            what: "no majority of the voters answers; nothing can be changed".to_owned(),
            advice: vec![
                "start `coppice serve` on the other servers".to_owned(),
                "if they are gone for good: coppice server recover --alone".to_owned(),
            ],
        }
    });
    for server in &status.servers {
        if server.role == Role::Witness {
            found.push(witness(server));
            continue;
        }
        let problem = match (&server.hypervisor_away, server.current) {
            (Some(why), _) => Some((
                format!("{} does not answer: {why}", server.name),
                "see `hypervisor` in its coppice.toml, and the log of `coppice serve`",
            )),
            (None, false) => Some((
                format!("{} was not seen whole yet", server.name),
                "is `coppice serve` running there? its log says what it waits for",
            )),
            (None, true) => None,
        };
        found.push(match problem {
            None => ok(
                "hypervisor",
                format!("{}: {}", server.name, server.hypervisor),
            ),
            Some((what, advice)) => Finding {
                check: "hypervisor",
                verdict: Verdict::Bad,
                what,
                advice: vec![advice.to_owned()],
            },
        });
        found.push(disk(server));
    }
    for finding in &status.findings {
        let verdict = match finding.severity {
            Severity::Error => Verdict::Bad,
            Severity::Warning => Verdict::Warn,
            Severity::Note => continue,
        };
        let advice = Some(finding.remedy.clone())
            .filter(|r| !r.is_empty())
            .into_iter()
            .collect();
        let what = format!("{}: {}", finding.object, text::finding(&finding.kind));
        found.push(Finding {
            check: "finding",
            verdict,
            what,
            advice,
        });
    }
}

/// One has neither hypervisor nor desktops: that it is heard is all.
fn witness(server: &ServerStatus) -> Finding {
    let name = &server.name;
    if server.current {
        return ok("witness", format!("{name}: heard, it only votes"));
    }
    Finding {
        check: "witness",
        verdict: Verdict::Bad,
        what: format!("{name} is not heard by whoever leads"),
        advice: vec![format!(
            "is `coppice serve` running there, and the network between them whole? if it is gone for good: coppice server remove {name}"
        )],
    }
}

fn disk(server: &ServerStatus) -> Finding {
    let name = &server.name;
    let room = "remove versions that nobody uses: coppice image list, coppice image remove; or give it a larger disk";
    let (verdict, what) = match server.disk_level {
        None => (Verdict::Ok, format!("{name}: not looked at yet")),
        Some(DiskLevel::Fine) => (Verdict::Ok, format!("{name}: less than 80 % full")),
        Some(DiskLevel::High) => (
            Verdict::Warn,
            format!("{name}: more than 80 % full, no new desktops there"),
        ),
        Some(DiskLevel::Critical) => (
            Verdict::Bad,
            format!("{name}: more than 90 % full, idle desktops are regrown"),
        ),
    };
    let advice = if verdict == Verdict::Ok {
        Vec::new()
    } else {
        vec![room.to_owned()]
    };
    Finding {
        check: "disk",
        verdict,
        what,
        advice,
    }
}

fn ok(check: &'static str, what: String) -> Finding {
    Finding {
        check,
        verdict: Verdict::Ok,
        what,
        advice: Vec::new(),
    }
}

fn bad(check: &'static str, failure: Failure) -> Finding {
    let what = std::iter::once(failure.what)
        .chain(failure.causes)
        .collect::<Vec<_>>()
        .join(": ");
    Finding {
        check,
        verdict: Verdict::Bad,
        what,
        advice: failure.tries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_apart_only_by_what_the_request_cannot_explain() {
        let at = |theirs| skew(Timestamp(theirs), Timestamp(20_500), Timestamp(21_500));
        assert_eq!(at(20_000), Span(0));
        assert_eq!(at(21_000), Span(0));
        assert_eq!(at(10_000), Span(9_500));
        assert_eq!(at(30_000), Span(8_500));
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_told() {
        let now = Timestamp(1_795_000_000_000);
        let at = |days: u64| certificate(Some(now.after(Span::hours(days * 24))), now);
        assert_eq!(at(60).verdict, Verdict::Ok);
        assert_eq!(at(29).verdict, Verdict::Ok);
        let late = at(9);
        assert_eq!(late.verdict, Verdict::Warn);
        assert!(late.what.contains("9 d"), "{}", late.what);
        assert!(late.advice[0].contains("coppice serve"));
    }

    #[test]
    fn a_witness_is_well_when_it_is_heard_and_has_no_disk_to_look_at() {
        let judge = |current: bool| {
            let status = serde_json::json!({
                "grid": {"name": "g", "id": "00000000000000000000000000000001", "epoch": 1},
                "revision": 1, "time": 0, "quorum": true, "pools": [], "run": null, "findings": [], "settled": true,
                "servers": [{
                    "name": "w", "state": "ready", "role": "witness", "current": current,
                    "hypervisor": "", "hypervisor_away": null, "cpus": 0, "memory": 0, "disk_level": null,
                }],
            });
            let mut found = Vec::new();
            grid(&serde_json::from_value(status).unwrap(), &mut found);
            found
        };
        let well = judge(true);
        assert!(well.iter().all(|f| f.verdict == Verdict::Ok), "{well:?}");
        assert!(well.iter().all(|f| f.check != "disk"), "{well:?}");
        let silent = judge(false);
        let bad: Vec<_> = silent
            .iter()
            .filter(|f| f.verdict == Verdict::Bad)
            .collect();
        assert_eq!(bad.len(), 1, "{silent:?}");
        assert!(bad[0].what.contains("w is not heard"), "{bad:?}");
    }

    #[test]
    fn the_date_of_a_server_is_read() {
        assert_eq!(
            http_date("Thu, 01 Jan 1970 00:00:07 GMT"),
            Some(Timestamp(7_000))
        );
        assert_eq!(http_date("yesterday"), None);
    }
}
