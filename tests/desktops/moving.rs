//! Two servers with a hypervisor each, as two daemons: a desktop that somebody looks at leaves the one that is emptied
//! while it runs, whoever is killed meanwhile.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::hands::check;
use crate::lab::{Lab, Ran};
use crate::machine::{self, until};

/// What a guest is asked that has something on its disk and something in its memory, and what it says to that again
/// as long as it is the same guest with the same disk.
const WRITE: &str = "mount /dev/vda2 /mnt 2>/dev/null; dd if=/dev/urandom of=/mnt/letter bs=64k count=64 2>/dev/null && \
    sync && sha256sum /mnt/letter && cat /proc/sys/kernel/random/boot_id && cat /proc/sys/kernel/random/uuid | tee /dev/note";
const READ: &str = "echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/letter && cat /proc/sys/kernel/random/boot_id && \
    cat /dev/note";

const WANTED: &str = r#"
grid "lab" { timezone = "UTC" }
image "tiny" {
  version = "1"
  os      = "linux"
  copies  = "all"
}
template "small" {
  image   = image.tiny
  memory  = "96MiB"
  display = ["vnc"]
}
pool "lab" {
  template = template.small
  desktops = 1
}
"#;

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    First,
    Second,
}

impl End {
    const BOTH: [Self; 2] = [Self::First, Self::Second];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "host-1",
            Self::Second => "host-2",
        }
    }

    /// Its directory of data.
    pub(crate) fn data(self) -> &'static str {
        match self {
            Self::First => "d",
            Self::Second => "e",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    fn address(self) -> String {
        match self {
            Self::First => address(1),
            Self::Second => address(2),
        }
    }
}

/// Where a server answers: this process has an address range of its own.
fn address(n: u8) -> String {
    let [_, _, b, a] = (std::process::id() % 60_000).to_be_bytes();
    format!("127.{}.{a}.{n}:7443", b % 200 + 10)
}

/// A grid of two servers with one desktop, and perhaps a witness.
pub(crate) struct Pair {
    daemons: [Option<Child>; 2],
    witness: Option<Child>,
    // The last to go: it ends the guests of both.
    pub(crate) lab: Lab,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let daemons = self.daemons.iter_mut().flatten();
        for daemon in daemons.chain(&mut self.witness) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Pair {
    /// Both run, and the desktop is there.
    fn found() -> Option<Self> {
        Self::found_with(WANTED, false)
    }

    /// Both run, and the one desktop that is wanted is there.
    pub(crate) fn found_with(wanted: &str, witness: bool) -> Option<Self> {
        let image = machine::lacks().is_none().then(machine::image)?;
        let lab = Lab::found_at(&End::First.address())?;
        let mut pair = Self {
            daemons: [None, None],
            witness: None,
            lab,
        };
        pair.start(End::First);
        let second = (End::Second.name(), End::Second.data());
        pair.join(second, &End::Second.address(), &[]);
        pair.start(End::Second);
        if witness {
            pair.join(("third", "w"), &address(3), &["--witness"]);
            pair.witness = Some(pair.serve("third", "w"));
        }
        let image = image.to_str().unwrap();
        pair.ask(&["image", "import", "tiny", image, "--version", "1"])
            .code(0);
        pair.lab.write("c/lab.hcl", wanted);
        until("both servers seen", || {
            let servers = pair.ask(&["server", "list", "--json"]);
            let seen = servers.words.matches("\"current\": true").count();
            (seen >= 2).then_some(()).ok_or(servers.words)
        });
        pair.ask(&["apply", "c", "--yes"]).code(0);
        pair.until_state("available");
        Some(pair)
    }

    fn join(&self, (name, data): (&str, &str), listen: &str, role: &[&str]) {
        let kind = if role.is_empty() { "server" } else { "witness" };
        let token = self.ask(&["token", "create", "--role", kind]).code(0);
        let there = End::First.address();
        let words = ["join", &there, token.out.trim(), "--data", data];
        let rest = ["--name", name, "--listen", listen];
        self.ask(&[&words[..], &rest, role].concat()).code(0);
    }

    pub(crate) fn start(&mut self, end: End) {
        self.daemons[end as usize] = Some(self.serve(end.name(), end.data()));
    }

    fn serve(&self, name: &str, data: &str) -> Child {
        let config = format!("{data}/coppice.toml");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.lab.path(&format!("{name}.log")))
            .unwrap();
        let mut command = self.lab.command(&["serve", "--config", &config]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "{line:?}: {}", self.logs());
        child
    }

