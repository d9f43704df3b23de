//! What is done to a hypervisor past its adapter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::guests;
use coppice_schema::Digest;
use coppice_schema::desired::{Cache, Display, Firmware, NetworkTarget, Os, Video};
use coppice_schema::ids::{Epoch, GridId, Member, Stamp};
use coppice_schema::known::{DesktopSpec, Hardware};
use coppice_schema::units::Size;
use coppice_world::contract::Outcome;
use coppice_world::contract::hypervisor::Means;
use coppice_world::hypervisor::{Definition, Mark};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{DomainShutoffReason, DomainStateReason};
use virt::enumutil::Enum;

/// The means for QEMU on this machine.
pub(crate) struct Qemu {
    /// How to reach the same hypervisor.
    pub(crate) uri: String,
    /// Where overlays go.
    pub(crate) disks: PathBuf,
    /// The image below them.
    pub(crate) image: PathBuf,
    /// Where traces of domains may be left.
    pub(crate) traces: Vec<PathBuf>,
}

fn failed(error: impl std::fmt::Display) -> Outcome {
    Outcome::Failed(error.to_string())
}

/// The process of a domain.
pub(crate) fn process(uuid: Uuid) -> Option<Pid> {
    let wanted = [b"-uuid".to_vec(), uuid.to_string().into_bytes()];
    let mut guests = guests();
    guests.find_map(|(pid, words)| words.windows(2).any(|pair| pair == wanted).then_some(pid))
}

/// A desktop of the smallest kind.
pub(crate) fn definition(grid: GridId, number: u32, overlay: PathBuf) -> Definition {
    let member: Member = format!("lab-{number:03}@1").parse().unwrap();
    let epoch = Epoch {
        number: 1,
        recovery: 0,
    };
    let image = Digest::of(b"image");
    Definition {
        spec: DesktopSpec {
            uuid: member.desktop.uuid(grid, epoch, member.incarnation),
            hostname: format!("lab-{number:03}"),
            image,
            member: member.clone(),
            hardware: Hardware {
                cpus: 1,
                memory: Size::mib(96),
                disk: Size::mib(64),
                disk_limit: None,
                firmware: Firmware::Bios,
                networks: vec![NetworkTarget::User],
                displays: BTreeSet::from([Display::Vnc, Display::Spice]),
                video: Video::Virtio,
                cache: Cache::Writeback,
                os: Os::Linux,
                agent: true,
                libvirt_xml: None,
            },
        },
        mark: Mark {
            grid,
            epoch,
            member,
            image,
            stamp: Stamp {
                epoch: 1,
                term: 1,
                index: 1,
                ordinal: number,
            },
        },
        overlay,
    }
}

/// Makes an overlay over an image.
pub(crate) fn overlay(image: &Path, path: &Path) -> Result<(), Outcome> {
    let mut create = Command::new("qemu-img");
    create
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(image)
        .arg(path);
    let status = create.status().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed("qemu-img made no overlay"))
    }
}

/// What the shell of a domain's guest says to a command, which must end well.
pub(crate) async fn run_in(address: String, uuid: Uuid, command: String) -> Result<String, String> {
    let open = move || Connect::open(Some(&address)).map_err(|error| error.to_string());
    let connection = tokio::task::spawn_blocking(open).await;
    run_on(connection.map_err(|e| e.to_string())??, uuid, command).await
}

