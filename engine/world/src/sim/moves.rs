//! The simulated server as one that desktops leave and come to.
//!
//! It says the same things along the road as the real ones, in the same order; what follows them is shorter.

use coppice_schema::known::{Hardware, PowerState};
use coppice_schema::units::{Size, Timestamp};
use futures::future::BoxFuture;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SimServer;
use super::fault::Operation;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimDomain, is_ours};
use crate::hypervisor::{ByteStream, Definition, HypervisorError};
use crate::moves::{MoveError, Moves, Road, wire};

/// What is between its stop at one server and its start at one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It was sent, and stands still.
    Sent,
    /// It is coming, by an offer of that number.
    Coming(u64),
    /// It has come, and stands still.
    Came,
}

/// A running guest, as far as a simulation has one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Guest {
    running_with: Option<(String, Hardware)>,
    answers_at: Option<Timestamp>,
    users: u32,
    /// Bytes of its overlay.
    allocated: Size,
    /// What it wrote last.
    written: u64,
}

#[derive(Serialize, Deserialize)]
enum Hello {
    Offer,
    /// So many bytes follow, as its disk.
    Disk(u64),
    Ask,
}

#[derive(Serialize, Deserialize)]
enum Word {
    Ready,
    Sent(Guest),
    Here,
    NotHere(String),
}

/// Bytes that stand for a disk, so that a road can break among them.
const DISK: u64 = 4096;

impl Moves for SimServer {
    fn send<'a>(&'a self, uuid: Uuid, road: &'a dyn Road) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(async move {
            let _turn = self.alone(Operation::Send, uuid);
            let begun = self.changed(Operation::Send, uuid, begin(uuid)).await?;
            if begun == Begun::Sent {
                let mut control = open(uuid, road, &Hello::Ask).await?;
                return here(uuid, &mut control).await;
            }
            let sent = self.try_to_send(uuid, road).await;
            if sent.is_err() {
                // As far as it can be done now; otherwise it is done by whoever decides that it stays.
                let _still = self.changed(Operation::Stay, uuid, stay(uuid)).await;
            }
            sent
        })
    }

    fn stay(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), MoveError>> {
        Box::pin(async move {
            let _turn = self.alone(Operation::Stay, uuid);
            Ok(self.changed(Operation::Stay, uuid, stay(uuid)).await?)
        })
    }

    fn take<'a>(
        &'a self,
        guest: &'a Definition,
        mut stream: ByteStream,
    ) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(async move {
            let uuid = guest.spec.uuid;
            match hear(uuid, &mut stream).await? {
                Hello::Offer => self.await_guest(guest, stream).await,
                Hello::Disk(bytes) => {
                    let mut disk = stream.take(bytes);
                    let copied = futures::io::copy(&mut disk, &mut futures::io::sink()).await;
                    let copied = copied.map_err(|error| broken(uuid, error))?;
                    let word = if copied == bytes {
                        Word::Here
                    } else {
                        Word::NotHere("its disk broke off".to_owned())
                    };
                    say(uuid, &mut disk.into_inner(), &word).await
                }
                Hello::Ask => {
                    let word = if self.settled().ways.get(&uuid) == Some(&Way::Came) {
                        Word::Here
                    } else {
                        Word::NotHere("it has not come".to_owned())
                    };
                    say(uuid, &mut stream, &word).await
                }
            }
        })
    }

    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(async move {
            let uuid = guest.spec.uuid;
            let _turn = self.alone(Operation::Enter, uuid);
            let definition = guest.clone();
            let act = move |machine: &mut Machine, now| enter(machine, definition, now);
            Ok(self.changed(Operation::Enter, uuid, act).await?)
        })
    }
}

impl SimServer {
    async fn changed<T: Send + 'static>(
        &self,
        operation: Operation,
        uuid: Uuid,
        act: impl FnOnce(&mut Machine, Timestamp) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, HypervisorError> {
        let grid = self.setup.grid;
        let guarded = move |machine: &mut Machine, now| {
            match machine.domains.get(&uuid) {
                Some(domain) if is_ours(grid, domain.mark.as_ref()) => {}
                Some(domain) => return Err(not_ours(domain)),
                None if operation == Operation::MakeRoom => {}
                None => return Err(HypervisorError::Absent(uuid)),
            }
            act(machine, now)
        };
        self.call(operation, uuid.to_string(), Some(uuid), guarded)
            .await
    }

