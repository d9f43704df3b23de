//! QEMU's monitor: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>, through libvirt.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;

use super::super::{Libvirt, duration};
use super::{WHAT, refused};
use crate::hypervisor::HypervisorError;

/// What QEMU says a guest is doing: `query-status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::libvirt) enum Status {
    /// It runs.
    Running,
    /// It stands still; one that has come and waits is so, too.
    Paused,
    /// It waits for its memory, or gets it.
    Inmigrate,
    /// All of it was sent elsewhere.
    Postmigrate,
    /// It was stopped for the last part of its memory.
    FinishMigrate,
    /// Anything else: stopped by a fault, shut down, saved.
    #[serde(other)]
    Otherwise,
}

/// How far its memory is: `query-migrate`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Migration {
    /// `active`, `pre-switchover`, `completed`, `failed` and others; empty before any.
    pub(super) status: String,
    pub(super) error_desc: Option<String>,
    pub(super) ram: Ram,
    /// How long the guest stood still, in ms.
    pub(super) downtime: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ram {
    pub(super) transferred: u64,
}

/// Background work of QEMU: `query-jobs`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::libvirt) struct Job {
    pub(in crate::libvirt) id: String,
    /// `running`, `ready`, `concluded` and others.
    pub(in crate::libvirt) status: String,
    pub(in crate::libvirt) current_progress: u64,
    pub(in crate::libvirt) error: Option<String>,
}

/// A disk as QEMU has it: `query-block`.
#[derive(Deserialize)]
struct Block {
    inserted: Option<Inserted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    node_name: String,
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    filename: String,
}

#[derive(Deserialize)]
struct RunState {
    status: Status,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    desc: String,
}

impl Libvirt {
    /// Puts one command to a domain's QEMU. The caller has the domain's turn.
    pub(in crate::libvirt) async fn put(
        &self,
        uuid: Uuid,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, HypervisorError> {
        let shared = self.shared.clone();
        let limit = self.shared.limits.change;
        let call = self.shared.acts.call(duration(limit), move || {
            let (_, domain) = shared.link.domain(WHAT, uuid)?;
            put(&domain, command, arguments)
                .map_err(|error| shared.link.failed(WHAT, uuid, &error))?
                .map_err(|cause| refused(uuid, format!("{command}: {cause}")))
        });
        call.await.unwrap_or_else(|_| {
            Err(HypervisorError::Stuck {
                what: WHAT,
                domain: uuid.to_string(),
                limit,
            })
        })
    }

    async fn query<T: for<'de> Deserialize<'de>>(
        &self,
        uuid: Uuid,
        command: &'static str,
    ) -> Result<T, HypervisorError> {
        let value = self.put(uuid, command, json!({})).await?;
        serde_json::from_value(value)
            .map_err(|error| refused(uuid, format!("{command} gave no sense: {error}")))
    }

    /// What QEMU says the guest is doing.
    pub(in crate::libvirt) async fn status(&self, uuid: Uuid) -> Result<Status, HypervisorError> {
        Ok(self.query::<RunState>(uuid, "query-status").await?.status)
    }

    pub(super) async fn migration(&self, uuid: Uuid) -> Result<Migration, HypervisorError> {
        self.query(uuid, "query-migrate").await
    }

    /// The work of that name, while it is remembered.
    pub(in crate::libvirt) async fn job(
        &self,
        uuid: Uuid,
        id: &str,
    ) -> Result<Option<Job>, HypervisorError> {
        let jobs: Vec<Job> = self.query(uuid, "query-jobs").await?;
        Ok(jobs.into_iter().find(|job| job.id == id))
    }

    /// QEMU's name for the disk that is `file`.
    pub(in crate::libvirt) async fn node(
        &self,
        uuid: Uuid,
        file: &Path,
    ) -> Result<String, HypervisorError> {
        let blocks: Vec<Block> = self.query(uuid, "query-block").await?;
        let inserted: Vec<Inserted> = blocks
            .into_iter()
            .filter_map(|block| block.inserted)
            .collect();
        let found = inserted.iter().find(|it| is_of(&it.image.filename, file));
        found.map(|it| it.node_name.clone()).ok_or_else(|| {
            let others: Vec<&str> = inserted
                .iter()
                .map(|it| it.image.filename.as_str())
                .collect();
            let (file, others) = (file.display(), others.join(", "));
            refused(uuid, format!("its QEMU does not have {file}, but {others}"))
        })
    }

    /// Switches what both sides need of a migration on, or off again.
    pub(super) async fn capabilities(
        &self,
        uuid: Uuid,
        names: &[&str],
        state: bool,
    ) -> Result<(), HypervisorError> {
        let each = |name: &&str| json!({"capability": name, "state": state});
        let capabilities: Vec<Value> = names.iter().map(each).collect();
        let arguments = json!({"capabilities": capabilities});
        self.put(uuid, "migrate-set-capabilities", arguments)
            .await
            .map(drop)
    }
}

/// Whether QEMU's name for a disk means that file. Where it was told more of it than its path, such as what is below it,
/// the name is all that it was told.
fn is_of(name: &str, file: &Path) -> bool {
    let Some(told) = name.strip_prefix("json:") else {
        return Path::new(name) == file;
    };
    let told: Value = serde_json::from_str(told).unwrap_or_default();
    let path = told
        .pointer("/file/filename")
        .or_else(|| told.get("filename"));
    path.and_then(Value::as_str).map(Path::new) == Some(file)
}

/// `Ok(Err(…))`: QEMU understood, and did not do it; in its words.
pub(in crate::libvirt) fn put(
    domain: &Domain,
    command: &str,
    arguments: Value,
) -> Result<Result<Value, String>, Error> {
    let line = json!({"execute": command, "arguments": arguments}).to_string();
    let said = domain.qemu_monitor_command(&line, 0)?;
    Ok(understand(&said))
}

fn understand(said: &str) -> Result<Value, String> {
    let reply: Reply = serde_json::from_str(said).map_err(|error| error.to_string())?;
    match reply.error {
        Some(complaint) => Err(complaint.desc),
        None => Ok(reply.value.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_complaints() {
        assert_eq!(
            understand(r#"{"return":{"a":1},"id":"x"}"#),
            Ok(json!({"a": 1}))
        );
        let complaint = r#"{"id":"x","error":{"class":"GenericError","desc":"no such job"}}"#;
        assert_eq!(understand(complaint), Err("no such job".to_owned()));
        assert!(understand("nonsense").is_err());
    }

    #[test]
    fn a_disk_is_known_by_its_file_whatever_else_is_told_of_it() {
        let file = Path::new("/a/lab-001@1.qcow2");
        assert!(is_of("/a/lab-001@1.qcow2", file));
        assert!(!is_of("/a/lab-002@1.qcow2", file));
        let told = r#"json:{"backing": {"driver": "raw", "file": {"driver": "file", "filename": "/i"}}, "driver": "qcow2", "file": {"driver": "file", "filename": "/a/lab-001@1.qcow2"}}"#;
        assert!(is_of(told, file));
        assert!(!is_of(told, Path::new("/i")));
    }

    #[test]
    fn a_status_that_is_new_to_us_is_otherwise() {
        let status = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        assert_eq!(status("\"postmigrate\""), Status::Postmigrate);
        assert_eq!(status("\"finish-migrate\""), Status::FinishMigrate);
        assert_eq!(status("\"io-error\""), Status::Otherwise);
    }
}
