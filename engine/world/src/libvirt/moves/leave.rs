//! The sender's side.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use virt::sys::VIR_DOMAIN_XML_MIGRATABLE;

use super::super::{Libvirt, duration};
use super::monitor::Status;
use super::tunnel::Entrance;
use super::{Hello, Socket, WHAT, Word, broken, form, refused};
use crate::hypervisor::HypervisorError;
use crate::moves::{MoveError, Road, wire};

/// QEMU's names for what we add to it while a disk is copied.
const JOB: &str = "coppice-move";
const FAR: &str = "coppice-move-far";
/// The receiver's name for the disk.
pub(super) const EXPORT: &str = "disk";
/// QEMU stops the guest and waits, so that the disk can be finished before the guest is handed over; a guest that
/// writes faster than it is copied is slowed down until it can be.
const LEAVING: [&str; 2] = ["pause-before-switchover", "auto-converge"];
/// Bytes per second for the memory: QEMU's own limit of 128 MiB/s is lifted; the road has its own.
const UNLIMITED: u64 = 1 << 40;
/// How often QEMU is asked how far it is: while it copies, and while the guest stands still.
const NOW_AND_THEN: Duration = Duration::from_millis(50);
const CLOSELY: Duration = Duration::from_millis(2);

/// Ends a copy of which nothing moves.
struct Patience {
    limit: Duration,
    seen: u64,
    since: Instant,
}

impl Patience {
    /// Waits a little; `false`: nothing has moved for too long.
    async fn wait(&mut self, moved: u64, often: Duration) -> bool {
        if moved != self.seen {
            (self.seen, self.since) = (moved, Instant::now());
        }
        sleep(often).await;
        self.since.elapsed() < self.limit
    }
}

impl Libvirt {
    pub(super) async fn leave(&self, uuid: Uuid, road: &dyn Road) -> Result<(), MoveError> {
        self.own(WHAT, uuid).await?;
        let _turn = self.turn(uuid).await?;
        match self.status(uuid).await? {
            Status::Running => {}
            // It was sent before, and whoever was told so has forgotten.
            Status::Postmigrate => return self.ask_whether_it_came(uuid, road).await,
            Status::FinishMigrate => self.undo(uuid).await?,
            Status::Paused | Status::Inmigrate | Status::Otherwise => {
                return Err(refused(uuid, "it does not run").into());
            }
        }
        let sent = self.try_to_leave(uuid, road).await;
        if sent.is_err()
            && let Err(error) = self.undo(uuid).await
        {
            tracing::warn!(%uuid, %error, "a desktop that did not move could not be let go on yet");
        }
        sent
    }

    async fn try_to_leave(&self, uuid: Uuid, road: &dyn Road) -> Result<(), MoveError> {
        // What an earlier attempt left that was cut off; and a copy that is being made comes to nothing, since QEMU
        // copies a disk for one purpose at a time.
        self.undo(uuid).await?;
        self.end_copy(uuid).await?;
        let form = self.form(uuid).await?;
        let disk = form::movable(uuid, &form)?;
        let lost = |error: std::io::Error| broken(uuid, error);
        let mut control = road.open().await?;
        wire::say(&mut control, &Hello::Offer { form })
            .await
            .map_err(lost)?;
        match wire::hear(&mut control).await.map_err(lost)? {
            Word::Ready => {}
            word @ (Word::Sent | Word::Here | Word::NotHere { .. }) => {
                return Err(declined(uuid, word));
            }
        }
        let disk_way = Entrance::open(self.socket(uuid, Socket::Disk)?).map_err(lost)?;
        let memory_way = Entrance::open(self.socket(uuid, Socket::Memory)?).map_err(lost)?;
        let going = async {
            let node = self.node(uuid, &disk).await?;
            self.copy_disk(uuid, &node, &disk_way).await?;
            self.copy_memory(uuid, &memory_way).await?;
            wire::say(&mut control, &Word::Sent).await.map_err(lost)?;
            match wire::hear(&mut control).await.map_err(lost)? {
                Word::Here => Ok(()),
                word @ (Word::Ready | Word::Sent | Word::NotHere { .. }) => {
                    Err(declined(uuid, word))
                }
            }
        };
        tokio::select! {
            gone = going => gone,
            () = disk_way.lead(road, || Hello::Disk) => Err(broken(uuid, "the way for its disk closed")),
            () = memory_way.lead(road, || Hello::Memory) => Err(broken(uuid, "the way for its memory closed")),
        }
    }

