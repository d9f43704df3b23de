//! `coppice status`: how the grid stands.

use std::fmt::Write;
use std::time::Duration;

use coppice_portal::api::{PoolStatus, Status};
use coppice_schema::units::Timestamp;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::terminal::Colours;
use crate::times;
use crate::verbs::{explain, server};
use crate::watch::Watch;

/// Show how the grid stands: servers, pools, what is under way and what is wrong
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice status
  coppice status --watch                 again whenever something happens, until Ctrl-C
  coppice status --json | jq '.pools[] | {name, available, desired}'")]
pub(crate) struct Args {
    /// Show it again whenever something happens
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let status: Status = client.get("/status").await?;
    if !args.watch {
        screen.value(&status)?;
        screen.text(&text(&status, times::now(), screen.colours));
        return Ok(Exit::Done);
    }
    watch(&client, status, screen).await
}

/// Until Ctrl-C; a server that is started again, or a grid without a majority, is waited for.
async fn watch(client: &Client, mut status: Status, screen: &Screen) -> Ended {
    let mut watch = Watch::begin(client, Duration::MAX).await?;
    let clear = if screen.colours.any() {
        "\x1b[2J\x1b[H"
    } else {
        ""
    };
    loop {
        screen.line(&status)?;
        screen.text(&format!(
            "{clear}{}\n",
            text(&status, times::now(), screen.colours)
        ));
        // Looked at also in between: nobody says that the server is gone.
        loop {
            let happened = watch.wait().await;
            status = watch.get("/status", screen).await?;
            if happened {
                break;
            }
        }
    }
}

fn text(status: &Status, now: Timestamp, colours: Colours) -> String {
    let mut out = String::new();
    let name = if status.grid.name.is_empty() {
        status.grid.id.to_string()
    } else {
        status.grid.name.clone()
    };
    let revision = match status.revision.0 {
        0 => "no configuration applied yet".to_owned(),
        n => format!("revision {n}"),
    };
    let stands = if !status.quorum {
        let alone = match status.degraded {
            Some(since) => format!("degraded {}: ", times::relative(since, now)),
            None => String::new(),
        };
        colours.bad(&format!(
            "{alone}no majority answers; this is what this server last heard"
        ))
    } else if status.revision.0 == 0 {
        "waiting for `coppice apply`".to_owned()
    } else if status.settled {
        colours.good("settled")
    } else {
        colours.warn("not settled")
    };
    let _ = writeln!(out, "grid {}: {revision}, {stands}", colours.bold(&name));
    if let Some(run) = &status.run
        && run.finished.is_none()
    {
        let _ = writeln!(
            out,
            "run of revision {} by {}, begun {}: {} done, {} under way, {} failed attempts",
            run.revision,
            run.author,
            times::relative(run.started, now),
            run.done,
            run.open_orders,
            run.failed
        );
    }
    let mut servers = Table::new(&[
        "server",
        "state",
        "log",
        "behind",
        "heard",
        "cpus",
        "memory",
        "hypervisor",
    ]);
    for it in &status.servers {
        servers.row([
            it.name.as_str().into(),
            server::state(it),
            server::log(it),
            server::behind(it),
            server::heard(it),
            server::carries(it, it.cpus),
            server::carries(it, it.memory.rounded()),
            server::hypervisor(it),
        ]);
    }
    let _ = write!(out, "\n{}", servers.render(colours));
    if !status.pools.is_empty() {
        let _ = write!(out, "\n{}", pools(&status.pools).render(colours));
    }
    for (i, finding) in status.findings.iter().enumerate() {
        let gap = if i == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{gap}{}", explain::finding(finding, colours));
    }
    out
}

fn pools(pools: &[PoolStatus]) -> Table {
    let mut table = Table::new(&[
        "pool",
        "desired",
        "available",
        "in use",
        "on their way",
        "off",
        "broken",
        "leaving",
    ]);
    for pool in pools {
        let whole = pool.available + pool.in_use + pool.off >= pool.desired;
        let available =
            Cell::number(pool.available).tone(if whole { Tone::Good } else { Tone::Warn });
        let bad = Cell::number(pool.broken + pool.unknown);
        let bad = if pool.broken + pool.unknown > 0 {
            bad.tone(Tone::Bad)
        } else {
            bad
        };
        table.row([
            pool.name.as_str().into(),
            Cell::number(pool.desired),
            available,
            Cell::number(pool.in_use),
            Cell::number(pool.provisioning),
            Cell::number(pool.off),
            bad,
            Cell::number(pool.deleting),
        ]);
    }
    table
}
