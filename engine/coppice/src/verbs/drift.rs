//! `coppice drift`: what other hands changed. It changes nothing.

use std::fmt::Write;

use coppice_plans::plan::{Drift, DriftKind, Response};
use coppice_plans::text;
use coppice_portal::api::DriftReport;
use coppice_schema::units::Timestamp;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Tone, paint};
use crate::terminal::Colours;
use crate::times;

/// Show what other hands changed, and what is done about it; changes nothing
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice drift
  coppice drift --detailed-exitcode      0: none, 2: drift, 7: a server was not seen
  coppice drift --json | jq '.drift[].object'")]
pub(crate) struct Args {
    /// End with 2 when there is drift
    #[arg(long)]
    detailed_exitcode: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let report: DriftReport = client.get("/drift").await?;
    screen.value(&report)?;
    screen.text(&whole(&report, times::now(), screen.colours));
    if !report.complete {
        screen.note("a server was not seen whole, so there may be more drift than this says: coppice status");
        return Ok(Exit::Incomplete);
    }
    let changed = args.detailed_exitcode && !report.drift.is_empty();
    Ok(if changed { Exit::Changes } else { Exit::Done })
}

fn whole(report: &DriftReport, now: Timestamp, colours: Colours) -> String {
    if report.drift.is_empty() {
        return match report.complete {
            true => "no drift: everything is as it was written\n".to_owned(),
            false => "no drift in what was seen\n".to_owned(),
        };
    }
    report
        .drift
        .iter()
        .map(|drift| one(drift, now, colours))
        .collect()
}

fn one(drift: &Drift, now: Timestamp, colours: Colours) -> String {
    let mut out = format!(
        "{} {}",
        colours.bold(&drift.object.to_string()),
        words(drift.kind)
    );
    if let Some(since) = drift.since {
        let _ = write!(out, ", seen {}", times::relative(since, now));
    }
    let tone = match drift.response {
        Response::Repaired if drift.waits.is_empty() => Tone::Good,
        Response::Repaired | Response::Told => Tone::Warn,
        Response::Contended | Response::NeedsAdmin => Tone::Bad,
    };
    let response = text::response(drift);
    let _ = writeln!(out, "; {}", paint(colours, tone, &response));
    for edit in &drift.edits {
        let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".to_owned());
        let _ = writeln!(
            out,
            "  {}: written {}, found {}",
            edit.path,
            value(&edit.before),
            value(&edit.after)
        );
    }
    out
}

fn words(kind: DriftKind) -> &'static str {
    match kind {
        DriftKind::DomainChanged => "was changed at the hypervisor",
        DriftKind::DomainUndefined => "is gone from the hypervisor",
        DriftKind::PoweredOff => "was killed or switched off",
        DriftKind::OverlayMissing => "lost its disk",
        DriftKind::OverlayChanged => "has a disk that cannot be used",
        DriftKind::ImageBad => "has a copy that is not what it should be",
        DriftKind::ImageMissing => "lost a copy",
        DriftKind::Stray => "carries our mark, and the grid does not know it",
    }
}