    async fn try_to_send(&self, uuid: Uuid, road: &dyn Road) -> Result<(), MoveError> {
        let mut control = open(uuid, road, &Hello::Offer).await?;
        match hear(uuid, &mut control).await? {
            Word::Ready => {}
            word @ (Word::Sent(_) | Word::Here | Word::NotHere { .. }) => {
                return Err(declined(uuid, word));
            }
        }
        let mut disk = open(uuid, road, &Hello::Disk(DISK)).await?;
        for _ in 0..DISK {
            let written = disk.write_all(b"x").await;
            written.map_err(|error| broken(uuid, error))?;
        }
        // It takes as long as the quickest boot.
        self.clock.sleep(self.setup.boot).await;
        here(uuid, &mut disk).await?;
        let guest = self
            .changed(Operation::StopToSend, uuid, stop(uuid))
            .await?;
        say(uuid, &mut control, &Word::Sent(guest)).await?;
        here(uuid, &mut control).await
    }

    async fn await_guest(
        &self,
        guest: &Definition,
        mut stream: ByteStream,
    ) -> Result<(), MoveError> {
        let uuid = guest.spec.uuid;
        let definition = guest.clone();
        let act = move |machine: &mut Machine, _| make_room(machine, definition);
        let offer = match self.changed(Operation::MakeRoom, uuid, act).await {
            Ok(offer) => offer,
            Err(error) => {
                say(uuid, &mut stream, &Word::NotHere(error.to_string())).await?;
                return Err(error.into());
            }
        };
        let came = async {
            say(uuid, &mut stream, &Word::Ready).await?;
            let Word::Sent(guest) = hear(uuid, &mut stream).await? else {
                return Err(broken(uuid, "the sender says something out of turn"));
            };
            let act = move |machine: &mut Machine, _| take_in(machine, uuid, offer, guest);
            Ok(self.changed(Operation::TakeIn, uuid, act).await?)
        };
        let came = came.await;
        let word = match &came {
            Ok(()) => Word::Here,
            Err(error) => Word::NotHere(error.to_string()),
        };
        if came.is_err() {
            let mut machine = self.settled();
            if machine.ways.get(&uuid) == Some(&Way::Coming(offer)) {
                machine.vanish(uuid);
                machine.wake();
            }
        }
        let told = say(uuid, &mut stream, &word).await;
        came.and(told)
    }
}

#[derive(PartialEq, Eq)]
enum Begun {
    Runs,
    /// It was sent before.
    Sent,
}

fn begin(uuid: Uuid) -> impl FnOnce(&mut Machine, Timestamp) -> Result<Begun, HypervisorError> {
    move |machine, _| {
        if machine.ways.get(&uuid) == Some(&Way::Sent) {
            return Ok(Begun::Sent);
        }
        running(machine, uuid).map(|_| Begun::Runs)
    }
}

/// It stands still from now on, and all that a guest has is taken along.
fn stop(uuid: Uuid) -> impl FnOnce(&mut Machine, Timestamp) -> Result<Guest, HypervisorError> {
    move |machine, _| {
        let domain = running(machine, uuid)?;
        domain.power = PowerState::Paused("being migrated".to_owned());
        let (with, answers_at, users) =
            (domain.running_with.clone(), domain.answers_at, domain.users);
        let overlay = domain.disk.clone();
        machine.ways.insert(uuid, Way::Sent);
        let overlay = machine.overlays.get(&overlay);
        Ok(Guest {
            running_with: with,
            answers_at,
            users,
            allocated: overlay.map_or(Size(0), |overlay| overlay.allocated),
            written: overlay.map_or(0, |overlay| overlay.written),
        })
    }
}

fn stay(uuid: Uuid) -> impl FnOnce(&mut Machine, Timestamp) -> Result<(), HypervisorError> {
    move |machine, now| {
        if machine.ways.get(&uuid) == Some(&Way::Sent) {
            machine.go_on(uuid, now);
        }
        Ok(())
    }
}

fn running(machine: &mut Machine, uuid: Uuid) -> Result<&mut SimDomain, HypervisorError> {
    let domain = machine.domains.get_mut(&uuid);
    let domain = domain.ok_or(HypervisorError::Absent(uuid))?;
    if matches!(domain.power, PowerState::Running { .. }) {
        return Ok(domain);
    }
    Err(refused(&domain.name, "it does not run"))
}

/// A domain that waits; the number of the offer that it waits for.
fn make_room(machine: &mut Machine, definition: Definition) -> Result<u64, HypervisorError> {
    let uuid = definition.spec.uuid;
    let name = definition.spec.member.desktop.to_string();
    let waits = matches!(machine.ways.get(&uuid), Some(Way::Coming(_) | Way::Came));
    match machine.domains.get(&uuid) {
        Some(_) if waits => {}
        Some(there) if there.runs() => return Err(refused(&name, "it is here already")),
        Some(_) | None => {}
    }
    let mut others = machine.domains.values();
    if let Some(other) = others.find(|other| other.name == name && other.uuid != uuid) {
        let cause = format!("{} has that name", other.uuid);
        return Err(refused(&name, &cause));
    }
    let overlay = machine.overlays.get(&definition.overlay);
    if !overlay.is_some_and(|overlay| machine.overlay_is_sound(overlay)) {
        return Err(refused(&name, "it has no usable disk here"));
    }
    machine.offers += 1;
    let offer = machine.offers;
    let domain = SimDomain {
        name,
        uuid,
        mark: Some(definition.mark),
        hostname: definition.spec.hostname,
        hardware: Some(definition.spec.hardware),
        disk: definition.overlay,
        power: PowerState::Paused("being migrated".to_owned()),
        running_with: None,
        answers_at: None,
        users: 0,
        viewers: 0,
    };
    machine.domains.insert(uuid, domain);
    machine.ways.insert(uuid, Way::Coming(offer));
    Ok(offer)
}

