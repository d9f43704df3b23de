//! Carrying orders out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use coppice_schema::ids::{Epoch, GridId, Member, ServerId, Stamp};
use coppice_schema::known::{CopyState, DesktopSpec, Ending, Look, Order, Task};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::State;
use coppice_state::entry::Attempt;
use coppice_world::disks::{DiskError, NewOverlay};
use coppice_world::hypervisor::{Definition, HypervisorError, Mark};
use coppice_world::moves::{MoveError, Opening};
use coppice_world::replicas::ReplicaError;
use uuid::Uuid;

use super::allowed::Objection;
use super::carry::Way;
use super::flight::{Act, Landed, Object};
use super::look::Sight;
use super::{Memory, Ports, Round, allowed};
use crate::backoff;

/// How long a guest is asked to shut down in each way, before the next is tried: a loaded Windows guest takes most
/// of a minute.
const PATIENCE: Span = Span::seconds(60);

/// Why an act failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0} has no overlay")]
    NoOverlay(Member),
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error(transparent)]
    Copy(#[from] ReplicaError),
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
            // Of a copy that is gone none comes.
            Self::Copy(ReplicaError::Absent(_)) => false,
            Self::NoOverlay(_) | Self::Copy(_) => true,
            // One that does not run, or is held by something, will not be another after a while.
            Self::Move(MoveError::Hypervisor(e)) => matches!(
                e,
                HypervisorError::Away { .. } | HypervisorError::Stuck { .. }
            ),
            Self::Move(MoveError::Bound { .. }) => false,
            Self::Move(
                MoveError::Road(_)
                | MoveError::Declined { .. }
                | MoveError::Broken { .. }
                | MoveError::Stalled { .. },
            ) => true,
        }
    }
}

/// Acts to begin, and how those orders went that may not be carried out. The stamps of the former are on the medium.
pub(super) async fn prepare(
    memory: &Memory,
    ports: &Ports,
    round: &Round,
    state: &State,
    sight: &Sight,
    busy: &BTreeSet<Object>,
) -> Result<(Vec<Act>, BTreeMap<Stamp, Attempt>), String> {
    if due(memory, round, state, busy).is_empty() {
        return Ok((Vec::new(), BTreeMap::new()));
    }
    // Whoever was paused, or heard nothing for a while, holds orders that were taken back since: only what stands now
    // is begun.
    let newest = ports.agreement.read().await;
    let newest = newest.map_err(|e| format!("orders wait: {e}"))?;
    let state = newest.as_ref();
    let due = due(memory, round, state, busy);
    let (may, refused) = judge(&due, ports, round, state, sight).await?;
    let mut overlays = make_overlays(&may, ports, round, state).await;
    let acts = may.into_iter().map(|(stamp, order)| {
        let overlay = order.task.member().and_then(|m| overlays.remove(m));
        let found = Found::of(&order.task, overlay, sight);
        let mark = Marking::of_order(&order.task, stamp, round, state);
        let task = with_holders(&order.task, round, state);
        let work = perform(task, found, mark, ports.clone());
        Act {
            stamp,
            order: order.clone(),
            work: Box::pin(work),
        }
    });
    Ok((acts.collect(), refused))
}

/// An image is got from those that the order names, and where they have all failed from whoever else holds it now: some
/// may have gone since it was given, and others have it.
fn with_holders(task: &Task, round: &Round, state: &State) -> Task {
    let mut task = task.clone();
    if let Task::CopyImage { root, from } = &mut task {
        let holds = |look: &Look| look.images.get(root) == Some(&CopyState::Verified);
        let others = state.servers.iter().filter(|(id, server)| {
            let look = server.look.as_deref();
            **id != round.me && !from.contains(id) && look.is_some_and(holds)
        });
        let others: Vec<ServerId> = others.map(|(id, _)| *id).collect();
        from.extend(others);
    }
    task
}

/// How an act went, told at `now`, when it is known. Nobody waits to hear of one that was taken back.
pub(super) fn attempt(landed: Landed, now: Timestamp) -> Option<Attempt> {
    Some(match landed.result? {
        Ok(()) => Attempt::Done,
        Err(e) if may_pass(&landed.order, &e) => failed(&landed.order, e.to_string(), now),
        Err(e) => Attempt::Refused {
            error: e.to_string(),
        },
    })
}

/// How often a desktop is sent before it is said to be of no use: it runs meanwhile, and may be sent elsewhere.
const SENDS: u32 = 3;

/// Whether an order waits until what is in its way has passed. A desktop that is to move runs on meanwhile, or has come:
/// what becomes of it then is for a plan to say.
fn is_waited_out(order: &Order, objection: &Objection) -> bool {
    match order.task {
        Task::Receive { .. } | Task::Send { .. } => order.attempts + 1 < SENDS,
        Task::Enter { .. } => !matches!(objection, Objection::NoOverlay(_)),
        Task::Stay { .. }
        | Task::Create { .. }
        | Task::Restore { .. }
        | Task::Redefine { .. }
        | Task::Start { .. }
        | Task::Stop { .. }
        | Task::Restart { .. }
        | Task::Remove { .. }
        | Task::VerifyImage { .. }
        | Task::CopyImage { .. }
        | Task::DropImage { .. } => true,
    }
}

