//! The contract of [`Hypervisor`].

mod disturbed;
mod guests;
mod others;
mod running;
mod writing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::desired::{Cache, Display, Firmware, Os, Video};
use coppice_schema::ids::{DesktopId, Epoch, GridId, Incarnation, PoolName, Slot, Stamp};
use coppice_schema::known::{DesktopSpec, Feature, Hardware, PowerState};
use coppice_schema::units::{Size, Span};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{Outcome, Report, ensure};
use crate::hypervisor::{Definition, Domain, Hypervisor, HypervisorError, Mark};

/// An adapter, and what is needed to try it.
pub struct Subject {
    /// The adapter.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Whose domains it takes for ours. Everything of this grid is removed by the checks.
    pub grid: GridId,
    /// The same hypervisor, opened for another grid, where that is possible.
    pub other: Option<(Arc<dyn Hypervisor>, GridId)>,
    /// What is done to it from outside.
    pub means: Box<dyn Means>,
    /// Whether domains boot a guest that answers, and shuts down when asked.
    pub boots: bool,
}

/// What is done to a hypervisor, and around it, past its adapter. What cannot be done is [`Outcome::Skipped`].
pub trait Means: Send + Sync {
    /// Makes an overlay that boots if the subject's domains do, and says where it is.
    ///
    /// # Errors
    /// It could not be made.
    fn overlay(&self, mark: &Mark, size: Size) -> Result<PathBuf, Outcome>;

    /// Defines a domain without a mark.
    ///
    /// # Errors
    /// It could not be defined, or this cannot be done.
    fn define_foreign(&self, name: &str, uuid: Uuid) -> Result<(), Outcome> {
        Err(cannot(&format!("define a foreign domain {name} ({uuid})")))
    }

    /// Removes a domain that [`define_foreign`](Self::define_foreign) made, whatever state it is in.
    fn remove_foreign(&self, _uuid: Uuid) {}

    /// Ends a running domain's process, as a fault would.
    ///
    /// # Errors
    /// It could not be ended, or this cannot be done.
    fn kill(&self, uuid: Uuid) -> Result<(), Outcome> {
        Err(cannot(&format!("kill domain {uuid}")))
    }

    /// Makes a running domain's process stand still.
    ///
    /// # Errors
    /// It goes on, or this cannot be done.
    fn hang(&self, uuid: Uuid) -> Result<(), Outcome> {
        Err(cannot(&format!("hang domain {uuid}")))
    }

    /// Lets it go on.
    fn unhang(&self, _uuid: Uuid) {}

    /// Makes the agent of a running guest stand still; the guest itself goes on.
    ///
    /// # Errors
    /// It still runs, or this cannot be done.
    fn stop_agent(&self, uuid: Uuid) -> Result<(), Outcome> {
        Err(cannot(&format!("stop the agent of domain {uuid}")))
    }

    /// Whether a domain that is off shut down by itself, rather than by its power.
    ///
    /// # Errors
    /// This cannot be known.
    fn shut_down_by_itself(&self, uuid: Uuid) -> Result<bool, Outcome> {
        Err(cannot(&format!("know why domain {uuid} is off")))
    }

    /// What is still there of a domain that was undefined: files, sockets, processes.
    fn leftovers(&self, _uuid: Uuid) -> Vec<String> {
        Vec::new()
    }
}

fn cannot(what: &str) -> Outcome {
    Outcome::Skipped(format!("there is no way here to {what}"))
}

impl From<HypervisorError> for Outcome {
    /// What a hypervisor has not need not work; everything else must.
    fn from(error: HypervisorError) -> Self {
        match error {
            HypervisorError::Lacks(feature) => {
                Self::Skipped(format!("this hypervisor has no {feature:?}"))
            }
            HypervisorError::Away { .. }
            | HypervisorError::Stuck { .. }
            | HypervisorError::Refused { .. }
            | HypervisorError::NotOurs { .. }
            | HypervisorError::Absent(_)
            | HypervisorError::NoDisplay { .. } => Self::Failed(error.to_string()),
        }
    }
}

