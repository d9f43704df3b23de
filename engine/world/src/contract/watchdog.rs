//! The contract of [`Watchdog`].

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_schema::units::Span;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::{Outcome, Report, ensure};
use crate::watchdog::{Guard, Watchdog, WatchdogError};

/// A watchdog, and the means to see what it does.
pub struct Subject {
    /// It.
    pub watchdog: Arc<dyn Watchdog>,
    /// The means.
    pub means: Box<dyn Means>,
}

/// What becomes of whoever told the watchdog something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It is killed.
    Killed,
    /// It is stopped, and says nothing any more.
    Stopped,
}

/// Means to bring about what a watchdog waits for.
pub trait Means: Send + Sync {
    /// Begins what looks like the process of that domain, and is not ours to end.
    ///
    /// # Errors
    /// When it cannot.
    fn start(&self, domain: Uuid) -> Result<(), Outcome>;

    /// Whether what was begun for that domain runs.
    ///
    /// # Errors
    /// When that cannot be seen.
    fn runs(&self, domain: Uuid) -> Result<bool, Outcome>;

    /// Ends all that was begun.
    fn sweep(&self);

    /// Until something may have changed: a moment of real time, or the next event.
    fn breath(&self) -> BoxFuture<'_, ()>;

    /// Somebody else tells the watchdog to guard, and then comes to that end.
    fn another_tells(&self, guard: Guard, end: End) -> BoxFuture<'_, Result<(), Outcome>>;
}

impl From<WatchdogError> for Outcome {
    fn from(error: WatchdogError) -> Self {
        Self::Failed(error.to_string())
    }
}

type Check = for<'a> fn(&'a Subject) -> BoxFuture<'a, Result<(), Outcome>>;

const CHECKS: &[(&str, Check)] = &[
    (
        "what is guarded is ended at its moment, and nothing else",
        |s| Box::pin(s.ends()),
    ),
    ("what is guarded anew in time is not ended", |s| {
        Box::pin(s.renewed())
    }),
    (
        "what appears after the moment is ended too, until it is guarded anew",
        |s| Box::pin(s.appears()),
    ),
    ("what is no longer guarded is not ended", |s| {
        Box::pin(s.let_go())
    }),
    ("it outlives the one who told it", |s| {
        Box::pin(s.outlives(End::Killed))
    }),
    ("it needs no word of the one who told it", |s| {
        Box::pin(s.outlives(End::Stopped))
    }),
    ("it says what is in force", |s| Box::pin(s.says())),
];

/// A moment that is soon, and far enough away for a loaded machine to do a little before.
const SOON: Span = Span(1_500);
/// A moment that does not come in a check.
const NEVER: Span = Span::hours(24);
/// Longest that anything may take here. Nothing is expected to.
const PATIENCE: Span = Span::seconds(60);

/// Makes every check, one after another.
pub async fn run(subject: &Subject) -> Report {
    let mut report = Report::default();
    for (name, check) in CHECKS {
        tracing::info!(name, "contract");
        report.note(name, check(subject).await);
        subject.means.sweep();
        let cleared = subject.watchdog.guard(Guard::default()).await;
        if let Err(error) = cleared {
            report.note(name, Err(Outcome::Failed(format!("clean up: {error}"))));
        }
    }
    report
}

/// Domains that no others are, one for each number.
fn domain(number: u8) -> Uuid {
    let mut bytes = *b"watchdog \x47\0\x80\0\0\0\0";
    if let Some(last) = bytes.last_mut() {
        *last = number;
    }
    Uuid::from_bytes(bytes)
}

impl Subject {
    fn after(&self, span: Span) -> Span {
        Span(self.watchdog.passed().0 + span.0)
    }

    async fn guard(&self, numbers: &[u8], until: Span) -> Result<(), Outcome> {
        let domains: BTreeSet<Uuid> = numbers.iter().copied().map(domain).collect();
        Ok(self.watchdog.guard(Guard { domains, until }).await?)
    }

    fn start(&self, numbers: &[u8]) -> Result<(), Outcome> {
        numbers
            .iter()
            .try_for_each(|n| self.means.start(domain(*n)))
    }

    fn runs(&self, number: u8) -> Result<bool, Outcome> {
        self.means.runs(domain(number))
    }

    async fn ended(&self, number: u8) -> Result<(), Outcome> {
        let end = self.after(PATIENCE);
        while self.runs(number)? {
            ensure!(self.watchdog.passed() < end, "{number} was not ended");
            self.means.breath().await;
        }
        Ok(())
    }

    async fn moment(&self, moment: Span) {
        while self.watchdog.passed() <= moment {
            self.means.breath().await;
        }
    }

    async fn ends(&self) -> Result<(), Outcome> {
        self.start(&[1, 2, 3])?;
        let until = self.after(SOON);
        self.guard(&[1, 2], until).await?;
        ensure!(
            self.runs(1)? || self.watchdog.passed() >= until,
            "it was ended before its moment"
        );
        self.ended(1).await?;
        ensure!(
            self.watchdog.passed() >= until,
            "it was ended before its moment"
        );
        self.ended(2).await?;
        ensure!(self.runs(3)?, "another was ended");
        Ok(())
    }

    async fn renewed(&self) -> Result<(), Outcome> {
        self.start(&[1])?;
        let first = self.after(SOON);
        self.guard(&[1], first).await?;
        self.guard(&[1], self.after(NEVER)).await?;
        ensure!(
            self.watchdog.passed() < first,
            "this machine is too slow for the check"
        );
        self.moment(Span(first.0 + SOON.0)).await;
        ensure!(self.runs(1)?, "it was ended, though it was guarded anew");
        Ok(())
    }

    async fn appears(&self) -> Result<(), Outcome> {
        self.start(&[1, 2])?;
        self.guard(&[1], self.after(Span(0))).await?;
        self.ended(1).await?;
        for _ in 0..2 {
            self.start(&[1])?;
            self.ended(1).await?;
        }
        self.guard(&[1], self.after(NEVER)).await?;
        self.start(&[1])?;
        self.moment(self.after(SOON)).await;
        ensure!(self.runs(1)?, "it was ended, though it was guarded anew");
        ensure!(self.runs(2)?, "another was ended");
        Ok(())
    }

    async fn let_go(&self) -> Result<(), Outcome> {
        self.start(&[1, 2])?;
        let until = self.after(SOON);
        self.guard(&[1, 2], until).await?;
        self.guard(&[2], until).await?;
        self.ended(2).await?;
        ensure!(self.runs(1)?, "one was ended that is not guarded any more");
        Ok(())
    }

    async fn outlives(&self, end: End) -> Result<(), Outcome> {
        self.start(&[1, 2])?;
        let until = self.after(SOON);
        let guard = Guard {
            domains: BTreeSet::from([domain(1)]),
            until,
        };
        self.means.another_tells(guard, end).await?;
        self.ended(1).await?;
        ensure!(
            self.watchdog.passed() >= until,
            "it was ended before its moment"
        );
        ensure!(self.runs(2)?, "another was ended");
        Ok(())
    }

    async fn says(&self) -> Result<(), Outcome> {
        let nothing = self.watchdog.guarding().await?;
        ensure!(nothing.domains.is_empty(), "it guards {nothing:?}");
        let guard = Guard {
            domains: BTreeSet::from([domain(1), domain(2)]),
            until: self.after(NEVER),
        };
        self.means.another_tells(guard.clone(), End::Killed).await?;
        let said = self.watchdog.guarding().await?;
        ensure!(said == guard, "it says {said:?}, and was told {guard:?}");
        Ok(())
    }
}
