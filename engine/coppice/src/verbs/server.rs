//! `coppice server`: members of the grid.

mod drain;
mod rebalance;
mod recover;
mod rejoin;

use coppice_portal::api::{LogPart, LogRole, Server, ServerStatus, UpgradeCheck};
use coppice_schema::ids::ServerName;
use coppice_schema::known::{DiskLevel, ServerState};
use coppice_state::agreement::{BEHIND, THERE};
use coppice_state::join::Role;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::terminal::Colours;
use crate::times;

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
    /// Take a server out of the grid: it holds no desktops any more, or is gone for good
    #[command(
        after_long_help = "Its certificate and its numbers are worth nothing from then on; to be a member again it \
joins anew.

Examples:
  coppice server remove host-3
  coppice server remove host-3 --lost      the machine is gone for good, and with it its desktops of which there is no copy"
    )]
    Remove {
        /// Its name, as `coppice server list` shows it
        name: ServerName,
        /// It will never be back: what it held is gone
        #[arg(long)]
        lost: bool,
    },
    /// Say whether the next server may be stopped for a newer version
    #[command(
        after_long_help = "Exit code 0: any server, one at a time. 5: not now, and why.

Examples:
  coppice server upgrade-check"
    )]
    UpgradeCheck,
    /// Put desktops on a server again
    #[command(after_long_help = "Examples:\n  coppice server uncordon host-1")]
    Uncordon(Named),
    /// Level the load: move idle desktops to servers that carry less, such as one that has joined
    #[command(
        after_long_help = "Shows the plan, asks, and lets the grid carry it out. Only idle pooled desktops move: another is grown \
first, and when it is ready the one in its place goes; as many at once as the pool's roll-outs may take away. A move has to \
be worth a tenth of a server. New desktops go where the load is lowest anyway; nothing moves by itself. Who is at a desktop \
keeps it. A server that is drained, cordoned or lost ends the moves to it and from it. Asked again, what has not moved yet is \
decided anew.

Examples:
  coppice server rebalance --dry-run    what would move where
  coppice server rebalance              looked at, and agreed to
  coppice server rebalance --stop       what has not moved yet stays"
    )]
    Rebalance(rebalance::Args),
    /// Make this server a grid of its own, when the others are gone for good
    Recover(recover::Args),
    /// Show how far this server's log goes
    LogPosition(recover::PositionArgs),
    /// Make this server, which a grid goes on without, a part of it again
    Rejoin(rejoin::Args),
    /// Empty a server: others take over its pooled desktops, and nobody is cut off
    #[command(after_long_help = "Examples:
  coppice server drain host-1                    before it is repaired or removed
  coppice server drain host-1 --watch            and show how many desktops are left
  coppice server drain host-1 --force-after 2h   people have two hours, and are cut off then
  coppice server undrain host-1                  take it back

Used and personal desktops move while they run, where both servers' embedded hypervisors can: `coppice plan` shows it.
Personal ones that are off are switched on for that, two at a time, and off again where they have come to.")]
    Drain(drain::Args),
    /// Stop emptying a server, and put desktops on it again
    #[command(after_long_help = "Examples:\n  coppice server undrain host-1")]
    Undrain(Named),
}

/// A server by its name.
#[derive(clap::Args, Debug)]
pub(crate) struct Named {
    /// Its name, as `coppice server list` shows it
    name: ServerName,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    // These need no grid that answers: none does.
    let verb = match verb {
        Verb::Recover(args) => return recover::run(args, screen).await,
        Verb::LogPosition(args) => return recover::position(args, screen).await,
        Verb::Rejoin(args) => return rejoin::run(args, settings, screen).await,
        Verb::Rebalance(args) => return rebalance::run(args, settings, screen).await,
        verb @ (Verb::List
        | Verb::Cordon(_)
        | Verb::Uncordon(_)
        | Verb::Drain(_)
        | Verb::Undrain(_)
        | Verb::Remove { .. }
        | Verb::UpgradeCheck) => verb,
    };
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
        Verb::Remove { name, lost } => {
            let path = format!("/servers/{}?lost={lost}", segment(name.as_str()));
            client.act(Method::DELETE, &path).await?;
            screen.done(&name, "removed")?;
            screen.note(&format!("server {name} is no member of the grid any more"));
        }
        Verb::UpgradeCheck => {
            let check: UpgradeCheck = client.get("/upgrade").await?;
            screen.value(&check)?;
            screen.text(&upgrade(&check, screen.colours));
            return Ok(if check.safe {
                Exit::Done
            } else {
                Exit::Blocked
            });
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
        Verb::Recover(_) | Verb::LogPosition(_) | Verb::Rejoin(_) | Verb::Rebalance(_) => {}
        Verb::Drain(args) => return drain::run(args, &client, screen).await,
        Verb::Undrain(Named { name }) => {
            client
                .act(
                    Method::POST,
                    &format!("/servers/{}/undrain", segment(name.as_str())),
                )
                .await?;
            screen.done(&name, "undrained")?;
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
            desktops(server),
            carries(status, status.cpus),
            carries(status, status.memory.rounded()),
            disk(status, server.disk.rounded()),
            Cell::number(server.foreign.len()),
            hypervisor(status),
        ]);
    }
    table
}

