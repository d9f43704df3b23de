//! `coppice server rejoin`: a server that a grid goes on without becomes a part of it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coppice_grid::directory::DirectoryError;
use coppice_grid::{Grid, GridError};
use coppice_schema::ids::GridId;

use super::recover::{consent, title};
use crate::begin;
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

TOKEN is the line of `coppice token create --role server`, for a witness of `--role witness`, made in the grid that stays.

Examples:
  coppice server rejoin 10.0.0.5 TOKEN --config /var/lib/coppice/coppice.toml
  coppice server rejoin 10.0.0.5 TOKEN --confirm campus      nobody is there to type the grid's name"
)]
pub(crate) struct Args {
    /// Any server of the grid that stays: HOST or HOST:PORT
    #[arg(value_parser = join::target)]
    address: Target,
    /// The line that `coppice token create --role server` printed there; for a witness: `--role witness`
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
    // One that was cut off after the person said yes goes on where it stopped.
    let begun = begun(&layout)?;
    if let Some((former, Stage::Returning)) = &begun {
        return_all(&layout, former)?;
    }
    let former = match begun {
        Some((former, Stage::Gone)) => former,
        Some((former, Stage::Leaving)) => leave(&layout, former)?,
        Some((_, Stage::Returning)) | None => {
            look(&args, &layout, screen).await?;
            let former = layout.data().join(format!("{FORMER}{}", times::now().0));
            fs::create_dir(&former).map_err(|e| cannot_leave(&layout, &e))?;
            mark(&layout, &former, Stage::Leaving)?;
            leave(&layout, former)?
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
        mark(&layout, &former, Stage::Returning)?;
        return_all(&layout, &former)?;
        return Err(failure.hint("this server is as it was before"));
    }
    finish(&layout, &former)?;
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
    let aside = begun(&layout)?.map(|(former, _)| former.join(CONFIG));
    let file = aside.filter(|file| file.exists());
    let config = config::load(file.as_deref().unwrap_or(&args.config))?;
    let layout = Layout::new(&config.data);
    Ok((config, layout))
}

/// How far an attempt is. It is durable before anything of it is done, so that one that was cut off anywhere is finished
/// by the next, or taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// What belongs to the former life is being put aside.
    Leaving,
    /// All of it is.
    Gone,
    /// It did not join, and what was put aside is being taken back.
    Returning,
}

impl Stage {
    const ALL: [(Self, &str); 3] = [
        (Self::Leaving, "leaving"),
        (Self::Gone, "gone"),
        (Self::Returning, "returning"),
    ];
}

/// How the directories begin in which former lives lie.
const FORMER: &str = "former-";

/// Says how far the attempt is that puts things in `former`.
fn mark(layout: &Layout, former: &Path, stage: Stage) -> Result<(), Failure> {
    let name = former.file_name().unwrap_or_default().to_string_lossy();
    let word = Stage::ALL.iter().find(|(one, _)| *one == stage);
    let word = word.map_or("", |(_, word)| word);
    begin::replace(&layout.leaving(), &format!("{name} {word}\n"), 0o600)
}

