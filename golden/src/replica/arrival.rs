//! A copy that comes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use coppice_schema::ids::Member;
use coppice_schema::units::{Size, Timestamp};

use super::label::{Label, Slot, label_name};
use super::{Chunks, ReplicaError};
use crate::disk::{DiskError, TEMPORARY, is_full};
use crate::overlay::{Mark, OVERLAY, OverlayError, check_size, header};
use crate::store::Store;

/// What has come of a copy so far. It counts when [`finish`](Self::finish) says so; dropped before, it is gone.
#[derive(Debug)]
pub struct Arrival {
    store: Arc<Store>,
    mark: Mark,
    number: u64,
    name: String,
    file: File,
    /// Bytes written that were not synced yet.
    unsynced: AtomicU64,
}

/// So many bytes are synced at once: at the end there is little left, so that it does not take long.
const SYNC: u64 = 64 << 20;

impl Store {
    /// Makes room for a copy of a disk of `mark.size` bytes, of which `data` bytes come. The newest arrival of a desktop is
    /// the one that counts.
    ///
    /// # Errors
    /// When its image is not here, its size does not do, it does not fit, or the copy that is here is another grid's.
    pub fn begin_replica(
        self: &Arc<Self>,
        mark: Mark,
        data: Size,
    ) -> Result<Arrival, ReplicaError> {
        let member = mark.member.clone();
        self.own_label(mark.grid, &member)?;
        let Some(image) = self.image_len(mark.image)? else {
            let image = mark.image;
            return Err(OverlayError::NoImage { member, image }.into());
        };
        check_size(&mark, image)?;
        let free = self.space()?.free;
        if free < data {
            return Err(ReplicaError::NoSpace {
                member,
                needed: data,
                free,
            });
        }
        let number = self.announce(&member);
        let name = format!("{TEMPORARY}{member}.{number}{OVERLAY}");
        let file = self.replica_dir().create(&name)?;
        Ok(Arrival {
            store: Arc::clone(self),
            mark,
            number,
            name,
            file,
            unsynced: AtomicU64::new(0),
        })
    }

    /// The number of what comes next for `member`. What came before counts no more.
    pub(super) fn announce(&self, member: &Member) -> u64 {
        let mut arrivals = self.arrivals();
        let number = arrivals.entry(member.clone()).or_default();
        *number = number.wrapping_add(1);
        *number
    }

    fn arrivals(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<Member, u64>> {
        // Numbers: a panic leaves none half changed.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    /// The chunks of the copy that is here already, if any.
    ///
    /// # Errors
    /// The disk's.
    pub fn former(&self) -> Result<Option<Chunks>, ReplicaError> {
        let member = &self.mark.member;
        let Some(label) = self.store.own_label(self.mark.grid, member)? else {
            return Ok(None);
        };
        let (dir, name) = (self.store.replica_dir(), label.slot.file(member));
        let chunks = dir.read(&name)?.map(Chunks::of).transpose();
        Ok(chunks.map_err(|e| DiskError::new("read", dir.join(name), e))?)
    }

    /// Writes bytes of the file that comes.
    ///
    /// # Errors
    /// When the disk is full, fails, or another copy has taken its place.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ReplicaError> {
        self.counts()?;
        let length = bytes.len() as u64;
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|e| self.failed("write", e, Size(length)))?;
        if self.unsynced.fetch_add(length, Ordering::Relaxed) + length >= SYNC {
            self.unsynced.store(0, Ordering::Relaxed);
            let synced = self.file.sync_data();
            synced.map_err(|e| self.failed("sync", e, Size(0)))?;
        }
        Ok(())
    }

    /// All of it has come: it is `length` bytes long. On return it is the copy, and on the medium.
    ///
    /// # Errors
    /// When it is no overlay of its image, another copy has taken its place, or the disk fails: the former copy stays.
    pub fn finish(&self, length: u64, taken: Timestamp) -> Result<(), ReplicaError> {
        let grown = self.file.set_len(length);
        grown.map_err(|e| self.failed("write", e, Size(0)))?;
        let member = &self.mark.member;
        header::adopt(&self.file, self.mark.image, self.mark.size.0).map_err(|fault| {
            ReplicaError::Unfit {
                member: member.clone(),
                fault,
            }
        })?;
        let synced = self.file.sync_all();
        synced.map_err(|e| self.failed("sync", e, Size(0)))?;
        let _names = self.store.lock_names();
        self.counts()?;
        let dir = self.store.replica_dir();
        let former = self.store.own_label(self.mark.grid, member)?;
        let slot = former.as_ref().map_or(Slot::A, |label| label.slot.other());
        dir.rename(&self.name, dir, &slot.file(member))?;
        // Its bytes have their name before the label says so.
        dir.sync()?;
        let label = Label::new(slot, taken, self.mark.clone());
        dir.save(&label_name(member), &label.encode())?;
        dir.sync()?;
        // What cannot be removed now is removed at the next start, or replaced.
        if dir.remove(slot.other().file(member))? {
            dir.sync()?;
        }
        Ok(())
    }

    fn counts(&self) -> Result<(), ReplicaError> {
        if self.store.arrivals().get(&self.mark.member) == Some(&self.number) {
            Ok(())
        } else {
            Err(ReplicaError::Superseded(self.mark.member.clone()))
        }
    }

    fn failed(&self, what: &'static str, error: std::io::Error, needed: Size) -> ReplicaError {
        if is_full(&error) {
            let free = self.store.space().map_or(Size(0), |space| space.free);
            return ReplicaError::NoSpace {
                member: self.mark.member.clone(),
                needed: needed.max(Size(free.0.saturating_add(1))),
                free,
            };
        }
        DiskError::new(what, self.store.replica_dir().join(&self.name), error).into()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // Once it has another name this finds nothing. What cannot be removed now is removed at the next start.
        self.store.replica_dir().remove(&self.name).ok();
    }
}
