//! The example `examples/grid` as people run it: its scripts, real desktops, and nothing left of either.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::apart::{alone, is_inside, path, words};
use crate::machine;
use crate::skip::skip;

/// `examples/grid` in a directory of its own.
struct Example {
    files: PathBuf,
    image: PathBuf,
}

impl Example {
    fn at(files: &Path, image: PathBuf) -> Self {
        let files = files.join("g");
        Self { files, image }
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", path())
            .env("COPPICE_GRID_DIR", &self.files)
            .env("COPPICE_GRID_BINARY", machine::binary())
            .env("COPPICE_GRID_IMAGE", &self.image)
            .env_remove("COPPICE_GRID_NAME")
            .env_remove("COPPICE_GRID_NET")
            .env_remove("COPPICE_GRID_SERVERS")
            .stdin(Stdio::null());
        command
    }

    /// Runs a script of the example to its end; what it said.
    #[track_caller]
    fn script(&self, name: &str) -> String {
        let script = examples().join("grid").join(name);
        let mut run = self.command(Path::new("sh"), &[script.to_str().unwrap()]);
        let ran = run.output().unwrap();
        assert!(ran.status.success(), "{}", words(&ran));
        words(&ran)
    }

    /// What the grid says at its address.
    fn ask(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = self.command(&machine::binary(), arguments);
        command
            .args(["--json", "--timeout", "3s"])
            .env("COPPICE_SERVER", "https://10.77.43.100:7443")
            .env("COPPICE_CA_FILE", self.files.join("1/data/ca.pem"))
            .env("COPPICE_TOKEN_FILE", self.files.join("1/data/admin.token"));
        let asked = command.output().unwrap();
        serde_json::from_slice(&asked.stdout).map_err(|_| words(&asked))
    }

    /// Who leads, by what is said at the grid's address.
    fn leader(&self) -> Result<String, String> {
        let servers = self.ask(&["server", "list"])?;
        let mut all = servers.as_array().into_iter().flatten();
        let leads = all.find(|server| server["log"]["part"] == "leader");
        let name = leads.and_then(|server| server["name"].as_str());
        name.map(str::to_owned).ok_or_else(|| servers.to_string())
    }

    /// The process that serves as `host-N`.
    fn process(&self, server: &str) -> i32 {
        let number = server.strip_prefix("host-").unwrap();
        let file = self.files.join(number).join("serve.pid");
        let recorded = std::fs::read_to_string(file).unwrap();
        recorded.split(' ').next().unwrap().parse().unwrap()
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Why `up.sh` would refuse this machine, or install packages on it.
fn refused() -> Option<String> {
    let no_apt = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/false", no_apt.path().join("apt-get")).unwrap();
    let looked = Command::new("sh")
        .arg(examples().join("lab/packages.sh"))
        .args(["iproute2", "iputils-arping", "util-linux"])
        .env("PATH", format!("{}:{}", no_apt.path().display(), path()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (!looked.status.success()).then(|| words(&looked))
}

/// Processes that run, but for this one and the first.
fn processes() -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap();
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let others = ids.filter(|id| ![1, std::process::id()].contains(id));
    let named = |id| std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok();
    others.filter_map(named).collect()
}

#[test]
fn the_example_comes_up_outlives_whoever_leads_and_leaves_nothing() {
    let _turn = if is_inside() {
        None
    } else {
        if machine::lacks().is_some() {
            return;
        }
        if let Some(why) = refused() {
            return skip(&format!("up.sh would refuse or change this machine: {why}"));
        }
        machine::image(); // which may need the network, to be built
        Some(machine::turn())
    };
    alone(|files| {
        let example = Example::at(files, machine::image());
        println!("{}", example.script("up.sh"));
        let desktops = example.ask(&["desktop", "list"]).unwrap();
        let available = desktops.as_array().into_iter().flatten();
        let available = available.filter(|desktop| desktop["state"] == "available");
        assert_eq!(available.count(), 6, "{desktops}");

        let led = example.leader().unwrap();
        let process = rustix::process::Pid::from_raw(example.process(&led)).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        let began = Instant::now();
        machine::until("another leads, at the grid's address", || {
            let leads = example.leader()?;
            (leads != led).then_some(()).ok_or(leads)
        });
        println!("another leads after {:?}", began.elapsed());

        println!("{}", example.script("down.sh"));
        let left = std::fs::read_dir(files).unwrap().count();
        assert_eq!(left, 0, "files are left");
        assert_eq!(processes(), Vec::<String>::new());
        for look in ["netns list", "-o link show type bridge"] {
            let mut ip = Command::new("ip");
            let seen = ip.args(look.split(' ')).env("PATH", path()).output();
            let seen = words(&seen.unwrap());
            assert_eq!(seen.trim(), "", "ip {look}");
        }
        // Again, where there is nothing any more.
        assert!(example.script("down.sh").contains("nothing to remove"));
    });
}
