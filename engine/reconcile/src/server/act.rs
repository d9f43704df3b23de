//! Carrying orders out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use coppice_schema::ids::{Member, Stamp};
use coppice_schema::known::{DesktopSpec, Order, Task};
use coppice_schema::units::Span;
use coppice_state::State;
use coppice_state::entry::Attempt;
use coppice_world::disks::{DiskError, NewOverlay};
use coppice_world::hypervisor::{Definition, HypervisorError, Mark};
use futures::stream::{self, StreamExt};

use super::look::Sight;
use super::{Ports, Round, Server, ServerReport, allowed};
use crate::backoff;

/// How long a guest is asked to shut down in each way, before the next is tried: a loaded Windows guest takes most
/// of a minute.
const PATIENCE: Span = Span::seconds(60);

/// Why an act failed.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0} has no overlay")]
    NoOverlay(Member),
}

impl ActError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Hypervisor(e) => match e {
                HypervisorError::Away { .. }
                | HypervisorError::Stuck { .. }
                | HypervisorError::Refused { .. }
                | HypervisorError::Absent(_)
                | HypervisorError::NoDisplay { .. } => true,
                HypervisorError::NotOurs { .. } | HypervisorError::Lacks(_) => false,
            },
            Self::Disk(e) => match e {
                DiskError::Full { .. }
                | DiskError::Absent(_)
                | DiskError::InUse { .. }
                | DiskError::Io { .. } => true,
                DiskError::BadSource { .. } | DiskError::NotOurs(_) => false,
            },
            Self::NoOverlay(_) => true,
        }
    }
}

/// Tries every order that is due, each once and each on its own, and returns how each went.
pub(super) async fn carry_out(
    server: &Server,
    ports: &Ports,
    round: &Round,
    state: &State,
    sight: &Sight,
    report: &mut ServerReport,
) -> Vec<(Stamp, Attempt)> {
    let due = due(server, round, state);
    if due.is_empty() {
        return Vec::new();
    }
    let (may, mut tried) = match judge(&due, ports, round, state, sight).await {
        Ok(judged) => judged,
        Err(e) => {
            report.trouble.push(e);
            return Vec::new();
        }
    };
    let overlays = make_overlays(&may, ports, round, state).await;
    let acts: Vec<_> = may
        .iter()
        .map(|(stamp, order)| {
            let overlay = order.task.member().and_then(|m| overlays.get(m));
            act(*stamp, order, overlay, ports, round, state, sight)
        })
        .collect();
    let done: Vec<_> = stream::iter(acts)
        .buffer_unordered(server.at_once)
        .collect()
        .await;
    tried.extend(done);
    tried.sort_by_key(|(stamp, _)| *stamp);
    for (stamp, attempt) in &tried {
        let what = due.iter().find(|(s, _)| s == stamp);
        let what = what.map(|(_, order)| order.task.describe());
        report
            .tried
            .push((*stamp, what.unwrap_or_default(), attempt.clone()));
    }
    tried
}

type Due<'a> = Vec<(Stamp, &'a Order)>;

/// Orders of mine whose time has come, the oldest of each slot, and not those whose receipt is still unsaid.
fn due<'a>(server: &Server, round: &Round, state: &'a State) -> Due<'a> {
    let mut slots = BTreeSet::new();
    state
        .orders
        .iter()
        .filter(|(_, order)| order.server == round.me)
        .filter(|(_, order)| {
            order
                .task
                .member()
                .is_none_or(|member| slots.insert(member.desktop.clone()))
        })
        .filter(|(stamp, order)| {
            order.not_before <= round.now && !server.receipts.contains_key(stamp)
        })
        .map(|(stamp, order)| (*stamp, order))
        .collect()
}

/// Parts the orders that may be carried out from those that may not. The stamps of the former are on the medium
/// when this returns.
async fn judge<'a>(
    due: &Due<'a>,
    ports: &Ports,
    round: &Round,
    state: &State,
    sight: &Sight,
) -> Result<(Due<'a>, Vec<(Stamp, Attempt)>), String> {
    let stamps = ports.stamps.all().await.map_err(|e| e.to_string())?;
    let mut may = Vec::new();
    let mut refused = Vec::new();
    for (stamp, order) in due {
        let verdict = allowed::by_stamp(&order.task, *stamp, &stamps)
            .and_then(|()| allowed::by_sight(&order.task, sight, round.grid, state.epoch));
        match verdict {
            Ok(()) => may.push((*stamp, *order)),
            Err(objection) => {
                let attempt = objection.attempt(|error| failed(order, error, round));
                refused.push((*stamp, attempt));
            }
        }
    }
    let slots = may.iter().filter_map(|(stamp, order)| {
        let member = order.task.member()?;
        Some((member.desktop.clone(), *stamp))
    });
    let remembered = ports.stamps.remember(slots.collect()).await;
    remembered.map_err(|e| e.to_string())?;
    Ok((may, refused))
}

fn failed(order: &Order, error: String, round: &Round) -> Attempt {
    let object = order.task.describe();
    let retry_at = round.now.after(backoff::wait(&object, order.attempts));
    Attempt::Failed { error, retry_at }
}