/// Whether trying again may help.
fn may_pass(order: &Order, error: &ActError) -> bool {
    match order.task {
        Task::Send { .. } => error.may_pass() && order.attempts + 1 < SENDS,
        // It was agreed on, and there is no other way.
        Task::Enter { .. } | Task::Stay { .. } => true,
        Task::Create { .. }
        | Task::Restore { .. }
        | Task::Redefine { .. }
        | Task::Start { .. }
        | Task::Stop { .. }
        | Task::Restart { .. }
        | Task::Remove { .. }
        | Task::Receive { .. }
        | Task::VerifyImage { .. }
        | Task::CopyImage { .. }
        | Task::DropImage { .. } => error.may_pass(),
    }
}

type Due<'a> = Vec<(Stamp, &'a Order)>;

/// Orders of mine whose time has come, the oldest about each object, and not those whose receipt is still unsaid. An
/// order that was taken back while its act is under way still keeps its slot busy: a newer one waits for its end.
fn due<'a>(memory: &Memory, round: &Round, state: &'a State, busy: &BTreeSet<Object>) -> Due<'a> {
    let mut taken = busy.clone();
    state
        .orders
        .iter()
        .filter(|(_, order)| order.server == round.me)
        .filter(|(_, order)| taken.insert(Object::of(&order.task)))
        .filter(|(stamp, order)| {
            let timely = order.not_before <= round.now && round.now < order.deadline;
            timely && !memory.receipts.contains_key(stamp)
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
) -> Result<(Due<'a>, BTreeMap<Stamp, Attempt>), String> {
    let stamps = ports.stamps.all().await.map_err(|e| e.to_string())?;
    // Where it does not answer, it holds nothing.
    let guard = ports.watchdog.guarding().await.unwrap_or_default();
    let passed = ports.watchdog.passed();
    let mut may = Vec::new();
    let mut refused = BTreeMap::new();
    for (stamp, order) in due {
        let verdict = allowed::by_stamp(&order.task, *stamp, &stamps)
            .and_then(|()| allowed::by_sight(&order.task, sight, state))
            .and_then(|()| {
                allowed::by_watchdog(&order.task, round.me, &guard, passed, sight, state)
            });
        match verdict {
            Ok(()) => may.push((*stamp, *order)),
            Err(objection) => {
                let attempt = if objection.may_pass() && is_waited_out(order, &objection) {
                    failed(order, objection.to_string(), round.now)
                } else {
                    Attempt::Refused {
                        error: objection.to_string(),
                    }
                };
                refused.insert(*stamp, attempt);
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

fn failed(order: &Order, error: String, now: Timestamp) -> Attempt {
    let object = order.task.describe();
    let retry_at = now.after(backoff::wait(&object, order.attempts));
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
            Task::Create { spec, .. } | Task::Receive { spec } => Some(NewOverlay {
                mark: Marking::of_order(&order.task, *stamp, round, state).of(spec),
                size: spec.hardware.disk,
            }),
            Task::Restore { .. }
            | Task::Redefine { .. }
            | Task::Send { .. }
            | Task::Enter { .. }
            | Task::Stay { .. }
            | Task::Start { .. }
            | Task::Stop { .. }
            | Task::Restart { .. }
            | Task::Remove { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. }
            | Task::CopyImage { .. } => None,
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

/// What a mark says beside whose it is.
struct Marking {
    grid: GridId,
    epoch: Epoch,
    stamp: Stamp,
}

impl Marking {
    /// The life of the grid in which a desktop's life began stands in its mark for as long as it lives.
    fn of_order(task: &Task, stamp: Stamp, round: &Round, state: &State) -> Self {
        let begun = match task {
            Task::Create { spec, .. }
            | Task::Restore { spec, .. }
            | Task::Redefine { spec }
            | Task::Receive { spec }
            | Task::Enter { spec } => state.epoch_of(spec),
            Task::Start { .. }
            | Task::Send { .. }
            | Task::Stay { .. }
            | Task::Stop { .. }
            | Task::Restart { .. }
            | Task::Remove { .. }
            | Task::VerifyImage { .. }
            | Task::DropImage { .. }
            | Task::CopyImage { .. } => None,
        };
        Self {
            grid: round.grid,
            epoch: begun.unwrap_or(state.epoch),
            stamp,
        }
    }

    fn of(&self, spec: &DesktopSpec) -> Mark {
        Mark {
            grid: self.grid,
            epoch: self.epoch,
            member: spec.member.clone(),
            image: spec.image,
            stamp: self.stamp,
        }
    }
}

/// What was seen, when the act was prepared, of the life that it is about.
struct Found {
    /// Its domain.
    domain: Option<Uuid>,
    /// Its guest has not answered since it was started.
    unheard: bool,
    /// Its overlay's file; to be created, what became of making it.
    overlay: Option<Result<PathBuf, DiskError>>,
    /// Domains of its former lives, which make way.
    aside: Vec<Uuid>,
}

impl Found {
    fn of(task: &Task, made: Option<Result<PathBuf, DiskError>>, sight: &Sight) -> Self {
        let member = task.member();
        let seen = member.and_then(|member| sight.members.get(member)?.domain.as_ref());
        let file = member.and_then(|member| sight.files.get(member));
        Self {
            domain: seen
                .map(|domain| domain.uuid)
                .or_else(|| sight.apart.get(member?).copied()),
            unheard: seen.is_some_and(|domain| sight.unheard.contains(&domain.uuid)),
            overlay: made.or(file.cloned().map(Ok)),
            aside: if let Task::Restore { spec, .. } | Task::Receive { spec } = task {
                allowed::aside(spec, sight)
            } else {
                Vec::new()
            },
        }
    }
}

/// Does what the task says, once. Each part can be done again, so a task that was cut off is simply done again.
async fn perform(task: Task, found: Found, mark: Marking, ports: Ports) -> Result<(), ActError> {
    let (hypervisor, disks) = (&ports.hypervisor, &ports.disks);
    let Found {
        domain,
        unheard,
        overlay,
        aside,
    } = found;
    for former in aside {
        hypervisor.undefine(former).await?;
    }
    match task {
        Task::Create { spec, start } => {
            let uuid = spec.uuid;
            hypervisor
                .define(&definition(spec, overlay, &mark)?)
                .await?;
            if start {
                hypervisor.start(uuid).await?;
            }
        }
        Task::Restore { spec, from } => {
            let uuid = spec.uuid;
            let path = match overlay {
                Some(made) => made?,
                None => {
                    let overlay = NewOverlay {
                        mark: mark.of(&spec),
                        size: spec.hardware.disk,
                    };
                    ports.replicas.restore(&from, overlay).await?
                }
            };
            hypervisor
                .define(&definition(spec, Some(Ok(path)), &mark)?)
                .await?;
            hypervisor.start(uuid).await?;
        }
        Task::Redefine { spec } => {
            hypervisor
                .define(&definition(spec, overlay, &mark)?)
                .await?;
        }
        Task::Start { .. } => {
            if let Some(uuid) = domain {
                hypervisor.start(uuid).await?;
            }
        }
        Task::Stop { .. } => {
            if let Some(uuid) = domain {
                hypervisor.stop(uuid, PATIENCE).await?;
            }
        }
        Task::Restart { ending, .. } => {
            if let Some(uuid) = domain {
                match ending {
                    Ending::AskedIfUp if unheard => hypervisor.power_off(uuid).await?,
                    Ending::AskedIfUp | Ending::Asked => hypervisor.stop(uuid, PATIENCE).await?,
                }
                hypervisor.start(uuid).await?;
            }
        }
        Task::Remove { member } => {
            // The disk goes last: as long as it is there, whatever was cut off is still known to be ours.
            if let Some(uuid) = domain {
                hypervisor.power_off(uuid).await?;
                hypervisor.undefine(uuid).await?;
            }
            if overlay.is_some() {
                disks.remove_overlay(&member).await?;
            }
        }
        // Its overlay was made with the others.
        Task::Receive { spec } => {
            let none = || ActError::NoOverlay(spec.member.clone());
            overlay.ok_or_else(none)??;
        }
        Task::Send { member, to } => {
            let uuid = domain.ok_or_else(|| ActError::NoOverlay(member.clone()))?;
            let way = Way {
                peers: Arc::clone(&ports.peers),
                to,
                opening: Opening::Move { member },
            };
            ports.moves.send(uuid, &way).await?;
        }
        Task::Enter { spec } => {
            let uuid = spec.uuid;
            let guest = definition(spec, overlay, &mark)?;
            match ports.moves.enter(&guest).await {
                // What had come is gone: its disk is whole, and it starts as after a power cut.
                Err(MoveError::Hypervisor(HypervisorError::Absent(_))) => {
                    hypervisor.define(&guest).await?;
                    hypervisor.start(uuid).await?;
                }
                other => other?,
            }
        }
        Task::Stay { .. } => {
            if let Some(uuid) = domain {
                ports.moves.stay(uuid).await?;
            }
        }
        Task::VerifyImage { root } => {
            disks.verify_image(root).await?;
        }
        Task::DropImage { root } => disks.drop_image(root).await?,
        Task::CopyImage { root, from } => disks.receive_image(root, from).await?,
    }
    Ok(())
}

fn definition(
    spec: DesktopSpec,
    overlay: Option<Result<PathBuf, DiskError>>,
    mark: &Marking,
) -> Result<Definition, ActError> {
    let none = || ActError::NoOverlay(spec.member.clone());
    let overlay = overlay.ok_or_else(none)??;
    Ok(Definition {
        mark: mark.of(&spec),
        spec,
        overlay,
    })
}
