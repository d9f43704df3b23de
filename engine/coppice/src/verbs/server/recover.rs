//! `coppice server recover`, `coppice server log-position`: what is left of a grid, and going on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use coppice_grid::directory::DirectoryError;
use coppice_grid::{Grid, GridError, Survey};
use coppice_schema::ids::{GridId, ServerId, ServerName};
use coppice_schema::known::ServerState;
use coppice_state::State;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::state::Server;
use coppice_world::clock::SystemClock;

use crate::config::{self, Config};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::screen::Screen;
use crate::terminal;
use crate::times;
use crate::verbs::restore::next_life;

/// Make this server a grid of its own, from what its log holds.
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "For when most of the grid's voters are gone for good: with one of two servers left, or one of three. While they \
can still come back, start them instead. `coppice serve` must not run on this server.

Everything in this server's log counts from then on. The others are of a former life of the grid: whatever of them \
comes back is refused, and joins again (coppice server rejoin). What they held is left alone, unless you prove that \
they are off for good.

Of three voters or more, others may hold newer entries that were acknowledged: compare first what \
`coppice server log-position` says on each machine that is left, and go on with the highest.

Examples:
  coppice server recover --alone --leave-peers-alone --config /var/lib/coppice/coppice.toml
  coppice server recover --alone --peer-is-off host-2      its power is cut: its pooled desktops are grown here
  coppice server recover --alone --leave-peers-alone --confirm campus     nobody is there to type the grid's name"
)]
pub(crate) struct Args {
    /// Go on without the others
    #[arg(long, required = true)]
    alone: bool,
    /// The server's own file
    #[arg(long, value_name = "FILE", default_value = "coppice.toml")]
    config: PathBuf,
    /// That server is off and stays off: you have cut its power, or it is destroyed. May be given several times
    #[arg(long, value_name = "NAME")]
    peer_is_off: Vec<ServerName>,
    /// The others may still run: their slots and personal desktops stay theirs, until they join again
    #[arg(long)]
    leave_peers_alone: bool,
    /// The grid's name, instead of typing it
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// Show how far this server's log goes
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "For a server whose daemon is stopped. Of several that are left, the one with the highest position, by term and then \
by entry, has everything that was ever acknowledged.

Examples:
  coppice server log-position --config /var/lib/coppice/coppice.toml
  coppice server log-position --json"
)]
pub(crate) struct PositionArgs {
    /// The server's own file
    #[arg(long, value_name = "FILE", default_value = "coppice.toml")]
    config: PathBuf,
}

/// How far a log goes.
#[derive(serde::Serialize)]
struct Position {
    grid: Option<GridId>,
    server: ServerName,
    epoch: u64,
    recovery: u64,
    term: u64,
    index: u64,
    agreed: u64,
    voters: BTreeMap<u64, Option<ServerName>>,
}

/// What was made.
#[derive(serde::Serialize)]
struct Recovered {
    grid: Option<GridId>,
    server: ServerName,
    epoch: u64,
    term: u64,
    index: u64,
    off: Vec<ServerName>,
    lost: Vec<ServerName>,
}

