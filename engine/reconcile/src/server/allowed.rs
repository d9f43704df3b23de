//! Whether an order may be carried out: judged by the world, not by the state.

use std::collections::BTreeMap;

use coppice_schema::Digest;
use coppice_schema::ids::{DesktopId, Member, ServerId, Stamp};
use coppice_schema::known::{CopyState, DesktopSpec, PowerState, Task};
use coppice_schema::units::Span;
use coppice_state::State;
use coppice_world::watchdog::Guard;
use uuid::Uuid;

use super::look::Sight;
use crate::lease::is_leased;

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Objection {
    #[error("order {found} is older than order {last}, which was carried out for {slot} before")]
    Late {
        slot: DesktopId,
        last: Stamp,
        found: Stamp,
    },
    #[error("the order names another domain than {0} has in this grid")]
    WrongUuid(Member),
    #[error("domain {0} is not ours and is left alone")]
    NameTaken(String),
    #[error("{0} is still here")]
    FormerLife(Member),
    #[error("image {} is not on this server", .0.short())]
    NoImage(Digest),
    #[error("the copy of image {} on this server is {state:?}", .root.short())]
    ImageUnfit { root: Digest, state: CopyState },
    #[error("{0} has no overlay on this server")]
    NoOverlay(Member),
    #[error("{0} has no domain on this server")]
    NoDomain(Member),
    #[error("there is no copy of {0} on this server")]
    NoCopy(Member),
    #[error(
        "{0} runs here only under the watchdog, which does not hold it: the grid was not heard for too long, or the watchdog does not answer"
    )]
    Unguarded(Member),
}

impl Objection {
    /// Whether waiting may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::FormerLife(_)
            | Self::NoImage(_)
            | Self::ImageUnfit { .. }
            | Self::NoOverlay(_)
            | Self::NoDomain(_)
            | Self::Unguarded(_) => true,
            Self::Late { .. }
            | Self::WrongUuid(_)
            | Self::NameTaken(_)
            // It was seen when the order was given.
            | Self::NoCopy(_) => false,
        }
    }
}

