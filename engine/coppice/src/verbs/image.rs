//! `coppice image`: golden images.

use std::path::PathBuf;
use std::time::Duration;

use coppice_portal::api::{CopyProgress, Image, ImageCopy};
use coppice_schema::ids::{ImageName, VersionName};
use coppice_schema::known::CopyState;
use coppice_schema::units::Size;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::times;
use crate::upload::{self, Sending};
use crate::watch::Watch;

/// What can be asked of images.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Bring an image file into the grid as a version of an image
    #[command(
        after_long_help = "Any format that qemu-img reads is taken: qcow2, raw, vmdk, vhdx, vdi. A broken connection is \
taken up again where it broke. A version never changes: the same name with other bytes is refused. The same bytes again \
replace a copy that is lost or bad.

Examples:
  coppice image import win11 win11.qcow2 --version 2026-11
  coppice image import tiny tiny.raw --version 1 --quiet"
    )]
    Import(Import),
    /// Show all versions of all images
    #[command(
        after_long_help = "Examples:\n  coppice image list\n  coppice image list --json | jq '.[] | select(.used_by == 0)'"
    )]
    List,
    /// Show which server holds which version, whether it was verified, and how far it is
    #[command(
        after_long_help = "Examples:\n  coppice image status\n  coppice image status win11\n  coppice image status win11 --watch"
    )]
    Status {
        /// Only this image
        name: Option<ImageName>,
        /// Show it anew every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Remove a version that no desktop is a clone of
    #[command(
        after_long_help = "Its file is deleted on every server, unless another version has the same bytes. `keep` of \
the image's block does so by itself for versions before the published one.

Examples:\n  coppice image remove win11 2026-10"
    )]
    Remove {
        /// The image
        name: ImageName,
        /// The version
        version: VersionName,
    },
}

/// An image file and what it is to be called.
#[derive(clap::Args, Debug)]
pub(crate) struct Import {
    /// The image, as `image "NAME"` in a configuration has it
    name: ImageName,
    /// The image file
    file: PathBuf,
    /// The version it becomes
    #[arg(long)]
    version: VersionName,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::Import(args) => {
            let sending = Sending {
                name: &args.name,
                version: &args.version,
                file: &args.file,
            };
            let image = upload::send(&sending, &client, screen).await?;
            screen.value(&image)?;
            screen.text(&format!(
                "image {} version {}: {} in a disk of {}\n",
                image.name,
                image.version,
                image.data.rounded(),
                image.size.rounded()
            ));
        }
        Verb::List => {
            let images: Vec<Image> = client.get("/images").await?;
            screen.value(&images)?;
            screen.text(&versions(&images).render(screen.colours));
        }
        Verb::Status { name, watch } => {
            status(name.as_ref(), client.get("/images").await?, screen)?;
            if watch {
                watch_status(name.as_ref(), &client, screen).await?;
            }
        }
        Verb::Remove { name, version } => {
            let path = format!(
                "/images/{}/versions/{}",
                segment(name.as_str()),
                segment(version.as_str())
            );
            client.act(Method::DELETE, &path).await?;
            screen.done(format!("{name}@{version}"), "removed")?;
            screen.note(&format!(
                "image {name} version {version} is removed from the catalogue; servers now delete its file"
            ));
        }
    }
    Ok(Exit::Done)
}

/// How often a copy that is on its way is looked at: what passes has no events.
const EACH: Duration = Duration::from_secs(1);

/// Until Ctrl-C.
async fn watch_status(
    name: Option<&ImageName>,
    client: &Client,
    screen: &Screen,
) -> Result<(), Failure> {
    let mut watch = Watch::new(client, Duration::MAX);
    loop {
        tokio::time::sleep(EACH).await;
        let images = watch.get("/images", screen).await?;
        if screen.colours.any() {
            screen.text("\x1b[2J\x1b[H");
        }
        status(name, images, screen)?;
    }
}

fn status(
    name: Option<&ImageName>,
    mut images: Vec<Image>,
    screen: &Screen,
) -> Result<(), Failure> {
    images.retain(|image| name.is_none_or(|name| image.name == *name));
    if let (Some(name), true) = (name, images.is_empty()) {
        return Err(
            Failure::new(format!("there is no image {name} in the grid"))
                .hint("coppice image list shows all"),
        );
    }
    screen.value(&images)?;
    screen.text(&copies(&images).render(screen.colours));
    Ok(())
}

fn versions(images: &[Image]) -> Table {
    let now = times::now();
    let mut table = Table::new(&[
        "image",
        "version",
        "disk",
        "data",
        "desktops",
        "copies",
        "imported",
        "published",
        "digest",
    ]);
    for it in images {
        let whole = it
            .copies
            .iter()
            .filter(|c| c.state == CopyState::Verified)
            .count();
        table.row([
            it.name.as_str().into(),
            it.version.as_str().into(),
            Cell::number(it.size.rounded()),
            Cell::number(it.data.rounded()),
            Cell::number(it.used_by),
            Cell::number(whole),
            times::relative(it.imported, now).into(),
            if it.published {
                Cell::from("yes").tone(Tone::Good)
            } else {
                Cell::from("no").tone(Tone::Faint)
            },
            it.digest.short().into(),
        ]);
    }
    table
}

fn copies(images: &[Image]) -> Table {
    let mut table = Table::new(&["image", "version", "server", "copy"]);
    for it in images {
        for copy in &it.copies {
            let (word, tone) = word(copy);
            table.row([
                it.name.as_str().into(),
                it.version.as_str().into(),
                copy.server.as_str().into(),
                Cell::from(word).tone(tone),
            ]);
        }
        for server in &it.absent {
            let absent = Cell::from("absent").tone(Tone::Faint);
            table.row([
                it.name.as_str().into(),
                it.version.as_str().into(),
                server.as_str().into(),
                absent,
            ]);
        }
        if !it.is_held() {
            let none = Cell::from("no server holds all of it").tone(Tone::Bad);
            table.row([
                it.name.as_str().into(),
                it.version.as_str().into(),
                "".into(),
                none,
            ]);
        }
    }
    table
}

fn word(copy: &ImageCopy) -> (String, Tone) {
    let how_far = |progress: &CopyProgress| {
        let percent = progress.percent();
        match progress.left() {
            Some(left) => format!(
                "{percent} %, {}/s, {} left",
                Size(progress.rate).rounded(),
                times::length(left)
            ),
            None => format!("{percent} %"),
        }
    };
    match (copy.state, &copy.progress) {
        (CopyState::Copying, None) => ("on its way".to_owned(), Tone::Warn),
        (CopyState::Copying, Some(progress)) => {
            (format!("copying {}", how_far(progress)), Tone::Warn)
        }
        (CopyState::Partial, None) => ("a part, and it does not move".to_owned(), Tone::Warn),
        (CopyState::Partial, Some(progress)) => {
            let percent = progress.percent();
            (format!("{percent} %, and it does not move"), Tone::Warn)
        }
        (CopyState::Verified, _) => (
            "whole: every chunk verified when it came or was last read".to_owned(),
            Tone::Good,
        ),
        (CopyState::Bad, _) => ("bad: not what it should be".to_owned(), Tone::Bad),
    }
}
