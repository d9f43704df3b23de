//! Servers as processes, and commands that ask them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::apart;

/// How long anything is waited for: only a failing test takes as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A directory, and addresses that no other test has.
pub(crate) struct Site {
    dir: PathBuf,
    network: Network,
}

/// Where servers are.
enum Network {
    /// On this machine, side by side.
    Loopback { number: u32, _dir: TempDir },
    /// Each in a namespace of its own.
    Apart,
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A server. It ends with this value.
pub(crate) struct Server {
    name: String,
    child: Child,
}

fn program() -> PathBuf {
    let given = std::env::var_os("COPPICE_TEST_BINARY").map(PathBuf::from);
    let program = given.unwrap_or_else(|| {
        // target/debug/deps/grid-1234
        let this = std::env::current_exe().unwrap();
        this.parent().unwrap().parent().unwrap().join("coppice")
    });
    let what = program.display();
    assert!(
        program.exists(),
        "there is no {what}: build it first (cargo build -p coppice), or name another with COPPICE_TEST_BINARY"
    );
    program
}

impl Site {
    pub(crate) fn new() -> Self {
        static SITES: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("grid-").tempdir().unwrap();
        // A process has an address range of its own, and each site in it.
        let number = std::process::id() * 8 + SITES.fetch_add(1, Ordering::SeqCst);
        Self {
            dir: dir.path().to_owned(),
            network: Network::Loopback { number, _dir: dir },
        }
    }

