//! The contract of [`Moves`].

pub(super) mod cut;

use std::sync::Arc;
use std::time::Duration;

use coppice_schema::ids::GridId;
use coppice_schema::known::PowerState;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use self::cut::Cut;
use super::{Outcome, Report, ensure};
use crate::hypervisor::{Definition, Hypervisor, HypervisorError};
use crate::moves::{MoveError, Moves, Road};

/// Two servers, and what is needed to try moves between them.
pub struct Subject {
    /// The domains of the server that sends.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its moves.
    pub moves: Arc<dyn Moves>,
    /// The server that receives.
    pub receiver: Box<dyn Receiver>,
    /// Desktops that do not exist yet, with their overlays at the sender: one for each check.
    pub guests: Vec<Definition>,
    /// A running domain that is not ours, where there can be one.
    pub foreign: Option<Uuid>,
}

/// The receiving server. It may be another process.
pub trait Receiver: Send + Sync {
    /// Makes a fresh overlay for the desktop.
    fn prepare<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>>;

    /// The way there, for this desktop.
    fn road<'a>(&'a self, guest: &'a Definition) -> Box<dyn Road + 'a>;

    /// [`Moves::enter`] there; an error in words.
    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), String>>;

    /// [`Hypervisor::start`] there; an error in words.
    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), String>>;

    /// What it is doing there; `None`: there is no such domain.
    fn power(&self, uuid: Uuid) -> BoxFuture<'_, Result<Option<PowerState>, Outcome>>;

    /// Whether its guest answers there.
    fn answers(&self, uuid: Uuid) -> BoxFuture<'_, Result<bool, Outcome>>;

    /// Removes it there, with its overlay.
    fn clear<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>>;
}

impl From<MoveError> for Outcome {
    fn from(error: MoveError) -> Self {
        Self::Failed(error.to_string())
    }
}

type Check = for<'a> fn(&'a Subject, &'a Definition) -> BoxFuture<'a, Result<(), Outcome>>;

/// Checks in order; the names say what is promised. One of them is made with each guest.
const CHECKS: &[(&str, Check)] = &[
    (
        "a desktop goes on at the other server, and only there",
        |s, g| Box::pin(goes_on(s, g)),
    ),
    ("sent twice and let in twice, it has moved once", |s, g| {
        Box::pin(repeated(s, g))
    }),
    (
        "after it was sent it can still stay, and go later",
        |s, g| Box::pin(stays(s, g)),
    ),
    ("nothing but the decision lets it go on", |s, g| {
        Box::pin(only_decided(s, g))
    }),
    (
        "a road that breaks anywhere leaves it running here",
        |s, g| Box::pin(broken_roads(s, g)),
    ),
    (
        "a sender that is cut off anywhere leaves it whole",
        |s, g| Box::pin(cut_off(s, g)),
    ),
    ("what does not run, or is not ours, is not sent", |s, g| {
        Box::pin(not_sent(s, g))
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
/// Longest time that a process takes to end that has begun to.
const ENDING: Duration = Duration::from_secs(20);

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
            report.note(
                name,
                Err(Outcome::Failed(format!("cannot clean up: {why}"))),
            );
        }
    }
    report
}

impl Subject {
    async fn begin(&self, guest: &Definition) -> Result<(), Outcome> {
        self.hypervisor.define(guest).await?;
        self.hypervisor.start(guest.spec.uuid).await?;
        self.answers_here(guest.spec.uuid).await?;
        self.receiver.prepare(guest).await
    }

    async fn here(&self, uuid: Uuid) -> Result<Option<PowerState>, Outcome> {
        let all = self.hypervisor.list().await?;
        let found = all.into_iter().find(|domain| domain.uuid == uuid);
        Ok(found.map(|domain| domain.power))
    }

    async fn runs_here(&self, uuid: Uuid) -> Result<bool, Outcome> {
        Ok(matches!(
            self.here(uuid).await?,
            Some(PowerState::Running { .. })
        ))
    }

