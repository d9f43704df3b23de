//! A grid of one server in a directory of its own, and the program that is run on it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::machine;
use crate::wanted::Wanted;

/// A grid of one server. Nothing of it is left when this is gone.
pub(crate) struct Lab {
    daemon: Option<Daemon>,
    mounted: bool,
    place: TempDir,
    // The last to go: the next test begins when nothing of this one runs.
    _turn: File,
}

/// Names of the directories of these tests begin so.
const PREFIX: &str = "ce2e-";

struct Daemon {
    child: Child,
    url: String,
}

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -1 for a signal.
    pub(crate) code: i32,
    /// Both streams, standard output first.
    pub(crate) words: String,
    pub(crate) out: String,
}

impl Ran {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            words: format!("{out}{}", String::from_utf8_lossy(&output.stderr)),
            out,
        }
    }

    /// Demands an exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.words);
        self
    }

    /// Demands words, in any case.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let words = self.words.to_lowercase();
        assert!(
            words.contains(&text.to_lowercase()),
            "no {text:?} in:\n{}",
            self.words
        );
        self
    }

    /// Standard output, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.words))
    }
}

impl Lab {
    /// A grid that does not run yet; `None` where this machine cannot run guests.
    pub(crate) fn found() -> Option<Self> {
        Self::found_at("127.0.0.1:0")
    }

    /// One whose server is to be found there.
    pub(crate) fn found_at(listen: &str) -> Option<Self> {
        if machine::lacks().is_some() {
            return None;
        }
        let turn = machine::turn();
        clear_abandoned();
        // In /tmp whatever TMPDIR says: guests have sockets below it, whose paths hold 107 bytes.
        let place = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in("/tmp")
            .unwrap();
        // Sparse: it takes as much memory as is written. Without it, the machine's own disk has to do.
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8g,mode=700", "coppice-test"])
            .arg(place.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let lab = Self {
            daemon: None,
            mounted,
            place,
            _turn: turn,
        };
        lab.run(&[
            "init", "--data", "d", "--name", "host-1", "--listen", listen,
        ])
        .code(0);
        Some(lab)
    }

    /// A grid that runs and holds the image in version 1.
    pub(crate) fn with_image() -> Option<Self> {
        let image = machine::lacks().is_none().then(machine::image)?;
        let mut lab = Self::found()?;
        lab.start();
        let image = image.to_str().unwrap();
        lab.run(&["image", "import", "tiny", image, "--version", "1"])
            .code(0);
        Some(lab)
    }

    /// Below the directory of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Processes of QEMU that run from the directory of this test.
    pub(crate) fn guests(&self) -> Vec<Pid> {
        guests(self.place.path())
    }

    /// Names of the files in a directory of this test, in order; none where it is not there.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Writes a file below the directory of this test.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// The program with these arguments, in this test's directory and on its grid.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(machine::binary());
        command
            .args(arguments)
            .current_dir(self.place.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.place.path())
            .env("COPPICE_CA_FILE", self.path("d/ca.pem"))
            .env("COPPICE_TOKEN_FILE", self.path("d/admin.token"));
        if let Some(daemon) = &self.daemon {
            command.env("COPPICE_SERVER", &daemon.url);
        }
        command
    }

    /// Runs the program.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Where the API answers.
    pub(crate) fn url(&self) -> &str {
        &self.daemon.as_ref().unwrap().url
    }

    /// Starts the daemon, and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("serve.log"))
            .unwrap();
        let mut child = self
            .command(&["serve", "--config", "d/coppice.toml"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let url = line.trim().rsplit(' ').next().unwrap_or_default();
        let url = url.to_owned();
        self.daemon = Some(Daemon { child, url });
        assert!(line.starts_with("ready: "), "{line:?}: {}", self.log());
    }

    /// What the daemon wrote, all starts of it; the end of it.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("serve.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Kills the daemon, as a power failure of it alone would.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }

    /// Asks the daemon to end, and demands that it does so in order.
    pub(crate) fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        let pid = Pid::from_child(&daemon.child);
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(
            daemon.child.wait().unwrap().code(),
            Some(0),
            "{}",
            self.log()
        );
    }

