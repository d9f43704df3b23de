//! What a process that was killed left in the directory of its embedded hypervisor, and libvirt never clears away.
//!
//! Seen with libvirt 9.0: a domain whose start was written down before its QEMU had a process id (`pid='0'`) is
//! taken over as one that is being started for ever, and every act on it fails with "cannot acquire state change
//! lock". And the QEMU that libvirt asked for its capabilities waits for ever for the next question.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

use super::process;
use super::tree::Element;

/// Clears all of it away. Only for who is about to open the directory, and knows that nobody else has. Best effort:
/// what stays is no worse than before.
pub(super) fn clear(root: &Path) {
    for file in below(&root.join("run/qemu"), "", ".xml") {
        half_started(root, &file);
    }
    for probe in below(&root.join("lib/qemu"), "qmp-", "") {
        end_probe(&probe);
    }
    orphans(root);
}

/// Removes directories of guests that no note of a start names: one was killed between the two.
fn orphans(root: &Path) {
    let notes = below(&root.join("run/qemu"), "", ".xml");
    // What one note cannot be asked might be its own.
    let owned: Option<BTreeSet<OsString>> = notes.iter().map(|note| own_directory(note)).collect();
    let Some(owned) = owned else { return };
    let lib = root.join("lib/qemu");
    for place in [lib.join("channel/target"), lib] {
        for directory in below(&place, "domain-", "") {
            if directory
                .file_name()
                .is_some_and(|name| !owned.contains(name))
            {
                let _absent = fs::remove_dir_all(directory);
            }
        }
    }
}

/// The name of the directories that the guest of a note of a start has: `domain-ID-NAME`.
fn own_directory(note: &Path) -> Option<OsString> {
    let status = Element::parse(&fs::read_to_string(note).ok()?).ok()?;
    let monitor = Path::new(status.find(&["monitor"])?.attribute("path")?);
    Some(monitor.parent()?.file_name()?.to_owned())
}

/// Paths of the entries of a directory whose names begin and end so.
fn below(directory: &Path, begin: &str, end: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(begin) && name.ends_with(end)
        })
        .map(|entry| entry.path())
        .collect()
}

/// Forgets a start that was cut off. Its guest never ran: QEMU waits for libvirt's word before it lets it.
fn half_started(root: &Path, file: &Path) {
    let Some(status) = fs::read_to_string(file)
        .ok()
        .and_then(|text| Element::parse(&text).ok())
        .filter(|status| status.name == "domstatus" && status.attribute("pid") == Some("0"))
    else {
        return;
    };
    let text = |path: &[&str]| status.find(path).map(Element::text);
    let (Some(name), Some(uuid)) = (
        text(&["domain", "name"]),
        text(&["domain", "uuid"]).and_then(|uuid| Uuid::try_parse(&uuid).ok()),
    ) else {
        return;
    };
    let run = root.join("run/qemu");
    if let Some(guest) = process::find(Some(&run), &name, uuid)
        && let Err(error) = guest.kill(uuid)
    {
        tracing::warn!(%name, %error, "cannot end the process of a start that was cut off");
        return;
    }
    tracing::info!(%name, "a start that was cut off is forgotten");
    let monitor = status
        .find(&["monitor"])
        .and_then(|monitor| monitor.attribute("path"));
    // `lib/qemu/domain-ID-NAME/monitor.sock`; the agent's socket is in a directory of the same name.
    let own = monitor
        .and_then(|path| Path::new(path).parent()?.file_name())
        .filter(|own| own.to_string_lossy().starts_with("domain-"));
    let lib = root.join("lib/qemu");
    for directory in own
        .into_iter()
        .flat_map(|own| [lib.join(own), lib.join("channel/target").join(own)])
    {
        let _absent = fs::remove_dir_all(directory);
    }
    let _absent = fs::remove_file(run.join(format!("{name}.pid")));
    if let Err(error) = fs::remove_file(file) {
        tracing::warn!(%name, %error, "cannot forget a start that was cut off");
    }
}

