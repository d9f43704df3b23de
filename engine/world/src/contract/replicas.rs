//! The contract of [`Replicas`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::ids::{GridId, Member};
use coppice_schema::known::GuestState;
use coppice_schema::units::Timestamp;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::moves::cut::Cut;
use super::{Outcome, Report, ensure};
use crate::disks::{DiskError, NewOverlay};
use crate::hypervisor::{Definition, Hypervisor, HypervisorError, Mark};
use crate::moves::Road;
use crate::replicas::{Original, ReplicaError, Replicas, Sent};

/// Two servers, and what is needed to try copies between them.
pub struct Subject {
    /// The domains of the server whose desktops are copied.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its copies.
    pub home: Arc<dyn Replicas>,
    /// The domains of the server that holds the copies.
    pub elsewhere: Arc<dyn Hypervisor>,
    /// Its copies.
    pub holder: Arc<dyn Replicas>,
    /// What a test can do that the ports cannot.
    pub means: Box<dyn Means>,
    /// Desktops that do not exist yet, with their overlays at home: one for each check.
    pub guests: Vec<Definition>,
    /// A running domain that is not ours.
    pub foreign: Option<Uuid>,
}

/// The means of a test.
pub trait Means: Send + Sync {
    /// The way to the holder, which takes what comes as a copy of that.
    fn road<'a>(&'a self, mark: &'a Mark) -> Box<dyn Road + 'a>;

    /// The guest, which runs at home, writes that, durably.
    fn write<'a>(
        &'a self,
        guest: &'a Definition,
        written: u64,
    ) -> BoxFuture<'a, Result<(), Outcome>>;

    /// What the guest of that desktop, which runs elsewhere, finds written.
    fn read<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<u64, Outcome>>;

    /// Removes its overlay from wherever it is.
    fn clear<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), Outcome>>;
}

impl From<ReplicaError> for Outcome {
    fn from(error: ReplicaError) -> Self {
        Self::Failed(error.to_string())
    }
}

type Check = for<'a> fn(&'a Subject, &'a Definition) -> BoxFuture<'a, Result<(), Outcome>>;

/// Checks in order; the names say what is promised. One of them is made with each guest.
const CHECKS: &[(&str, Check)] = &[
    (
        "a copy is what the disk held then, and can be started elsewhere",
        |s, g| Box::pin(starts_elsewhere(s, g)),
    ),
    ("a newer copy takes the place of an older one", |s, g| {
        Box::pin(renewed(s, g))
    }),
    (
        "a road that breaks anywhere leaves the former copy, and the guest as it is",
        |s, g| Box::pin(broken_roads(s, g)),
    ),
    (
        "a sender that is cut off anywhere leaves the former copy, and the guest as it is",
        |s, g| Box::pin(cut_off(s, g)),
    ),
    ("what is off is copied too", |s, g| Box::pin(off(s, g))),
    (
        "what is not ours, or cannot be started there, is not copied",
        |s, g| Box::pin(refused(s, g)),
    ),
    ("what was removed is gone, and can come again", |s, g| {
        Box::pin(removed(s, g))
    }),
];

/// A desktop of the smallest kind for the checks, whose overlay has no place yet.
#[must_use]
pub fn guest(grid: GridId, number: u32) -> Definition {
    super::hypervisor::smallest(grid, number, 1)
}

/// How many guests the checks need.
pub const GUESTS: usize = CHECKS.len();

/// Longest time that anything here may take. Nothing is expected to: this only ends a check that would never end.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes every check, one after another, removing its desktop after each.
pub async fn run(subject: &Subject) -> Report {
    let mut report = Report::default();
    for ((name, check), guest) in CHECKS.iter().zip(&subject.guests) {
        tracing::info!(name, "contract");
        let outcome = match timeout(PATIENCE, check(subject, guest)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Outcome::Failed("it did not end".to_owned())),
        };
        report.note(name, outcome);
        if let Err(Outcome::Failed(why) | Outcome::Skipped(why)) = subject.sweep(guest).await {
            let why = format!("cannot clean up: {why}");
            report.note(name, Err(Outcome::Failed(why)));
        }
    }
    report
}

fn original(guest: &Definition) -> Original {
    Original {
        uuid: guest.spec.uuid,
        mark: guest.mark.clone(),
        overlay: guest.overlay.clone(),
    }
}

/// The same desktop in its next life.
fn next_life(guest: &Definition) -> Definition {
    let mut next = guest.clone();
    next.spec.member.incarnation.0 += 1;
    let (mark, member) = (&guest.mark, next.spec.member.clone());
    next.spec.uuid = member
        .desktop
        .uuid(mark.grid, mark.epoch, member.incarnation);
    next.mark.member = member;
    next
}