fn upgrade(check: &UpgradeCheck, colours: Colours) -> String {
    let mut table = Table::new(&["server", "applies up to", "may stop now"]);
    for server in &check.servers {
        let may = match &server.holds {
            None => Cell::from("yes").tone(Tone::Good),
            Some(why) => Cell::from(format!("no: {why}")).tone(Tone::Bad),
        };
        let level = Cell::number(server.feature_level);
        table.row([server.name.as_str().into(), level, may]);
    }
    let verdict = if check.safe {
        colours.good("safe: stop one server, upgrade it, start it, and ask again before the next")
    } else {
        colours.bad("not safe now: wait until the above is mended, and ask again")
    };
    let rise = if check.newest > check.feature_level {
        format!(
            "the grid has feature level {}, and rises when these can apply more: {}\n",
            check.feature_level,
            check.waiting.join(", ")
        )
    } else {
        String::new()
    };
    format!("{}\n{rise}{verdict}\n", table.render(colours))
}

/// A server's part in a word, and whether it was seen; a witness, heard.
pub(crate) fn state(server: &ServerStatus) -> Cell {
    let word = serde_json::to_value(server.state).unwrap_or_default();
    let word = word.as_str().unwrap_or_default();
    // That it is not seen is what these say already.
    let says_it = matches!(server.state, ServerState::Lost | ServerState::Suspect);
    if !server.current && !says_it {
        let lacks = match server.role {
            Role::Server => "not seen",
            Role::Witness => "not heard",
        };
        return Cell::from(format!("{word}, {lacks}")).tone(Tone::Warn);
    }
    let tone = match server.state {
        ServerState::Ready => Tone::Good,
        ServerState::Joining
        | ServerState::Cordoned
        | ServerState::Draining
        | ServerState::Reconciling => Tone::Warn,
        ServerState::Suspect | ServerState::Lost | ServerState::Removed => Tone::Bad,
    };
    match server.silent.filter(|_| !says_it) {
        Some(span) => {
            Cell::from(format!("{word}, silent for {}", times::length(span))).tone(Tone::Warn)
        }
        None => Cell::from(word).tone(tone),
    }
}

/// How many there are; where they have to go, also how many cannot yet.
fn desktops(server: &Server) -> Cell {
    let (used, personal) = (server.in_use, server.personal);
    if server.status.state != ServerState::Draining || used + personal == 0 {
        return Cell::number(server.desktops);
    }
    let all = server.desktops;
    Cell::number(format!("{all} ({used} in use, {personal} personal)"))
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
        Some(behind) if behind > BEHIND => Cell::number(behind).tone(Tone::Warn),
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
        }) if ago > THERE => Cell::from(format!("{} ago", times::length(ago))).tone(Tone::Bad),
        Some(LogPart { heard: Some(_), .. }) => Cell::from("now"),
        Some(LogPart { heard: None, .. }) | None => Cell::from("?").tone(Tone::Faint),
    }
}

/// What it has for desktops; a witness runs none.
pub(crate) fn carries(server: &ServerStatus, what: impl ToString) -> Cell {
    match server.role {
        Role::Server => Cell::number(what),
        Role::Witness => Cell::number("–").tone(Tone::Faint),
    }
}

fn disk(server: &ServerStatus, size: String) -> Cell {
    match server.disk_level {
        None | Some(DiskLevel::Fine) => carries(server, size),
        Some(DiskLevel::High) => Cell::number(format!("{size}, filling")).tone(Tone::Warn),
        Some(DiskLevel::Critical) => Cell::number(format!("{size}, nearly full")).tone(Tone::Bad),
    }
}

/// What its hypervisor is, or why it does not answer; a witness has none.
pub(crate) fn hypervisor(server: &ServerStatus) -> Cell {
    if server.role == Role::Witness {
        return Cell::from("none, a witness").tone(Tone::Faint);
    }
    match &server.hypervisor_away {
        None => server.hypervisor.as_str().into(),
        Some(why) => Cell::from(format!("away: {why}")).tone(Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use coppice_schema::units::{Size, Timestamp};

    use super::*;

    /// A witness as a healthy grid shows it.
    fn witness() -> ServerStatus {
        ServerStatus {
            name: "w".parse().unwrap(),
            state: ServerState::Ready,
            since: Timestamp(0),
            force_at: None,
            silent: None,
            role: Role::Witness,
            log: None,
            current: true,
            hypervisor: String::new(),
            hypervisor_away: None,
            cpus: 0,
            memory: Size(0),
            disk_level: None,
        }
    }

    #[test]
    fn a_witness_is_shown_as_what_it_is() {
        let well = witness();
        assert_eq!(state(&well), Cell::from("ready").tone(Tone::Good));
        assert_eq!(
            hypervisor(&well),
            Cell::from("none, a witness").tone(Tone::Faint)
        );
        assert_eq!(
            carries(&well, well.cpus),
            Cell::number("–").tone(Tone::Faint)
        );
        let gone = ServerStatus {
            current: false,
            ..witness()
        };
        assert_eq!(
            state(&gone),
            Cell::from("ready, not heard").tone(Tone::Warn)
        );
    }
}
