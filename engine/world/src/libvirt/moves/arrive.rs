//! The receiver's side.

use std::time::Duration;

use coppice_schema::known::PowerState;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys::VIR_DOMAIN_START_PAUSED;

use super::super::{Libvirt, Shared, duration, forget, seed};
use super::leave::EXPORT;
use super::monitor::Status;
use super::{Hello, Socket, WHAT, Word, broken, form, refused, tunnel};
use crate::hypervisor::{ByteStream, Definition, HypervisorError};
use crate::moves::{MoveError, wire};

/// What QEMU's receiving side has to know of how the sender goes about it.
const COMING: [&str; 1] = ["pause-before-switchover"];
/// How often it is asked whether all has come: the guest stands still meanwhile.
const CLOSELY: Duration = Duration::from_millis(2);

impl Libvirt {
    pub(super) async fn arrive(
        &self,
        guest: &Definition,
        mut stream: ByteStream,
    ) -> Result<(), MoveError> {
        let uuid = guest.spec.uuid;
        let lost = |error: std::io::Error| broken(uuid, error);
        let socket = match wire::hear(&mut stream).await.map_err(lost)? {
            Hello::Offer { form } => return self.await_guest(guest, &form, stream).await,
            Hello::Ask => {
                let word = match self.has_come(uuid).await {
                    Ok(true) => Word::Here,
                    Ok(false) => not_here("it has not come"),
                    Err(error) => not_here(error),
                };
                return wire::say(&mut stream, &word).await.map_err(lost);
            }
            Hello::Disk => Socket::Disk,
            Hello::Memory => Socket::Memory,
        };
        let path = self.socket(uuid, socket)?;
        tunnel::lead_in(&path, stream).await.map_err(lost)
    }

    /// Serves the stream by which the sender says what it does, until all has come or it gives up.
    async fn await_guest(
        &self,
        guest: &Definition,
        form: &str,
        mut stream: ByteStream,
    ) -> Result<(), MoveError> {
        let uuid = guest.spec.uuid;
        let lost = |error: std::io::Error| broken(uuid, error);
        let anew = || broken(uuid, "its sender has begun anew");
        let visit = self.shared.visits.begin(uuid).await.ok_or_else(anew)?;
        if let Err(error) = self.make_room(guest, form).await {
            let word = not_here(&error);
            wire::say(&mut stream, &word).await.map_err(lost)?;
            return Err(error);
        }
        let coming = async {
            wire::say(&mut stream, &Word::Ready).await.map_err(lost)?;
            match wire::hear(&mut stream).await.map_err(lost)? {
                Word::Sent => {}
                Word::Ready | Word::Here | Word::NotHere { .. } => {
                    return Err(broken(uuid, "the sender says something out of turn"));
                }
            }
            self.all_comes(uuid).await
        };
        let came = tokio::select! {
            came = coming => came,
            () = visit.replaced() => return Err(anew()),
        };
        match &came {
            Ok(()) => wire::say(&mut stream, &Word::Here).await.map_err(lost)?,
            Err(error) => {
                let _gone = wire::say(&mut stream, &not_here(error)).await;
                // What has come whole waits for what is decided; the sender may have gone just after that.
                if !self.has_come(uuid).await.unwrap_or(false) {
                    self.clear_remains(uuid).await?;
                }
            }
        }
        came
    }