    async fn runs_there(&self, uuid: Uuid) -> Result<bool, Outcome> {
        let power = self.receiver.power(uuid).await?;
        Ok(matches!(power, Some(PowerState::Running { .. })))
    }

    /// It does not run there. One whose memory broke off is ending, which may be taken for running.
    async fn ends_there(&self, uuid: Uuid) -> Result<(), Outcome> {
        let ended = until("its end there", || async {
            Ok(!self.runs_there(uuid).await?)
        });
        let both = || Outcome::Failed("it runs on both servers".to_owned());
        timeout(ENDING, ended).await.map_err(|_| both())?
    }

    async fn answers_here(&self, uuid: Uuid) -> Result<(), Outcome> {
        use coppice_schema::known::GuestState;
        until("its guest answers here", || async {
            let said = self.hypervisor.ask_guest(uuid).await?;
            Ok(matches!(said, GuestState::Answers { .. }))
        })
        .await
    }

    async fn answers_there(&self, uuid: Uuid) -> Result<(), Outcome> {
        until("its guest answers there", || self.receiver.answers(uuid)).await
    }

    async fn sent(&self, guest: &Definition) -> Result<(), Outcome> {
        let road = self.receiver.road(guest);
        self.moves.send(guest.spec.uuid, road.as_ref()).await?;
        let uuid = guest.spec.uuid;
        ensure!(
            !self.runs_here(uuid).await?,
            "it runs here after it was sent"
        );
        ensure!(
            !self.runs_there(uuid).await?,
            "it runs there before it was let in"
        );
        Ok(())
    }

    async fn entered(&self, guest: &Definition) -> Result<(), Outcome> {
        self.receiver.enter(guest).await.map_err(Outcome::Failed)?;
        ensure!(
            self.runs_there(guest.spec.uuid).await?,
            "let in, it does not run"
        );
        ensure!(
            !self.runs_here(guest.spec.uuid).await?,
            "it runs on both servers"
        );
        self.answers_there(guest.spec.uuid).await
    }

    /// It is as if nobody had ever thought of moving it.
    async fn as_before(&self, guest: &Definition) -> Result<(), Outcome> {
        let uuid = guest.spec.uuid;
        self.moves.stay(uuid).await?;
        ensure!(
            self.runs_here(uuid).await?,
            "it stays, and is {:?}",
            self.here(uuid).await?
        );
        self.ends_there(uuid).await?;
        self.answers_here(uuid).await
    }

    async fn sweep(&self, guest: &Definition) -> Result<(), Outcome> {
        let uuid = guest.spec.uuid;
        if self.here(uuid).await?.is_some() {
            self.hypervisor.power_off(uuid).await?;
            self.hypervisor.undefine(uuid).await?;
        }
        self.receiver.clear(guest).await
    }
}

/// Looks until `holds` says so.
async fn until<F>(what: &str, mut holds: impl FnMut() -> F) -> Result<(), Outcome>
where
    F: Future<Output = Result<bool, Outcome>>,
{
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < end, "never came: {what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn goes_on(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    let uuid = guest.spec.uuid;
    subject.begin(guest).await?;
    subject.sent(guest).await?;
    subject.entered(guest).await?;
    // What is left here goes as any other desktop does.
    subject.hypervisor.power_off(uuid).await?;
    subject.hypervisor.undefine(uuid).await?;
    ensure!(subject.here(uuid).await?.is_none(), "it is still here");
    subject.answers_there(uuid).await
}

async fn repeated(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    for _ in 0..2 {
        subject.sent(guest).await?;
    }
    for _ in 0..2 {
        subject.entered(guest).await?;
    }
    // By now it lives there; whoever sends it once more must not be told that it waits.
    let road = subject.receiver.road(guest);
    let again = subject.moves.send(guest.spec.uuid, road.as_ref()).await;
    ensure!(again.is_err(), "it was sent to where it runs");
    ensure!(
        !subject.runs_here(guest.spec.uuid).await?,
        "it runs on both servers"
    );
    ensure!(
        subject.runs_there(guest.spec.uuid).await?,
        "it runs nowhere"
    );
    Ok(())
}