    /// Servers in the namespaces of [`crate::apart`].
    pub(crate) fn apart(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            network: Network::Apart,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where server `n` is.
    pub(crate) fn host(&self, n: u32) -> String {
        match self.network {
            Network::Loopback { number, .. } => {
                let [_, _, b, a] = (number % 60_000).to_be_bytes();
                format!("127.{}.{a}.{n}", b % 200 + 10)
            }
            Network::Apart => format!("{}.1{n}", apart::NET),
        }
    }

    /// Where server `n` answers.
    pub(crate) fn address(&self, n: u32) -> String {
        format!("{}:7443", self.host(n))
    }

    fn listen(&self, n: u32) -> String {
        match self.network {
            Network::Loopback { .. } => self.address(n),
            // Either way whoever leads answers at the grid's address.
            Network::Apart if n == 1 => "0.0.0.0:7443".to_owned(),
            Network::Apart => self.address(n),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        self.in_order(command.args(arguments));
        command
    }

    /// A command that runs where server `n` is.
    fn command_on(&self, n: u32, arguments: &[&str]) -> Command {
        if let Network::Loopback { .. } = self.network {
            return self.command(arguments);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/h{n}"));
        self.in_order(command.arg("--").arg(program()).args(arguments));
        command
    }

    fn in_order(&self, command: &mut Command) {
        command
            .current_dir(&self.dir)
            .env_clear()
            .env("HOME", &self.dir)
            .env("COPPICE_CA_FILE", self.path("1/ca.pem"))
            .env("COPPICE_TOKEN_FILE", self.path("1/admin.token"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Asks server `n`.
    pub(crate) fn ask(&self, n: u32, arguments: &[&str]) -> Ran {
        self.ask_at(&self.host(n), arguments)
    }

    /// Asks whoever is at an address.
    pub(crate) fn ask_at(&self, host: &str, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        command.env("COPPICE_SERVER", format!("https://{host}:7443"));
        ran(command)
    }

    /// A grid whose first server is `host-1`, running.
    pub(crate) fn found(&self) -> Server {
        self.found_with("sim://")
    }

    /// The same, with desktops by another hypervisor.
    pub(crate) fn found_with(&self, hypervisor: &str) -> Server {
        let listen = self.listen(1);
        let init = [
            "init", "--data", "1", "--name", "host-1", "--listen", &listen,
        ];
        let init = [&init[..], &["--hypervisor", hypervisor]].concat();
        ran(self.command_on(1, &init)).code(0);
        self.serve(1)
    }

    /// A grid of as many servers that run, `host-1` first, of which every one votes.
    pub(crate) fn grid(&self, servers: u32) -> Vec<Server> {
        let running = self.gather(servers);
        let all: Vec<u32> = (1..=servers).collect();
        self.until_vote(1, &all, &[]);
        running
    }

    /// A grid of as many servers that run. Those that joined `host-1` are to vote, and learn before.
    pub(crate) fn gather(&self, servers: u32) -> Vec<Server> {
        let mut running = vec![self.found()];
        for n in 2..=servers {
            self.join(n, 1).code(0);
            running.push(self.serve(n));
        }
        running
    }

    /// Runs a command that needs no server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    pub(crate) fn token(&self, role: &str) -> String {
        self.token_of(1, role)
    }

    /// A token of the grid that server `n` is of.
    pub(crate) fn token_of(&self, n: u32, role: &str) -> String {
        let made = self.ask(n, &["token", "create", "--role", role]);
        made.code(0).out.trim().to_owned()
    }

    /// `host-N` joins through server `through`.
    pub(crate) fn join(&self, n: u32, through: u32) -> Ran {
        self.join_as(
            n,
            through,
            &self.token("server"),
            &["--hypervisor", "sim://"],
        )
    }

    pub(crate) fn join_as(&self, n: u32, through: u32, token: &str, more: &[&str]) -> Ran {
        let (to, listen) = (self.address(through), self.listen(n));
        let (data, name) = (n.to_string(), format!("host-{n}"));
        let mut arguments = vec!["join", &to, token, "--data", &data, "--name", &name];
        arguments.extend(["--listen", &listen]);
        arguments.extend(more);
        ran(self.command_on(n, &arguments))
    }

    /// Starts server `n`, and waits until it is ready.
    pub(crate) fn serve(&self, n: u32) -> Server {
        let server = self.start(n);
        let config = format!("{n}/coppice.toml");
        assert!(self.path(&config).exists());
        server
    }

    fn start(&self, n: u32) -> Server {
        let config = format!("{n}/coppice.toml");
        let mut command = self.command_on(n, &["serve", "--config", &config]);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{n}.log")))
            .unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let name = format!("host-{n}");
        let server = Server { name, child };
        assert!(line.starts_with("ready: "), "{line}{}", self.log(n));
        server
    }

    pub(crate) fn log(&self, n: u32) -> String {
        std::fs::read_to_string(self.path(&format!("{n}.log"))).unwrap_or_default()
    }

    /// The servers as server `n` lists them.
    pub(crate) fn servers(&self, n: u32) -> Vec<Value> {
        let listed = self.ask(n, &["server", "list", "--json"]);
        let list = serde_json::from_str(&listed.out).unwrap_or_default();
        if let Value::Array(servers) = list {
            return servers;
        }
        Vec::new()
    }

    /// Waits until the servers, by the last digit of their names, are in these parts by what server `n` says: first who
    /// leads or votes, then who learns.
    #[track_caller]
    pub(crate) fn until_vote(&self, n: u32, voters: &[u32], learners: &[u32]) {
        let sorted = |servers: &[Value], parts: &[&str]| {
            let mine = servers.iter().filter(|server| {
                let part = server["log"]["part"].as_str().unwrap_or_default();
                parts.contains(&part)
            });
            let numbers = mine.filter_map(|server| {
                let name = server["name"].as_str()?;
                name.strip_prefix("host-")?.parse::<u32>().ok()
            });
            let mut numbers: Vec<u32> = numbers.collect();
            numbers.sort_unstable();
            numbers
        };
        self.until(&format!("{voters:?} vote and {learners:?} learn"), || {
            let servers = self.servers(n);
            let vote = sorted(&servers, &["leader", "voter"]);
            let learn = sorted(&servers, &["learner"]);
            (vote == voters && learn == learners)
                .then_some(())
                .ok_or_else(|| format!("{vote:?} vote and {learn:?} learn"))
        });
    }

    /// Who leads, by what server `n` says.
    pub(crate) fn leader(&self, n: u32) -> u32 {
        self.until("somebody leads", || {
            let servers = self.servers(n);
            let leads = servers.iter().find(|s| s["log"]["part"] == "leader");
            let name = leads.and_then(|s| s["name"].as_str());
            let number = name.and_then(|name| name.strip_prefix("host-")?.parse().ok());
            number.ok_or_else(|| format!("{servers:?}"))
        })
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, look: impl Fn() -> Result<T, String>) -> T {
        let patience = Instant::now() + PATIENCE;
        loop {
            match look() {
                Ok(found) => return found,
                Err(now) => assert!(
                    Instant::now() < patience,
                    "not {what}: {now}\n{}",
                    (1..10)
                        .map(|n| self.log(n))
                        .collect::<Vec<_>>()
                        .join("--\n")
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn is_there(&self, path: impl AsRef<Path>) -> bool {
        self.dir.join(path).exists()
    }
}

fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let said = self.out.contains(text) || self.err.contains(text);
        assert!(said, "no {text:?} in\n{}\n{}", self.out, self.err);
        self
    }
}

impl Server {
    /// Ends at once, with whatever it was doing.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and returns its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits until it ends by itself, and returns its exit code.
    pub(crate) fn ends(mut self) -> i32 {
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} does not end", self.name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