type Check = for<'a> fn(&'a Subject) -> BoxFuture<'a, Result<(), Outcome>>;

/// Checks in order; the names say what is promised.
const CHECKS: &[(&str, Check)] = &[
    ("it says what it is and can carry", |s| {
        Box::pin(writing::capacity(s))
    }),
    ("what is defined reads back as it was told", |s| {
        Box::pin(writing::round_trip(s))
    }),
    ("defining again changes to what was told", |s| {
        Box::pin(writing::redefine(s))
    }),
    ("each change can be repeated", |s| {
        Box::pin(writing::repeated(s))
    }),
    ("two lives never share a name", |s| {
        Box::pin(writing::two_lives(s))
    }),
    ("undefining leaves nothing behind", |s| {
        Box::pin(writing::nothing_left(s))
    }),
    ("an absent domain is said to be absent", |s| {
        Box::pin(others::absent(s))
    }),
    ("a foreign domain is listed and left alone", |s| {
        Box::pin(others::foreign(s))
    }),
    ("another grid's domain is told and left alone", |s| {
        Box::pin(others::of_another_grid(s))
    }),
    ("a watch wakes when a domain starts", |s| {
        Box::pin(running::watch(s))
    }),
    ("a restart is not taken for running on", |s| {
        Box::pin(running::since(s))
    }),
    (
        "a running domain keeps its hardware until it restarts",
        |s| Box::pin(running::stale(s)),
    ),
    ("a running domain is not undefined", |s| {
        Box::pin(running::undefine_running(s))
    }),
    (
        "a guest that does not listen is stopped by its power",
        |s| Box::pin(running::stop(s)),
    ),
    (
        "a domain killed from outside is seen and starts again",
        |s| Box::pin(disturbed::killed(s)),
    ),
    ("a domain that hangs holds up no other", |s| {
        Box::pin(disturbed::hung(s))
    }),
    ("a domain without its disk does not start", |s| {
        Box::pin(disturbed::no_disk(s))
    }),
    ("a guest answers with its own name", |s| {
        Box::pin(guests::answers(s))
    }),
    ("a guest shuts down when asked, by agent or button", |s| {
        Box::pin(guests::shuts_down(s))
    }),
    ("a guest whose agent hangs is asked by its button", |s| {
        Box::pin(guests::by_button(s))
    }),
    ("a display can be reached and pictured", |s| {
        Box::pin(guests::display(s))
    }),
];

/// Longest time that anything here may take. Nothing is expected to: this only ends a check that would never end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes every check, one after another, removing the domains of the grid in between.
pub async fn run(subject: &Subject) -> Report {
    let mut report = Report::default();
    for (name, check) in CHECKS {
        tracing::info!(name, "contract");
        let outcome = match timeout(PATIENCE * 3, check(subject)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Outcome::Failed("it did not end".to_owned())),
        };
        report.note(name, outcome);
        if let Err(Outcome::Failed(why) | Outcome::Skipped(why)) = subject.sweep().await {
            report.note(
                name,
                Err(Outcome::Failed(format!("cannot clean up: {why}"))),
            );
        }
    }
    report
}

impl Subject {
    /// A desktop of the smallest kind: its `number` makes it another one.
    fn definition(&self, number: u32) -> Result<Definition, Outcome> {
        self.of_life(number, 1, self.grid)
    }

    fn of_life(&self, number: u32, life: u64, grid: GridId) -> Result<Definition, Outcome> {
        let mut definition = smallest(grid, number, life);
        definition.overlay = self
            .means
            .overlay(&definition.mark, definition.spec.hardware.disk)?;
        Ok(definition)
    }

    /// Defines and starts one.
    async fn started(&self, number: u32) -> Result<Definition, Outcome> {
        let definition = self.definition(number)?;
        self.hypervisor.define(&definition).await?;
        self.hypervisor.start(definition.spec.uuid).await?;
        Ok(definition)
    }