impl Subject {
    async fn begin(&self, guest: &Definition) -> Result<(), Outcome> {
        self.hypervisor.define(guest).await?;
        self.hypervisor.start(guest.spec.uuid).await?;
        answers(self.hypervisor.as_ref(), guest.spec.uuid).await
    }

    async fn send(&self, guest: &Definition, taken: u64) -> Result<Sent, ReplicaError> {
        let road = self.means.road(&guest.mark);
        self.send_along(guest, taken, road.as_ref()).await
    }

    async fn send_along(
        &self,
        guest: &Definition,
        taken: u64,
        road: &dyn Road,
    ) -> Result<Sent, ReplicaError> {
        let original = original(guest);
        self.home.send(&original, Timestamp(taken), road).await
    }

    /// When the copy of a desktop was taken.
    async fn kept(&self, guest: &Definition) -> Result<Option<u64>, Outcome> {
        let all = self.holder.replicas().await?;
        let mut found = all.into_iter().filter(|it| it.mark == guest.mark);
        let first = found.next();
        ensure!(found.next().is_none(), "there are two copies of it");
        Ok(first.map(|it| it.taken.0))
    }

    async fn restored(&self, guest: &Definition) -> Result<(Definition, PathBuf), Outcome> {
        let mut next = next_life(guest);
        let overlay = NewOverlay {
            mark: next.mark.clone(),
            size: guest.spec.hardware.disk,
        };
        let path = self.holder.restore(&guest.mark.member, overlay).await?;
        next.overlay.clone_from(&path);
        Ok((next, path))
    }

    /// Home is lost; what the copy of the desktop holds, whose guest is started elsewhere.
    async fn found_elsewhere(&self, guest: &Definition) -> Result<u64, Outcome> {
        self.hypervisor.power_off(guest.spec.uuid).await?;
        self.hypervisor.undefine(guest.spec.uuid).await?;
        let (next, path) = self.restored(guest).await?;
        let (_, again) = self.restored(guest).await?;
        ensure!(path == again, "restored again, it is {}", again.display());
        ensure!(
            self.kept(guest).await?.is_none(),
            "there is a copy of what was restored"
        );
        self.elsewhere.define(&next).await?;
        self.elsewhere.start(next.spec.uuid).await?;
        answers(self.elsewhere.as_ref(), next.spec.uuid).await?;
        self.means.read(&next).await
    }

