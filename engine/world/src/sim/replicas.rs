//! The simulated server as one that keeps copies of others' desktops, and sends copies of its own.
//!
//! It says the same things along the road as the real ones, in the same order; what stands for a disk is shorter.

use std::io;
use std::path::PathBuf;

use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::{CopyState, PowerState};
use coppice_schema::units::{Size, Timestamp};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SimServer;
use super::copies::{PARTS, span_of};
use super::fault::Operation;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimOverlay, SimReplica, is_ours, overlay_path};
use crate::disks::{DiskError, NewOverlay};
use crate::hypervisor::{ByteStream, HypervisorError, Mark};
use crate::moves::Road;
use crate::moves::wire::{hear, say};
use crate::replicas::wire::{self, Offer, Part, Sum, Word};
use crate::replicas::{Original, Replica, ReplicaError, Replicas, Sent};

/// Bytes that stand for a disk, so that a road can break among them.
const DISK: usize = 4096;
/// What the file may be long.
const MOST: u64 = 2 * wire::PART;

type Outcome<T> = Result<T, ReplicaError>;

/// What a disk holds, as far as a simulation has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Content {
    allocated: Size,
    written: u64,
    at_rest: bool,
}

impl Replicas for SimServer {
    fn send<'a>(
        &'a self,
        original: &'a Original,
        taken: Timestamp,
        road: &'a dyn Road,
    ) -> BoxFuture<'a, Outcome<Sent>> {
        Box::pin(async move {
            let lost = |error: io::Error| broken(&original.mark.member, error);
            // Looked at before anybody else is asked, as the real ones do.
            let (size, content) = self.held(original).await?;
            let mut stream = road.open().await?;
            let data = content.allocated;
            let offer = Offer { taken, size, data };
            say(&mut stream, &offer).await.map_err(lost)?;
            answered(original, &mut stream, &Word::Ready).await?;
            let (_, content) = self.held(original).await?;
            let span = span_of(content.allocated, self.setup.wire);
            self.clock.sleep(span).await;
            let mut bytes = Vec::new();
            ciborium::into_writer(&content, &mut bytes)
                .map_err(|error| broken(&original.mark.member, error))?;
            let mut sum = Sum::default();
            let disk = async {
                wire::wait(&mut stream).await?;
                wire::part(&mut stream, &mut sum, 0, &bytes).await?;
                wire::part(&mut stream, &mut sum, wire::PART, &[b'x'; DISK]).await?;
                wire::end(&mut stream, &sum, MOST).await
            };
            disk.await.map_err(lost)?;
            answered(original, &mut stream, &Word::Here).await?;
            Ok(Sent {
                bytes: content.allocated,
                at_rest: content.at_rest,
            })
        })
    }

    fn take<'a>(&'a self, mark: &'a Mark, mut stream: ByteStream) -> BoxFuture<'a, Outcome<()>> {
        Box::pin(async move {
            let lost = |error: io::Error| broken(&mark.member, error);
            let offer: Offer = hear(&mut stream).await.map_err(lost)?;
            let came = self.take_offered(mark, offer, &mut stream).await;
            let word = match &came {
                Ok(()) => Word::Here,
                Err(error) => Word::NotHere {
                    cause: error.to_string(),
                },
            };
            let told = say(&mut stream, &word).await.map_err(lost);
            came.and(told)
        })
    }

    fn replicas(&self) -> BoxFuture<'_, Outcome<Vec<Replica>>> {
        let grid = self.setup.grid;
        let act = move |machine: &mut Machine, _| {
            let ours = machine.replicas.values();
            let ours = ours.filter(|replica| is_ours(grid, Some(&replica.mark)));
            let each = |replica: &SimReplica| Replica {
                mark: replica.mark.clone(),
                taken: replica.taken,
                allocated: replica.allocated,
            };
            Ok(ours.map(each).collect())
        };
        Box::pin(self.call(Operation::Replicas, String::new(), None, act))
    }

    fn restore<'a>(
        &'a self,
        from: &'a Member,
        overlay: NewOverlay,
    ) -> BoxFuture<'a, Outcome<PathBuf>> {
        let member = from.clone();
        let act = move |machine: &mut Machine, now| restore(machine, &member, overlay, now);
        Box::pin(self.call(Operation::Restore, from.to_string(), None, act))
    }

    fn remove<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Outcome<()>> {
        let (grid, whose) = (self.setup.grid, member.clone());
        let act = move |machine: &mut Machine, _| {
            own(machine, grid, &whose)?;
            machine.announce(&whose);
            machine.replicas.remove(&whose);
            machine.wake();
            Ok(())
        };
        Box::pin(self.call(Operation::RemoveCopy, member.to_string(), None, act))
    }
}

