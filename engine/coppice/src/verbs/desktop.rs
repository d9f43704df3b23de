//! `coppice desktop`: desktops one by one.

mod console;
mod screenshot;

use std::fmt::Write;

use coppice_plans::plan::GateKind;
use coppice_portal::api::{Desktop, DesktopState};
use coppice_schema::ids::{DesktopId, Member, ServerName};
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone, paint};
use crate::terminal::Colours;
use crate::times;

/// What can be asked of desktops.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the desktops
    #[command(after_long_help = "Examples:
  coppice desktop list
  coppice desktop list --json | jq -r '.[] | select(.state == \"broken\") | .id'")]
    List,
    /// Show one desktop in full
    #[command(
        after_long_help = "Examples:\n  coppice desktop show lab-001\n  coppice desktop show lab-01      by its host name"
    )]
    Show(Named),
    /// Open a port on this machine for any VNC or SPICE viewer
    #[command(after_long_help = "Examples:
  coppice desktop console lab-001                     then point a viewer to 127.0.0.1:5900
  coppice desktop console lab-001 --port 5901
  coppice desktop console lab-001 --display spice     remote-viewer spice://127.0.0.1:5900")]
    Console(console::Args),
    /// Take a picture of a desktop's screen
    #[command(after_long_help = "Examples:
  coppice desktop screenshot lab-001                  writes lab-001.png
  coppice desktop screenshot lab-001 -o - | display")]
    Screenshot(screenshot::Args),
    /// Start a desktop again
    #[command(after_long_help = "Examples:\n  coppice desktop restart lab-001")]
    Restart(Named),
    /// Grow a desktop anew from its image: what was written on its disk is lost
    #[command(
        after_long_help = "Examples:\n  coppice desktop regrow lab-001\n  coppice desktop regrow lab-001 --yes    without being asked
  coppice desktop regrow own-001 --approve personal-data    a personal one, with what its person keeps on it"
    )]
    Regrow(Regrow),
    /// Remove what a former life of the grid left of a desktop: what is on its disk is lost
    #[command(
        after_long_help = "After a restore or a recovery, `coppice status` names what the grid does not know any more. Nothing \
touches it until you say so.

Examples:
  coppice desktop discard lab-004@1 --on host-2 --approve personal-data"
    )]
    Discard(Discard),
}

/// What is to be removed.
#[derive(clap::Args, Debug)]
pub(crate) struct Discard {
    /// The life, as `coppice status` names it, such as lab-004@1
    life: Member,
    /// The server that holds it
    #[arg(long, value_name = "SERVER")]
    on: ServerName,
    /// Say yes to a gate by its name: `personal-data`
    #[arg(long, value_name = "GATE", value_parser = super::apply::gate)]
    approve: Option<GateKind>,
}

/// A desktop by its name.
#[derive(clap::Args, Debug)]
pub(crate) struct Named {
    /// Its id, such as lab-001, or its host name
    name: String,
}

/// A desktop to be grown anew.
#[derive(clap::Args, Debug)]
pub(crate) struct Regrow {
    /// Its id, such as lab-001, or its host name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Say yes to a gate by its name: `personal-data`, for a personal desktop
    #[arg(long, value_name = "GATE", value_parser = super::apply::gate)]
    approve: Option<GateKind>,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::List => {
            let desktops: Vec<Desktop> = client.get("/desktops").await?;
            screen.value(&desktops)?;
            screen.text(&table(&desktops).render(screen.colours));
        }
        Verb::Show(Named { name }) => {
            let desktop = find(&client, &name).await?;
            screen.value(&desktop)?;
            screen.text(&text(&desktop, screen.colours));
        }
        Verb::Console(args) => return console::run(args, &client, screen).await,
        Verb::Screenshot(args) => return screenshot::run(args, &client, screen).await,
        Verb::Restart(Named { name }) => {
            let id = find(&client, &name).await?.id;
            act(&client, &id, "restart").await?;
            screen.done(&id, "restart asked for")?;
            screen.note(&format!("desktop {id} is being started again"));
        }
        Verb::Regrow(args) => {
            let id = find(&client, &args.name).await?.id;
            if !args.yes {
                consent(&id, screen)?;
            }
            let what = format!("regrow{}", approved("?", args.approve)?);
            act(&client, &id, &what).await?;
            screen.done(&id, "regrow asked for")?;
            screen.note(&format!("desktop {id} is being grown anew"));
        }
        Verb::Discard(Discard { life, on, approve }) => {
            let path = format!(
                "/quarantine/{}?server={on}{}",
                segment(&life.to_string()),
                approved("&", approve)?
            );
            client.act(Method::DELETE, &path).await?;
            screen.done(&life, "removal asked for")?;
            screen.note(&format!("{life} is being removed from {on}"));
        }
    }
    Ok(Exit::Done)
}