    async fn sweep(&self, guest: &Definition) -> Result<(), Outcome> {
        for (hypervisor, definition) in [
            (&self.hypervisor, guest),
            (&self.elsewhere, &next_life(guest)),
        ] {
            let uuid = definition.spec.uuid;
            match hypervisor.power_off(uuid).await {
                Ok(()) => hypervisor.undefine(uuid).await?,
                Err(HypervisorError::Absent(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.means.clear(&definition.mark.member).await?;
        }
        Ok(self.holder.remove(&guest.mark.member).await?)
    }
}

async fn answers(hypervisor: &dyn Hypervisor, uuid: Uuid) -> Result<(), Outcome> {
    let end = Instant::now() + PATIENCE;
    while !matches!(
        hypervisor.ask_guest(uuid).await?,
        GuestState::Answers { .. }
    ) {
        ensure!(Instant::now() < end, "its guest never answers");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn starts_elsewhere(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    subject.means.write(guest, 1).await?;
    let sent = subject.send(guest, 1).await?;
    ensure!(sent.at_rest, "its agent answers, and it was not at rest");
    ensure!(sent.bytes.0 > 0, "nothing was sent");
    ensure!(
        subject.kept(guest).await? == Some(1),
        "sent, it is not kept"
    );
    subject.means.write(guest, 2).await?;
    let found = subject.found_elsewhere(guest).await?;
    ensure!(found == 1, "it holds {found}, and 1 was written before");
    Ok(())
}

async fn renewed(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    for round in 1..=3 {
        subject.means.write(guest, round).await?;
        subject.send(guest, round).await?;
        let kept = subject.kept(guest).await?;
        ensure!(kept == Some(round), "after round {round}, {kept:?} is kept");
    }
    let found = subject.found_elsewhere(guest).await?;
    ensure!(found == 3, "it holds {found}, and 3 was written last");
    Ok(())
}

/// Where a transfer is cut, in thousandths of the bytes of the one before, which had about as many: in the first half of
/// them, so that it is never after the last.
const CUTS: [u64; 6] = [0, 1, 10, 100, 250, 500];

/// The former copy is there, and the guest is as if nobody had ever thought of copying it.
async fn as_before(subject: &Subject, guest: &Definition, written: u64) -> Result<(), Outcome> {
    let kept = subject.kept(guest).await?;
    ensure!(
        kept == Some(1),
        "the copy of 1 is gone, and {kept:?} is kept"
    );
    subject.means.write(guest, written).await
}

/// The bytes that pass when a copy is renewed; it is kept as of 1.
async fn measured(subject: &Subject, guest: &Definition) -> Result<u64, Outcome> {
    subject.send(guest, 1).await?;
    subject.means.write(guest, 1).await?;
    let whole = Cut::never(subject.means.road(&guest.mark));
    subject.send_along(guest, 1, &whole).await?;
    Ok(whole.passed())
}

async fn broken_roads(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    subject.means.write(guest, 1).await?;
    let whole = measured(subject, guest).await?;
    for part in CUTS {
        let limit = whole * part / 1000;
        let cut = Cut::after(subject.means.road(&guest.mark), limit);
        let sent = subject.send_along(guest, 2, &cut).await;
        ensure!(
            sent.is_err(),
            "it was sent, though its road broke after {part} ‰"
        );
        as_before(subject, guest, part).await?;
    }
    let found = subject.found_elsewhere(guest).await?;
    ensure!(found == 1, "it holds {found}, and 1 was kept");
    Ok(())
}

async fn cut_off(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    subject.means.write(guest, 1).await?;
    let whole = measured(subject, guest).await?;
    for part in CUTS {
        let limit = whole * part / 1000;
        let road = Cut::never(subject.means.road(&guest.mark));
        let ended = {
            let sending = subject.send_along(guest, 2, &road);
            tokio::select! {
                sent = sending => Some(sent),
                () = road.until(limit) => None,
            }
        };
        ensure!(ended.is_none(), "it ended before {part} ‰ had passed");
        as_before(subject, guest, part).await?;
    }
    subject.means.write(guest, 3).await?;
    subject.send(guest, 3).await?;
    let found = subject.found_elsewhere(guest).await?;
    ensure!(found == 3, "it holds {found}, and 3 was written last");
    Ok(())
}

async fn off(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    subject.means.write(guest, 1).await?;
    subject.hypervisor.power_off(guest.spec.uuid).await?;
    subject.send(guest, 1).await?;
    ensure!(
        subject.kept(guest).await? == Some(1),
        "sent, it is not kept"
    );
    let found = subject.found_elsewhere(guest).await?;
    ensure!(found == 1, "it holds {found}, and 1 was written");
    Ok(())
}

async fn refused(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    let mut other = guest.mark.clone();
    other.image = coppice_schema::Digest([0x5a; 32]);
    let road = subject.means.road(&other);
    let sent = subject.send_along(guest, 1, road.as_ref()).await;
    ensure!(
        matches!(sent, Err(ReplicaError::Declined { .. })),
        "to where its image is not: {sent:?}"
    );
    let mut other = guest.mark.clone();
    other.grid.0[0] ^= 1;
    let road = subject.means.road(&other);
    let sent = subject.send_along(guest, 1, road.as_ref()).await;
    ensure!(
        matches!(sent, Err(ReplicaError::Declined { .. })),
        "as another grid's: {sent:?}"
    );
    ensure!(
        subject.kept(guest).await?.is_none(),
        "what was declined is kept"
    );
    let restored = subject.restored(guest).await;
    ensure!(restored.is_err(), "what was never kept was restored");
    let next = next_life(guest);
    let overlay = NewOverlay {
        mark: next.mark,
        size: guest.spec.hardware.disk,
    };
    let absent = subject.holder.restore(&guest.mark.member, overlay).await;
    ensure!(
        absent == Err(ReplicaError::Absent(guest.mark.member.clone())),
        "restored without a copy: {absent:?}"
    );
    if let Some(foreign) = subject.foreign {
        let mut original = original(guest);
        original.uuid = foreign;
        let road = subject.means.road(&guest.mark);
        let sent = subject
            .home
            .send(&original, Timestamp(1), road.as_ref())
            .await;
        ensure!(
            matches!(
                sent,
                Err(ReplicaError::Hypervisor(HypervisorError::NotOurs { .. }))
            ),
            "what is not ours: {sent:?}"
        );
    }
    let mut original = original(guest);
    original.uuid = Uuid::from_u128(1);
    original.overlay.set_extension("gone");
    let road = subject.means.road(&guest.mark);
    let sent = subject
        .home
        .send(&original, Timestamp(1), road.as_ref())
        .await;
    ensure!(
        matches!(
            sent,
            Err(ReplicaError::Disk(
                DiskError::Absent(_) | DiskError::Io { .. }
            ))
        ),
        "what is not there: {sent:?}"
    );
    subject.means.write(guest, 1).await
}

async fn removed(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    subject.means.write(guest, 1).await?;
    for taken in 1..=2 {
        subject.send(guest, taken).await?;
        ensure!(
            subject.kept(guest).await? == Some(taken),
            "sent, it is not kept"
        );
        for _ in 0..2 {
            subject.holder.remove(&guest.mark.member).await?;
            ensure!(subject.kept(guest).await?.is_none(), "removed, it is kept");
        }
    }
    Ok(())
}
