//! `coppice watchdog`: the process that ends desktops where this server may have been given up. `coppice serve` begins it
//! when there is something to guard, and finds it again when it is started anew.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::failure::{Ended, Failure};

/// End desktops of which there are copies when the grid may have given this server up
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Begun by `coppice serve`; it ends by itself when there is nothing left to guard.

Examples:
  coppice watchdog --socket /var/lib/coppice/watchdog.sock"
)]
pub(crate) struct Args {
    /// Where it answers; its process id is kept beside that
    #[arg(long, value_name = "FILE")]
    socket: PathBuf,
}

pub(crate) fn run(args: &Args) -> Ended {
    // Fails only if a log was begun before, which nothing does.
    let _begun = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .compact()
        .try_init();
    coppice_world::watchdog::serve(&args.socket).map_err(|e| {
        Failure::new(format!(
            "cannot be the watchdog at {}",
            args.socket.display()
        ))
        .because(&e)
    })?;
    Ok(Exit::Done)
}
