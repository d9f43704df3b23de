//! `coppice backup`: everything that the grid remembers, in one file.

use std::io::Write;
use std::path::PathBuf;

use coppice_portal::api::BackupRequest;
use coppice_schema::ids::{GridId, Revision};
use coppice_schema::units::Timestamp;
use coppice_state::backup::Backup;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::passphrase;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::times;

/// Keep everything that the grid remembers in one file
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "The file holds configuration, desktops, users' assignments, the catalogue of images, tokens (as hashes) and \
secrets (sealed). It does not hold images and the disks of desktops. Any server can be asked; the token \
needs the scope admin.

With --with-keys the grid's keys are in it too, sealed by a passphrase: a restore then opens the secrets, and clients \
trust it as before. Without, a restore asks for each secret again, and clients get another ca.pem.

Examples:
  coppice backup grid.backup --with-keys
  coppice backup grid.backup --with-keys --passphrase-file phrase.txt     when nobody is there to type it
  coppice backup /srv/backups/grid-$(date +%F).backup
  coppice backup last.backup --stale                where no majority answers: what that server last heard"
)]
pub(crate) struct Args {
    /// The file to make; one that is there is not overwritten
    file: PathBuf,
    /// Put the grid's keys into it, sealed by a passphrase
    #[arg(long)]
    with_keys: bool,
    /// A file with that passphrase; without it, it is asked for
    #[arg(long, value_name = "FILE", requires = "with_keys")]
    passphrase_file: Option<PathBuf>,
    /// Also where no majority answers: what the server that is asked last heard
    #[arg(long)]
    stale: bool,
}

/// What was kept.
#[derive(serde::Serialize)]
struct Made {
    file: PathBuf,
    bytes: usize,
    grid: Option<GridId>,
    epoch: u64,
    term: u64,
    index: u64,
    revision: Revision,
    time: Timestamp,
    newest: bool,
    keys: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let phrase = args
        .with_keys
        .then(|| passphrase::new(args.passphrase_file.as_deref(), screen));
    // The file is made first: nothing is asked for that could not be kept.
    let mut file = super::init::private_file(&args.file)?;
    let request = BackupRequest {
        passphrase: phrase.transpose().inspect_err(|_| forget(&args))?,
        stale: args.stale,
    };
    let answer = tokio::select! {
        answer = client.post_for_bytes("/backup", &request) => answer,
        _ = tokio::signal::ctrl_c() => {
            forget(&args);
            return Ok(Exit::Interrupted);
        }
    };
    let bytes = answer
        .map_err(Failure::from)
        .inspect_err(|_| forget(&args))?;
    // What cannot be read back is no backup.
    let backup = Backup::decode(&bytes).map_err(|e| {
        forget(&args);
        Failure::new("the server's answer is not a backup").because(&e)
    })?;
    let written = file.write_all(&bytes).and_then(|()| file.sync_all());
    written.map_err(|e| {
        forget(&args);
        Failure::new(format!("cannot write {}", args.file.display())).because(&e)
    })?;
    let made = Made {
        bytes: bytes.len(),
        grid: backup.grid(),
        epoch: backup.epoch().number,
        term: backup.state.term,
        index: backup.state.index,
        revision: backup.state.revision,
        time: backup.state.time,
        newest: backup.newest,
        keys: backup.keys.is_some(),
        file: args.file,
    };
    screen.value(&made)?;
    screen.note(&format!(
        "{}: revision {}, entry {} of term {} in life {}, last changed {}",
        made.file.display(),
        made.revision,
        made.index,
        made.term,
        made.epoch,
        times::relative(made.time, times::now())
    ));
    if !made.newest {
        screen.note("no majority answered: the grid may have agreed on more than is in it");
    }
    if made.keys {
        screen.note("without the passphrase its keys cannot be opened by anybody");
    } else {
        screen.note("the grid's keys are not in it: a restore asks for every secret again");
    }
    Ok(Exit::Done)
}

/// A file that holds no backup must not be taken for one.
fn forget(args: &Args) {
    let _ = std::fs::remove_file(&args.file);
}
