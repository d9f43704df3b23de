//! The disk of a running desktop as it is at one moment: QEMU copies it to another file in the background, and what the
//! guest writes meanwhile is not in it.

use std::path::Path;
use std::time::{Duration, Instant};

use coppice_schema::known::PowerState;
use coppice_schema::units::Span;
use serde_json::json;
use uuid::Uuid;

use super::gate::{Passage, Way};
use super::moves::{Status, put};
use super::uri::HypervisorUri;
use super::{Libvirt, duration};
use crate::hypervisor::HypervisorError;

/// What this is called in errors.
const WHAT: &str = "copy the disk of";
/// QEMU's names for what we add to it.
const JOB: &str = "coppice-copy";
const FAR: &str = "coppice-copy-far";
/// How often QEMU is told to end before it is an error.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time for the moment itself: file systems come to rest, QEMU begins, they go on.
const MOMENT: Span = Span::seconds(90);

/// A disk that is being copied. Nobody else copies it meanwhile; dropped, it comes to nothing.
pub(crate) struct Snapshot {
    libvirt: Libvirt,
    uuid: Uuid,
    passage: Option<Passage>,
    /// The guest's file systems were at rest.
    pub(crate) at_rest: bool,
}

/// A domain whose disk nobody else copies.
pub(crate) struct Copying {
    uuid: Uuid,
    passage: Passage,
    /// It runs.
    pub(crate) runs: bool,
}

