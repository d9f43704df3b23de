//! The demo: what it tells, and that nothing of it is left.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::place::{Place, ran, read_until, signal};

/// Only a failing test takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that is for demos alone, and open to everybody.
fn ground(place: &Place) -> PathBuf {
    let ground = place.path("ground");
    std::fs::create_dir(&ground).unwrap();
    for (path, mode) in [(place.path(""), 0o755), (ground.clone(), 0o1777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    ground
}

/// A demo there, by somebody who may do nothing.
fn demo(place: &Place, ground: &Path, arguments: &[&str]) -> Command {
    let bare = place.command(&[&["demo"], arguments].concat());
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(bare.get_program())
            .args(bare.get_args())
            .current_dir(ground)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    } else {
        bare
    };
    command.env("TMPDIR", ground);
    command
}

/// The servers of demos there: their command lines name it.
fn servers(ground: &Path) -> Vec<String> {
    let wanted = ground.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&wanted)).collect()
}

fn files(ground: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(ground).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Starts one, and reads until it says `text`.
fn started(
    mut command: Command,
    text: &str,
) -> (Running, BufReader<std::process::ChildStdout>, String) {
    // Why it ends, if it does, is for whoever reads the test's words.
    command.stderr(std::process::Stdio::inherit());
    let mut child = Running(command.spawn().unwrap());
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let told = read_until(&mut out, text);
    (child, out, told)
}

/// A demo that does not outlive a test that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended in order.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_demo_says_who_would_be_affected_and_then_shows_it_and_leaves_nothing() {
    let place = Place::new();
    let ground = ground(&place);
    // Two at once do not get into each other's way.
    let (mut other, mut rest, _) = started(demo(&place, &ground, &[]), "the three agree");
    let told = ran(demo(&place, &ground, &["--json-into", "told.json"])).code(0);
    for text in [
        "200 desktops are ready",
        "What if host-1, which leads, were lost?",
        "LOSS OF host-1",
        "people are cut off",
        "2 personal desktops wait for its server to come back",
        "kill -9 ",
        "host-1 is lost",
        "65 desktops are ready elsewhere",
        "2 personal desktops wait for host-1",
        "everything is removed",
    ] {
        assert!(told.out.contains(text), "no {text:?} in {told:?}");
    }
    assert!(!told.out.contains('\x1b'), "colours without a terminal");
    let foretold = told.out.split(" people are cut off").next().unwrap();
    let foretold = foretold.rsplit(' ').next().unwrap();
    let cut_off = format!("\n  {foretold} people were cut off");
    assert!(told.out.contains(&cut_off), "not {cut_off:?}: {told:?}");
    let file = ground.join("told.json");
    let measured: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(measured["killed"], "host-1");
    assert_ne!(measured["leads"], "host-1");
    assert_eq!(measured["affected"], 67);
    std::fs::remove_file(file).unwrap();

    while rest.read_line(&mut String::new()).unwrap() > 0 {}
    assert_eq!(other.0.wait().unwrap().code(), Some(0));
    assert_eq!(files(&ground), Vec::<PathBuf>::new());
    assert_eq!(servers(&ground), Vec::<String>::new());
}

#[test]
fn a_demo_that_stays_can_be_asked_and_no_server_outlives_it_however_it_ends() {
    let place = Place::new();
    let ground = ground(&place);
    let keep = demo(&place, &ground, &["--keep"]);
    let (mut child, _out, told) = started(keep, "The token to sign in with");
    let env = told.split("$ . ").nth(1).unwrap().lines().next().unwrap();
    let mut status = place.command(&["status"]);
    for line in std::fs::read_to_string(env).unwrap().lines() {
        let (name, value) = line.trim_start_matches("export ").split_once('=').unwrap();
        status.env(name, value);
    }
    ran(status).code(0).says("host-1  lost").says("office");
    assert_eq!(servers(&ground).len(), 2);
    signal(&child.0, Signal::KILL);
    child.0.wait().unwrap();
    let begun = Instant::now();
    while !servers(&ground).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", servers(&ground));
    }

    // What it could not remove is removed by the next one, which ends in order when it is asked to.
    let left = files(&ground);
    assert_eq!(left.len(), 1);
    let (mut next, mut out, _) = started(demo(&place, &ground, &[]), "coppice join");
    let there = files(&ground);
    assert!(there.len() == 1 && there != left, "{left:?} {there:?}");
    assert!(!servers(&ground).is_empty());
    signal(&next.0, Signal::TERM);
    while out.read_line(&mut String::new()).unwrap() > 0 {}
    assert_eq!(next.0.wait().unwrap().code(), Some(130));
    assert_eq!(files(&ground), Vec::<PathBuf>::new());
    assert_eq!(servers(&ground), Vec::<String>::new());
}