impl SimServer {
    /// The size of the disk, and what it holds now.
    async fn held(&self, original: &Original) -> Outcome<(Size, Content)> {
        let (grid, uuid, path) = (self.setup.grid, original.uuid, original.overlay.clone());
        let act = move |machine: &mut Machine, now| {
            let at_rest = may_be_copied(machine, grid, uuid, now)?;
            let overlay = machine.overlays.get(&path);
            let overlay = overlay.filter(|overlay| overlay.readable);
            let overlay =
                overlay.ok_or_else(|| DiskError::Absent(format!("usable {}", path.display())))?;
            let content = Content {
                allocated: overlay.allocated,
                written: overlay.written,
                at_rest,
            };
            Ok((overlay.size, content))
        };
        self.call(Operation::Copy, uuid.to_string(), None, act)
            .await
    }

    async fn take_offered(
        &self,
        mark: &Mark,
        offer: Offer,
        stream: &mut ByteStream,
    ) -> Outcome<()> {
        let lost = |error: io::Error| broken(&mark.member, error);
        let (grid, object) = (self.setup.grid, mark.member.to_string());
        let of = mark.clone();
        let act = move |machine: &mut Machine, _| make_room(machine, grid, &of, offer);
        let number: u64 = self
            .call(Operation::OfferCopy, object.clone(), None, act)
            .await?;
        say(stream, &Word::Ready).await.map_err(lost)?;
        let (mut sum, mut content) = (Sum::default(), None);
        loop {
            match wire::next(stream, &mut sum, MOST).await.map_err(lost)? {
                Part::Wait => {}
                Part::Bytes(0, bytes) => {
                    let read = ciborium::from_reader(bytes.as_slice());
                    content = Some(read.map_err(|error| broken(&mark.member, error))?);
                }
                Part::Bytes(_, _) | Part::Same(_) => {}
                Part::End(_) => break,
            }
        }
        let content: Content =
            content.ok_or_else(|| broken(&mark.member, "nothing of its disk came"))?;
        let of = mark.clone();
        let act = move |machine: &mut Machine, _| keep(machine, number, of, offer, content);
        self.call(Operation::TakeCopy, object, None, act).await
    }
}

/// Whether the file systems of a desktop's guest can be brought to rest.
fn may_be_copied(
    machine: &Machine,
    grid: Option<GridId>,
    uuid: Uuid,
    now: Timestamp,
) -> Outcome<bool> {
    let Some(domain) = machine.domains.get(&uuid) else {
        return Ok(false);
    };
    if !is_ours(grid, domain.mark.as_ref()) {
        return Err(HypervisorError::NotOurs {
            domain: domain.name.clone(),
            owner: domain.mark.as_ref().map(|mark| mark.grid),
        }
        .into());
    }
    match &domain.power {
        PowerState::Running { .. } => Ok(domain.answers_at.is_some_and(|at| at <= now)),
        PowerState::Off | PowerState::Crashed => Ok(false),
        PowerState::Paused(why) => Err(HypervisorError::Refused {
            what: Operation::Copy.verb(),
            domain: domain.name.clone(),
            cause: format!("it stands still: {why}"),
        }
        .into()),
    }
}

