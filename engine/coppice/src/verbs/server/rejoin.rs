//! `coppice server rejoin`: a server that a grid goes on without becomes a part of it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coppice_grid::directory::DirectoryError;
use coppice_grid::{Grid, GridError};
use coppice_schema::ids::GridId;

use super::recover::{consent, title};
use crate::client::Target;
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::times;
use crate::verbs::join;

/// Make this server, which a grid goes on without, a part of it again
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "For a server whose grid began another life without it (it was restored, or a server was recovered alone), for the \
side that gives way when both sides went on alone, and for one whose log or disk is damaged. `coppice serve` must not \
run on it. Its log and its part in the former life are put aside; its images, its desktops' disks and its file stay. \
Desktops that the grid remembers come back with it; what it does not know is quarantined, and nobody touches it.

TOKEN is the line of `coppice token create --role server`, made in the grid that stays.

Examples:
  coppice server rejoin 10.0.0.5 TOKEN --config /var/lib/coppice/coppice.toml
  coppice server rejoin 10.0.0.5 TOKEN --confirm campus      nobody is there to type the grid's name"
)]
pub(crate) struct Args {
    /// Any server of the grid that stays: HOST or HOST:PORT
    #[arg(value_parser = join::target)]
    address: Target,
    /// The line that `coppice token create --role server` printed there
    token: String,
    /// The server's own file
    #[arg(long, value_name = "FILE", default_value = "coppice.toml")]
    config: PathBuf,
    /// The grid's name, instead of typing it
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let (config, layout) = place(&args)?;
    let former = match begun(&layout)? {
        // One that was cut off after the person said yes goes on where it stopped.
        Some(former) => former,
        None => {
            look(&args, &layout, screen).await?;
            put_aside(&layout).map_err(|e| {
                Failure::new(format!(
                    "cannot put aside what is in {}",
                    layout.data().display()
                ))
                .because(&e)
            })?
        }
    };
    let joining = join::Args {
        address: args.address,
        token: args.token,
        data: layout.data(),
        name: Some(config.name.clone()),
        listen: Some(config.listen),
        advertise: config.advertise.clone(),
        names: config.names.iter().cloned().collect(),
        hypervisor: (!config.witness).then(|| config.hypervisor.clone()),
        witness: config.witness,
    };
    let kept = beside(&layout).map_err(|e| {
        Failure::new(format!("cannot read {}", layout.data().display())).because(&e)
    })?;
    let joined = join::run_again(joining, &kept, settings, screen).await;
    if let Err(failure) = joined {
        take_back(&layout, &former).map_err(|e| {
            Failure::new(format!(
                "cannot take back what was put aside in {}",
                former.display()
            ))
            .because(&e)
            .hint("run the same command again, when that is mended")
        })?;
        return Err(failure.hint("this server is as it was before"));
    }
    finish(&layout, &former).map_err(|e| {
        Failure::new("cannot finish the data directory")
            .because(&e)
            .hint("run the same command again")
    })?;
    screen.note(&format!(
        "what it was before is in {}: remove it when nobody wants to look at it",
        former.display()
    ));
    Ok(Exit::Done)
}

/// Whose file it is; one that was put aside is read where it lies.
fn place(args: &Args) -> Result<(Config, Layout), Failure> {
    let folder = std::path::absolute(&args.config)
        .ok()
        .and_then(|p| p.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| PathBuf::from("."));
    let layout = Layout::new(&folder);
    let aside = begun(&layout)?.map(|former| former.join(CONFIG));
    let file = aside.filter(|file| file.exists());
    let config = config::load(file.as_deref().unwrap_or(&args.config))?;
    let layout = Layout::new(&config.data);
    Ok((config, layout))
}

/// Where an attempt that was cut off had put things.
fn begun(layout: &Layout) -> Result<Option<PathBuf>, Failure> {
    match fs::read_to_string(layout.leaving()) {
        Ok(name) => Ok(Some(layout.data().join(name.trim()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            Err(Failure::new(format!("cannot read {}", layout.leaving().display())).because(&e))
        }
    }
}

/// Shows the person what is given up, and asks.
async fn look(args: &Args, layout: &Layout, screen: &Screen) -> Result<(), Failure> {
    let name = match Grid::survey(&layout.grid()).await {
        Ok(survey) => {
            screen.note(&format!(
                "this server gives up its part in life {} of the grid, as of term {}, entry {}, last changed {}",
                survey.epoch().number,
                survey.last.0,
                survey.last.1,
                times::absolute(survey.state.time)
            ));
            title(&survey.state)
        }
        Err(GridError::Directory(e @ DirectoryError::InUse(_))) => {
            return Err(Failure::new("this server's part of the grid is in use")
                .because(&e)
                .hint("stop `coppice serve` on this server first; desktops run on"));
        }
        Err(error) => {
            // A log that cannot be read is the very reason to begin anew.
            screen.note(&format!("its log cannot be read, and is given up: {error}"));
            let grid: GridId = coppice_grid::directory::whose(&layout.grid())
                .map_err(|e| Failure::new("cannot read whose the directory is").because(&e))?;
            grid.to_string()
        }
    };
    consent(args.confirm.as_deref(), &name, screen)
}

const CONFIG: &str = "coppice.toml";

/// What belongs to the former life: log, keys, and what was made of them. Not the images, and nothing of a desktop.
fn parts(layout: &Layout) -> [PathBuf; 6] {
    [
        layout.grid(),
        layout.identity(),
        layout.stamps(),
        layout.ca(),
        layout.token(),
        // The last: as long as it is there, nothing was moved for good.
        layout.config(),
    ]
}

fn put_aside(layout: &Layout) -> io::Result<PathBuf> {
    let name = format!("former-{}", times::now().0);
    let former = layout.data().join(&name);
    fs::create_dir(&former)?;
    fs::write(layout.leaving(), &name)?;
    sync(&layout.data())?;
    shift(layout, &layout.data(), &former)?;
    fs::write(layout.begun(), "")?;
    sync(&layout.data())?;
    Ok(former)
}

fn take_back(layout: &Layout, former: &Path) -> io::Result<()> {
    for part in parts(layout).into_iter().chain([layout.joining()]) {
        let kept = part.file_name().map(|name| former.join(name));
        if kept.is_some_and(|kept| kept.exists()) || part == layout.joining() {
            remove(&part)?;
        }
    }
    shift(layout, former, &layout.data())?;
    remove(&layout.begun())?;
    remove(&layout.leaving())?;
    fs::remove_dir(former)?;
    sync(&layout.data())
}

/// The server's own file says more than a new one.
fn finish(layout: &Layout, former: &Path) -> io::Result<()> {
    let file = former.join(CONFIG);
    if file.exists() {
        fs::copy(&file, layout.config())?;
    }
    remove(&layout.leaving())?;
    sync(&layout.data())
}

fn shift(layout: &Layout, from: &Path, to: &Path) -> io::Result<()> {
    for part in parts(layout) {
        let Some(name) = part.file_name() else {
            continue;
        };
        match fs::rename(from.join(name), to.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Everything in the directory that stays.
fn beside(layout: &Layout) -> io::Result<Vec<PathBuf>> {
    let moved = parts(layout);
    let mut kept = Vec::new();
    for item in fs::read_dir(layout.data())? {
        let path = item?.path();
        if !moved.contains(&path) {
            kept.push(path);
        }
    }
    Ok(kept)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}