    async fn find(&self, uuid: Uuid) -> Result<Option<Domain>, Outcome> {
        let all = self.hypervisor.list().await?;
        Ok(all.into_iter().find(|domain| domain.uuid == uuid))
    }

    async fn seen(&self, uuid: Uuid) -> Result<Domain, Outcome> {
        self.find(uuid)
            .await?
            .ok_or_else(|| Outcome::Failed(format!("domain {uuid} is not listed")))
    }

    async fn power(&self, uuid: Uuid) -> Result<PowerState, Outcome> {
        Ok(self.seen(uuid).await?.power)
    }

    async fn lacks(&self, feature: Feature) -> Result<bool, Outcome> {
        Ok(self.hypervisor.capacity().await?.missing.contains(&feature))
    }

    async fn need(&self, feature: Feature) -> Result<(), Outcome> {
        if self.lacks(feature).await? {
            return Err(HypervisorError::Lacks(feature).into());
        }
        Ok(())
    }

    fn need_guests(&self) -> Result<(), Outcome> {
        if self.boots {
            return Ok(());
        }
        Err(Outcome::Skipped("its domains run no guests".to_owned()))
    }

    /// Looks again whenever something changes, until `holds` says so.
    async fn until<F>(&self, what: &str, mut holds: impl FnMut() -> F) -> Result<(), Outcome>
    where
        F: Future<Output = Result<bool, Outcome>>,
    {
        let mut changes = self.hypervisor.watch();
        let end = Instant::now() + PATIENCE;
        while !holds().await? {
            ensure!(Instant::now() < end, "never came: {what}");
            // Not everything waited for is announced.
            let _either = timeout(Duration::from_millis(300), changes.next()).await;
        }
        Ok(())
    }

    /// Removes every domain of the grid.
    async fn sweep(&self) -> Result<(), Outcome> {
        for domain in self.hypervisor.list().await? {
            if domain.mark.is_some_and(|mark| mark.grid == self.grid) {
                self.means.unhang(domain.uuid);
                self.hypervisor.power_off(domain.uuid).await?;
                self.hypervisor.undefine(domain.uuid).await?;
            }
        }
        Ok(())
    }
}

fn is_running(power: &PowerState) -> bool {
    matches!(power, PowerState::Running { .. })
}

fn is_off(power: &PowerState) -> bool {
    matches!(power, PowerState::Off | PowerState::Crashed)
}

/// Patience with a guest that is expected to listen.
const GENTLE: Span = Span::seconds(60);

/// A desktop of the smallest kind, whose overlay has no place yet.
pub(super) fn smallest(grid: GridId, number: u32, life: u64) -> Definition {
    let desktop = DesktopId {
        pool: PoolName::from_str("contract").unwrap_or_else(|_| unreachable!("it is a name")),
        slot: Slot(number),
    };
    let epoch = Epoch {
        number: 1,
        recovery: 0,
    };
    let member = desktop.member(Incarnation(life));
    let mark = Mark {
        grid,
        epoch,
        member: member.clone(),
        image: Digest::of(b"contract"),
        stamp: Stamp {
            epoch: 1,
            term: 2,
            index: 3,
            ordinal: number,
        },
    };
    let size = Size::mib(64);
    Definition {
        spec: DesktopSpec {
            uuid: desktop.uuid(grid, epoch, Incarnation(life)),
            hostname: format!("contract-{number:03}"),
            image: mark.image,
            member,
            hardware: Hardware {
                cpus: 1,
                memory: Size::mib(96),
                disk: size,
                disk_limit: None,
                firmware: Firmware::Bios,
                networks: Vec::new(),
                displays: BTreeSet::from([Display::Vnc]),
                video: Video::Vga,
                cache: Cache::Writeback,
                os: Os::Linux,
                agent: true,
                libvirt_xml: None,
            },
        },
        mark,
        overlay: PathBuf::new(),
    }
}
