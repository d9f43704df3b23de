//! `coppice serve`: this server's part of the grid.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::serve::Running;
use crate::terminal;

/// Run this server's part of the grid
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Runs until SIGTERM or Ctrl-C; desktops run on without it and are taken over again at the \
next start. Writes one line to standard output when it is ready, and its log to \
standard error.

Examples:
  coppice serve --config /var/lib/coppice/coppice.toml
  systemd-run --unit coppice --property KillMode=process coppice serve --config /var/lib/coppice/coppice.toml"
)]
pub(crate) struct Args {
    /// The server's own file, which `coppice init` wrote
    #[arg(long, value_name = "FILE", default_value = "coppice.toml")]
    config: PathBuf,
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let config = config::load(&args.config)?;
    begin_log(config.log, screen);
    // Before anything is opened: a signal that comes early must not cut an opening in half.
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let running = Running::start(&config).await?;
    let _ = writeln!(terminal::stdout(), "{}", running.ready);
    let _ = terminal::stdout().flush();
    running
        .until(async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        })
        .await?;
    Ok(Exit::Done)
}

fn signals(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|e| Failure::new("cannot listen for signals").because(&e))
}

/// One line each, for people. Libraries speak only when something is wrong.
fn begin_log(level: tracing::level_filters::LevelFilter, screen: &Screen) {
    use tracing::level_filters::LevelFilter;
    let ours = [
        "coppice",
        "coppice_grid",
        "coppice_portal",
        "coppice_reconcile",
        "coppice_world",
        "coppice_golden",
    ];
    let others = if level >= LevelFilter::DEBUG {
        LevelFilter::INFO
    } else {
        LevelFilter::ERROR.min(level)
    };
    let filter = Targets::new()
        .with_default(others)
        .with_targets(ours.map(|name| (name, level)));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(screen.error_colours.any() && std::io::stderr().is_terminal())
        .with_target(false)
        .compact();
    // Fails only if a log was begun before, which nothing does.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
}
