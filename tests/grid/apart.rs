//! Servers as on machines of their own: each in a network namespace, on a bridge that a test pulls wires out of.
//!
//! The test runs itself once more, with processes, mounts and networks of its own: the kernel ends and removes all of
//! them with that process, also when it is killed. Its files are in memory.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::site::Site;
use crate::skip::skip;

/// Says to a test that it runs apart, and where its files are.
const INSIDE: &str = "COPPICE_TEST_APART";

/// The first three numbers of the network between servers. No other test sees it.
pub(crate) const NET: &str = "10.9.0";

/// Where whoever leads answers, once a configuration says so.
pub(crate) const GRID: &str = "10.9.0.100";

/// Nobody has this one: what goes there is lost, and nobody says so.
const NOWHERE: &str = "02:00:00:00:00:01";

/// Runs `story` on a site for as many servers, or says why this machine cannot.
pub(crate) fn apart(servers: u32, story: impl FnOnce(&Site)) {
    alone(|files| {
        make(servers);
        story(&Site::apart(files));
    });
}

/// Whether this is the run of a test that is apart already.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs `story` with an empty directory in memory, with no network, and with no other process, or says why this machine
/// cannot.
pub(crate) fn alone(story: impl FnOnce(&Path)) {
    if let Some(files) = std::env::var_os(INSIDE) {
        let files = Path::new(&files);
        mount(files, "32g"); // as much memory as is written
        mount(Path::new("/run"), "1m"); // where `ip netns` keeps names
        ip("link set lo up");
        return story(files);
    }
    // In /tmp whatever TMPDIR says: guests have sockets below it, whose paths hold 107 bytes.
    let files = tempfile::Builder::new().prefix("apart-").tempdir_in("/tmp");
    let files = files.unwrap();
    if let Err(why) = tried(&files) {
        skip(&format!(
            "it needs network namespaces, which are not to be had here: {why}"
        ));
        return;
    }
    let test = std::thread::current();
    let test = test.name().expect("a test has a name");
    let mut run = unshared();
    // The first process has to look after those that nobody waits for, as a shell does.
    run.args(["sh", "-c", "\"$@\"; exit $?", "sh"]);
    run.arg(std::env::current_exe().unwrap());
    run.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let ran = run.env(INSIDE, files.path()).output().unwrap();
    println!("{}", words(&ran));
    assert!(ran.status.success(), "{test} failed, in its own words");
    assert!(words(&ran).contains("1 passed"), "{test} is not one test");
}

/// What runs the rest of its arguments with processes, mounts and networks of its own, which end with it; and it ends
/// with us.
fn unshared() -> Command {
    let mut unshared = Command::new("setpriv");
    unshared.args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        unshared.arg("--map-root-user");
    }
    unshared.args(["--mount", "--net", "--pid", "--fork"]);
    unshared.args(["--kill-child", "--mount-proc"]);
    unshared.env("PATH", path()).stdin(Stdio::null());
    unshared
}

/// Debian keeps some programs where ordinary users do not look.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

pub(crate) fn words(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    format!("{out}{err}")
}

/// Whether all that is made below can be made here.
fn tried(files: &TempDir) -> Result<(), String> {
    let all = "mount -t tmpfs coppice-test \"$0\" && mount -t tmpfs coppice-test /run && ip netns add h && \
               ip link add br0 type bridge && ip link add v type veth peer name e netns h && command -v nsenter arping";
    let mut probe = unshared();
    probe.args(["sh", "-c", all]).arg(files.path());
    match probe.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(words(&output).trim().to_owned()),
        Err(error) => Err(format!("setpriv: {error}")),
    }
}

/// A bridge with a namespace behind it for each server.
fn make(servers: u32) {
    ip("link add br0 type bridge");
    ip(&format!("address add {NET}.1/24 dev br0"));
    ip("link set br0 up");
    for n in 1..=servers {
        ip(&format!("netns add h{n}"));
        ip(&format!(
            "link add v{n} type veth peer name eth0 netns h{n}"
        ));
        ip(&format!("link set v{n} master br0 up"));
        ip(&format!("-n h{n} address add {NET}.1{n}/24 dev eth0"));
        ip(&format!("-n h{n} link set eth0 up"));
        ip(&format!("-n h{n} link set lo up"));
    }
}

/// A file system of its own at `at`, in memory, of no more than `size`.
pub(crate) fn mount(at: &Path, size: &str) {
    let options = format!("size={size},mode=755");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &options, "coppice-test"]);
    done(mount.arg(at));
}

/// Makes a file system that [`mount`] made so small, or so large, that `free` KiB more can be written.
pub(crate) fn leave(at: &Path, free: u64) {
    let is = rustix::fs::statvfs(at).unwrap();
    let used = (is.f_blocks - is.f_bfree) * is.f_frsize / 1024;
    let options = format!("remount,size={}k", used + free);
    done(Command::new("mount").args(["-o", &options]).arg(at));
}

fn ip(words: &str) {
    done(Command::new("ip").args(words.split(' ')));
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.env("PATH", path()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
}

impl Site {
    /// What `from` sends to `to` is lost from now on, without a word; what `to` sends arrives.
    pub(crate) fn cut(&self, from: u32, to: u32) {
        let to = format!("{NET}.1{to} lladdr {NOWHERE} dev eth0 nud permanent");
        ip(&format!("-n h{from} neigh replace {to}"));
    }

    /// What `from` sends to `to` arrives again.
    pub(crate) fn heal(&self, from: u32, to: u32) {
        ip(&format!("-n h{from} neigh del {NET}.1{to} dev eth0"));
    }

    /// Bytes that came to server `n` by its wire.
    pub(crate) fn received(&self, n: u32) -> u64 {
        let mut look = Command::new("nsenter");
        look.arg(format!("--net=/run/netns/h{n}"));
        let seen = look.args(["cat", "/proc/net/dev"]).output().unwrap();
        let seen = words(&seen);
        let wire = seen.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
        let bytes = wire.and_then(|figures| figures.split_whitespace().next());
        bytes.expect("there is a wire").parse().unwrap()
    }
}