    /// Sends a signal to a daemon that runs.
    pub(crate) fn signal(&self, end: End, signal: Signal) {
        let daemon = self.daemons[end as usize].as_ref().unwrap();
        let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self, end: End) {
        let mut daemon = self.daemons[end as usize].take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Asks a server that runs.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Ran {
        let up = End::BOTH
            .into_iter()
            .find(|end| self.daemons[*end as usize].is_some());
        self.ask_of(up.unwrap(), arguments)
    }

    pub(crate) fn ask_of(&self, end: End, arguments: &[&str]) -> Ran {
        let mut command = self.lab.command(arguments);
        Ran::of(command.env("COPPICE_SERVER", format!("https://{}", end.address())))
    }

    /// What both daemons wrote of moves.
    pub(crate) fn logs(&self) -> String {
        let logs = End::BOTH.map(|end| {
            let path = self.lab.path(&format!("{}.log", end.name()));
            let log = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            format!("--- {}\n{last}", end.name())
        });
        logs.join("\n")
    }

    /// The desktop: where it is, and how it stands.
    pub(crate) fn desktop(&self) -> Result<(End, String), String> {
        let list = self.ask(&["desktop", "list", "--json"]);
        let desktops: Vec<Value> =
            serde_json::from_str(&list.out).map_err(|error| format!("{error}: {}", list.words))?;
        let [desktop] = desktops.as_slice() else {
            return Err(format!("{desktops:?}"));
        };
        let end = End::BOTH
            .into_iter()
            .find(|end| desktop["server"] == end.name());
        let state = desktop["state"].as_str().unwrap_or_default().to_owned();
        Ok((end.ok_or("nowhere")?, state))
    }

    /// Waits until it stands so, and says where.
    #[track_caller]
    pub(crate) fn until_state(&self, wanted: &str) -> End {
        until(wanted, || {
            let (end, state) = self.desktop()?;
            (state == wanted)
                .then_some(end)
                .ok_or_else(|| format!("{state} at {end:?}\n{}", self.logs()))
        })
    }

    /// Waits until it is being sent: its memory is to come to a process at the other server.
    #[track_caller]
    fn until_sent(&self) {
        until("a desktop that is being sent", || {
            let both = self.lab.guests().len() == 2;
            both.then_some(()).ok_or_else(|| self.logs())
        });
    }

    /// Waits until it is on that server and nothing of it on the other, and demands that somebody could always have
    /// gone on using it.
    #[track_caller]
    fn until_moved(&self, there: End) {
        until("a desktop that has moved", || {
            let (end, state) = self.desktop()?;
            let calm =
                ["available", "in_use", "migrating", "provisioning"].contains(&state.as_str());
            assert!(calm, "{state}\n{}", self.logs());
            let left = self
                .lab
                .names(&format!("{}/disks/overlays", there.other().data()));
            let moved = end == there && state == "available" && left.is_empty();
            let told = || format!("{state} at {end:?}, {left:?} left\n{}", self.logs());
            moved.then_some(()).ok_or_else(told)
        });
        assert_eq!(self.lab.guests().len(), 1, "it runs once");
        let list = self.ask(&["desktop", "list", "--json"]).json();
        assert_eq!(list[0]["incarnation"], 1, "it was grown anew: {list}");
    }

    /// A client of the desktop's display, which makes it a used one.
    fn look_at(&self, end: End) -> UnixStream {
        let domains = format!("{}/h/lib/qemu", end.data());
        let folders = self.lab.names(&domains);
        let folder = folders
            .iter()
            .find(|name| name.starts_with("domain-") && name.ends_with("-lab-001"))
            .unwrap_or_else(|| panic!("no domain in {folders:?}"));
        let socket = self.lab.path(&format!("{domains}/{folder}/vnc.sock"));
        UnixStream::connect(socket).unwrap()
    }

    /// What the guest's shell says. Its server's daemon is killed for it, and started again: an agent serves one at a
    /// time.
    pub(crate) fn asks_guest(&mut self, end: End, shell: &str) -> Value {
        self.kill(end);
        let mut agent = Agent::of(&self.lab, end);
        let arguments = json!({
            "path": "/bin/busybox",
            "arg": ["sh", "-c", shell],
            "capture-output": true,
        });
        let begun = agent.ask("guest-exec", &arguments);
        let id = json!({"pid": begun["pid"]});
        let said = until("an answer of the guest's shell", || {
            let status = agent.ask("guest-exec-status", &id);
            let over = status["exited"] == true;
            over.then(|| status.clone())
                .ok_or_else(|| status.to_string())
        });
        drop(agent);
        self.start(end);
        assert_eq!(said["exitcode"], 0, "{said}");
        said["out-data"].clone()
    }

    /// Empties the desktop's server, while somebody looks at it, and lets `meddle` do so as soon as it is on its way.
    /// It is the same guest afterwards, on the other server.
    fn drains(mut self, meddle: impl FnOnce(&mut Self, End)) {
        let here = self.until_state("available");
        let before = self.asks_guest(here, WRITE);
        self.until_state("available");
        let client = self.look_at(here);
        self.until_state("in_use");
        self.ask(&["server", "drain", here.name()]).code(0);
        until("a desktop on its way", || {
            let (_, state) = self.desktop()?;
            (state == "migrating").then_some(()).ok_or(state)
        });
        meddle(&mut self, here);
        self.until_moved(here.other());
        drop(client);
        eprintln!("{}", self.logs());
        let after = self.asks_guest(here.other(), READ);
        assert_eq!(after, before, "it is not the same guest with the same disk");
        let overlays = format!("{}/disks/overlays", here.other().data());
        for file in self.lab.names(&overlays) {
            if file.ends_with(".qcow2") {
                check(&self.lab.path(&format!("{overlays}/{file}")));
            }
        }
        until("an empty server", || {
            let plan = self.ask(&["plan", "c"]);
            let empty = plan.words.contains("it is empty: no desktop is left there");
            empty.then_some(()).ok_or(plan.words)
        });
    }
}

/// A guest's agent, asked past the daemon.
struct Agent {
    lines: BufReader<UnixStream>,
}

impl Agent {
    fn of(lab: &Lab, end: End) -> Self {
        let targets = format!("{}/h/lib/qemu/channel/target", end.data());
        let folders = lab.names(&targets);
        let folder = folders.iter().find(|name| name.ends_with("-lab-001"));
        let folder = folder.unwrap_or_else(|| panic!("no agent's socket: {folders:?}"));
        let socket = lab.path(&format!("{targets}/{folder}/org.qemu.guest_agent.0"));
        let stream = UnixStream::connect(socket).unwrap();
        let patience = Some(Duration::from_secs(120));
        stream.set_read_timeout(patience).unwrap();
        let mut agent = Self {
            lines: BufReader::new(stream),
        };
        // Answers to what the daemon asked before may come first.
        let id = json!({"id": 4711});
        agent.say("guest-sync", &id);
        while agent.hear() != json!(4711) {}
        agent
    }

    fn say(&mut self, command: &str, arguments: &Value) {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.lines.get_mut(), "{line}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the agent hung up");
        let said: Value =
            serde_json::from_str(line.trim_matches(['\u{ff}', '\n'])).unwrap_or_default();
        said["return"].clone()
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.say(command, arguments);
        self.hear()
    }
}

#[test]
fn a_used_desktop_moves_off_a_server_that_is_emptied() {
    if let Some(pair) = Pair::found() {
        pair.drains(|_, _| {});
    }
}

#[test]
fn it_gets_there_when_the_daemon_that_sends_is_killed_on_the_way() {
    if let Some(pair) = Pair::found() {
        pair.drains(|pair, here| {
            pair.until_sent();
            pair.kill(here);
            pair.start(here);
        });
    }
}

#[test]
fn it_gets_there_when_the_daemon_that_receives_is_killed_on_the_way() {
    if let Some(pair) = Pair::found() {
        pair.drains(|pair, here| {
            pair.until_sent();
            pair.kill(here.other());
            pair.start(here.other());
        });
    }
}