    /// Ends what waits here for a memory that does not come; never what runs.
    async fn clear_remains(&self, uuid: Uuid) -> Result<(), MoveError> {
        let turn = self.turn(uuid).await?;
        let shared = self.shared.clone();
        let limit = self.shared.limits.change;
        let call = self.shared.acts.call(duration(limit), move || {
            let _turn = turn;
            match shared.link.domain(WHAT, uuid) {
                Ok((_, domain)) => clear_away(&shared, uuid, &domain),
                Err(HypervisorError::Absent(_)) => Ok(()),
                Err(error) => Err(error),
            }
        });
        let stuck = HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit,
        };
        Ok(call.await.map_err(|_| stuck)??)
    }

    /// Starts a guest that waits for its memory.
    async fn make_room(&self, guest: &Definition, offered: &str) -> Result<(), MoveError> {
        let uuid = guest.spec.uuid;
        let turn = self.turn(uuid).await?;
        let disk = self.socket(uuid, Socket::Disk)?;
        let memory = self.socket(uuid, Socket::Memory)?;
        for path in [&disk, &memory] {
            tunnel::clear(path).map_err(|error| refused(uuid, error))?;
        }
        let (definition, offered, shared) =
            (guest.clone(), offered.to_owned(), self.shared.clone());
        let limit = self.shared.limits.start;
        let call = self.shared.acts.call(duration(limit), move || {
            let _turn = turn;
            start_waiting(&shared, &definition, &offered)
        });
        let stuck = HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit,
        };
        call.await.map_err(|_| stuck)??;

        let _turn = self.turn(uuid).await?;
        let node = self.node(uuid, &guest.overlay).await?;
        let address = json!({"addr": {"type": "unix", "data": {"path": disk}}});
        self.put(uuid, "nbd-server-start", address).await?;
        let export = json!({
            "type": "nbd",
            "id": EXPORT,
            "node-name": node,
            "name": EXPORT,
            "writable": true,
        });
        self.put(uuid, "block-export-add", export).await?;
        self.capabilities(uuid, &COMING, true).await?;
        let from = json!({"uri": format!("unix:{}", memory.display())});
        self.put(uuid, "migrate-incoming", from).await?;
        Ok(())
    }

    /// Waits until the sender's last byte has been taken in.
    async fn all_comes(&self, uuid: Uuid) -> Result<(), MoveError> {
        let end = Instant::now() + duration(self.shared.limits.stall);
        while !self.has_come(uuid).await? {
            if Instant::now() >= end {
                return Err(MoveError::Stalled {
                    domain: uuid,
                    limit: self.shared.limits.stall,
                });
            }
            sleep(CLOSELY).await;
        }
        Ok(())
    }

    /// Whether all of a guest is here, and waits.
    async fn has_come(&self, uuid: Uuid) -> Result<bool, HypervisorError> {
        let waits = self.status(uuid).await? == Status::Paused;
        Ok(waits && self.migration(uuid).await?.status == "completed")
    }

    pub(super) async fn let_go_on(&self, guest: &Definition) -> Result<(), MoveError> {
        let uuid = guest.spec.uuid;
        self.own(WHAT, uuid).await?;
        let _turn = self.turn(uuid).await?;
        let (power, persistent) = self.standing(uuid).await?;
        match power {
            PowerState::Off | PowerState::Crashed => {
                return Err(HypervisorError::Absent(uuid).into());
            }
            PowerState::Running { .. } if persistent => return Ok(()),
            PowerState::Running { .. } => {}
            PowerState::Paused(_) => {
                if !persistent && !self.has_come(uuid).await? {
                    return Err(refused(uuid, "its memory has not come").into());
                }
            }
        }
        // Defined first: once it runs, nothing of it may hang on us.
        let (definition, shared) = (guest.clone(), self.shared.clone());
        let limit = self.shared.limits.change;
        let define = move || shared.define(&definition);
        let stuck = HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit,
        };
        let defined = self.shared.acts.call(duration(limit), define).await;
        defined.map_err(|_| stuck)??;
        // It may have been stopped before.
        let _stopped = self.put(uuid, "nbd-server-stop", json!({})).await;
        self.capabilities(uuid, &COMING, false).await?;
        self.go_on(uuid).await?;
        tracing::info!(%uuid, "a desktop that was sent goes on here");
        for socket in [Socket::Disk, Socket::Memory] {
            let _gone = tunnel::clear(&self.socket(uuid, socket)?);
        }
        Ok(())
    }
}

fn not_here(cause: impl ToString) -> Word {
    Word::NotHere {
        cause: cause.to_string(),
    }
}

/// Clears what an earlier attempt left, and starts a domain that exists only as long as it runs: it is nobody's
/// desktop yet.
fn start_waiting(
    shared: &Shared,
    guest: &Definition,
    offered: &str,
) -> Result<(), HypervisorError> {
    let uuid = guest.spec.uuid;
    let failed = |error: Error| shared.link.failed(WHAT, uuid, &error);
    let connection = shared.link.connection()?;
    match shared.link.domain(WHAT, uuid) {
        Ok((_, domain)) => {
            shared.ours(WHAT, uuid, &domain)?;
            clear_away(shared, uuid, &domain)?;
        }
        Err(HypervisorError::Absent(_)) => {}
        Err(error) => return Err(error),
    }
    let seed = seed::write(&shared.options.seeds, uuid, &guest.spec.hostname)
        .map_err(|error| refused(uuid, format!("cannot write its seed: {error}")))?;
    let xml = form::received(offered, guest, &seed, shared.kind()?)
        .map_err(|cause| refused(uuid, cause))?;
    connection
        .create_domain_xml(&xml, VIR_DOMAIN_START_PAUSED)
        .map(drop)
        .map_err(failed)
}

fn clear_away(shared: &Shared, uuid: Uuid, domain: &Domain) -> Result<(), HypervisorError> {
    let failed = |error: Error| shared.link.failed(WHAT, uuid, &error);
    let name = domain.name().map_err(failed)?;
    let persistent = domain.is_persistent().map_err(failed)?;
    match shared.looker().power(domain, &name, uuid).map_err(failed)? {
        PowerState::Running { .. } => return Err(refused(uuid, "it runs here")),
        PowerState::Paused(why) if persistent => {
            return Err(refused(uuid, format!("it is here, standing still: {why}")));
        }
        PowerState::Paused(_) => domain.destroy().map(drop).map_err(failed)?,
        PowerState::Off | PowerState::Crashed => {}
    }
    if persistent {
        forget(domain).map_err(failed)?;
    }
    Ok(())
}
