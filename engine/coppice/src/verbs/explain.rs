//! `coppice explain`: why is it as it is, and why is nothing happening?

use std::fmt::Write;

use coppice_plans::placement::Placement;
use coppice_plans::plan::{Finding, Severity};
use coppice_plans::text;
use coppice_portal::api::Explanation;
use coppice_schema::ids::Address;
use coppice_schema::units::Timestamp;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone, paint};
use crate::terminal::Colours;
use crate::times;

/// Say why something is as it is, what it waits for, and what is wrong with it
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice explain desktop.lab-007
  coppice explain pool.lab
  coppice explain image.tiny
  coppice explain server.host-1")]
pub(crate) struct Args {
    /// What: pool.NAME, desktop.NAME, image.NAME, server.NAME, template.NAME or grid
    address: Address,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let path = format!("/explain/{}", segment(&args.address.to_string()));
    let explanation: Explanation = client.get(&path).await?;
    screen.value(&explanation)?;
    screen.text(&whole(&explanation, times::now(), screen.colours));
    Ok(Exit::Done)
}

fn whole(it: &Explanation, now: Timestamp, colours: Colours) -> String {
    let paused = if it.paused { ", paused" } else { "" };
    let mut out = format!(
        "{} is {}{paused}\n",
        colours.bold(&it.address.to_string()),
        it.state
    );
    for fact in &it.trace {
        let _ = writeln!(out, "  {fact}");
    }
    section(&mut out, "waits for", it.waits.iter().map(text::wait));
    section(
        &mut out,
        "findings",
        it.findings.iter().map(|f| finding(f, colours)),
    );
    let orders = it.orders.iter().map(|order| {
        let mut line = format!("{} on {}", order.what, order.server);
        if order.attempts > 0 {
            let _ = write!(
                line,
                ", tried {} times, next {}",
                order.attempts,
                times::relative(order.not_before, now)
            );
        }
        if let Some(error) = &order.last_error {
            let _ = write!(line, ": {error}");
        }
        line
    });
    section(&mut out, "under way", orders);
    if let Some(placement) = &it.placement {
        out.push_str(&weighed(placement, &it.address, colours));
    }
    if it.waits.is_empty() && it.findings.is_empty() && it.orders.is_empty() {
        out.push_str("  nothing is waiting, and nothing is wrong\n");
    }
    out
}

/// Every server as a place for it: what would be taken of each with it there, or what keeps it from there.
fn weighed(placement: &Placement, about: &Address, colours: Colours) -> String {
    let what = if matches!(about, Address::Desktop(_)) {
        "where it would go if it were grown anew now"
    } else {
        "where its next desktop would go"
    };
    let mut out = format!(
        "{what} ({} cpus, {} of memory, up to {} of disk):\n",
        placement.cpus,
        placement.memory.rounded(),
        placement.disk.rounded()
    );
    let mut table = Table::new(&[
        "server",
        "largest share",
        "cpus",
        "memory",
        "disk",
        "sessions",
        "",
    ]);
    for candidate in &placement.candidates {
        let shares = candidate.shares;
        let percent =
            |share: u64| Cell::number(format!("{}.{} %", share / 10_000, share / 1_000 % 10));
        let mut words = Vec::new();
        words.extend(candidate.here.then(|| "it is here".to_owned()));
        words.extend(candidate.chosen.then(|| "the lowest: chosen".to_owned()));
        words.extend(
            candidate
                .lacks
                .as_ref()
                .map(|lack| format!("excluded: {}", lack.detail())),
        );
        let tone = match (candidate.chosen, &candidate.lacks) {
            (true, _) => Tone::Good,
            (false, Some(_)) => Tone::Faint,
            (false, None) => Tone::Usual,
        };
        table.row([
            candidate.server.as_str().into(),
            percent(candidate.dominant),
            percent(shares.cpus),
            percent(shares.memory),
            percent(shares.disk),
            percent(shares.sessions),
            Cell::from(words.join(", ")).tone(tone),
        ]);
    }
    for line in table.render(colours).lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for (i, line) in lines.enumerate() {
        if i == 0 {
            let _ = writeln!(out, "{title}:");
        }
        let _ = writeln!(out, "  {line}");
    }
}

/// A finding in one line, and what to do about it.
pub(crate) fn finding(finding: &Finding, colours: Colours) -> String {
    let (word, tone) = match finding.severity {
        Severity::Error => ("error", Tone::Bad),
        Severity::Warning => ("warning", Tone::Warn),
        Severity::Note => ("note", Tone::Faint),
    };
    let what = text::finding(&finding.kind);
    let mut line = format!(
        "{} {}: {what}",
        paint(colours, tone, &format!("{word}:")),
        finding.object
    );
    if !finding.remedy.is_empty() {
        let _ = write!(line, "; {}", finding.remedy);
    }
    line
}