async fn stays(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    // One that nobody sent stays as it is.
    subject.as_before(guest).await?;
    for _ in 0..2 {
        subject.sent(guest).await?;
        subject.as_before(guest).await?;
    }
    subject.sent(guest).await?;
    subject.entered(guest).await
}

async fn only_decided(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    let uuid = guest.spec.uuid;
    subject.begin(guest).await?;
    let early = subject.receiver.enter(guest).await;
    ensure!(early.is_err(), "it was let in before it came");
    ensure!(subject.runs_here(uuid).await?, "it does not run any more");
    subject.sent(guest).await?;
    let started = subject.hypervisor.start(uuid).await;
    ensure!(
        matches!(started, Err(HypervisorError::Refused { .. })),
        "started where it was sent from: {started:?}"
    );
    let started = subject.receiver.start(uuid).await;
    ensure!(
        started.is_err(),
        "started where it came to, without a decision"
    );
    ensure!(!subject.runs_here(uuid).await?, "it runs here");
    ensure!(!subject.runs_there(uuid).await?, "it runs there");
    subject.as_before(guest).await
}

/// Where a transfer is cut, in thousandths of its bytes. Most of it is memory; what comes before is less than one.
const CUTS: [u64; 8] = [0, 1, 10, 100, 500, 900, 990, 999];

async fn broken_roads(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    let whole = Cut::never(subject.receiver.road(guest));
    subject.moves.send(guest.spec.uuid, &whole).await?;
    subject.as_before(guest).await?;
    for part in CUTS {
        let cut = Cut::after(subject.receiver.road(guest), whole.passed() / 1000 * part);
        let sent = subject.moves.send(guest.spec.uuid, &cut).await;
        ensure!(
            part > 990 || sent.is_err(),
            "it was sent, though its road broke after {part} ‰"
        );
        subject.as_before(guest).await?;
    }
    subject.sent(guest).await?;
    subject.entered(guest).await
}

async fn cut_off(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    subject.begin(guest).await?;
    let whole = Cut::never(subject.receiver.road(guest));
    subject.moves.send(guest.spec.uuid, &whole).await?;
    subject.as_before(guest).await?;
    for part in CUTS {
        let limit = whole.passed() / 1000 * part;
        let road = Cut::never(subject.receiver.road(guest));
        let ended = {
            let sending = subject.moves.send(guest.spec.uuid, &road);
            tokio::select! {
                sent = sending => Some(sent),
                () = road.until(limit) => None,
            }
        };
        ensure!(
            part > 990 || ended.is_none(),
            "it ended before {part} ‰ had passed"
        );
        subject.as_before(guest).await?;
    }
    subject.sent(guest).await?;
    subject.entered(guest).await
}

async fn not_sent(subject: &Subject, guest: &Definition) -> Result<(), Outcome> {
    let uuid = guest.spec.uuid;
    let road = subject.receiver.road(guest);
    let absent = subject.moves.send(uuid, road.as_ref()).await;
    ensure!(
        absent == Err(MoveError::Hypervisor(HypervisorError::Absent(uuid))),
        "one that does not exist: {absent:?}"
    );
    subject.hypervisor.define(guest).await?;
    let off = subject.moves.send(uuid, road.as_ref()).await;
    ensure!(off.is_err(), "one that is off was sent");
    // Its power may have gone while it stood still: then it has nothing to go on with.
    subject.moves.stay(uuid).await?;
    ensure!(
        !subject.runs_here(uuid).await?,
        "one that is off was started"
    );
    ensure!(
        subject.receiver.power(uuid).await?.is_none(),
        "something of it has come"
    );
    let Some(foreign) = subject.foreign else {
        return Err(Outcome::Skipped(
            "there is no foreign domain here".to_owned(),
        ));
    };
    for told in [
        subject.moves.send(foreign, road.as_ref()).await,
        subject.moves.stay(foreign).await,
    ] {
        ensure!(
            matches!(
                told,
                Err(MoveError::Hypervisor(HypervisorError::NotOurs { .. }))
            ),
            "a foreign domain: {told:?}"
        );
    }
    Ok(())
}
