//! Running qemu-img on a file that somebody else made.
//!
//! It gets the file as its standard input, so it is told no path of it; limits of memory, time and file size; no
//! network; no privilege but to read; a process group of its own, killed when the caller loses interest, at the
//! deadline, or when this process dies.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::progress::{Cancel, INTERVAL};

/// Address space. qemu-img's tables for the largest disks take a few hundred megabytes.
const MEMORY: u64 = 4 << 30;

/// Most that is kept of what it prints.
const OUTPUT: u64 = 1 << 20;

/// How well the converting program could be confined here. All are true on an ordinary Linux server run by root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Confinement {
    /// Memory, processor time and file size were limited (`prlimit`).
    pub limits: bool,
    /// It had no network (`unshare --net`).
    pub network: bool,
    /// It could gain no privilege and died with this process (`setpriv`).
    pub privileges: bool,
}

/// What one run may use.
pub(crate) struct Allowance {
    /// Time, also of the processor.
    pub(crate) deadline: Duration,
    /// Size of the largest file it may write.
    pub(crate) file_size: u64,
}

/// What one run left.
pub(crate) struct Outcome<T = String> {
    pub(crate) status: ExitStatus,
    pub(crate) output: T,
    pub(crate) errors: String,
}

/// Why a run has no outcome.
#[derive(Debug)]
pub(crate) enum Cut {
    Cancelled,
    Deadline,
    /// qemu-img could not be started.
    Failed(io::Error),
}

impl From<io::Error> for Cut {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

/// The wrappers that work here, in the order in which they call one another.
struct Wrappers {
    limits: bool,
    network: Option<Vec<&'static str>>,
    privileges: Option<Vec<&'static str>>,
}

const NETWORK: [&[&str]; 2] = [
    &["unshare", "--net", "--ipc", "--"],
    &[
        "unshare",
        "--user",
        "--map-current-user",
        "--net",
        "--ipc",
        "--",
    ],
];

/// The first is for root: it may still read what belongs to others, as the source may, and nothing more.
const PRIVILEGES: [&[&str]; 2] = [
    &[
        "setpriv",
        "--no-new-privs",
        "--pdeathsig=KILL",
        "--inh-caps=-all",
        "--bounding-set=-all,+dac_read_search",
        "--",
    ],
    &["setpriv", "--no-new-privs", "--pdeathsig=KILL", "--"],
];

fn wrappers() -> &'static Wrappers {
    static FOUND: OnceLock<Wrappers> = OnceLock::new();
    FOUND.get_or_init(|| {
        let works = |words: &[&'static str]| {
            let (program, arguments) = words.split_first()?;
            let mut command = Command::new(program);
            command.args(arguments).arg("true").env("LC_ALL", "C");
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
                .status()
                .ok()
                .filter(ExitStatus::success)
                .map(|_| words.to_vec())
        };
        Wrappers {
            limits: works(&["prlimit", "--core=0", "--"]).is_some(),
            network: NETWORK.iter().find_map(|words| works(words)),
            privileges: PRIVILEGES.iter().find_map(|words| works(words)),
        }
    })
}

/// How well [`qemu_img`] is confined here.
pub(crate) fn confinement() -> Confinement {
    let found = wrappers();
    Confinement {
        limits: found.limits,
        network: found.network.is_some(),
        privileges: found.privileges.is_some(),
    }
}

/// Runs qemu-img with `arguments` and `source` as its standard input; calls `tick` about ten times a second.
/// Returns when it and all it started are gone.
pub(crate) fn qemu_img(
    arguments: &[OsString],
    source: &File,
    allowance: &Allowance,
    cancel: &Cancel,
    tick: &mut dyn FnMut(),
) -> Result<Outcome, Cut> {
    qemu_img_reading(arguments, source, allowance, cancel, tick, kept)
}

/// The same, with what it prints going to `reader`, which reads to the end, so that the writer never waits.
pub(crate) fn qemu_img_reading<T: Send + Default>(
    arguments: &[OsString],
    source: &File,
    allowance: &Allowance,
    cancel: &Cancel,
    tick: &mut dyn FnMut(),
    reader: impl FnOnce(Option<ChildStdout>) -> T + Send,
) -> Result<Outcome<T>, Cut> {
    let mut words: Vec<OsString> = Vec::new();
    let found = wrappers();
    if found.limits {
        let seconds = allowance.deadline.as_secs().max(1);
        words.push("prlimit".into());
        words.push("--core=0".into());
        words.push(format!("--as={MEMORY}").into());
        words.push(format!("--cpu={seconds}").into());
        words.push(format!("--fsize={}", allowance.file_size).into());
        words.push("--nofile=64".into());
        words.push("--".into());
    }
    words.extend(found.network.iter().flatten().map(OsString::from));
    words.extend(found.privileges.iter().flatten().map(OsString::from));
    words.push("qemu-img".into());
    words.extend_from_slice(arguments);

    let Some((program, rest)) = words.split_first() else {
        return Err(Cut::Failed(io::Error::other("no command")));
    };
    let mut command = Command::new(program);
    command.args(rest).env("LC_ALL", "C").process_group(0);
    command
        .stdin(source.try_clone()?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let output = scope.spawn(|| reader(output));
        let errors = scope.spawn(|| kept(errors));
        let ended = wait(&mut child, allowance.deadline, cancel, tick);
        if ended.is_err() {
            end(&mut child)?;
        }
        let status = ended?;
        Ok(Outcome {
            status,
            output: output.join().unwrap_or_default(),
            errors: errors.join().unwrap_or_default(),
        })
    })
}

fn wait(
    child: &mut Child,
    deadline: Duration,
    cancel: &Cancel,
    tick: &mut dyn FnMut(),
) -> Result<ExitStatus, Cut> {
    let handle =
        rustix::process::pidfd_open(pid(child)?, PidfdFlags::empty()).map_err(io::Error::from)?;
    let pause = Timespec::try_from(INTERVAL).map_err(io::Error::other)?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if cancel.is_cancelled() {
            return Err(Cut::Cancelled);
        }
        if begun.elapsed() >= deadline {
            return Err(Cut::Deadline);
        }
        match rustix::event::poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => tick(),
            Err(e) => return Err(Cut::Failed(e.into())),
        }
    }
}

/// Kills the group. Its number is still ours: the child was not waited for.
fn end(child: &mut Child) -> io::Result<()> {
    let killed = rustix::process::kill_process_group(pid(child)?, Signal::KILL);
    // Not yet a group of its own: then it is killed as a single process.
    if killed.is_err() {
        child.kill()?;
    }
    child.wait().map(drop)
}

fn pid(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::Error::other("a process without a number"))
}

/// Reads to the end, so that the writer never waits; keeps the beginning.
fn kept(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe that fails ends the text, and the exit status tells the rest.
        pipe.by_ref().take(OUTPUT).read_to_end(&mut bytes).ok();
        io::copy(&mut pipe, &mut io::sink()).ok();
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
