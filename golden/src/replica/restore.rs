//! A copy becomes the overlay of a new life.

use std::io::Write;

use coppice_schema::ids::Member;

use super::label::label_name;
use super::{LabelTrouble, ReplicaError};
use crate::disk::DiskError;
use crate::overlay::{Fault, OverlayError, OverlaySpec, Written, file_name, header, mark_name};
use crate::store::Store;

impl Store {
    /// Makes the copy of `from` the overlay that `spec` says, by giving it that name: nothing is copied. Durable on return.
    /// An overlay that is there for the same purpose stays as it is. Of a crash in between, the copy remains or the overlay
    /// does.
    ///
    /// # Errors
    /// [`ReplicaError::Absent`]: there is neither. When the copy is of another grid or another image, or of another size.
    pub fn restore_replica(
        &self,
        from: &Member,
        spec: &OverlaySpec,
    ) -> Result<Written, ReplicaError> {
        let _names = self.lock_names();
        let name = file_name(&spec.member);
        let written = |already| Written {
            path: self.overlay_path(&spec.member),
            already,
        };
        if self.overlays.has(&name)? {
            self.compare(spec)?;
            self.overlays.sync()?;
            self.forget_restored(from)?;
            return Ok(written(true));
        }
        let absent = || ReplicaError::Absent(from.clone());
        let label = self.own_label(spec.grid, from)?.ok_or_else(absent)?;
        let slot = label.slot.file(from);
        let file = self.replicas.read(&slot)?.ok_or_else(absent)?;
        let unfit = |fault| ReplicaError::Unfit {
            member: from.clone(),
            fault,
        };
        let found = header::read(&file).map_err(unfit)?;
        if found.size != spec.size.0 {
            return Err(unfit(Fault::Size {
                found: coppice_schema::units::Size(found.size),
                expected: spec.size,
            }));
        }
        if label.mark.image != spec.image || found.backing != header::backing_path(spec.image) {
            let found = found.backing;
            return Err(unfit(Fault::Backing { found }));
        }
        if self.image_len(spec.image)?.is_none() {
            return Err(OverlayError::NoImage {
                member: spec.member.clone(),
                image: spec.image,
            }
            .into());
        }
        self.put_mark(spec)?;
        self.announce(from);
        // One step for both names: there is the copy, or the overlay.
        self.replicas.rename(&slot, &self.overlays, &name)?;
        self.overlays.sync()?;
        self.replicas.sync()?;
        self.forget_restored(from)?;
        Ok(written(false))
    }

    /// The mark gets its name before the overlay does, and is on the medium.
    fn put_mark(&self, spec: &OverlaySpec) -> Result<(), ReplicaError> {
        let mark = mark_name(&spec.member);
        self.overlays.remove(&mark)?;
        let mut file = self.overlays.create(&mark)?;
        let wrote = file
            .write_all(&spec.encode())
            .and_then(|()| file.sync_all());
        wrote.map_err(|e| DiskError::new("write", self.overlays.join(&mark), e))?;
        Ok(self.overlays.sync()?)
    }

    /// Removes a label whose copy has become an overlay.
    fn forget_restored(&self, from: &Member) -> Result<(), ReplicaError> {
        let label = match self.label_of(from) {
            Ok(label) => label,
            Err(LabelTrouble::Unreadable(_)) => None,
            Err(LabelTrouble::Disk(e)) => return Err(e.into()),
        };
        if let Some(label) = label
            && !self.replicas.has(&label.slot.file(from))?
            && self.replicas.remove(label_name(from))?
        {
            self.replicas.sync()?;
        }
        Ok(())
    }
}
