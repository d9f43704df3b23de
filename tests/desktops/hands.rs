//! Hands other than the grid's, and eyes that do not ask it: libvirt while the daemon is down, files, guests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::lab::{Desktop, Lab, Ran};
use crate::machine::until;

impl Lab {
    /// Asks libvirt itself. The daemon must be down: one process at a time has the directory open. What it did is
    /// seen by its effect, not by its exit code: it ends while its threads are still busy with the guests that run,
    /// and sometimes crashes over that.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> Ran {
        let uri = format!("qemu:///embed?root={}", self.path("d/h").display());
        Ran::of(
            Command::new("virsh")
                .args(["-q", "-c", &uri])
                .args(arguments),
        )
    }

    /// UUIDs of the domains that the hypervisor has on its disk, by their names; also while the daemon runs.
    pub(crate) fn domains(&self) -> BTreeMap<String, String> {
        let files = self.names("d/h/etc/qemu");
        files
            .iter()
            .filter_map(|file| file.strip_suffix(".xml"))
            .map(|name| {
                let path = self.path(&format!("d/h/etc/qemu/{name}.xml"));
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let uuid = text.split("<uuid>").nth(1).unwrap_or_default();
                let uuid = uuid.split("</uuid>").next().unwrap_or_default();
                (name.to_owned(), uuid.to_owned())
            })
            .collect()
    }

    /// Process ids of the guests, by the names of their domains.
    pub(crate) fn processes(&self) -> BTreeMap<String, Pid> {
        let files = self.names("d/h/run/qemu");
        files
            .iter()
            .filter_map(|file| Some((file, file.strip_suffix(".pid")?)))
            .filter(|(_, name)| *name != "driver")
            .filter_map(|(file, name)| {
                let path = self.path(&format!("d/h/run/qemu/{file}"));
                let text = std::fs::read_to_string(path).ok()?;
                let pid = Pid::from_raw(text.trim().parse().ok()?)?;
                test_kill_process(pid).ok()?;
                Some((name.to_owned(), pid))
            })
            .collect()
    }

    /// Ends a guest as a fault of its process would, and says which process that was.
    pub(crate) fn kill_guest(&self, name: &str) -> Pid {
        let pid = self.processes()[name];
        kill_process(pid, Signal::KILL).unwrap();
        until("the end of a killed guest", || {
            let gone = !self.guests().contains(&pid);
            gone.then_some(()).ok_or_else(|| name.to_owned())
        });
        pid
    }

    /// What a guest's own agent says its host name is. The daemon must be down: an agent serves one at a time.
    pub(crate) fn host_name(&self, domain: &str) -> String {
        let targets = "d/h/lib/qemu/channel/target";
        let folder = self
            .names(targets)
            .into_iter()
            .find(|name| name.ends_with(&format!("-{domain}")))
            .unwrap_or_else(|| panic!("{domain} has no agent's socket"));
        let socket = self.path(&format!("{targets}/{folder}/org.qemu.guest_agent.0"));
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        stream
            .write_all(b"{\"execute\":\"guest-get-host-name\"}\n")
            .unwrap();
        // Answers to what the daemon asked before may come first.
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            let answer: Option<serde_json::Value> =
                serde_json::from_str(line.trim_matches('\u{ff}')).ok();
            let name = answer.and_then(|a| Some(a["return"]["host-name"].as_str()?.to_owned()));
            if let Some(name) = name {
                return name;
            }
        }
        panic!("{domain} hung up");
    }

    /// Everything that must be true of a settled grid of `desktops`, the host names asked of the guests themselves.
    /// The daemon is down afterwards.
    #[track_caller]
    pub(crate) fn inspect(&mut self, desktops: &[Desktop]) {
        let slots: BTreeSet<u64> = desktops.iter().map(|d| d.slot).collect();
        assert_eq!(slots.len(), desktops.len(), "two in one slot: {desktops:?}");
        for desktop in desktops {
            assert_eq!(desktop.state, "available", "{desktop:?}");
            assert_eq!(desktop.name, format!("lab-{:02}", desktop.slot));
        }
        let wanted: BTreeMap<String, String> = desktops
            .iter()
            .map(|d| (d.id.clone(), d.uuid.clone()))
            .collect();
        self.kill();
        let listed = self.virsh(&["list", "--name"]);
        let running: BTreeSet<&str> = listed
            .words
            .lines()
            .filter(|l| l.starts_with("lab-"))
            .collect();
        for (name, uuid) in &wanted {
            assert!(
                running.contains(name.as_str()),
                "{name} does not run: {running:?}"
            );
            assert_eq!(self.domains().get(name), Some(uuid), "{name}");
        }
        assert_eq!(self.guests().len(), wanted.len(), "a process too many");
        for desktop in desktops {
            assert_eq!(self.host_name(&desktop.id), desktop.name);
            check(&desktop.overlay);
        }
        let overlays = self.names("d/disks/overlays");
        assert_eq!(overlays.len(), 2 * desktops.len(), "{overlays:?}");
    }

    /// Demands that no trace of any desktop is on the machine. The daemon is down afterwards.
    #[track_caller]
    pub(crate) fn bare(&mut self) {
        self.stop();
        assert_eq!(self.guests(), []);
        assert_eq!(
            self.virsh(&["list", "--all", "--name"])
                .code(0)
                .words
                .lines()
                .filter(|l| l.starts_with("lab-"))
                .count(),
            0
        );
        for folder in [
            "d/disks/overlays",
            "d/seeds",
            "d/h/lib/qemu/channel/target",
            "d/uploads",
        ] {
            assert_eq!(self.names(folder), Vec::<String>::new(), "{folder}");
        }
        for folder in [
            "d/h/etc/qemu",
            "d/h/run/qemu",
            "d/h/lib/qemu",
            "d/h/lib/qemu/nvram",
            "d/h/lib/qemu/save",
        ] {
            let left = self.names(folder);
            let of_desktops = left.iter().filter(|name| name.contains("lab-"));
            assert_eq!(of_desktops.count(), 0, "{folder}: {left:?}");
        }
    }
}

/// Demands that QEMU's own check finds no damage in an overlay, running or not. A cluster that was allocated and is
/// not in use yet (3) is none.
#[track_caller]
pub(crate) fn check(overlay: &Path) {
    let ran = Ran::of(
        Command::new("qemu-img")
            .args(["check", "-U", "-f", "qcow2"])
            .arg(overlay),
    );
    assert!(
        matches!(ran.code, 0 | 3),
        "{}: {}",
        overlay.display(),
        ran.words
    );
}
