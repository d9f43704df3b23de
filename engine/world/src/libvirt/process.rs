//! The process of a domain: since when it runs, and its end when libvirt cannot bring that about.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use coppice_schema::units::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

/// A domain's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pid: Pid,
    /// When it was started. From the time stamp of its process id file where there is one: that is written once and,
    /// unlike what `/proc` tells, does not move with the clock.
    pub(super) since: Timestamp,
}

/// The process of the domain `name`, by the file in which libvirt keeps its id, or else by what `/proc` shows.
pub(super) fn find(pid_files: Option<&Path>, name: &str, uuid: Uuid) -> Option<Process> {
    match pid_files {
        Some(directory) => by_file(&directory.join(format!("{name}.pid")), uuid),
        None => by_command(uuid),
    }
}

fn by_file(file: &Path, uuid: Uuid) -> Option<Process> {
    let number = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let pid = Pid::from_raw(number)?;
    // The id may have been given to another process since.
    if !is_of(pid, uuid) {
        return None;
    }
    let written = fs::metadata(file).ok()?.modified().ok()?;
    let since = written.duration_since(UNIX_EPOCH).ok()?.as_millis();
    Some(Process {
        pid,
        since: Timestamp(u64::try_from(since).ok()?),
    })
}

fn by_command(uuid: Uuid) -> Option<Process> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        if !is_of(pid, uuid) {
            return None;
        }
        Some(Process {
            pid,
            since: started(pid)?,
        })
    })
}

/// Whether the process was started for that domain: QEMU is given `-uuid UUID`.
fn is_of(pid: Pid, uuid: Uuid) -> bool {
    let wanted = uuid.to_string();
    let Ok(line) = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) else {
        return false;
    };
    let mut words = line.split(|byte| *byte == 0);
    words.any(|word| word == b"-uuid") && words.next() == Some(wanted.as_bytes())
}

/// From `/proc/PID/stat` (field 22, in ticks of 10 ms since boot) and the boot time of `/proc/stat` (whole seconds).
fn started(pid: Pid) -> Option<Timestamp> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is a name in parentheses and may hold anything; the third follows its last ')'.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().nth(19)?.parse::<u64>().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    let boot = boot.trim().parse::<u64>().ok()?;
    Some(Timestamp(
        boot.checked_mul(1000)?
            .checked_add(ticks.checked_mul(10)?)?,
    ))
}

impl Process {
    /// Ends it at once. `false`: it was gone already.
    pub(super) fn kill(self, uuid: Uuid) -> rustix::io::Result<bool> {
        // Opened first and looked at then: what the descriptor names cannot be replaced under our hands.
        let process = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error),
        };
        if !is_of(self.pid, uuid) {
            return Ok(false);
        }
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    /// A process whose command line is that of a domain.
    fn impostor(uuid: Uuid) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", "echo ready; read never", "-uuid", &uuid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // `/proc` shows the command line only some time after the process began.
        let mut ready = [0; 5];
        let output = child.stdout.as_mut().unwrap();
        output.read_exact(&mut ready).unwrap();
        child
    }

    #[test]
    fn a_process_is_found_by_file_and_by_command_and_killed() {
        let uuid = Uuid::from_u128(0x7e57_0000_0000_4000_8000_0000_0000_0001);
        let mut child = impostor(uuid);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("d.pid"), child.id().to_string()).unwrap();
        let by_file = find(Some(directory.path()), "d", uuid).unwrap();
        let by_command = find(None, "d", uuid).unwrap();
        assert_eq!(by_file.pid, by_command.pid);
        assert!(by_file.since.0.abs_diff(by_command.since.0) < 60_000);
        assert!(by_file.kill(uuid).unwrap());
        child.wait().unwrap();
        assert!(!by_file.kill(uuid).unwrap(), "it is gone");
        assert_eq!(find(Some(directory.path()), "d", uuid), None);
    }

    #[test]
    fn a_process_of_another_is_never_taken_for_the_domains() {
        let uuid = Uuid::from_u128(0x7e57_0000_0000_4000_8000_0000_0000_0002);
        let mut child = impostor(uuid);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("d.pid"), child.id().to_string()).unwrap();
        let found = find(Some(directory.path()), "d", uuid).unwrap();
        assert_eq!(find(Some(directory.path()), "d", Uuid::nil()), None);
        assert!(!found.kill(Uuid::nil()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