pub(crate) async fn position(args: PositionArgs, screen: &Screen) -> Ended {
    let config = config::load(&args.config)?;
    let survey = survey(&config).await?;
    let position = Position {
        grid: survey.grid(),
        server: config.name,
        epoch: survey.epoch().number,
        recovery: survey.epoch().recovery,
        term: survey.last.0,
        index: survey.last.1,
        agreed: survey.agreed,
        voters: survey
            .voters
            .iter()
            .map(|id| (*id, name_of(&survey.state, *id)))
            .collect(),
    };
    screen.value(&position)?;
    screen.text(&format!("{}.{}\n", position.term, position.index));
    screen.note(&format!(
        "term {}, entry {}, of which {} is known to be agreed; life {} of grid {}",
        position.term,
        position.index,
        position.agreed,
        position.epoch,
        position.grid.map_or_else(String::new, |id| id.to_string())
    ));
    Ok(Exit::Done)
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let config = config::load(&args.config)?;
    if config.witness {
        return Err(Failure::new(
            "a witness has neither the grid's keys nor an API, and cannot be the grid",
        )
        .hint("go on with one of the servers: coppice server recover --alone, there")
        .hint("or from a backup: coppice restore FILE --data DIR"));
    }
    let survey = survey(&config).await?;
    if survey.is_alone() {
        return Err(Failure::new(format!(
            "server {} needs nobody else to agree: it is the only voter already",
            config.name
        ))
        .hint(format!("coppice serve --config {}", args.config.display())));
    }
    let me = survey
        .state
        .server_by_raft_id(survey.raft_id)
        .ok_or_else(|| {
            Failure::new("this server's log does not list it as a member of the grid")
                .hint("restore the grid from a backup: coppice restore FILE --data DIR")
        })?;
    let server = NewServer {
        name: me.1.name.clone(),
        raft_id: survey.raft_id,
        api: me.1.api.clone(),
    };
    let peers = peers(&survey.state, me.0);
    let off = proven(&args, &peers)?;
    screen.note(&picture(&survey, &server.name, &peers, &off, screen));
    consent(args.confirm.as_deref(), &title(&survey.state), screen)?;
    let recovery = Recovery {
        epoch: next_life(survey.epoch())?,
        from: Origin::Log,
        server,
        off: off.clone(),
        author: "coppice server recover".to_owned(),
    };
    let layout = Layout::new(&config.data);
    let state = Grid::recover(&layout.grid(), Arc::new(SystemClock), recovery)
        .await
        .map_err(|e| unopened(&config, &e))?;
    let named = |wanted: bool| {
        let all = peers.iter().filter(|(id, _)| off.contains(id) == wanted);
        all.map(|(_, peer)| peer.name.clone()).collect()
    };
    let made = Recovered {
        grid: state.grid,
        server: config.name,
        epoch: state.epoch.number,
        term: state.term,
        index: state.index,
        off: named(true),
        lost: named(false),
    };
    screen.value(&made)?;
    screen.text(&format!(
        "{} server {} is the grid now, in its life {}\n",
        screen.colours.good("recovered:"),
        made.server,
        made.epoch
    ));
    if !screen.automation {
        screen.text(&format!(
            "\nnext:\n  coppice serve --config {}\n  coppice status\nand on a server of before, when it is back, to make it a part of this grid again:\n  coppice server rejoin ADDRESS TOKEN\n",
            args.config.display()
        ));
    }
    Ok(Exit::Done)
}

async fn survey(config: &Config) -> Result<Survey, Failure> {
    let dir = Layout::new(&config.data).grid();
    Grid::survey(&dir).await.map_err(|e| unopened(config, &e))
}

fn unopened(config: &Config, error: &GridError) -> Failure {
    let failure = Failure::new(format!(
        "cannot look at the grid in {}",
        config.data.display()
    ))
    .because(error);
    if matches!(error, GridError::Directory(DirectoryError::InUse(_))) {
        failure.hint("stop `coppice serve` on this server first; desktops run on")
    } else {
        failure
    }
}

type Peers = BTreeMap<ServerId, Server>;

fn name_of(state: &State, raft_id: u64) -> Option<ServerName> {
    let found = state.server_by_raft_id(raft_id);
    found.map(|(_, server)| server.name.clone())
}

fn peers(state: &State, me: ServerId) -> Peers {
    let members = state.servers.iter();
    let others = members.filter(|(id, s)| **id != me && s.state != ServerState::Removed);
    others.map(|(id, s)| (*id, s.clone())).collect()
}

