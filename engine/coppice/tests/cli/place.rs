//! A directory to work in, commands run in it, and a server of a simulated grid.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A directory of one test.
pub(crate) struct Place(TempDir);

/// What a command gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("cli-").tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A command in this directory, with nothing of the tester's own surroundings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coppice"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        with_input(self.command(arguments), input)
    }

    /// A grid in `g`, not running yet.
    pub(crate) fn init(&self, hypervisor: &str) {
        let made = self.run(&[
            "init",
            "--data",
            "g",
            "--name",
            "host-1",
            "--listen",
            "127.0.0.1:0",
            "--hypervisor",
            hypervisor,
        ]);
        assert_eq!(made.code, 0, "{made:?}");
    }
}

pub(crate) fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn with_input(mut command: Command, input: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    /// Demands an exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.out.contains(text) || self.err.contains(text),
            "no {text:?} in\n{}\n{}",
            self.out,
            self.err
        );
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }
}

/// A running server.
pub(crate) struct Served<'a> {
    place: &'a Place,
    child: Child,
    url: String,
    /// Its data directory.
    data: &'static str,
}

impl<'a> Served<'a> {
    /// Starts a server of the grid in `g` and waits until it says that it is ready.
    pub(crate) fn start(place: &'a Place) -> Self {
        Self::start_in(place, "g")
    }

    /// The same with the data directory `data`.
    pub(crate) fn start_in(place: &'a Place, data: &'static str) -> Self {
        let config = format!("{data}/coppice.toml");
        let mut command = place.command(&["serve", "--config", &config]);
        let log = std::fs::File::create(place.path("serve.log")).unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let url = line
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        assert!(
            line.starts_with("ready: ") && url.starts_with("https://"),
            "{line}{}",
            place.read("serve.log")
        );
        Self {
            place,
            child,
            url,
            data,
        }
    }

    /// A simulated grid with the image `tiny` in version 1, running.
    pub(crate) fn with_image(place: &'a Place, hypervisor: &str) -> Self {
        place.init(hypervisor);
        let served = Self::start(place);
        let mut disk = vec![0u8; 1 << 20];
        disk[70_000..70_100].fill(7);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(place.path("tiny.raw"), disk).unwrap();
        served
            .run(&["image", "import", "tiny", "tiny.raw", "--version", "1"])
            .code(0);
        served
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.command(arguments);
        command
            .env("COPPICE_SERVER", &self.url)
            .env("COPPICE_CA_FILE", self.place.path(self.data).join("ca.pem"))
            .env("COPPICE_TOKEN_FILE", self.place.path("g/admin.token"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        with_input(self.command(arguments), input)
    }

    /// Runs a command until it ends with `code`: what a server sees comes a moment after its start.
    #[track_caller]
    pub(crate) fn until(&self, arguments: &[&str], code: i32) -> Ran {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let ran = self.run(arguments);
            if ran.code == code || std::time::Instant::now() > patience {
                return ran.code(code);
            }
        }
    }

    /// Runs a command until what it prints has `text` in it.
    pub(crate) fn until_says(&self, arguments: &[&str], text: &str) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let ran = self.run(arguments).code(0);
            if ran.out.contains(text) {
                return;
            }
            assert!(std::time::Instant::now() < patience, "{}", ran.out);
        }
    }

    /// Asks it to end, and returns its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        signal(&self.child, rustix::process::Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Reads lines until one contains `text`; returns what was read.
pub(crate) fn read_until(from: &mut BufReader<impl Read>, text: &str) -> String {
    let mut all = String::new();
    loop {
        let before = all.len();
        let n = from.read_line(&mut all).unwrap();
        assert!(n > 0, "it ended before {text:?}: {all}");
        if all[before..].contains(text) {
            return all;
        }
    }
}

/// A configuration with one pool of the image `tiny`.
pub(crate) fn lab(desktops: u32) -> String {
    format!(
        r#"grid "lab" {{
  timezone = "UTC"
}}

image "tiny" {{
  version = "1"
  os      = "linux"
}}

template "small" {{
  image  = image.tiny
  memory = "96MiB"
}}

pool "lab" {{
  template = template.small
  desktops = {desktops}
  hostname = "lab-{{slot:02}}"
}}
"#
    )
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
