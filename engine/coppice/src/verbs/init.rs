//! `coppice init`: make a grid of this server.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_grid::{Founding, Grid, GridKey, Identity, Subject};
use coppice_schema::ids::{Epoch, GridId, ServerName};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_world::clock::{Clock, SystemClock};

use crate::config;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::layout::Layout;
use crate::screen::Screen;
use crate::serve::hypervisor;

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
    data: PathBuf,
    /// This server's name; without it, the host name
    #[arg(long)]
    name: Option<ServerName>,
    /// Where the API answers
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443", value_parser = address)]
    listen: SocketAddr,
    /// Other names and addresses under which clients reach this server, for its certificate
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = reachable)]
    names: Vec<String>,
    /// What runs the desktops; without it, qemu:///embed?root=DIR/h
    #[arg(long, value_name = "URI")]
    hypervisor: Option<String>,
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an address and a port, such as 10.0.0.5:7443 or [::1]:7443; 0.0.0.0:7443 is every address of this machine";
    text.parse().map_err(|_| expected.to_owned())
}

pub(crate) fn reachable(text: &str) -> Result<String, String> {
    let expected = "expected a host name or an address, such as desk.example.org or 10.0.0.5";
    coppice_grid::authority::can_be_named(text)
        .then(|| text.to_owned())
        .ok_or_else(|| expected.to_owned())
}

/// What was made.
#[derive(serde::Serialize)]
struct Made {
    grid: GridId,
    server: ServerName,
    config: PathBuf,
    ca: PathBuf,
    token: PathBuf,
    listen: SocketAddr,
    hypervisor: String,
}

pub(crate) async fn run(args: Args, screen: &Screen) -> Ended {
    let data = absolute(&args.data)?;
    let layout = Layout::new(&data);
    let name = args.name.map_or_else(host_name, Ok)?;
    let uri = hypervisor_uri(args.hypervisor, &layout)?;
    claim(&data, &layout)?;
    let names = args.names.into_iter().collect();
    let made = found(&layout, name, args.listen, &names, uri).await?;
    screen.value(&made)?;
    screen.text(&told(&made, screen));
    if !screen.automation {
        screen.text(&next(&made));
    }
    Ok(Exit::Done)
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
    let subject = Subject {
        grid,
        server: name.clone(),
        names: crate::names::of(listen.ip(), names),
    };
    let identity = Identity::found(&layout.identity(), &subject, now)
        .map_err(|e| failed("cannot make the grid's authority", &e))?;
    GridKey::create(&layout.identity()).map_err(|e| failed("cannot make the grid's key", &e))?;
    let founding = Founding {
        grid,
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server: NewServer {
            name: name.clone(),
            raft_id: 1,
            api: listen.to_string(),
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
    founded
        .shutdown()
        .await
        .map_err(|e| failed("cannot close the grid that was founded", &e))?;
    let data = layout
        .config()
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    write(&layout.ca(), identity.ca_pem(), 0o644)?;
    write(&layout.token(), &format!("{secret}\n"), 0o600)?;
    write(
        &layout.config(),
        &config::text(&data, &name, listen, names, &hypervisor),
        0o644,
    )?;
    finish(layout)?;
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

/// From now on the directory is a server's.
pub(crate) fn finish(layout: &Layout) -> Result<(), Failure> {
    std::fs::remove_file(layout.begun())
        .and_then(|()| File::open(layout.data())?.sync_all())
        .map_err(|e| Failure::new("cannot finish the data directory").because(&e))
}

/// Takes an empty directory, or one that an `init` which was cut off left behind: nobody was told of that.
pub(crate) fn claim(data: &Path, layout: &Layout) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        Failure::new(format!(
            "cannot use {} as the data directory",
            data.display()
        ))
        .because(&e)
        .hint("name a directory that you may write: --data DIR")
    };
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(failed)?;
    let mut entries = std::fs::read_dir(data).map_err(failed)?.peekable();
    if entries.peek().is_some() && !layout.begun().exists() {
        return Err(occupied(data, layout));
    }
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path == layout.begun() {
            continue;
        }
        let ours = [layout.identity(), layout.grid()];
        if ours.contains(&path) {
            std::fs::remove_dir_all(&path).map_err(failed)?;
        } else if [layout.ca(), layout.token(), layout.config()].contains(&path) {
            std::fs::remove_file(&path).map_err(failed)?;
        } else {
            return Err(occupied(data, layout));
        }
    }
    File::create(layout.begun())
        .and_then(|f| f.sync_all())
        .map_err(failed)
}

fn occupied(data: &Path, layout: &Layout) -> Failure {
    if layout.config().exists() && layout.grid().exists() {
        return Failure::new(format!(
            "{} holds a grid already; nothing was changed",
            data.display()
        ))
        .hint(format!(
            "coppice serve --config {}",
            layout.config().display()
        ))
        .hint("another grid needs another directory: --data DIR");
    }
    Failure::new(format!(
        "{} is not empty and holds something else; nothing was changed",
        data.display()
    ))
    .hint("name an empty directory, or one that is yet to be made: --data DIR")
}

pub(crate) fn hypervisor_uri(wanted: Option<String>, layout: &Layout) -> Result<String, Failure> {
    let given = wanted.is_some();
    let uri =
        wanted.unwrap_or_else(|| format!("qemu:///embed?root={}", layout.hypervisor().display()));
    match hypervisor::check(&uri) {
        Ok(()) => Ok(uri),
        Err(why) if given => Err(Failure::usage(format!("--hypervisor {uri} cannot be used")).cause(why)),
        Err(why) => Err(Failure::new(format!("the embedded hypervisor cannot live in {}", layout.hypervisor().display()))
            .cause(why)
            .hint("choose a shorter directory: --data /var/lib/coppice")
            .hint("or put the hypervisor's part elsewhere: --hypervisor 'qemu:///embed?root=/var/lib/coppice-h'")),
    }
}

pub(crate) fn host_name() -> Result<ServerName, Failure> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let short = host.split('.').next().unwrap_or_default();
    short.parse().map_err(|e| {
        Failure::new(format!(
            "this machine's host name {host:?} cannot be a server's name"
        ))
        .because(&e)
        .hint("choose one: --name host-1")
    })
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map(|p| p.components().collect())
        .map_err(|e| {
            Failure::usage(format!("--data {} is no directory", path.display())).because(&e)
        })
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Failure::new("the system gives no random numbers"))?;
    Ok(bytes)
}

pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.map_err(|e| Failure::new(format!("cannot write {}", path.display())).because(&e))
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
