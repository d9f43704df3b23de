//! Copies of overlays of other servers' desktops, and what leaves this server for the same purpose.
//!
//! A copy is a qcow2 file in one of two slots, and a label that says which slot counts. What comes goes into the other
//! slot; the label is what makes it the copy, in one step, so there is always the former copy or the new one, whole.

mod arrival;
mod chunks;
mod label;
mod restore;

use std::fs::File;
use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member};
use coppice_schema::units::{Size, Timestamp};

use crate::disk::{Dir, DiskError};
use crate::overlay::{Fault, Mark, OVERLAY, OverlayError, file_name, header};
use crate::store::{Store, StoreError, allocated};
use label::{Label, Slot, label_name};

pub use arrival::Arrival;
pub use chunks::{CHUNK, Chunks, Fingerprint};

/// A copy that is here, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Whose disk it is a copy of.
    pub mark: Mark,
    /// When the disk held that.
    pub taken: Timestamp,
    /// Bytes it takes on the disk.
    pub allocated: Size,
}

/// A copy that could not be taken in, restored or removed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// There is none.
    #[error("there is no copy of {0} here")]
    Absent(Member),
    /// What came is not an overlay of its image.
    #[error("what came as a copy of {member} is none: {fault}")]
    Unfit {
        /// The desktop.
        member: Member,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
    /// Another copy of it began to come meanwhile, or it was removed.
    #[error("another copy of {0} takes its place, or it is to have none")]
    Superseded(Member),
    /// What is there is another grid's. It was not touched.
    #[error("the copy of {member} here is not ours: {what}")]
    NotOurs {
        /// The desktop.
        member: Member,
        /// Whose it is, in words.
        what: String,
    },
    /// It does not fit.
    #[error("no space for a copy of {member}: {needed} are needed, {free} are free")]
    NoSpace {
        /// The desktop.
        member: Member,
        /// What it takes.
        needed: Size,
        /// What there is.
        free: Size,
    },
    /// What it would be, or is based on.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for ReplicaError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}

impl Store {
    /// An empty overlay of `image` for the `data` bytes that the overlay of `member` holds, on its way to another server.
    /// What an earlier one left goes. It need not last: it is no more after the next start.
    ///
    /// # Errors
    /// [`ReplicaError::NoSpace`] unless there is an eighth more room than that: a guest that writes meanwhile must not find
    /// the disk full. The disk's.
    pub fn begin_outgoing(
        &self,
        member: &Member,
        image: Digest,
        size: Size,
        data: Size,
    ) -> Result<PathBuf, ReplicaError> {
        let name = file_name(member);
        self.outgoing.remove(&name)?;
        let (needed, free) = (Size(data.0.saturating_add(data.0 / 8)), self.space()?.free);
        if free < needed {
            return Err(ReplicaError::NoSpace {
                member: member.clone(),
                needed,
                free,
            });
        }
        let file = self.outgoing.create(&name)?;
        let path = self.outgoing.join(&name);
        header::write(&file, image, size.0).map_err(|e| DiskError::new("write", &path, e))?;
        Ok(path)
    }

    /// Copies of the desktops of `grid` that are here, whole. Of what is not readable nothing is said.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn replicas(&self, grid: GridId) -> Result<Vec<Replica>, ReplicaError> {
        let mut found = Vec::new();
        for name in self.replicas.names()? {
            let member = name.to_str().and_then(label::member_of);
            let Some(label) = member.and_then(|member| self.label_of(&member).ok().flatten())
            else {
                continue;
            };
            let file = self.replicas.read(label.slot.file(&label.mark.member));
            if let Ok(Some(file)) = file
                && label.mark.grid == grid
            {
                found.push(Replica {
                    allocated: Size(allocated(&file).unwrap_or(0)),
                    mark: label.mark,
                    taken: label.taken,
                });
            }
        }
        Ok(found)
    }

    /// Removes the copy of `member`, and what is on its way to it; says whether there was one. Durable on return.
    ///
    /// # Errors
    /// [`ReplicaError::NotOurs`] when it is not of `grid`; then nothing was touched.
    pub fn remove_replica(&self, grid: GridId, member: &Member) -> Result<bool, ReplicaError> {
        let _names = self.lock_names();
        self.own_label(grid, member)?;
        self.announce(member);
        // Without its label it is none: a crash in between leaves what the next start removes.
        let mut any = self.replicas.remove(label_name(member))?;
        self.replicas.sync()?;
        for slot in Slot::BOTH {
            any |= self.replicas.remove(slot.file(member))?;
        }
        self.replicas.sync()?;
        Ok(any)
    }

    /// The label of a copy that is of `grid`; `None`: there is none.
    fn own_label(&self, grid: GridId, member: &Member) -> Result<Option<Label>, ReplicaError> {
        let not_ours = |what: String| ReplicaError::NotOurs {
            member: member.clone(),
            what,
        };
        match self.label_of(member) {
            Ok(Some(label)) if label.mark.grid != grid => {
                Err(not_ours(format!("it is of grid {}", label.mark.grid)))
            }
            Ok(label) => Ok(label),
            Err(LabelTrouble::Unreadable(what)) => Err(not_ours(what)),
            Err(LabelTrouble::Disk(e)) => Err(e.into()),
        }
    }

    fn label_of(&self, member: &Member) -> Result<Option<Label>, LabelTrouble> {
        let Some(bytes) = self.replicas.load(label_name(member))? else {
            return Ok(None);
        };
        let label = Label::decode(&bytes).map_err(LabelTrouble::Unreadable)?;
        if label.mark.member == *member {
            Ok(Some(label))
        } else {
            let what = format!("its label is for {}", label.mark.member);
            Err(LabelTrouble::Unreadable(what))
        }
    }

    /// File names of all copies that are based on the image `root`.
    pub(crate) fn replicas_on(&self, root: Digest) -> Result<Vec<String>, StoreError> {
        let based = |name: &str| {
            let member = label::member_of(name)?;
            let label = self.label_of(&member).ok().flatten()?;
            (label.mark.image == root).then(|| label.slot.file(&member))
        };
        let names = self.replicas.names()?;
        let names = names.iter().filter_map(|name| name.to_str());
        Ok(names.filter_map(based).collect())
    }

    /// Whether a file among the copies is one that a crash left: a slot that no label names, or a label whose copy has
    /// become an overlay.
    pub(crate) fn is_left_of_a_replica(&self, name: &str) -> Result<bool, StoreError> {
        let labelled = |member: &Member| match self.label_of(member) {
            Ok(label) => Ok(Some(label)),
            // Nobody knows what it says: nothing of it is touched.
            Err(LabelTrouble::Unreadable(_)) => Ok(None),
            Err(LabelTrouble::Disk(e)) => Err(e),
        };
        if let Some(member) = label::member_of(name) {
            return Ok(match labelled(&member)? {
                Some(Some(label)) => !self.replicas.has(&label.slot.file(&member))?,
                Some(None) | None => false,
            });
        }
        let Some((member, slot)) = name.strip_suffix(OVERLAY).and_then(label::slot_of) else {
            return Ok(false);
        };
        Ok(match labelled(&member)? {
            Some(label) => label.is_none_or(|label| label.slot != slot),
            None => false,
        })
    }

    fn replica_dir(&self) -> &Dir {
        &self.replicas
    }
}

enum LabelTrouble {
    Unreadable(String),
    Disk(DiskError),
}

impl From<DiskError> for LabelTrouble {
    fn from(e: DiskError) -> Self {
        Self::Disk(e)
    }
}

/// The virtual size of an overlay's file.
///
/// # Errors
/// What is wrong with it.
pub fn size_of(file: &File) -> Result<Size, Fault> {
    header::read(file).map(|header| Size(header.size))
}

/// The parts of a file of `len` bytes that are not holes, in bytes, ascending.
///
/// # Errors
/// The disk's.
pub fn parts(file: &File, len: u64) -> std::io::Result<Vec<std::ops::Range<u64>>> {
    crate::sparse::data_ranges(file, len)
}