async fn act(client: &Client, id: &DesktopId, what: &str) -> Result<(), Failure> {
    let path = format!("/desktops/{}/{what}", segment(&id.to_string()));
    Ok(client.act(Method::POST, &path).await?)
}

/// The part of a query that says yes to a gate.
fn approved(before: &str, approve: Option<GateKind>) -> Result<String, Failure> {
    let Some(gate) = approve else {
        return Ok(String::new());
    };
    let word = serde_json::to_value(gate)
        .map_err(|e| Failure::new("cannot say which gate is approved").because(&e))?;
    let word = word.as_str().unwrap_or_default();
    Ok(format!("{before}approve={word}"))
}

fn consent(id: &DesktopId, screen: &Screen) -> Result<(), Failure> {
    if !screen.may_ask() {
        return Err(Failure::usage(format!(
            "growing {id} anew destroys what is on its disk, and nobody is there to be asked"
        ))
        .hint(format!("coppice desktop regrow {id} --yes")));
    }
    if screen.confirm(&format!("What was written on the disk of {id} is lost."))? {
        return Ok(());
    }
    Err(Failure::new(format!("{id} is left as it is")))
}

/// A desktop by its id, or by its host name where that is the name of one.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Desktop, Failure> {
    let desktops: Vec<Desktop> = client.get("/desktops").await?;
    let by_id = desktops.iter().find(|d| d.id.to_string() == name);
    let found = by_id
        .or_else(|| desktops.iter().find(|d| d.name == name))
        .cloned();
    found.ok_or_else(|| {
        let near = desktops
            .iter()
            .flat_map(|d| [d.id.to_string(), d.name.clone()])
            .min_by_key(|known| strsim::damerau_levenshtein(known, name))
            .filter(|known| strsim::damerau_levenshtein(known, name) <= 3);
        let failure = Failure::new(format!("there is no desktop {name}"));
        match near {
            Some(near) => failure.hint(format!(
                "did you mean {near}? `coppice desktop list` shows all"
            )),
            None => failure.hint("coppice desktop list shows all"),
        }
    })
}

/// A desktop's state as people read it.
fn state(desktop: &Desktop) -> (String, Tone) {
    let tone = match desktop.state {
        DesktopState::Available | DesktopState::InUse | DesktopState::Migrating => Tone::Good,
        DesktopState::Provisioning | DesktopState::Deleting => Tone::Warn,
        DesktopState::Off => Tone::Faint,
        DesktopState::Broken | DesktopState::Unknown => Tone::Bad,
    };
    let mut words = desktop.state.to_string().replace('_', " ");
    if let Some(reason) = &desktop.reason {
        let _ = write!(words, ": {reason}");
    }
    (words, tone)
}

fn table(desktops: &[Desktop]) -> Table {
    let now = times::now();
    let copied = desktops.iter().any(|it| !it.copies.is_empty());
    let mut head = vec!["desktop", "host name", "server", "image", "since", "state"];
    if copied {
        head.insert(5, "last copy");
    }
    let mut table = Table::new(&head);
    for it in desktops {
        let (words, tone) = state(it);
        let mut row: Vec<Cell> = vec![
            it.id.to_string().into(),
            it.name.as_str().into(),
            it.server.as_str().into(),
            it.image.as_str().into(),
            times::relative(it.since, now).into(),
            Cell::from(words).tone(tone),
        ];
        if copied {
            let last = it.copies.first();
            let last = last.map_or_else(String::new, |copy| times::relative(copy.taken, now));
            row.insert(5, last.into());
        }
        table.row(row);
    }
    table
}

fn text(it: &Desktop, colours: Colours) -> String {
    let (words, tone) = state(it);
    let mut lines = vec![
        ("state", paint(colours, tone, &words)),
        (
            "since",
            format!(
                "{} ({})",
                times::relative(it.since, times::now()),
                times::absolute(it.since)
            ),
        ),
        ("host name", it.name.clone()),
        ("pool", format!("{}, slot {}", it.pool, it.slot.0)),
        ("server", it.server.to_string()),
        ("image", it.image.clone()),
        ("root", it.root.to_string()),
        ("life", it.incarnation.to_string()),
        ("uuid", it.uuid.to_string()),
    ];
    if let Some(overlay) = &it.overlay {
        lines.push(("overlay", overlay.clone()));
    }
    for copy in &it.copies {
        let age = times::relative(copy.taken, times::now());
        lines.push(("copy", format!("on {}, taken {age}", copy.server)));
    }
    if let Some(users) = it.users {
        lines.push(("signed in", users.to_string()));
    }
    let mut out = format!("{}\n", colours.bold(&it.id.to_string()));
    for (key, value) in lines {
        let _ = writeln!(out, "  {key:<10} {value}");
    }
    out
}
