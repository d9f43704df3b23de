//! `coppice restore`: a grid of one server, from a backup.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_grid::{Grid, GridKey, Identity, Keys, Subject};
use coppice_schema::ids::{Epoch, GridId, Revision, SecretName, ServerName};
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use coppice_state::State;
use coppice_state::backup::Backup;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::join;
use coppice_world::clock::{Clock, SystemClock};

use crate::begin::{self, absolute, host_name, hypervisor_uri, random};
use crate::config;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::passphrase;
use crate::screen::Screen;
use crate::times;

/// Make a grid of this server again, from a backup
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "The grid goes on in another life, with this server alone: servers of before are lost, and refused until they \
join again. What it does not know of, because it came after the backup, is left alone. Tokens are the ones of \
the backup. Nothing runs yet: `coppice serve` does.

With the name of a server of that grid it takes that server's place, and its desktops are looked for here; images \
and disks go into DIR/disks, if they are still to be had, before `coppice serve`.

Examples:
  coppice restore grid.backup --data /var/lib/coppice
  coppice restore grid.backup --data /var/lib/coppice --name host-1 --listen 10.0.0.5:7443
  coppice restore grid.backup --data ~/look --hypervisor sim://      to see what is in it, without any machine"
)]
pub(crate) struct Args {
    /// What `coppice backup` wrote
    file: PathBuf,
    /// An empty directory, or one that is yet to be made
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// This server's name; without it, the host name
    #[arg(long)]
    name: Option<ServerName>,
    /// Where the API answers
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443", value_parser = begin::address)]
    listen: SocketAddr,
    /// Other names and addresses under which clients reach this server, for its certificate
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = begin::reachable)]
    names: Vec<String>,
    /// What runs the desktops; without it, qemu:///embed?root=DIR/h
    #[arg(long, value_name = "URI")]
    hypervisor: Option<String>,
    /// A file with the passphrase of the backup's keys; without it, it is asked for
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Leave the backup's keys closed: secrets are entered again, and clients get another ca.pem
    #[arg(long, conflicts_with = "passphrase_file")]
    without_keys: bool,
    /// Refuse a backup of any other grid than this, named by its id
    #[arg(long, value_name = "ID")]
    grid: Option<GridId>,
}

