//! Whether an order may be carried out: judged by the world, not by the state.

use std::collections::BTreeMap;

use coppice_schema::Digest;
use coppice_schema::ids::{DesktopId, Member, Stamp};
use coppice_schema::known::{CopyState, DesktopSpec, Task};
use coppice_state::State;

use super::look::Sight;

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
}

impl Objection {
    /// Whether waiting may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::FormerLife(_)
            | Self::NoImage(_)
            | Self::ImageUnfit { .. }
            | Self::NoOverlay(_)
            | Self::NoDomain(_) => true,
            Self::Late { .. } | Self::WrongUuid(_) | Self::NameTaken(_) => false,
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
        Task::Receive { spec } => {
            identity(spec, state)?;
            room(spec, sight)?;
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

fn identity(spec: &DesktopSpec, state: &State) -> Result<(), Objection> {
    match state.epoch_of(spec) {
        Some(_) => Ok(()),
        None => Err(Objection::WrongUuid(spec.member.clone())),
    }
}

/// Nothing else may stand in the desktop's slot: neither another's domain nor another life of it.
fn room(spec: &DesktopSpec, sight: &Sight) -> Result<(), Objection> {
    let name = spec.member.desktop.to_string();
    if sight.foreign.contains_key(&name) {
        return Err(Objection::NameTaken(name));
    }
    let mut others = sight.members.iter().filter(|(member, seen)| {
        member.desktop == spec.member.desktop && **member != spec.member && seen.domain.is_some()
    });
    let mut apart = sight.quarantine.keys();
    let apart = apart.find(|member| member.desktop == spec.member.desktop);
    match others.next().map(|(member, _)| member).or(apart) {
        Some(member) => Err(Objection::FormerLife(member.clone())),
        None => Ok(()),
    }
}
