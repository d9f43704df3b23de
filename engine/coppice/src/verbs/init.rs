//! `coppice init`: make a grid of this server.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_grid::{Founding, Grid, GridKey, Identity, Subject};
use coppice_schema::ids::{Epoch, GridId, ServerName};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_world::clock::{Clock, SystemClock};

use crate::begin::{self, absolute, address, host_name, hypervisor_uri, random, reachable, write};
use crate::config;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::screen::Screen;

/// Make a grid of this server
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Makes the grid's certificate authority and key, the first token, and DIR/coppice.toml, in \
which every key is explained. Nothing runs yet: `coppice serve` does.

Examples:
  coppice init --data /var/lib/coppice
  coppice init --data /var/lib/coppice --name host-1 --listen 10.0.0.5:7443
  coppice init --data /var/lib/coppice --listen 0.0.0.0:7443 --names desk.example.org
  coppice init --data ~/try --hypervisor sim://       to try things out, without any virtual machine
  coppice init --data /srv/c --hypervisor qemu:///system"
)]
pub(crate) struct Args {
    /// An empty directory, or one that is yet to be made
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,
    /// This server's name; without it, the host name
    #[arg(long)]
    pub(super) name: Option<ServerName>,
    /// Where the API answers
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443", value_parser = address)]
    pub(super) listen: SocketAddr,
    /// Other names and addresses under which clients reach this server, for its certificate
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = reachable)]
    pub(super) names: Vec<String>,
    /// What runs the desktops; without it, qemu:///embed?root=DIR/h
    #[arg(long, value_name = "URI")]
    pub(super) hypervisor: Option<String>,
}

/// What was made.
#[derive(serde::Serialize)]
pub(super) struct Made {
    grid: GridId,
    server: ServerName,
    config: PathBuf,
    ca: PathBuf,
    token: PathBuf,
    listen: SocketAddr,
    hypervisor: String,
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let made = make(args).await?;
    screen.value(&made)?;
    screen.text(&told(&made, screen));
    if !screen.automation {
        screen.text(&next(&made));
    }
    Ok(Exit::Done)
}

/// Makes a grid.
pub(super) async fn make(args: Args) -> Result<Made, Failure> {
    let data = absolute(&args.data)?;
    let layout = Layout::new(&data);
    let name = args.name.map_or_else(host_name, Ok)?;
    let uri = hypervisor_uri(args.hypervisor, &layout)?;
    begin::claim(&data, &layout, &[])?;
    let names = args.names.into_iter().collect();
    found(&layout, name, args.listen, &names, uri).await
}

async fn found(
    layout: &Layout,
    name: ServerName,
    listen: SocketAddr,
    names: &BTreeSet<String>,
    hypervisor: String,
) -> Result<Made, Failure> {
    let failed = |what: &str, e: &dyn std::error::Error| Failure::new(what).because(e);
    let clock = Arc::new(SystemClock);
    let now = clock.now();
    let grid = GridId(random()?);
    let id = TokenId("admin".to_owned());
    let (secret, hash) = coppice_portal::mint(&id, random()?);
    let founding = Founding {
        grid,
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server: NewServer {
            name: name.clone(),
            raft_id: 1,
            api: crate::names::reached_at(listen),
        },
        token: (
            id,
            Token {
                hash,
                scope: Scope::Admin,
                created: now,
                expires: None,
            },
        ),
    };
    let founded = Grid::found(&layout.grid(), clock, founding)
        .await
        .map_err(|e| failed("cannot found the grid", &e))?;
    // Its certificate says which member it is, which the grid has just said.
    let member = founded.server();
    founded
        .shutdown()
        .await
        .map_err(|e| failed("cannot close the grid that was founded", &e))?;
    let member = member.ok_or_else(|| Failure::new("the grid that was founded has no server"))?;
    let subject = Subject {
        grid,
        id: member,
        server: name.clone(),
        names: crate::names::of(listen.ip(), names),
    };
    let key = GridKey::create(&layout.identity())
        .map_err(|e| failed("cannot make the grid's key", &e))?;
    let identity = Identity::found(&layout.identity(), &subject, now, &key)
        .map_err(|e| failed("cannot make the grid's authority", &e))?;
    let data = layout
        .config()
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    write(&layout.ca(), identity.ca_pem(), 0o644)?;
    write(&layout.token(), &format!("{secret}\n"), 0o600)?;
    write(
        &layout.config(),
        &config::text(&config::Chosen {
            data: &data,
            name: &name,
            listen,
            advertise: None,
            names,
            hypervisor: Some(&hypervisor),
        }),
        0o644,
    )?;
    begin::finish(layout)?;
    Ok(Made {
        grid,
        server: name,
        config: layout.config(),
        ca: layout.ca(),
        token: layout.token(),
        listen,
        hypervisor,
    })
}

/// A new file that only its owner reads.
pub(crate) fn private_file(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| {
            Failure::new(format!("cannot make {}", path.display()))
                .because(&e)
                .hint("name a file that is not there yet")
        })
}

fn told(made: &Made, screen: &Screen) -> String {
    let mut text = format!(
        "{} grid {}, with server {}\n",
        screen.colours.good("made:"),
        made.grid,
        made.server
    );
    for (what, path) in [
        ("this server's file", &made.config),
        ("the grid's authority, for every client", &made.ca),
        (
            "the first token; whoever reads it may do everything",
            &made.token,
        ),
    ] {
        text.push_str(&format!("  {:<40} {what}\n", path.display()));
    }
    text
}

fn next(made: &Made) -> String {
    // An address that means every one is no address to connect to.
    let host = if made.listen.ip().is_unspecified() {
        format!("127.0.0.1:{}", made.listen.port())
    } else {
        made.listen.to_string()
    };
    format!(
        "\nnext:\n  coppice serve --config {}\nand in another terminal:\n  export COPPICE_SERVER=https://{host}\n  export COPPICE_CA_FILE={}\n  export COPPICE_TOKEN_FILE={}\n  coppice status\n",
        made.config.display(),
        made.ca.display(),
        made.token.display()
    )
}