/// What came of it.
#[derive(serde::Serialize)]
struct Restored {
    grid: GridId,
    name: String,
    server: ServerName,
    epoch: u64,
    revision: Revision,
    /// Time of the last entry of the backup.
    time: Timestamp,
    newest: bool,
    keys: bool,
    config: PathBuf,
    ca: PathBuf,
    listen: SocketAddr,
    /// Servers that are lost until they join again.
    lost: Vec<ServerName>,
    /// Secrets to be entered again.
    secrets: BTreeSet<SecretName>,
    /// Images to be brought again, unless their files are put into the data directory.
    images: Vec<String>,
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let backup = read(&args.file)?;
    let grid = backup.grid().unwrap_or(GridId([0; 16]));
    if let Some(wanted) = args.grid.filter(|wanted| *wanted != grid) {
        return Err(Failure::new(format!(
            "{} is a backup of grid {grid}, not of {wanted}; nothing was changed",
            args.file.display()
        ))
        .hint("name a backup of that grid, or leave --grid out"));
    }
    let data = absolute(&args.data)?;
    let layout = Layout::new(&data);
    let name = args.name.clone().map_or_else(host_name, Ok)?;
    let uri = hypervisor_uri(args.hypervisor.clone(), &layout)?;
    // Before anything is written: a passphrase may be wrong.
    let keys = match &backup.keys {
        Some(sealed) if !args.without_keys => {
            let phrase = passphrase::known(args.passphrase_file.as_deref(), screen)?;
            Some(Keys::open(sealed, grid, &phrase).map_err(|e| {
                Failure::new(format!("cannot open the keys in {}", args.file.display()))
                    .because(&e)
                    .hint("type it again; nothing was changed")
                    .hint("without it: --without-keys, and every secret is entered again")
            })?)
        }
        Some(_) | None => None,
    };
    begin::claim(&data, &layout, &[])?;
    let restored = found(&args, &layout, name, backup, keys, uri).await?;
    screen.value(&restored)?;
    screen.text(&told(&restored, screen));
    if !screen.automation {
        screen.text(&next(&restored));
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> Result<Backup, Failure> {
    let bytes = std::fs::read(file)
        .map_err(|e| Failure::new(format!("cannot read {}", file.display())).because(&e))?;
    Backup::decode(&bytes).map_err(|e| {
        Failure::new(format!(
            "cannot restore from {}; nothing was changed",
            file.display()
        ))
        .because(&e)
    })
}

async fn found(
    args: &Args,
    layout: &Layout,
    name: ServerName,
    backup: Backup,
    keys: Option<Keys>,
    hypervisor: String,
) -> Result<Restored, Failure> {
    let failed = |what: &str, e: &dyn std::error::Error| Failure::new(what).because(e);
    let clock = Arc::new(SystemClock);
    let now = clock.now();
    let before = backup.state;
    let epoch = next_life(before.epoch)?;
    let recovery = Recovery {
        epoch,
        from: Origin::Backup {
            keys: keys.is_some(),
        },
        server: NewServer {
            name: name.clone(),
            raft_id: join::raft_id(epoch, before.index.saturating_add(1)),
            api: crate::names::reached_at(args.listen),
        },
        off: BTreeSet::new(),
        author: "coppice restore".to_owned(),
    };
    let time = before.time;
    let state = Grid::restore(&layout.grid(), clock, before, recovery)
        .await
        .map_err(|e| failed("cannot restore the grid", &e))?;
    let grid = state.grid.unwrap_or(GridId([0; 16]));
    let names: BTreeSet<String> = args.names.iter().cloned().collect();
    let (id, _) = state
        .server_named(&name)
        .ok_or_else(|| Failure::new("the grid does not know its server"))?;
    let subject = Subject {
        grid,
        id,
        server: name.clone(),
        names: crate::names::of(args.listen.ip(), &names),
    };
    let with_keys = keys.is_some();
    let unmade = |e: &dyn std::error::Error| failed("cannot put the grid's keys there", e);
    let directory = layout.identity();
    let identity = match keys {
        Some(keys) => {
            keys.put(&directory).map_err(|e| unmade(&e))?;
            let key = GridKey::open(&directory).map_err(|e| unmade(&e))?;
            Identity::open(&directory, &subject, now, Some(&key))
        }
        None => {
            let key = GridKey::create(&directory).map_err(|e| unmade(&e))?;
            Identity::found(&directory, &subject, now, &key)
        }
    };
    let identity = identity.map_err(|e| failed("cannot use the grid's authority", &e))?;
    begin::write(&layout.ca(), identity.ca_pem(), 0o644)?;
    begin::write(
        &layout.config(),
        &config::text(&config::Chosen {
            data: &layout.data(),
            name: &name,
            listen: args.listen,
            advertise: None,
            names: &names,
            hypervisor: Some(&hypervisor),
        }),
        0o644,
    )?;
    begin::finish(layout)?;
    Ok(Restored {
        grid,
        name: state.committed.grid.name.clone(),
        server: name,
        epoch: state.epoch.number,
        revision: state.revision,
        time,
        newest: backup.newest,
        keys: with_keys,
        config: layout.config(),
        ca: layout.ca(),
        listen: args.listen,
        lost: lost(&state),
        secrets: secrets(&state),
        images: images(&state),
    })
}

/// The life after `epoch`, which no other recovery begins too.
pub(crate) fn next_life(epoch: Epoch) -> Result<Epoch, Failure> {
    Ok(epoch.next(u64::from_le_bytes(random()?)))
}

fn lost(state: &State) -> Vec<ServerName> {
    let lost = state.servers.values();
    let lost = lost.filter(|server| server.state == ServerState::Lost);
    lost.map(|server| server.name.clone()).collect()
}

fn secrets(state: &State) -> BTreeSet<SecretName> {
    let lost = state.secrets.iter().filter(|(_, secret)| secret.is_lost());
    lost.map(|(name, _)| name.clone()).collect()
}

fn images(state: &State) -> Vec<String> {
    let all = state.images.iter();
    all.flat_map(|(name, versions)| versions.keys().map(move |v| format!("{name}@{v}")))
        .collect()
}

fn told(it: &Restored, screen: &Screen) -> String {
    let name = if it.name.is_empty() {
        it.grid.to_string()
    } else {
        format!("{} ({})", it.name, it.grid)
    };
    let mut out = format!(
        "{} grid {name} on server {}, in its life {}, at revision {}, as it was {}\n",
        screen.colours.good("restored:"),
        it.server,
        it.epoch,
        it.revision,
        times::absolute(it.time)
    );
    if !it.newest {
        out.push_str(
            "  the backup was made without a majority: the grid may have agreed on more\n",
        );
    }
    if !it.keys {
        out.push_str("  the grid has a new authority: every client needs the new ca.pem\n");
    }
    if !it.lost.is_empty() {
        let lost: Vec<String> = it.lost.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "  lost until they join again, their slots left alone: {}",
            lost.join(", ")
        );
    }
    out
}

fn next(it: &Restored) -> String {
    let host = if it.listen.ip().is_unspecified() {
        format!("127.0.0.1:{}", it.listen.port())
    } else {
        it.listen.to_string()
    };
    let mut out = format!(
        "\nnext:\n  coppice serve --config {}\nand in another terminal, with a token that the grid had at that time:\n  export COPPICE_SERVER=https://{host}\n  export COPPICE_CA_FILE={}\n  export COPPICE_TOKEN_FILE=...\n  coppice status\n",
        it.config.display(),
        it.ca.display(),
    );
    for image in &it.images {
        let (name, version) = image.split_once('@').unwrap_or((image, ""));
        let _ = writeln!(
            out,
            "  coppice image import {name} FILE --version {version}      unless its file is in DIR/disks again"
        );
    }
    for secret in &it.secrets {
        let _ = writeln!(out, "  coppice secret set {secret}");
    }
    out
}
