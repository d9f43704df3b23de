//! Three servers as processes of their own, in one directory. All of it ends with the demo, whatever ends that: the
//! kernel kills the servers, and what a demo that was killed left on the disk is removed by the next one.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coppice_schema::ids::ServerName;
use rustix::fs::FlockOperation;
use rustix::process::{geteuid, getpid};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::failure::Failure;
use crate::layout::Layout;
use crate::settings::Settings;

/// How the directories of demos begin.
const PREFIX: &str = "coppice-demo-";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Is locked as long as the demo of its directory runs.
const LOCK: &str = "lock";

/// What each server pretends to have, and how many people come to its desktops.
pub(super) fn hypervisor(n: usize) -> String {
    format!("sim://?seed={n}&cpus=64&memory=512GiB&people=30")
}

/// Where everything of a demo is.
pub(super) struct Site {
    pub(super) servers: Vec<Server>,
    dir: TempDir,
    _lock: File,
}

/// A server of it.
pub(super) struct Server {
    pub(super) name: ServerName,
    pub(super) address: SocketAddr,
    pub(super) layout: Layout,
    log: PathBuf,
    state: State,
}

enum State {
    /// Its port is its own already.
    Prepared(TcpListener),
    Runs(Box<(Child, BufReader<ChildStdout>)>),
    Ended,
}

impl Site {
    /// An empty directory, and servers with nothing but a name and a port.
    pub(super) fn new(names: &[&str]) -> Result<Self, Failure> {
        sweep(&std::env::temp_dir());
        let failed = |e: &dyn std::error::Error| {
            Failure::new("cannot make a directory for the demo")
                .because(e)
                .hint("name a place that you may write: TMPDIR=DIR coppice demo")
        };
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let dir = dir.map_err(|e| failed(&e))?;
        let lock = lock(dir.path()).map_err(|e| failed(&e))?;
        let servers = names.iter().map(|name| Server::prepare(name, dir.path()));
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
            dir,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn first(&self) -> Result<&Server, Failure> {
        self.servers
            .first()
            .ok_or_else(|| Failure::new("a demo has servers"))
    }

    pub(super) fn server(&mut self, name: &ServerName) -> Result<&mut Server, Failure> {
        let mut servers = self.servers.iter_mut();
        let found = servers.find(|server| server.name == *name);
        found.ok_or_else(|| Failure::new(format!("the demo has no server {name}")))
    }

    /// Settings by which server `n` is asked.
    pub(super) fn settings(
        &self,
        server: &Server,
        settings: &Settings,
    ) -> Result<Settings, Failure> {
        let first = self.first()?;
        Ok(Settings {
            server: format!("https://{}", server.address),
            token_file: Some(first.layout.token()),
            ca_file: Some(first.layout.ca()),
            ..settings.clone()
        })
    }

    /// Ends every server and removes everything.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        for server in &mut self.servers {
            server.kill().await?;
        }
        let path = self.dir.path().to_path_buf();
        self.dir.close().map_err(|e| {
            Failure::new(format!("cannot remove {}", path.display()))
                .because(&e)
                .hint(format!("no server runs any more; rm -r {}", path.display()))
        })
    }
}

impl Server {
    fn prepare(name: &str, place: &Path) -> Result<Self, Failure> {
        let failed = |e: &dyn std::error::Error| {
            Failure::new(format!("cannot prepare the server {name}")).because(e)
        };
        // The kernel gives a free port, and the server is given the socket: no other demo can come in between.
        let listens = TcpListener::bind("127.0.0.1:0").map_err(|e| failed(&e))?;
        Ok(Self {
            name: name.parse().map_err(|e| failed(&e))?,
            address: listens.local_addr().map_err(|e| failed(&e))?,
            layout: Layout::new(&place.join(name)),
            log: place.join(format!("{name}.log")),
            state: State::Prepared(listens),
        })
    }

    /// Starts it. It is ready when [`Self::ready`] says so.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let failed = |e: &dyn std::error::Error| {
            Failure::new(format!("cannot start the server {}", self.name)).because(e)
        };
        let State::Prepared(listens) = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let log = File::create(&self.log).map_err(|e| failed(&e))?;
        // Not by its path: this user may be one who cannot look into the directory that the program is in.
        let mut child = Command::new("/proc/self/exe")
            .arg0("coppice")
            .args(["--color", "never", "serve", "--config"])
            .arg(self.layout.config())
            .arg("--child-of")
            .arg(getpid().as_raw_nonzero().to_string())
            .stdin(Stdio::from(OwnedFd::from(listens)))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            // What is typed at the terminal is for the demo, which ends its servers itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(&e))?;
        if let Some(out) = child.stdout.take() {
            self.state = State::Runs(Box::new((child, BufReader::new(out))));
        }
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&mut self) -> Result<(), Failure> {
        let State::Runs(runs) = &mut self.state else {
            return Ok(());
        };
        let (_, out) = &mut **runs;
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, out.read_line(&mut line)).await;
        let ended = match read {
            Ok(Ok(bytes)) if bytes > 0 => return Ok(()),
            Ok(_) => "ended".to_owned(),
            Err(_) => format!("was not ready within {} s", PATIENCE.as_secs()),
        };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.lines().rev().take(5).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(Failure::new(format!("the server {} {ended}", self.name)).cause(last))
    }

    /// Its process, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Runs(runs) => runs.0.id(),
            State::Prepared(_) | State::Ended => None,
        }
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        if let State::Runs(runs) = &mut self.state {
            let killed = runs.0.kill().await;
            killed.map_err(|e| {
                Failure::new(format!("cannot end the server {}", self.name)).because(&e)
            })?;
        }
        self.state = State::Ended;
        Ok(())
    }
}

/// Says that the demo of this directory runs.
fn lock(place: &Path) -> std::io::Result<File> {
    // It has its name only when it is locked: an unlocked one is of a demo that is gone.
    let early = place.join("lock.new");
    let file = File::create_new(&early)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    std::fs::rename(early, place.join(LOCK))?;
    Ok(file)
}

/// Removes what demos of this user that were killed have left. What cannot be removed is left.
fn sweep(place: &Path) {
    let Ok(entries) = std::fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let ours = || {
            entry
                .metadata()
                .is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw())
        };
        if !named || !ours() {
            continue;
        }
        let Ok(held) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_demo_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = place.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (dead, runs) = (make("coppice-demo-dead"), make("coppice-demo-runs"));
        let (other, begins) = (make("other"), make("coppice-demo-begins"));
        drop(lock(&dead).unwrap());
        drop(lock(&other).unwrap());
        let held = lock(&runs).unwrap();
        sweep(place.path());
        let there = [dead, runs, other, begins].map(|path| path.exists());
        assert_eq!(there, [false, true, true, true]);
        drop(held);
    }
}
