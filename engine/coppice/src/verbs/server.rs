//! `coppice server`: members of the grid.

use coppice_portal::api::{LogPart, LogRole, Server, ServerStatus};
use coppice_schema::ids::ServerName;
use coppice_schema::known::{DiskLevel, ServerState};
use coppice_schema::units::Span;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::times;

/// Whoever lacks more entries than that does not vote soon.
const MUCH: u64 = 250;
/// Whoever answered within that time is there.
const LATELY: Span = Span(1_500);

/// What can be asked of servers.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the servers, what they carry and how they are
    #[command(after_long_help = "Examples:\n  coppice server list\n  coppice server list --json")]
    List,
    /// Put no new desktops on a server; those it has stay
    #[command(
        after_long_help = "Examples:\n  coppice server cordon host-1\n  coppice server uncordon host-1     take it back"
    )]
    Cordon(Named),
    /// Put desktops on a server again
    #[command(after_long_help = "Examples:\n  coppice server uncordon host-1")]
    Uncordon(Named),
}

/// A server by its name.
#[derive(clap::Args, Debug)]
pub(crate) struct Named {
    /// Its name, as `coppice server list` shows it
    name: ServerName,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::List => {
            let servers: Vec<Server> = client.get("/servers").await?;
            screen.value(&servers)?;
            screen.text(&table(&servers).render(screen.colours));
        }
        Verb::Cordon(Named { name }) => {
            client
                .act(
                    Method::POST,
                    &format!("/servers/{}/cordon", segment(name.as_str())),
                )
                .await?;
            screen.done(&name, "cordoned")?;
            screen.note(&format!(
                "server {name} takes no new desktops; those it has stay"
            ));
        }
        Verb::Uncordon(Named { name }) => {
            client
                .act(
                    Method::POST,
                    &format!("/servers/{}/uncordon", segment(name.as_str())),
                )
                .await?;
            screen.done(&name, "uncordoned")?;
            screen.note(&format!("server {name} takes new desktops again"));
        }
    }
    Ok(Exit::Done)
}

fn table(servers: &[Server]) -> Table {
    let mut table = Table::new(&[
        "name",
        "state",
        "log",
        "behind",
        "heard",
        "desktops",
        "cpus",
        "memory",
        "disk",
        "not ours",
        "hypervisor",
    ]);
    for server in servers {
        let status = &server.status;
        table.row([
            status.name.as_str().into(),
            state(status),
            log(status),
            behind(status),
            heard(status),
            Cell::number(server.desktops),
            Cell::number(status.cpus),
            Cell::number(status.memory.rounded()),
            disk(status, server.disk.rounded()),
            Cell::number(server.foreign.len()),
            hypervisor(status),
        ]);
    }
    table
}

/// A server's part in a word, and whether it was seen.
pub(crate) fn state(server: &ServerStatus) -> Cell {
    let word = serde_json::to_value(server.state).unwrap_or_default();
    let word = word.as_str().unwrap_or_default();
    if !server.current {
        return Cell::from(format!("{word}, not seen")).tone(Tone::Warn);
    }
    let tone = match server.state {
        ServerState::Ready => Tone::Good,
        ServerState::Joining
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Reconciling => Tone::Warn,
        ServerState::Suspect | ServerState::Lost | ServerState::Removed => Tone::Bad,
    };
    Cell::from(word).tone(tone)
}

/// Its part in what the grid agrees on, in a word.
pub(crate) fn log(server: &ServerStatus) -> Cell {
    match server.log.map(|log| log.part) {
        Some(LogRole::Leader) => Cell::from("leads"),
        Some(LogRole::Voter) => Cell::from("votes"),
        Some(LogRole::Learner) => Cell::from("learns").tone(Tone::Faint),
        None => Cell::from("–").tone(Tone::Faint),
    }
}

/// How many entries it lacks.
pub(crate) fn behind(server: &ServerStatus) -> Cell {
    match server.log.and_then(|log| log.behind) {
        Some(behind) if behind > MUCH => Cell::number(behind).tone(Tone::Warn),
        Some(behind) => Cell::number(behind),
        None => Cell::number("?").tone(Tone::Faint),
    }
}

/// How long ago whoever leads heard of it.
pub(crate) fn heard(server: &ServerStatus) -> Cell {
    match server.log {
        Some(log) if log.part == LogRole::Leader => Cell::from("").tone(Tone::Faint),
        Some(LogPart {
            heard: Some(ago), ..
        }) if ago > LATELY => Cell::from(format!("{} ago", times::length(ago))).tone(Tone::Bad),
        Some(LogPart { heard: Some(_), .. }) => Cell::from("now"),
        Some(LogPart { heard: None, .. }) | None => Cell::from("?").tone(Tone::Faint),
    }
}

fn disk(server: &ServerStatus, size: String) -> Cell {
    match server.disk_level {
        None | Some(DiskLevel::Fine) => Cell::number(size),
        Some(DiskLevel::High) => Cell::number(format!("{size}, filling")).tone(Tone::Warn),
        Some(DiskLevel::Critical) => Cell::number(format!("{size}, nearly full")).tone(Tone::Bad),
    }
}

/// What its hypervisor is, or why it does not answer.
pub(crate) fn hypervisor(server: &ServerStatus) -> Cell {
    match &server.hypervisor_away {
        None => server.hypervisor.as_str().into(),
        Some(why) => Cell::from(format!("away: {why}")).tone(Tone::Bad),
    }
}