/// Ends a QEMU that was asked what it can do, and has nobody left to tell.
fn end_probe(directory: &Path) {
    let file = directory.join("qmp.pid");
    let pid = fs::read_to_string(&file)
        .ok()
        .and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    if let Some(pid) = pid
        && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
        && is_probe(pid, &file)
    {
        let _gone = pidfd_send_signal(&process, Signal::KILL);
    }
    let _absent = fs::remove_dir_all(directory);
}

/// Whether the process was started with that file for its id: `-pidfile FILE`.
fn is_probe(pid: Pid, file: &Path) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    words.any(|word| word == b"-pidfile")
        && words.next() == Some(file.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    fn stands_for_qemu(words: &[&str]) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", "echo ready; read never"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // `/proc` shows the command line only some time after the process began.
        let mut ready = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        child
    }

    #[test]
    fn a_directory_that_no_start_names_goes_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        status(root.path(), "lab-001", Uuid::from_u128(1), 4_194_303);
        let target = root.path().join("lib/qemu/channel/target");
        for name in ["domain-2-lab-001", "domain-3-lab-002"] {
            fs::create_dir_all(target.join(name)).unwrap();
        }
        clear(root.path());
        assert!(target.join("domain-2-lab-001").exists());
        assert!(!target.join("domain-3-lab-002").exists());
    }

    fn status(root: &Path, name: &str, uuid: Uuid, pid: u32) {
        let own = root.join(format!("lib/qemu/domain-2-{name}"));
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(root.join("run/qemu")).unwrap();
        let text = format!(
            "<domstatus state='paused' reason='starting up' pid='{pid}'>\
             <monitor path='{}/monitor.sock' type='unix'/>\
             <domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid></domain></domstatus>",
            own.display()
        );
        fs::write(root.join(format!("run/qemu/{name}.xml")), text).unwrap();
    }

    #[test]
    fn a_start_that_was_cut_off_is_forgotten_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let (cut, whole) = (Uuid::from_u128(0xc07), Uuid::from_u128(0x60d));
        let mut child = stands_for_qemu(&["-uuid", &cut.to_string()]);
        let mut other = stands_for_qemu(&["-uuid", &whole.to_string()]);
        status(root, "cut", cut, 0);
        status(root, "whole", whole, other.id());
        fs::write(root.join("run/qemu/cut.pid"), child.id().to_string()).unwrap();
        fs::write(root.join("run/qemu/whole.pid"), other.id().to_string()).unwrap();
        clear(root);
        assert!(!child.wait().unwrap().success());
        for gone in [
            "run/qemu/cut.xml",
            "run/qemu/cut.pid",
            "lib/qemu/domain-2-cut",
        ] {
            assert!(!root.join(gone).exists(), "{gone}");
        }
        for left in [
            "run/qemu/whole.xml",
            "run/qemu/whole.pid",
            "lib/qemu/domain-2-whole",
        ] {
            assert!(root.join(left).exists(), "{left}");
        }
        assert!(
            other.try_wait().unwrap().is_none(),
            "another's guest was ended"
        );
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_probe_is_ended_and_a_process_that_took_its_number_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let probe = root.join("lib/qemu/qmp-AAAAAA");
        let stale = root.join("lib/qemu/qmp-BBBBBB");
        for each in [&probe, &stale] {
            fs::create_dir_all(each).unwrap();
        }
        let file = probe.join("qmp.pid");
        let mut child = stands_for_qemu(&["-pidfile", file.to_str().unwrap()]);
        let mut stranger = stands_for_qemu(&["-pidfile", "/run/other.pid"]);
        fs::write(&file, child.id().to_string()).unwrap();
        fs::write(stale.join("qmp.pid"), stranger.id().to_string()).unwrap();
        clear(root);
        assert!(!child.wait().unwrap().success());
        assert!(!probe.exists() && !stale.exists());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