/// An order with the same stamp as the last is that order again: its receipt was lost, or the daemon was.
pub(super) fn by_stamp(
    task: &Task,
    stamp: Stamp,
    stamps: &BTreeMap<DesktopId, Stamp>,
) -> Result<(), Objection> {
    let Some(Member { desktop, .. }) = task.member() else {
        return Ok(());
    };
    match stamps.get(desktop) {
        Some(last) if *last > stamp => Err(Objection::Late {
            slot: desktop.clone(),
            last: *last,
            found: stamp,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whether the world is as the task needs it.
pub(super) fn by_sight(task: &Task, sight: &Sight, state: &State) -> Result<(), Objection> {
    match task {
        Task::Create { spec, .. } => {
            identity(spec, state)?;
            room(spec, sight)?;
            match sight.images.get(&spec.image) {
                // An overlay that is there needs no image to be looked at again: the hypervisor will.
                _ if sight.files.contains_key(&spec.member) => Ok(()),
                Some(CopyState::Verified) => Ok(()),
                Some(state) => Err(Objection::ImageUnfit {
                    root: spec.image,
                    state: *state,
                }),
                None => Err(Objection::NoImage(spec.image)),
            }
        }
        Task::Restore { spec, from } => {
            identity(spec, state)?;
            room_beside(spec, sight)?;
            match sight.images.get(&spec.image) {
                // It was made before, and its order is done again.
                _ if sight.files.contains_key(&spec.member) => Ok(()),
                _ if !sight.replicas.contains_key(from) => Err(Objection::NoCopy(from.clone())),
                Some(CopyState::Verified) => Ok(()),
                Some(state) => Err(Objection::ImageUnfit {
                    root: spec.image,
                    state: *state,
                }),
                None => Err(Objection::NoImage(spec.image)),
            }
        }
        Task::Receive { spec } => {
            identity(spec, state)?;
            room_beside(spec, sight)?;
            match sight.images.get(&spec.image) {
                Some(CopyState::Verified) => Ok(()),
                Some(state) => Err(Objection::ImageUnfit {
                    root: spec.image,
                    state: *state,
                }),
                None => Err(Objection::NoImage(spec.image)),
            }
        }
        Task::Enter { spec } => {
            identity(spec, state)?;
            // Somebody may have put another in its place while it waited.
            room(spec, sight)?;
            if sight.files.contains_key(&spec.member) {
                Ok(())
            } else {
                Err(Objection::NoOverlay(spec.member.clone()))
            }
        }
        Task::Redefine { spec } => {
            identity(spec, state)?;
            room(spec, sight)?;
            if sight.files.contains_key(&spec.member) {
                Ok(())
            } else {
                Err(Objection::NoOverlay(spec.member.clone()))
            }
        }
        Task::Start { member }
        | Task::Stop { member }
        | Task::Restart { member, .. }
        | Task::Send { member, .. } => {
            let seen = sight.members.get(member);
            if seen.is_some_and(|s| s.domain.is_some()) {
                Ok(())
            } else {
                Err(Objection::NoDomain(member.clone()))
            }
        }
        Task::Remove { .. }
        | Task::Stay { .. }
        | Task::VerifyImage { .. }
        | Task::DropImage { .. }
        | Task::CopyImage { .. } => Ok(()),
    }
}

/// Whether the desktop that the task starts may run. One of which there are copies runs, where others count with the
/// server's lease, only as long as the watchdog holds it: it may be started elsewhere afterwards.
pub(super) fn by_watchdog(
    task: &Task,
    me: ServerId,
    guard: &Guard,
    passed: Span,
    sight: &Sight,
    state: &State,
) -> Result<(), Objection> {
    let known = state.servers.get(&me);
    let Some((member, uuid)) = started(task, sight).filter(|(member, _)| {
        known.is_some_and(|known| known.lease.is_some()) && is_leased(state, &member.desktop)
    }) else {
        return Ok(());
    };
    if guard.lets_run(uuid, passed) {
        return Ok(());
    }
    Err(Objection::Unguarded(member.clone()))
}

/// Which life a task starts, with its domain.
fn started<'a>(task: &'a Task, sight: &Sight) -> Option<(&'a Member, Uuid)> {
    match task {
        Task::Create { spec, start: true } | Task::Restore { spec, .. } | Task::Enter { spec } => {
            Some((&spec.member, spec.uuid))
        }
        Task::Start { member } | Task::Restart { member, .. } => {
            let seen = sight.members.get(member)?;
            Some((member, seen.domain.as_ref()?.uuid))
        }
        Task::Create { start: false, .. }
        | Task::Redefine { .. }
        | Task::Receive { .. }
        | Task::Send { .. }
        | Task::Stay { .. }
        | Task::Stop { .. }
        | Task::Remove { .. }
        | Task::VerifyImage { .. }
        | Task::DropImage { .. }
        | Task::CopyImage { .. } => None,
    }
}

fn identity(spec: &DesktopSpec, state: &State) -> Result<(), Objection> {
    match state.epoch_of(spec) {
        Some(_) => Ok(()),
        None => Err(Objection::WrongUuid(spec.member.clone())),
    }
}

/// Nothing else may stand in the desktop's slot: neither another's domain nor another life of it.
fn room(spec: &DesktopSpec, sight: &Sight) -> Result<(), Objection> {
    room_but_for(&[], spec, sight)
}

/// The same for a desktop that comes from elsewhere: what it left here in a former life makes way.
fn room_beside(spec: &DesktopSpec, sight: &Sight) -> Result<(), Objection> {
    room_but_for(&aside(spec, sight), spec, sight)
}

/// The domains of former lives of a desktop that do not run. Their names are in its way; their disks, which are what
/// somebody may still want to save from, are not.
pub(super) fn aside(spec: &DesktopSpec, sight: &Sight) -> Vec<Uuid> {
    let member = &spec.member;
    let former = sight.members.iter().filter(|(other, _)| {
        other.desktop == member.desktop && other.incarnation < member.incarnation
    });
    former
        .filter_map(|(_, seen)| seen.domain.as_ref())
        .filter(|domain| matches!(domain.power, PowerState::Off | PowerState::Crashed))
        .map(|domain| domain.uuid)
        .collect()
}

fn room_but_for(aside: &[Uuid], spec: &DesktopSpec, sight: &Sight) -> Result<(), Objection> {
    let name = spec.member.desktop.to_string();
    if sight.foreign.contains_key(&name) {
        return Err(Objection::NameTaken(name));
    }
    let mut others = sight.members.iter().filter(|(member, seen)| {
        let domain = seen.domain.as_ref();
        member.desktop == spec.member.desktop
            && **member != spec.member
            && domain.is_some_and(|domain| !aside.contains(&domain.uuid))
    });
    let mut apart = sight.quarantine.keys();
    let apart = apart.find(|member| member.desktop == spec.member.desktop);
    match others.next().map(|(member, _)| member).or(apart) {
        Some(member) => Err(Objection::FormerLife(member.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use coppice_schema::units::Timestamp;

    use super::*;
    use crate::lease::tests::with_lease;
    use crate::server::Round;
    use crate::server::look::as_last_reported;

    #[test]
    fn what_others_count_with_is_started_only_under_the_watchdog() {
        let (mut state, me, spec) = with_lease();
        let round = Round {
            me,
            grid: state.grid.expect("it was founded"),
            now: Timestamp(1),
        };
        let sight = as_last_reported(&round, &state, String::new());
        let guard = Guard {
            domains: [spec.uuid].into(),
            until: Span(100),
        };
        let create = |start| Task::Create {
            spec: spec.clone(),
            start,
        };
        let judge = |task: &Task, guard: &Guard, passed: u64, state: &State| {
            by_watchdog(task, me, guard, Span(passed), &sight, state)
        };
        let objection = Err(Objection::Unguarded(spec.member.clone()));
        assert_eq!(judge(&create(true), &guard, 99, &state), Ok(()));
        assert_eq!(judge(&create(true), &guard, 100, &state), objection);
        assert_eq!(
            judge(&create(true), &Guard::default(), 0, &state),
            objection
        );
        let enter = Task::Enter { spec: spec.clone() };
        assert_eq!(judge(&enter, &Guard::default(), 0, &state), objection);
        assert_eq!(judge(&create(false), &Guard::default(), 0, &state), Ok(()));
        // Nobody counts with it.
        if let Some(known) = state.servers.get_mut(&me) {
            known.lease = None;
        }
        assert_eq!(judge(&create(true), &Guard::default(), 0, &state), Ok(()));
    }
}