impl Libvirt {
    /// Waits until nobody else copies the disk of that domain, and says whether it runs. One that does not exist does not.
    pub(crate) async fn begin_copying(&self, uuid: Uuid) -> Result<Copying, HypervisorError> {
        let limit = self.shared.limits.change;
        let gate = self.shared.gates.of(uuid);
        let passage = gate.pass(Way::Copy, duration(limit)).await;
        let passage = passage.ok_or_else(|| HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit,
        })?;
        let runs = self.runs_to_be_copied(uuid).await?;
        Ok(Copying {
            uuid,
            passage,
            runs,
        })
    }

    /// Whether it runs. It is an error when it stands still: nobody knows then where its disk will go on.
    pub(crate) async fn runs_to_be_copied(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        let standing = async {
            self.own(WHAT, uuid).await?;
            self.standing(uuid).await
        };
        match standing.await.map_err(named) {
            Ok((PowerState::Running { .. }, _)) => Ok(true),
            Ok((PowerState::Off | PowerState::Crashed, _)) | Err(HypervisorError::Absent(_)) => {
                Ok(false)
            }
            Ok((PowerState::Paused(why), _)) => {
                Err(refused(uuid, format!("it stands still: {why}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to copy what `overlay` holds of its own at this moment to `target`, an overlay of the same image.
    pub(crate) async fn begin_snapshot(
        &self,
        copying: Copying,
        overlay: &Path,
        target: &Path,
    ) -> Result<Snapshot, HypervisorError> {
        let Copying { uuid, passage, .. } = copying;
        let HypervisorUri::Embedded { .. } = self.shared.link.uri() else {
            let uri = self.shared.link.uri();
            let why = format!("the hypervisor at {uri} does not copy what runs");
            return Err(refused(uuid, why));
        };
        let turn = self.turn(uuid).await.map_err(named)?;
        // What an earlier one left that was cut off.
        self.end_copy(uuid).await?;
        let mut snapshot = Snapshot {
            libvirt: Self {
                shared: self.shared.clone(),
            },
            uuid,
            passage: Some(passage),
            at_rest: false,
        };
        let begun = async {
            let node = self.node(uuid, overlay).await?;
            if self.status(uuid).await? != Status::Running {
                return Err(refused(uuid, "it does not run any more"));
            }
            let far = json!({
                "driver": "qcow2",
                "node-name": FAR,
                // It need not outlive this machine.
                "cache": {"no-flush": true},
                "file": {"driver": "file", "filename": target, "cache": {"no-flush": true}},
            });
            self.put(uuid, "blockdev-add", far).await?;
            self.moment(uuid, node, turn).await
        };
        match begun.await.map_err(named) {
            Ok(at_rest) => {
                snapshot.at_rest = at_rest;
                Ok(snapshot)
            }
            Err(error) => {
                snapshot.end().await?;
                Err(error)
            }
        }
    }

    /// The moment at which the disk is copied. Once begun it goes on to its end, whoever still waits for it.
    async fn moment(
        &self,
        uuid: Uuid,
        node: String,
        turn: Passage,
    ) -> Result<bool, HypervisorError> {
        let stuck = || HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit: MOMENT,
        };
        let agent = self.agent_answers(uuid).await?;
        let gate = self.shared.gates.of(uuid);
        // Nobody else asks the guest meanwhile: it would not answer.
        let asking = match agent {
            true => gate.pass(Way::Ask, duration(self.shared.limits.ask)).await,
            false => None,
        };
        let frozen = self.frozen(uuid);
        let shared = self.shared.clone();
        let call = self.shared.acts.call(duration(MOMENT), move || {
            let _turn = turn;
            let (_, domain) = shared.link.domain(WHAT, uuid)?;
            let begin = || {
                let backup = json!({
                    "job-id": JOB,
                    "device": node,
                    "target": FAR,
                    "sync": "top",
                    // How it ended is asked, and it waits for that.
                    "auto-dismiss": false,
                });
                put(&domain, "blockdev-backup", backup)
                    .map_err(|error| shared.link.failed(WHAT, uuid, &error))?
                    .map_err(|cause| refused(uuid, cause))
            };
            let since = Instant::now();
            let (begun, at_rest) = match &asking {
                Some(_) => frozen.during(&domain, begin),
                None => (begin(), false),
            };
            let moment = since.elapsed();
            tracing::debug!(%uuid, ?moment, at_rest, "a disk is copied as it is now");
            begun.map(|_| at_rest)
        });
        call.await.unwrap_or_else(|_| Err(stuck()))
    }

    /// Ends whatever copies its disk. The caller has its turn.
    pub(super) async fn end_copy(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        for _ in 0..TRIES {
            let Some(job) = self.job(uuid, JOB).await.map_err(named)? else {
                // Where there is none, it says so.
                let far = json!({"node-name": FAR});
                let _absent = self.put(uuid, "blockdev-del", far).await;
                return Ok(());
            };
            let name = json!({"id": JOB});
            if job.status == "concluded" {
                self.put(uuid, "job-dismiss", name).await.map_err(named)?;
                continue;
            }
            // It may have ended by itself meanwhile.
            let _ended = self.put(uuid, "job-cancel", name).await;
            tokio::time::sleep(PAUSE).await;
        }
        Err(refused(uuid, "an earlier copy does not end"))
    }
}

impl Snapshot {
    /// How far it is; `None`: all of it is copied.
    pub(crate) async fn moved(&self) -> Result<Option<u64>, HypervisorError> {
        match self.libvirt.job(self.uuid, JOB).await.map_err(named)? {
            Some(job) if job.status == "concluded" => match job.error {
                None => Ok(None),
                Some(error) => Err(refused(self.uuid, error)),
            },
            Some(job) => Ok(Some(job.current_progress)),
            None => Err(refused(self.uuid, "the copy was ended")),
        }
    }

    /// Lets go of what it was copied to: then all of it is in that file. What is not copied yet never is.
    pub(crate) async fn end(mut self) -> Result<(), HypervisorError> {
        let ended = end(&self.libvirt, self.uuid).await;
        if ended.is_ok() {
            self.passage = None;
        }
        ended
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let Some(passage) = self.passage.take() else {
            return;
        };
        let (shared, uuid) = (self.libvirt.shared.clone(), self.uuid);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _passage = passage;
                // What stays is ended by whoever copies it next.
                let _left = end(&Libvirt { shared }, uuid).await;
            });
        }
    }
}

async fn end(libvirt: &Libvirt, uuid: Uuid) -> Result<(), HypervisorError> {
    let _turn = libvirt.turn(uuid).await.map_err(named)?;
    libvirt.end_copy(uuid).await
}

fn refused(uuid: Uuid, cause: impl ToString) -> HypervisorError {
    HypervisorError::Refused {
        what: WHAT,
        domain: uuid.to_string(),
        cause: cause.to_string(),
    }
}

/// The same, of a copy: QEMU's monitor is otherwise used for moves.
fn named(error: HypervisorError) -> HypervisorError {
    match error {
        HypervisorError::Refused { domain, cause, .. } => HypervisorError::Refused {
            what: WHAT,
            domain,
            cause,
        },
        HypervisorError::Stuck { domain, limit, .. } => HypervisorError::Stuck {
            what: WHAT,
            domain,
            limit,
        },
        other @ (HypervisorError::Away { .. }
        | HypervisorError::NotOurs { .. }
        | HypervisorError::Absent(_)
        | HypervisorError::Lacks(_)
        | HypervisorError::NoDisplay { .. }) => other,
    }
}