    /// Writes the configuration.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.write("c/lab.hcl", wanted.text());
    }

    /// Applies what is wanted and follows it to its end.
    #[track_caller]
    pub(crate) fn apply(&self, wanted: Wanted) {
        self.want(wanted);
        let ran = self.run(&["apply", "c", "--yes"]);
        assert_eq!(ran.code, 0, "{}\n{}", ran.words, self.log());
    }

    /// Waits until the grid is what was asked for, with so many desktops available and no others.
    #[track_caller]
    pub(crate) fn settle(&self, available: usize) {
        machine::until("a settled grid", || {
            let ran = self.run(&["status", "--json"]);
            let told = || format!("{}\n{}", ran.words, self.log());
            let status: Value = serde_json::from_str(&ran.out).map_err(|_| told())?;
            let ready: u64 = status["pools"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pool| pool["available"].as_u64().unwrap())
                .sum();
            let settled = status["settled"] == true && ready == available as u64;
            settled.then_some(()).ok_or_else(told)
        });
        let desktops = self.desktops();
        assert_eq!(desktops.len(), available, "{desktops:?}");
    }

    /// All desktops, in the order of their slots.
    #[track_caller]
    pub(crate) fn desktops(&self) -> Vec<Desktop> {
        let list = self.run(&["desktop", "list", "--json"]).code(0).json();
        let mut desktops: Vec<Desktop> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
                Desktop {
                    id: text("id"),
                    name: text("name"),
                    slot: it["slot"].as_u64().unwrap(),
                    state: text("state"),
                    uuid: text("uuid"),
                    image: text("image"),
                    overlay: PathBuf::from(text("overlay")),
                    incarnation: it["incarnation"].as_u64().unwrap(),
                }
            })
            .collect();
        desktops.sort_by_key(|desktop| desktop.slot);
        desktops
    }
}

/// A desktop, as `coppice desktop list --json` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Desktop {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) slot: u64,
    pub(crate) state: String,
    pub(crate) uuid: String,
    pub(crate) image: String,
    pub(crate) overlay: PathBuf,
    pub(crate) incarnation: u64,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
        // Nothing orders a start any more, so those that run are all.
        end_all(self.place.path());
        if self.mounted {
            unmount(self.place.path());
        }
    }
}

/// Clears away what a test left that was killed itself: whoever has the turn is alone.
fn clear_abandoned() {
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let place = entry.path();
            for pid in processes(|pid, _| {
                std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == place)
            }) {
                let _ = kill_process(pid, Signal::KILL);
            }
            end_all(&place);
            unmount(&place);
            let _ = std::fs::remove_dir_all(&place);
        }
    }
}

fn end_all(place: &Path) {
    // Daemons leave it behind, as long as it has something to end.
    let socket = format!("{}/", place.display());
    let watchdogs = processes(|_, line| line.contains("\0watchdog\0") && line.contains(&socket));
    for pid in guests(place).into_iter().chain(watchdogs) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn unmount(place: &Path) {
    let mut umount = Command::new("umount");
    let _ = umount.arg("-l").arg(place).stderr(Stdio::null()).status();
}

/// Processes of QEMU whose command line names a file below `place`: guests by their disks, and those that libvirt
/// asks what QEMU can do.
fn guests(place: &Path) -> Vec<Pid> {
    let below = format!("{}/", place.display());
    processes(|_, line| line.contains("qemu-system-") && line.contains(&below))
}

/// Processes by their number and command line.
fn processes(wanted: impl Fn(i32, &str) -> bool) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line);
            wanted(number, &line).then(|| Pid::from_raw(number))?
        })
        .collect()
}