fn take_in(
    machine: &mut Machine,
    uuid: Uuid,
    offer: u64,
    guest: Guest,
) -> Result<(), HypervisorError> {
    if machine.ways.get(&uuid) != Some(&Way::Coming(offer)) {
        return Err(HypervisorError::Absent(uuid));
    }
    let Some(domain) = machine.domains.get_mut(&uuid) else {
        return Err(HypervisorError::Absent(uuid));
    };
    domain.running_with = guest.running_with;
    domain.answers_at = guest.answers_at;
    domain.users = guest.users;
    if let Some(overlay) = machine.overlays.get_mut(&domain.disk) {
        overlay.allocated = guest.allocated;
        overlay.written = guest.written;
    }
    machine.ways.insert(uuid, Way::Came);
    Ok(())
}

fn enter(
    machine: &mut Machine,
    definition: Definition,
    now: Timestamp,
) -> Result<(), HypervisorError> {
    let Definition { spec, mark, .. } = definition;
    let uuid = spec.uuid;
    let way = machine.ways.get(&uuid).copied();
    let Some(domain) = machine.domains.get_mut(&uuid) else {
        return Err(HypervisorError::Absent(uuid));
    };
    match (way, &domain.power) {
        (Some(Way::Came), _) => {}
        (Some(Way::Coming(_)), _) => {
            let name = domain.name.clone();
            machine.scold(format!("{name} is let in before it has come"));
            return Err(refused(&name, "its memory has not come"));
        }
        (Some(Way::Sent), _) => {
            let name = domain.name.clone();
            machine.scold(format!("{name} is let in where it was sent from"));
            return Err(refused(&name, "it was sent from here"));
        }
        (None, PowerState::Running { .. }) => return Ok(()),
        (None, PowerState::Paused(_) | PowerState::Off | PowerState::Crashed) => {
            return Err(HypervisorError::Absent(uuid));
        }
    }
    domain.mark = Some(mark.clone());
    domain.hostname = spec.hostname;
    domain.hardware = Some(spec.hardware);
    let mark = Some(mark);
    machine.note(now, Hand::Ours, Deed::Defined { uuid, mark });
    machine.go_on(uuid, now);
    Ok(())
}

async fn open(uuid: Uuid, road: &dyn Road, hello: &Hello) -> Result<ByteStream, MoveError> {
    let mut stream = road.open().await?;
    say(uuid, &mut stream, hello).await?;
    Ok(stream)
}

async fn say<T: Serialize + Sync>(
    uuid: Uuid,
    stream: &mut ByteStream,
    message: &T,
) -> Result<(), MoveError> {
    let said = wire::say(stream, message).await;
    said.map_err(|error| broken(uuid, error))
}

async fn hear<T: serde::de::DeserializeOwned>(
    uuid: Uuid,
    stream: &mut ByteStream,
) -> Result<T, MoveError> {
    let heard = wire::hear(stream).await;
    heard.map_err(|error| broken(uuid, error))
}

async fn here(uuid: Uuid, stream: &mut ByteStream) -> Result<(), MoveError> {
    match hear(uuid, stream).await? {
        Word::Here => Ok(()),
        word @ (Word::Ready | Word::Sent(_) | Word::NotHere { .. }) => Err(declined(uuid, word)),
    }
}

fn broken(domain: Uuid, cause: impl ToString) -> MoveError {
    MoveError::Broken {
        domain,
        cause: cause.to_string(),
    }
}

fn declined(domain: Uuid, word: Word) -> MoveError {
    let cause = match word {
        Word::NotHere(cause) => cause,
        Word::Ready | Word::Here | Word::Sent(_) => "it says something out of turn".to_owned(),
    };
    MoveError::Declined { domain, cause }
}

fn refused(domain: &str, cause: &str) -> HypervisorError {
    HypervisorError::Refused {
        what: "move",
        domain: domain.to_owned(),
        cause: cause.to_owned(),
    }
}

fn not_ours(domain: &SimDomain) -> HypervisorError {
    HypervisorError::NotOurs {
        domain: domain.name.clone(),
        owner: domain.mark.as_ref().map(|mark| mark.grid),
    }
}
