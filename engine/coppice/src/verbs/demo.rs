//! `coppice demo`: a grid of three simulated servers, and the loss of one.

mod site;
mod story;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;

use self::site::Site;

/// See a grid of three servers and 200 desktops, and lose one
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Three servers, each a process of its own that listens on 127.0.0.1, agree on 200 desktops. You read who \
would be affected if the one that leads were lost; then it is killed, and you see what the others make of it. Only the \
hypervisors are simulated: the agreement, the certificates, the plans and the repair are the real ones. It needs no \
root and no hypervisor, takes half a minute, and leaves nothing behind.

Examples:
  coppice demo
  coppice demo --keep         and goes on until Ctrl-C, for you to try commands on it
  coppice demo --json         how long it took, in milliseconds"
)]
pub(crate) struct Args {
    /// Stay when the story is told, until Ctrl-C, and say how to use the grid
    #[arg(long)]
    keep: bool,
}

const NAMES: [&str; 3] = ["host-1", "host-2", "host-3"];

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    // Before there is anything to be removed.
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals = kinds.map(signal);
    let signals: Result<Vec<_>, _> = signals.into_iter().collect();
    let mut signals = signals.map_err(|e| Failure::new("cannot listen for signals").because(&e))?;
    let mut site = Site::new(&NAMES)?;
    let ended = {
        let stop = futures::future::select_all(signals.iter_mut().map(|s| Box::pin(s.recv())));
        let tell = async {
            story::tell(&mut site, settings, screen).await?;
            if args.keep {
                story::keep(&site, screen)?;
                std::future::pending::<()>().await;
            }
            Ok(Exit::Done)
        };
        tokio::select! {
            ended = tell => ended,
            _ = stop => Ok(Exit::Interrupted),
        }
    };
    let told = ended.as_ref().is_ok_and(|exit| *exit == Exit::Done);
    site.end().await?;
    if let Ok(Exit::Interrupted) = ended {
        screen.note("\nthe servers are ended, and everything is removed");
    } else if told {
        story::end(screen);
    }
    ended
}