    async fn ask_whether_it_came(&self, uuid: Uuid, road: &dyn Road) -> Result<(), MoveError> {
        let lost = |error: std::io::Error| broken(uuid, error);
        let mut control = road.open().await?;
        wire::say(&mut control, &Hello::Ask).await.map_err(lost)?;
        match wire::hear(&mut control).await.map_err(lost)? {
            Word::Here => Ok(()),
            word @ (Word::Ready | Word::Sent | Word::NotHere { .. }) => Err(declined(uuid, word)),
        }
    }

    /// The domain as it runs, in the form that libvirt would migrate.
    async fn form(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain(WHAT, uuid)?;
            domain
                .xml_desc(VIR_DOMAIN_XML_MIGRATABLE)
                .map_err(|error| shared.link.failed(WHAT, uuid, &error))
        })
        .await
    }

    fn patience(&self) -> Patience {
        Patience {
            limit: duration(self.shared.limits.stall),
            seen: 0,
            since: Instant::now(),
        }
    }

    fn stalled(&self, uuid: Uuid) -> MoveError {
        MoveError::Stalled {
            domain: uuid,
            limit: self.shared.limits.stall,
        }
    }

    /// Copies what the overlay holds; from then on, what the guest writes is written on both sides.
    async fn copy_disk(&self, uuid: Uuid, node: &str, way: &Entrance) -> Result<(), MoveError> {
        let far = json!({
            "driver": "nbd",
            "node-name": FAR,
            "export": EXPORT,
            "server": {"type": "unix", "path": way.path()},
        });
        self.put(uuid, "blockdev-add", far).await?;
        let mirror = json!({
            "job-id": JOB,
            "device": node,
            "target": FAR,
            "sync": "top",
            // How it ended is asked, and it waits for that.
            "auto-dismiss": false,
        });
        self.put(uuid, "blockdev-mirror", mirror).await?;
        let mut patience = self.patience();
        loop {
            let moved = match self.job(uuid, JOB).await? {
                Some(job) if job.status == "ready" => return Ok(()),
                Some(job) if job.status == "concluded" => {
                    return Err(broken(uuid, disk_ended(job.error)));
                }
                None => return Err(broken(uuid, disk_ended(None))),
                Some(job) => job.current_progress,
            };
            if !patience.wait(moved, NOW_AND_THEN).await {
                return Err(self.stalled(uuid));
            }
        }
    }

    /// Copies the memory, stops the guest, finishes the disk, and hands over the rest.
    async fn copy_memory(&self, uuid: Uuid, way: &Entrance) -> Result<(), MoveError> {
        self.capabilities(uuid, &LEAVING, true).await?;
        let bandwidth = json!({"max-bandwidth": UNLIMITED});
        self.put(uuid, "migrate-set-parameters", bandwidth).await?;
        let to = json!({"uri": format!("unix:{}", way.path().display())});
        self.put(uuid, "migrate", to).await?;
        self.until(uuid, "pre-switchover", NOW_AND_THEN / 5).await?;
        let stopped = Instant::now();
        self.finish_disk(uuid).await?;
        let on = json!({"state": "pre-switchover"});
        self.put(uuid, "migrate-continue", on).await?;
        let migration = self.until(uuid, "completed", CLOSELY).await?;
        let handing_over = stopped.elapsed();
        tracing::info!(%uuid, ?handing_over, qemu_ms = migration.downtime, "a desktop was sent");
        Ok(())
    }

    /// Waits until the memory is that far.
    async fn until(
        &self,
        uuid: Uuid,
        point: &str,
        often: Duration,
    ) -> Result<super::monitor::Migration, MoveError> {
        let mut patience = self.patience();
        loop {
            let migration = self.migration(uuid).await?;
            if migration.status == point {
                return Ok(migration);
            }
            if ["failed", "cancelled", "completed"].contains(&migration.status.as_str()) {
                let why = migration.error_desc.unwrap_or_default();
                return Err(broken(
                    uuid,
                    format!("its memory did not get there ({}) {why}", migration.status),
                ));
            }
            if !patience.wait(migration.ram.transferred, often).await {
                return Err(self.stalled(uuid));
            }
        }
    }

    /// Writes what is left to the other side, and lets go of it. The guest stands still.
    async fn finish_disk(&self, uuid: Uuid) -> Result<(), MoveError> {
        // Of a mirror that is ready this means: end it when both sides are the same.
        let end = json!({"device": JOB});
        self.put(uuid, "block-job-cancel", end).await?;
        let mut patience = self.patience();
        loop {
            match self.job(uuid, JOB).await? {
                Some(job) if job.status == "concluded" => {
                    if let Some(error) = job.error {
                        return Err(broken(uuid, disk_ended(Some(error))));
                    }
                    break;
                }
                None => return Err(broken(uuid, disk_ended(None))),
                Some(job) => {
                    if !patience.wait(job.current_progress, CLOSELY).await {
                        return Err(self.stalled(uuid));
                    }
                }
            }
        }
        self.forget_far(uuid).await?;
        Ok(())
    }

    async fn forget_far(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.put(uuid, "job-dismiss", json!({"id": JOB})).await?;
        let far = json!({"node-name": FAR});
        self.put(uuid, "blockdev-del", far).await.map(drop)
    }

    /// Takes back whatever was done to send it, and lets it go on if that had stopped it.
    pub(super) async fn undo(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let mut patience = self.patience();
        loop {
            let status = self.migration(uuid).await?.status;
            match status.as_str() {
                "" | "none" | "completed" | "failed" | "cancelled" => break,
                "cancelling" => {}
                _ => drop(self.put(uuid, "migrate_cancel", json!({})).await?),
            }
            if !patience.wait(0, CLOSELY).await {
                return Err(refused(
                    uuid,
                    format!("its migration does not end: {status}"),
                ));
            }
        }
        let mut patience = self.patience();
        while let Some(job) = self.job(uuid, JOB).await? {
            if job.status == "concluded" {
                self.put(uuid, "job-dismiss", json!({"id": JOB})).await?;
                continue;
            }
            // By force: the other side counts no more. It may have ended by itself meanwhile.
            let _ended = self.put(uuid, "job-cancel", json!({"id": JOB})).await;
            if !patience.wait(0, CLOSELY).await {
                return Err(refused(
                    uuid,
                    format!("the copy of its disk does not end: {}", job.status),
                ));
            }
        }
        // Where there is none, it says so.
        let _absent = self
            .put(uuid, "blockdev-del", json!({"node-name": FAR}))
            .await;
        for name in LEAVING {
            self.capabilities(uuid, &[name], false).await?;
        }
        if matches!(
            self.status(uuid).await?,
            Status::Postmigrate | Status::FinishMigrate
        ) {
            self.go_on(uuid).await?;
        }
        Ok(())
    }

    /// Lets a guest that stands still go on. The caller has its turn.
    pub(super) async fn go_on(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let shared = self.shared.clone();
        let limit = self.shared.limits.change;
        let call = self.shared.acts.call(duration(limit), move || {
            let (_, domain) = shared.link.domain(WHAT, uuid)?;
            let resumed = domain.resume();
            resumed
                .map(drop)
                .map_err(|error| shared.link.failed(WHAT, uuid, &error))
        });
        call.await.unwrap_or_else(|_| {
            Err(HypervisorError::Stuck {
                what: WHAT,
                domain: uuid.to_string(),
                limit,
            })
        })
    }
}

fn disk_ended(error: Option<String>) -> String {
    let why = error.unwrap_or_else(|| "it ended".to_owned());
    format!("its disk did not get there: {why}")
}

fn declined(uuid: Uuid, word: Word) -> MoveError {
    let cause = match word {
        Word::NotHere { cause } => cause,
        Word::Ready | Word::Sent | Word::Here => "it says something out of turn".to_owned(),
    };
    MoveError::Declined {
        domain: uuid,
        cause,
    }
}