/// The same along a connection that is there: of an embedded hypervisor a process opens only so many.
pub(crate) async fn run_on(
    connection: Connect,
    uuid: Uuid,
    command: String,
) -> Result<String, String> {
    let work = move || {
        let text = |error: virt::error::Error| error.to_string();
        let domain = connection.lookup_domain_by_uuid(uuid).map_err(text)?;
        let ask = |question: Value| -> Result<Value, String> {
            let said = domain.qemu_agent_command(&question.to_string(), 5, 0);
            let said: Value =
                serde_json::from_str(&said.map_err(text)?).map_err(|e| e.to_string())?;
            Ok(said["return"].clone())
        };
        let shell = json!({
            "path": "/bin/busybox",
            "arg": ["sh", "-c", command],
            "capture-output": true,
        });
        let begun = ask(json!({"execute": "guest-exec", "arguments": shell}))?;
        let id = json!({"pid": begun["pid"]});
        loop {
            let status = ask(json!({"execute": "guest-exec-status", "arguments": id}))?;
            if status["exited"] == true {
                let out = status["out-data"].as_str().unwrap_or_default().to_owned();
                return if status["exitcode"] == 0 {
                    Ok(out)
                } else {
                    Err(format!("{status}"))
                };
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| e.to_string())?
}

/// Files below `directory` whose names hold `part`. What a domain said is kept on purpose.
fn named(directory: &Path, part: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains(part) && path.extension().is_none_or(|end| end != "log") {
            found.push(path.display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            named(&path, part, found);
        }
    }
}

impl Means for Qemu {
    fn overlay(&self, mark: &Mark, _: Size) -> Result<PathBuf, Outcome> {
        let path = self
            .disks
            .join(format!("disk-{}-{}.qcow2", mark.grid, mark.member));
        overlay(&self.image, &path)?;
        Ok(path)
    }

    fn define_foreign(&self, name: &str, uuid: Uuid) -> Result<(), Outcome> {
        define_foreign(&self.uri, "qemu", name, uuid)
    }

    fn remove_foreign(&self, uuid: Uuid) {
        remove_foreign(&self.uri, uuid);
    }

    fn kill(&self, uuid: Uuid) -> Result<(), Outcome> {
        let pid = process(uuid).ok_or_else(|| failed("it has no process"))?;
        kill_process(pid, Signal::KILL).map_err(failed)
    }

    fn hang(&self, uuid: Uuid) -> Result<(), Outcome> {
        let pid = process(uuid).ok_or_else(|| failed("it has no process"))?;
        kill_process(pid, Signal::STOP).map_err(failed)
    }

    fn unhang(&self, uuid: Uuid) {
        if let Some(pid) = process(uuid) {
            let _gone = kill_process(pid, Signal::CONT);
        }
    }

    fn stop_agent(&self, uuid: Uuid) -> Result<(), Outcome> {
        let connection = Connect::open(Some(&self.uri)).map_err(failed)?;
        let domain = connection.lookup_domain_by_uuid(uuid).map_err(failed)?;
        // It answers before it is stopped.
        let command = r#"{"execute":"guest-exec","arguments":{"path":"/bin/busybox",
            "arg":["sh","-c","sleep 1; /bin/busybox killall -STOP qemu-ga"]}}"#;
        let begun = domain.qemu_agent_command(command, 5, 0);
        begun.map(|_| ()).map_err(failed)
    }

    fn shut_down_by_itself(&self, uuid: Uuid) -> Result<bool, Outcome> {
        let connection = Connect::open(Some(&self.uri)).map_err(failed)?;
        let domain = connection.lookup_domain_by_uuid(uuid).map_err(failed)?;
        let (_, reason) = domain.state().map_err(failed)?;
        Ok(matches!(
            reason,
            Enum::Known(DomainStateReason::Shutoff(Enum::Known(
                DomainShutoffReason::Shutdown
            )))
        ))
    }

    fn leftovers(&self, uuid: Uuid) -> Vec<String> {
        let mut found: Vec<String> = process(uuid)
            .map(|pid| format!("process {pid:?}"))
            .into_iter()
            .collect();
        for directory in &self.traces {
            named(directory, &uuid.to_string(), &mut found);
            named(directory, "contract-", &mut found);
        }
        found
    }
}

/// The means for libvirt's test driver.
pub(crate) struct TestDriver {
    /// Where seeds go.
    pub(crate) seeds: PathBuf,
}

const TEST: &str = "test:///default";

impl Means for TestDriver {
    fn overlay(&self, mark: &Mark, _: Size) -> Result<PathBuf, Outcome> {
        Ok(PathBuf::from(format!("/nowhere/{}.qcow2", mark.member)))
    }

    fn define_foreign(&self, name: &str, uuid: Uuid) -> Result<(), Outcome> {
        define_foreign(TEST, "test", name, uuid)
    }

    fn remove_foreign(&self, uuid: Uuid) {
        remove_foreign(TEST, uuid);
    }

    /// The driver has no processes: another client ends the domain.
    fn kill(&self, uuid: Uuid) -> Result<(), Outcome> {
        let connection = Connect::open(Some(TEST)).map_err(failed)?;
        let domain = connection.lookup_domain_by_uuid(uuid).map_err(failed)?;
        domain.destroy().map(|_| ()).map_err(failed)
    }

    fn leftovers(&self, uuid: Uuid) -> Vec<String> {
        let mut found = Vec::new();
        named(&self.seeds, &uuid.to_string(), &mut found);
        found
    }
}

fn define_foreign(uri: &str, kind: &str, name: &str, uuid: Uuid) -> Result<(), Outcome> {
    let connection = Connect::open(Some(uri)).map_err(failed)?;
    let xml = format!(
        "<domain type='{kind}'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    );
    connection
        .define_domain_xml(&xml)
        .map(|_| ())
        .map_err(failed)
}

fn remove_foreign(uri: &str, uuid: Uuid) {
    let domain =
        Connect::open(Some(uri)).and_then(|connection| connection.lookup_domain_by_uuid(uuid));
    if let Ok(domain) = domain {
        let _off = domain.destroy();
        domain.undefine().unwrap();
    }
}
