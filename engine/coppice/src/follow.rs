//! Following a run until it settles, waits for something far away, or can go no further.

use std::time::{Duration, Instant};

use coppice_plans::plan::{Finding, FindingKind, Severity};
use coppice_plans::text;
use coppice_portal::api::{DriftReport, RunStatus, Status};
use coppice_schema::ids::Revision;

use crate::client::{Client, ClientError};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::present::{self, Holding};
use crate::progress::Progress;
use crate::screen::Screen;
use crate::watch::Watch;

/// How a run ended, as far as it was followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The grid is what was asked for.
    Settled,
    /// The rest waits for people, a window or a pause; the grid goes on then.
    Waits(Vec<String>),
    /// The rest needs an approval.
    Blocked(Vec<String>),
    /// Not everything could be done; why, in words.
    Partly(Vec<String>),
    /// The rest waits for servers that are not seen.
    Unseen(Vec<String>),
    /// Another revision came in between.
    Superseded(Revision),
    /// Ctrl-C.
    Interrupted,
}

/// What was seen of a run last.
pub(crate) struct Followed {
    /// How it ended.
    pub(crate) ending: Ending,
    /// The run.
    pub(crate) run: Option<RunStatus>,
}

/// Follows the run of `revision`, of about `orders` orders. After `patience` without headway what fails counts as
/// failed, and a server that does not answer is given up; the run goes on.
pub(crate) async fn follow(
    revision: Revision,
    orders: u64,
    patience: Duration,
    client: &Client,
    screen: &Screen,
) -> Result<Followed, Failure> {
    let progress = Progress::things(screen, &format!("revision {revision}"), orders);
    let mut watcher = Watcher {
        revision,
        patience,
        client,
        watch: Watch::new(client, patience),
        better: Instant::now(),
        best: (0, 0),
        stale: None,
        run: None,
    };
    let interrupted = tokio::signal::ctrl_c();
    let ending = tokio::select! {
        ending = watcher.until_it_ends(orders, &progress) => ending?,
        _ = interrupted => Ending::Interrupted,
    };
    progress.finish();
    Ok(Followed {
        ending,
        run: watcher.run,
    })
}

struct Watcher<'a> {
    revision: Revision,
    patience: Duration,
    client: &'a Client,
    watch: Watch<'a>,
    better: Instant,
    /// The most that was done, and the most desktops that were ready: headway is when either grows.
    best: (u32, u32),
    /// Whether the run had finished when it was first looked at, and not everything was as it should be: a revision that
    /// is applied again has a run of long ago, which says nothing of what is under way.
    stale: Option<bool>,
    run: Option<RunStatus>,
}