/// Which peers are proven to be off. The rest must have been accepted as untouchable.
fn proven(args: &Args, peers: &Peers) -> Result<BTreeSet<ServerId>, Failure> {
    let mut off = BTreeSet::new();
    for name in &args.peer_is_off {
        let found = peers.iter().find(|(_, peer)| peer.name == *name);
        let (id, _) = found.ok_or_else(|| {
            let all: Vec<String> = peers.values().map(|p| p.name.to_string()).collect();
            Failure::usage(format!("{name} is no other server of this grid"))
                .hint(format!("the others are: {}", all.join(", ")))
        })?;
        off.insert(*id);
    }
    let open = peers.iter().filter(|(id, _)| !off.contains(id));
    let open: Vec<&ServerName> = open.map(|(_, peer)| &peer.name).collect();
    if !open.is_empty() && !args.leave_peers_alone {
        let names: Vec<String> = open.iter().map(ToString::to_string).collect();
        let flags: Vec<String> = open.iter().map(|n| format!("--peer-is-off {n}")).collect();
        return Err(Failure::usage(format!(
            "nobody knows whether {} still run{} desktops",
            names.join(", "),
            if names.len() == 1 { "s" } else { "" }
        ))
        .hint(format!(
            "with the power cut for good, so that what it held may be grown here: {}",
            flags.join(" ")
        ))
        .hint("if you cannot be sure: --leave-peers-alone; what it held is not touched until it joins again"));
    }
    Ok(off)
}

/// What is about to happen, for the person who decides.
fn picture(
    survey: &Survey,
    me: &ServerName,
    peers: &Peers,
    off: &BTreeSet<ServerId>,
    screen: &Screen,
) -> String {
    let state = &survey.state;
    let mut out = format!(
        "server {me} goes on alone from term {}, entry {}, last changed {}\n",
        survey.last.0,
        survey.last.1,
        times::absolute(state.time)
    );
    for (id, peer) in peers {
        let held = state.desktops.values().filter(|d| d.server == *id);
        let (personal, pooled): (Vec<_>, Vec<_>) = held.partition(|d| d.personal);
        let fate = if off.contains(id) {
            "is off: its pooled desktops are grown here"
        } else {
            "is lost: nothing of it is touched"
        };
        let _ = writeln!(
            out,
            "  {} {fate}; it holds {} pooled and {} personal desktops",
            peer.name,
            pooled.len(),
            personal.len()
        );
    }
    if survey.may_lack() {
        let warning = format!(
            "{} voters agreed: others may hold newer entries that were acknowledged. Compare `coppice server \
             log-position` on every machine that is left, and go on with the highest.",
            survey.voters.len()
        );
        let _ = writeln!(out, "  {}", screen.error_colours.warn(&warning));
    }
    out.trim_end().to_owned()
}

/// What the grid is called; one without a name has its id.
pub(super) fn title(state: &State) -> String {
    let name = &state.committed.grid.name;
    if name.is_empty() {
        state.grid.map_or_else(String::new, |id| id.to_string())
    } else {
        name.clone()
    }
}

/// Asks for the grid's name: nobody types that by accident.
pub(super) fn consent(given: Option<&str>, title: &str, screen: &Screen) -> Result<(), Failure> {
    let unchanged = "nothing was changed";
    let typed = match given {
        Some(typed) => typed.to_owned(),
        None if !screen.may_ask() => {
            return Err(Failure::usage(format!(
                "the grid's name confirms this, and nobody is there to type it; {unchanged}"
            ))
            .hint(format!("--confirm {title}")));
        }
        None => {
            use std::io::Write as _;
            let _ = write!(
                terminal::stderr(),
                "Type the grid's name, {}, to go on: ",
                screen.error_colours.bold(title)
            );
            let _ = terminal::stderr().flush();
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map_err(|e| Failure::new("cannot read the answer").because(&e))?;
            line.trim().to_owned()
        }
    };
    if typed == title {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{typed:?} is not the name of this grid, which is {title}; {unchanged}"
    )))
}
