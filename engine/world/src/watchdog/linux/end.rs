//! Finding the processes of domains, and ending them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;

use coppice_schema::units::Span;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use uuid::Uuid;

use super::passed;

/// How long to wait for the end of what was killed, before others are attended to again. Twenty take 0.1 s.
const ENDS: Span = Span(400);

/// What became of an attempt to end what runs.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Those whose process was killed.
    pub(super) killed: Vec<Uuid>,
    /// All of them are known to have ended.
    pub(super) all: bool,
    /// Why some were not.
    pub(super) unable: Option<String>,
}

/// Why what runs of those domains could not be ended; `None`: it could.
pub(super) fn unable(domains: &BTreeSet<Uuid>) -> Option<String> {
    let found = match running(domains) {
        Ok(found) => found,
        Err(why) => return Some(why),
    };
    found.into_iter().find_map(|(pid, uuid)| {
        let denied = test_kill_process(pid) == Err(Errno::PERM);
        denied.then(|| belongs(pid, uuid))
    })
}

/// Kills every process of those domains, and waits for their end.
pub(super) fn end(domains: &BTreeSet<Uuid>) -> Ended {
    let mut ended = Ended {
        all: true,
        ..Ended::default()
    };
    let found = match running(domains) {
        Ok(found) => found,
        Err(why) => {
            ended.unable = Some(why);
            return ended;
        }
    };
    let mut dying = Vec::new();
    for (pid, uuid) in found {
        match kill(pid, uuid) {
            Ok(Some(process)) => {
                ended.killed.push(uuid);
                dying.push(process);
            }
            Ok(None) => {}
            Err(Errno::PERM) => ended.unable = Some(belongs(pid, uuid)),
            Err(error) => ended.unable = Some(format!("process {}: {error}", number(pid))),
        }
    }
    ended.all = gone(dying);
    ended
}

fn belongs(pid: Pid, uuid: Uuid) -> String {
    let pid = number(pid);
    format!("process {pid} of domain {uuid} belongs to another user")
}

/// `None`: it was gone already.
fn kill(pid: Pid, uuid: Uuid) -> rustix::io::Result<Option<OwnedFd>> {
    // Opened first and looked at then: what the descriptor names cannot be replaced under our hands.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        other => other?,
    };
    if domain_of(pid) != Some(uuid) {
        return Ok(None);
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Err(Errno::SRCH) => Ok(None),
        other => other.map(|()| Some(process)),
    }
}

/// Waits until all have ended; whether they have.
fn gone(mut dying: Vec<OwnedFd>) -> bool {
    let end = Span(passed().0 + ENDS.0);
    while !dying.is_empty() {
        let left = end.0.saturating_sub(passed().0);
        if left == 0 {
            return false;
        }
        let mut all: Vec<PollFd<'_>> = dying
            .iter()
            .map(|d| PollFd::new(d, PollFlags::IN))
            .collect();
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(left.min(999)).unwrap_or(0) * 1_000_000,
        };
        // Interrupted, or over: it is looked again.
        let _counted = poll(&mut all, Some(&wait));
        let ended: Vec<bool> = all.iter().map(|p| !p.revents().is_empty()).collect();
        drop(all);
        let mut ended = ended.into_iter();
        dying.retain(|_| !ended.next().unwrap_or(false));
    }
    true
}

/// The processes of those domains.
fn running(domains: &BTreeSet<Uuid>) -> Result<Vec<(Pid, Uuid)>, String> {
    if domains.is_empty() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?;
    let found = entries.flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let uuid = domain_of(pid)?;
        domains.contains(&uuid).then_some((pid, uuid))
    });
    Ok(found.collect())
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// For which domain a process was started: QEMU is given `-uuid UUID`.
fn domain_of(pid: Pid) -> Option<Uuid> {
    let line = fs::read(format!("/proc/{}/cmdline", number(pid))).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == b"-uuid")?;
    Uuid::try_parse_ascii(words.next()?).ok()
}