impl Watcher<'_> {
    async fn until_it_ends(&mut self, orders: u64, progress: &Progress) -> Result<Ending, Failure> {
        loop {
            if let Some(status) = self.status(progress).await?
                && let Some(ending) = self.look(&status, orders, progress).await?
            {
                return Ok(ending);
            }
            self.watch.wait().await;
        }
    }

    /// The status, or nothing while the server is away for a while.
    async fn status(&mut self, progress: &Progress) -> Result<Option<Status>, Failure> {
        let found = self.watch.look("/status").await;
        let found = found.map_err(|error| self.lost(error))?;
        if found.is_none() {
            progress.say(&format!(
                "revision {}: {} does not answer, trying again",
                self.revision,
                self.client.target()
            ));
        }
        Ok(found)
    }

    fn lost(&self, error: ClientError) -> Failure {
        Failure::from(error).hint(format!(
            "revision {} is committed and the grid goes on with it: coppice status",
            self.revision
        ))
    }

    async fn look(
        &mut self,
        status: &Status,
        orders: u64,
        progress: &Progress,
    ) -> Result<Option<Ending>, Failure> {
        if status.revision > self.revision {
            return Ok(Some(Ending::Superseded(status.revision)));
        }
        let run = status
            .run
            .clone()
            .filter(|run| run.revision == self.revision);
        let done = run.as_ref().map_or(0, |run| run.done);
        let ready: u32 = status.pools.iter().map(|p| p.available + p.in_use).sum();
        if done > self.best.0 || ready > self.best.1 {
            self.best = (done.max(self.best.0), ready.max(self.best.1));
            self.better = Instant::now();
        }
        progress.set(u64::from(done).min(orders), orders);
        progress.say(&words(self.revision, run.as_ref(), status));
        self.run = run;
        let finished = self.run.as_ref().is_some_and(|run| run.finished.is_some());
        let stale = *self.stale.get_or_insert(finished);
        if status.settled || (finished && !stale) {
            return Ok(Some(Ending::Settled));
        }
        self.standstill(status).await
    }

    /// Whether nothing will happen for now, and why.
    async fn standstill(&self, status: &Status) -> Result<Option<Ending>, Failure> {
        let busy: u32 = status
            .pools
            .iter()
            .map(|p| p.provisioning + p.deleting)
            .sum();
        let open = self.run.as_ref().map_or(0, |run| run.open_orders);
        let stuck = self.better.elapsed() > self.patience;
        let failing = failures(status);
        if stuck {
            let unseen = told(status, is_unseen);
            if !unseen.is_empty() {
                return Ok(Some(Ending::Unseen(unseen)));
            }
            if !failing.is_empty() && (open == 0 || failing_orders(status)) {
                return Ok(Some(Ending::Partly(failing)));
            }
        }
        if open > 0 || busy > 0 {
            return Ok(None);
        }
        let Ok(report) = self.client.get::<DriftReport>("/drift").await else {
            return Ok(None);
        };
        let why = |waits: Vec<coppice_plans::plan::Wait>| waits.iter().map(text::wait).collect();
        Ok(match present::holding(&report.document) {
            Holding::Far(waits) => Some(Ending::Waits(why(waits))),
            Holding::Approval(waits) => Some(Ending::Blocked(why(waits))),
            Holding::Trouble(waits) if stuck => {
                let lines: Vec<String> = why(waits);
                Some(Ending::Partly(
                    failing
                        .into_iter()
                        .chain(lines.into_iter().map(|l| format!("waits for {l}")))
                        .collect(),
                ))
            }
            Holding::Trouble(_) | Holding::Nothing => None,
        })
    }
}

/// One line that says how far it is.
fn words(revision: Revision, run: Option<&RunStatus>, status: &Status) -> String {
    let mut parts = Vec::new();
    if let Some(run) = run {
        if run.open_orders > 0 {
            parts.push(format!("{} under way", run.open_orders));
        }
        if run.failed > 0 {
            parts.push(format!("{} failed attempts", run.failed));
        }
    }
    for pool in &status.pools {
        let ready = pool.available + pool.in_use + pool.off;
        if ready != pool.desired || pool.deleting > 0 {
            parts.push(format!("{} {ready}/{} ready", pool.name, pool.desired));
        }
    }
    if parts.is_empty() {
        format!("revision {revision}")
    } else {
        format!("revision {revision}, {}", parts.join(", "))
    }
}

/// The findings of some kinds, in words.
fn told(status: &Status, which: impl Fn(&Finding) -> bool) -> Vec<String> {
    let findings = status.findings.iter().filter(|finding| which(finding));
    findings
        .map(|f| format!("{}: {}", f.object, text::finding(&f.kind)))
        .collect()
}

/// What is wrong, in words.
fn failures(status: &Status) -> Vec<String> {
    let wrong = |f: &Finding| f.severity == Severity::Error || is_failing(&f.kind);
    let mut lines = told(status, wrong);
    for pool in &status.pools {
        if pool.broken > 0 {
            lines.push(format!(
                "pool {}: {} desktops are broken",
                pool.name, pool.broken
            ));
        }
    }
    lines
}

fn failing_orders(status: &Status) -> bool {
    status.findings.iter().any(|f| is_failing(&f.kind))
}

/// A server is not seen whole, so nothing is done there.
fn is_unseen(finding: &Finding) -> bool {
    matches!(
        finding.kind,
        FindingKind::HypervisorAway { .. } | FindingKind::NotSeen
    )
}

fn is_failing(kind: &FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::OrderFailing { .. }
            | FindingKind::RolloutStopped { .. }
            | FindingKind::RolledBack { .. }
            | FindingKind::Broken { .. }
    )
}

impl Ending {
    /// How the command ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Settled | Self::Waits(_) => Exit::Done,
            Self::Blocked(_) => Exit::Blocked,
            Self::Partly(_) => Exit::Partly,
            Self::Unseen(_) => Exit::Incomplete,
            Self::Superseded(_) => Exit::Error,
            Self::Interrupted => Exit::Interrupted,
        }
    }
}
