//! `coppice plan --watch`: the plan anew whenever the files or the grid change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc::{Receiver, channel};

use super::{Args, answer, draw};
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::watch::{PATIENCE, Watch};

/// Editors write a file in several steps: one plan serves them all.
const CALM: Duration = Duration::from_millis(150);

/// Changes of files; it ends with this value.
struct Files {
    changed: Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Files {
    fn watch(directories: &[PathBuf]) -> Result<Self, Failure> {
        let failed = |place: &Path, e: &notify::Error| {
            Failure::new(format!("cannot watch {}", place.display()))
                .because(e)
                .hint("without --watch, coppice plan looks once")
        };
        // One waiting note is enough: whoever takes it reads all files.
        let (note, changed) = channel(1);
        let hear = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = note.try_send(());
            }
        };
        let mut watcher =
            notify::recommended_watcher(hear).map_err(|e| failed(Path::new("files"), &e))?;
        for place in directories {
            // Editors put a new file in the place of the old one, which only its directory tells.
            let folder = match place.parent() {
                Some(folder) if place.is_file() => &Path::new(".").join(folder),
                Some(_) | None => place,
            };
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .map_err(|e| failed(folder, &e))?;
        }
        Ok(Self {
            changed,
            _watcher: watcher,
        })
    }
}

/// Until Ctrl-C, or until the grid has not answered for long. Files with errors are told, and waited for.
pub(super) async fn watch(args: &Args, client: &Client, screen: &Screen) -> Ended {
    let mut files = Files::watch(&args.named.directories)?;
    let mut grid = Watch::begin(client, PATIENCE).await?;
    let clear = if screen.colours.any() {
        "\x1b[2J\x1b[H"
    } else {
        ""
    };
    loop {
        let attempt = async || answer(args, client, screen).await;
        let answered = grid.ask(attempt, |failure: &Failure| failure.passes, screen);
        let answered = answered.await;
        screen.text(clear);
        match answered {
            Ok(response) => {
                screen.line(&response.document)?;
                draw(&response.document, args.form, screen)?;
                screen.text("\n");
            }
            Err(failure) if failure.exit == Exit::Invalid => screen.failure(&failure),
            Err(failure) => return Err(failure),
        }
        let happens = async { while !grid.wait().await {} };
        tokio::select! {
            _ = files.changed.recv() => {}
            () = happens => {}
        }
        tokio::time::sleep(CALM).await;
        while files.changed.try_recv().is_ok() {}
    }
}