/// Makes the overlays of all orders to create together: one sync of the disk serves them all. Where that fails for
/// the sake of one, each is tried alone.
async fn make_overlays(
    orders: &Due<'_>,
    ports: &Ports,
    round: &Round,
    state: &State,
) -> BTreeMap<Member, Result<PathBuf, DiskError>> {
    let wanted: Vec<NewOverlay> = orders
        .iter()
        .filter_map(|(stamp, order)| match &order.task {
            Task::Create { spec, .. } => Some(NewOverlay {
                mark: mark(spec, *stamp, round, state),
                size: spec.hardware.disk,
            }),
            Task::Redefine { .. }
            | Task::Start { .. }
            | Task::Stop { .. }
            | Task::Restart { .. }
            | Task::Remove { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. } => None,
        })
        .collect();
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let members = wanted.iter().map(|new| new.mark.member.clone());
    let members: Vec<Member> = members.collect();
    match ports.disks.make_overlays(wanted.clone()).await {
        Ok(paths) => members.into_iter().zip(paths.into_iter().map(Ok)).collect(),
        Err(e @ DiskError::Io { .. }) => members.into_iter().map(|m| (m, Err(e.clone()))).collect(),
        Err(
            e @ (DiskError::Full { .. }
            | DiskError::Absent(_)
            | DiskError::InUse { .. }
            | DiskError::BadSource { .. }
            | DiskError::NotOurs(_)),
        ) => {
            let mut made = BTreeMap::new();
            for (member, new) in members.into_iter().zip(wanted) {
                let alone = ports.disks.make_overlays(vec![new]).await;
                let path = alone.and_then(|paths| paths.into_iter().next().ok_or(e.clone()));
                made.insert(member, path);
            }
            made
        }
    }
}

fn mark(spec: &DesktopSpec, stamp: Stamp, round: &Round, state: &State) -> Mark {
    Mark {
        grid: round.grid,
        epoch: state.epoch,
        member: spec.member.clone(),
        image: spec.image,
        stamp,
    }
}

async fn act(
    stamp: Stamp,
    order: &Order,
    overlay: Option<&Result<PathBuf, DiskError>>,
    ports: &Ports,
    round: &Round,
    state: &State,
    sight: &Sight,
) -> (Stamp, Attempt) {
    let mark = |spec: &DesktopSpec| mark(spec, stamp, round, state);
    let attempt = match perform(&order.task, overlay, mark, ports, sight).await {
        Ok(()) => Attempt::Done,
        Err(e) if e.may_pass() => failed(order, e.to_string(), round),
        Err(e) => Attempt::Refused {
            error: e.to_string(),
        },
    };
    (stamp, attempt)
}

/// Does what the task says, once. Each part can be done again, so a task that was cut off is simply done again.
async fn perform(
    task: &Task,
    overlay: Option<&Result<PathBuf, DiskError>>,
    mark: impl Fn(&DesktopSpec) -> Mark,
    ports: &Ports,
    sight: &Sight,
) -> Result<(), ActError> {
    let (hypervisor, disks) = (&ports.hypervisor, &ports.disks);
    let uuid = |member: &Member| {
        let seen = sight.members.get(member);
        seen.and_then(|s| s.domain.as_ref()).map(|d| d.uuid)
    };
    match task {
        Task::Create { spec, start } => {
            let none = || ActError::NoOverlay(spec.member.clone());
            let overlay = overlay.ok_or_else(none)?.clone()?;
            let definition = Definition {
                spec: spec.clone(),
                mark: mark(spec),
                overlay,
            };
            hypervisor.define(&definition).await?;
            if *start {
                hypervisor.start(spec.uuid).await?;
            }
        }
        Task::Redefine { spec } => {
            let none = || ActError::NoOverlay(spec.member.clone());
            let definition = Definition {
                spec: spec.clone(),
                mark: mark(spec),
                overlay: sight.files.get(&spec.member).ok_or_else(none)?.clone(),
            };
            hypervisor.define(&definition).await?;
        }
        Task::Start { member } => {
            if let Some(uuid) = uuid(member) {
                hypervisor.start(uuid).await?;
            }
        }
        Task::Stop { member } => {
            if let Some(uuid) = uuid(member) {
                hypervisor.stop(uuid, PATIENCE).await?;
            }
        }
        Task::Restart { member } => {
            if let Some(uuid) = uuid(member) {
                hypervisor.stop(uuid, PATIENCE).await?;
                hypervisor.start(uuid).await?;
            }
        }
        Task::Remove { member } => {
            // The disk goes last: as long as it is there, whatever was cut off is still known to be ours.
            if let Some(uuid) = uuid(member) {
                hypervisor.power_off(uuid).await?;
                hypervisor.undefine(uuid).await?;
            }
            if sight.files.contains_key(member) {
                disks.remove_overlay(member).await?;
            }
        }
        Task::VerifyImage { root } => {
            disks.verify_image(*root).await?;
        }
        Task::DropImage { root } => disks.drop_image(*root).await?,
    }
    Ok(())
}
