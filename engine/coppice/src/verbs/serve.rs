//! `coppice serve`: this server's part of the grid.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::process::{Signal, getppid};
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
    /// The process of `coppice demo` that started this one. It listens on the socket that is its standard input, and
    /// ends with that process.
    #[arg(long, value_name = "PID", hide = true)]
    child_of: Option<i32>,
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let listens = args.child_of.map(child_of).transpose()?;
    let config = config::load(&args.config)?;
    begin_log(config.log, screen);
    // Before anything is opened: a signal that comes early must not cut an opening in half.
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let running = Running::start(&config, listens).await?;
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

/// Has this process ended by the kernel when the one that started it ends, however that happens; and takes the socket
/// that it was given, on a port which nobody else can have taken meanwhile.
fn child_of(parent: i32) -> Result<std::net::TcpListener, Failure> {
    let failed =
        |e: &dyn std::error::Error| Failure::new("cannot be a server of a demo").because(e);
    let ends = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    ends.map_err(|e| failed(&e))?;
    // It may have ended before that.
    if getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
        return Err(
            Failure::new("the demo that this server is of has ended").exit(Exit::Interrupted)
        );
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let listener = socket.map(std::net::TcpListener::from);
    let listener = listener.and_then(|listener| listener.local_addr().map(|_| listener));
    listener.map_err(|e| failed(&e))
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