/// Where an attempt that was cut off puts things, and how far it is.
fn begun(layout: &Layout) -> Result<Option<(PathBuf, Stage)>, Failure> {
    let file = layout.leaving();
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Failure::new(format!("cannot read {}", file.display())).because(&e)),
    };
    let (name, word) = text.trim().split_once(' ').unwrap_or_default();
    let stage = Stage::ALL.iter().find(|(_, known)| *known == word);
    match stage {
        Some((stage, _)) if name.starts_with(FORMER) && !name.contains('/') => {
            Ok(Some((layout.data().join(name), *stage)))
        }
        Some(_) | None => Err(Failure::new(format!(
            "{} does not say where the former life of this server was put",
            file.display()
        ))
        .hint(format!(
            "look into {FORMER}* beside it: put back what is missing here, and remove that file"
        ))),
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

fn cannot_leave(layout: &Layout, error: &io::Error) -> Failure {
    let what = format!("cannot put aside what is in {}", layout.data().display());
    Failure::new(what)
        .because(error)
        .hint("run the same command again, when that is mended")
}

/// Puts aside what is not there yet; from then on the directory is one that a server begins in.
fn leave(layout: &Layout, former: PathBuf) -> Result<PathBuf, Failure> {
    shift(layout, &layout.data(), &former)
        .and_then(|()| fs::write(layout.begun(), ""))
        .and_then(|()| sync(&former))
        .and_then(|()| sync(&layout.data()))
        .map_err(|e| cannot_leave(layout, &e))?;
    mark(layout, &former, Stage::Gone)?;
    Ok(former)
}

/// Takes back what was put aside, in place of what was begun anew.
fn return_all(layout: &Layout, former: &Path) -> Result<(), Failure> {
    take_back(layout, former).map_err(|e| {
        Failure::new(format!(
            "cannot take back what was put aside in {}",
            former.display()
        ))
        .because(&e)
        .hint("run the same command again, when that is mended")
    })
}

fn take_back(layout: &Layout, former: &Path) -> io::Result<()> {
    for part in parts(layout).into_iter().chain([layout.joining()]) {
        let kept = part.file_name().map(|name| former.join(name));
        if kept.is_some_and(|kept| kept.exists()) || part == layout.joining() {
            remove(&part)?;
        }
    }
    if former.exists() {
        shift(layout, former, &layout.data())?;
    }
    remove(&layout.begun())?;
    match fs::remove_dir(former) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    sync(&layout.data())?;
    remove(&layout.leaving())?;
    sync(&layout.data())
}

/// The server's own file says more than a new one.
fn finish(layout: &Layout, former: &Path) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        Failure::new("cannot finish the data directory")
            .because(&e)
            .hint("run the same command again")
    };
    match fs::read_to_string(former.join(CONFIG)) {
        Ok(text) => begin::replace(&layout.config(), &text, 0o644)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    remove(&layout.leaving())
        .and_then(|()| sync(&layout.data()))
        .map_err(failed)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with all that belongs to its life, each saying what it is, and a disk beside it.
    fn server(data: &Path) -> Layout {
        let layout = Layout::new(data);
        for part in parts(&layout) {
            let name = part.file_name().unwrap().to_string_lossy().into_owned();
            if [layout.grid(), layout.identity(), layout.stamps()].contains(&part) {
                fs::create_dir(&part).unwrap();
                fs::write(part.join("its"), name).unwrap();
            } else {
                fs::write(&part, name).unwrap();
            }
        }
        fs::write(data.join("a disk"), "its bytes").unwrap();
        layout
    }

    fn is_whole(layout: &Layout) -> bool {
        let says = |part: &PathBuf| {
            let file = if part.is_dir() {
                part.join("its")
            } else {
                part.clone()
            };
            let name = part.file_name().unwrap().to_string_lossy().into_owned();
            fs::read_to_string(file).is_ok_and(|text| text == name)
        };
        parts(layout).iter().all(says) && layout.data().join("a disk").exists()
    }

    #[test]
    fn what_was_cut_off_anywhere_is_finished_and_taken_back() {
        for moved in 0..=6 {
            for taken_back in 0..=6 {
                let data = tempfile::tempdir().unwrap();
                let layout = server(data.path());
                let former = data.path().join("former-7");
                fs::create_dir(&former).unwrap();
                mark(&layout, &former, Stage::Leaving).unwrap();
                for part in parts(&layout).iter().take(moved) {
                    fs::rename(part, former.join(part.file_name().unwrap())).unwrap();
                }
                // It was cut off here; the next attempt goes on.
                assert_eq!(
                    begun(&layout).unwrap(),
                    Some((former.clone(), Stage::Leaving))
                );
                leave(&layout, former.clone()).unwrap();
                assert_eq!(begun(&layout).unwrap(), Some((former.clone(), Stage::Gone)));
                assert!(parts(&layout).iter().all(|part| !part.exists()));
                // It joined in part, and that came to nothing; taking back is cut off too.
                fs::create_dir(layout.identity()).unwrap();
                fs::write(layout.config(), "a new one").unwrap();
                mark(&layout, &former, Stage::Returning).unwrap();
                for part in parts(&layout).iter().take(taken_back) {
                    remove(part).unwrap();
                    fs::rename(former.join(part.file_name().unwrap()), part).unwrap();
                }
                return_all(&layout, &former).unwrap();
                assert!(is_whole(&layout), "{moved} {taken_back}");
                assert_eq!(begun(&layout).unwrap(), None);
                assert!(!former.exists() && !layout.begun().exists());
            }
        }
    }

    #[test]
    fn a_mark_that_says_nothing_is_not_believed() {
        let data = tempfile::tempdir().unwrap();
        let layout = server(data.path());
        for text in [
            "",
            "former-7",
            "gone",
            " gone",
            ". gone",
            "former-7/.. gone",
        ] {
            fs::write(layout.leaving(), text).unwrap();
            assert!(begun(&layout).is_err(), "{text:?}");
        }
        assert!(is_whole(&layout));
    }
}