/// The number of what comes.
fn make_room(
    machine: &mut Machine,
    grid: Option<GridId>,
    mark: &Mark,
    offer: Offer,
) -> Outcome<u64> {
    if !is_ours(grid, Some(mark)) {
        return Err(DiskError::NotOurs(format!("a copy of {}", mark.member)).into());
    }
    own(machine, grid, &mark.member)?;
    let image = machine.images.get(&mark.image);
    let image = image.filter(|image| image.parts == PARTS && image.state == CopyState::Verified);
    let image = image.ok_or_else(|| absent_image(mark))?;
    let what = || format!("take a copy of {}", mark.member);
    if offer.size < image.size {
        return Err(DiskError::Io {
            what: what(),
            cause: "it is smaller than its image".to_owned(),
        }
        .into());
    }
    let free = machine.free();
    if free < offer.data {
        return Err(DiskError::Full {
            what: what(),
            needed: offer.data,
            free,
        }
        .into());
    }
    Ok(machine.announce(&mark.member))
}

fn keep(
    machine: &mut Machine,
    number: u64,
    mark: Mark,
    offer: Offer,
    content: Content,
) -> Outcome<()> {
    let member = mark.member.clone();
    if machine.arrivals.get(&member) != Some(&number) {
        let cause = "another copy takes its place, or it is to have none";
        return Err(broken(&member, cause));
    }
    let (free, needed) = (machine.free(), content.allocated);
    if free < needed {
        let what = format!("keep a copy of {member}");
        return Err(DiskError::Full { what, needed, free }.into());
    }
    let replica = SimReplica {
        mark,
        taken: offer.taken,
        size: offer.size,
        allocated: content.allocated,
        written: content.written,
    };
    machine.replicas.insert(member, replica);
    machine.wake();
    Ok(())
}

fn restore(
    machine: &mut Machine,
    from: &Member,
    new: NewOverlay,
    now: Timestamp,
) -> Outcome<PathBuf> {
    let path = overlay_path(&new.mark.member);
    let life = |m: &Mark| (m.grid, m.epoch, m.member.clone(), m.image);
    if let Some(there) = machine.overlays.get(&path) {
        return match &there.mark {
            Some(mark) if life(mark) == life(&new.mark) => Ok(path),
            Some(_) | None => {
                machine.scold(format!("restore of {}, where another's is", path.display()));
                Err(DiskError::NotOurs(path.display().to_string()).into())
            }
        };
    }
    own(machine, Some(new.mark.grid), from)?;
    let replica = machine.replicas.get(from);
    let replica = replica.ok_or_else(|| ReplicaError::Absent(from.clone()))?;
    if replica.mark.image != new.mark.image || replica.size != new.size {
        return Err(broken(from, "it is a copy of another disk"));
    }
    if !machine.images.contains_key(&new.mark.image) {
        return Err(absent_image(&new.mark));
    }
    let mark = Some(new.mark);
    let overlay = SimOverlay {
        mark: mark.clone(),
        readable: true,
        size: replica.size,
        allocated: replica.allocated,
        written: replica.written,
    };
    machine.announce(from);
    machine.replicas.remove(from);
    machine.overlays.insert(path.clone(), overlay);
    let made = path.clone();
    machine.note(now, Hand::Ours, Deed::OverlayMade { path: made, mark });
    Ok(path)
}

/// The copy that is there, if any, is not another grid's.
fn own(machine: &mut Machine, grid: Option<GridId>, member: &Member) -> Outcome<()> {
    let there = machine.replicas.get(member);
    if there.is_none_or(|replica| is_ours(grid, Some(&replica.mark))) {
        return Ok(());
    }
    Err(DiskError::NotOurs(format!("the copy of {member}")).into())
}

async fn answered(original: &Original, stream: &mut ByteStream, wanted: &Word) -> Outcome<()> {
    let member = &original.mark.member;
    let heard = hear::<Word>(stream).await;
    match heard.map_err(|error| broken(member, error))? {
        word if word == *wanted => Ok(()),
        Word::NotHere { cause } => Err(ReplicaError::Declined {
            member: member.clone(),
            cause,
        }),
        Word::Ready | Word::Here | Word::Has { .. } => {
            Err(broken(member, "the holder says something out of turn"))
        }
    }
}

fn absent_image(mark: &Mark) -> ReplicaError {
    DiskError::Absent(format!("whole image {}", mark.image.short())).into()
}

fn broken(member: &Member, cause: impl ToString) -> ReplicaError {
    ReplicaError::Broken {
        member: member.clone(),
        cause: cause.to_string(),
    }
}
