//! Writing and removing overlays.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member};
use coppice_schema::units::Size;

use super::header::{self, SIZE_MAX};
use super::mark::Mark;
use super::{OverlayError, file_name, mark_name};
use crate::disk::{DiskError, TEMPORARY};
use crate::store::Store;
use crate::store::record::raw_name;

/// An overlay to write: all that its mark says.
pub type OverlaySpec = Mark;

/// An overlay that is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Its file.
    pub path: PathBuf,
    /// It was there before, made by the same order or for the same purpose: nothing was written.
    pub already: bool,
}

/// An overlay that is on the disk under its temporary name, or is there already.
enum Step {
    Ready,
    Already,
}

impl Store {
    /// Writes overlays, and returns when all that succeeded are durable: all contents and marks, one sync of the
    /// file system, then the names and one sync of the directory. One result for each of `specs`, in order.
    ///
    /// Doing it twice is doing it once: an overlay that is there for the same grid, desktop, image and size stays
    /// as it is, with what the desktop wrote. Of a crash in between nothing remains after [`Store::open`].
    ///
    /// # Errors
    /// The whole call fails when a sync fails: then none of them counts as written.
    pub fn write_overlays(
        &self,
        specs: &[OverlaySpec],
    ) -> Result<Vec<Result<Written, OverlayError>>, OverlayError> {
        let _names = self.lock_names();
        let mut sizes = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut steps: Vec<Result<Step, OverlayError>> = Vec::with_capacity(specs.len());
        for spec in specs {
            steps.push(if seen.insert(&spec.member) {
                self.prepare(spec, &mut sizes)
            } else {
                let what = "asked for twice in one batch".to_owned();
                Err(OverlayError::Taken {
                    member: spec.member.clone(),
                    what,
                })
            });
        }
        if !steps.iter().any(|step| matches!(step, Ok(Step::Ready))) {
            // An earlier call may have failed between a name and its sync.
            self.overlays.sync()?;
            return Ok(specs
                .iter()
                .zip(steps)
                .map(|(spec, step)| self.written(spec, step))
                .collect());
        }
        let ready = || {
            specs
                .iter()
                .zip(&steps)
                .filter(|(_, step)| matches!(step, Ok(Step::Ready)))
                .map(|(spec, _)| spec)
        };
        if let Err(e) = self.overlays.sync_file_system() {
            ready().for_each(|spec| self.abandon(spec));
            return Err(e.into());
        }
        let mut unnamed = BTreeMap::new();
        for spec in ready() {
            let name = file_name(&spec.member);
            if let Err(e) =
                self.overlays
                    .rename(&format!("{TEMPORARY}{name}"), &self.overlays, &name)
            {
                self.abandon(spec);
                unnamed.insert(spec.member.clone(), e);
            }
        }
        self.overlays.sync()?;
        let results =
            specs
                .iter()
                .zip(steps)
                .map(|(spec, step)| match unnamed.remove(&spec.member) {
                    Some(e) => Err(e.into()),
                    None => self.written(spec, step),
                });
        Ok(results.collect())
    }

    fn written(
        &self,
        spec: &OverlaySpec,
        step: Result<Step, OverlayError>,
    ) -> Result<Written, OverlayError> {
        step.map(|step| Written {
            path: self.overlay_path(&spec.member),
            already: matches!(step, Step::Already),
        })
    }

    fn prepare(
        &self,
        spec: &OverlaySpec,
        sizes: &mut BTreeMap<Digest, Option<u64>>,
    ) -> Result<Step, OverlayError> {
        let member = &spec.member;
        let image = match sizes.get(&spec.image) {
            Some(known) => *known,
            None => *sizes
                .entry(spec.image)
                .or_insert(self.image_len(spec.image)?),
        };
        let Some(image) = image else {
            return Err(OverlayError::NoImage {
                member: member.clone(),
                image: spec.image,
            });
        };
        check_size(spec, image)?;
        if self.overlays.has(&file_name(member))? {
            return self.compare(spec).map(|()| Step::Already);
        }
        let written = self.put(spec);
        if written.is_err() {
            self.abandon(spec);
        }
        match written {
            Ok(()) => Ok(Step::Ready),
            Err(cause) if cause.is_full() => Err(OverlayError::NoSpace {
                member: member.clone(),
                cause,
            }),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn image_len(&self, image: Digest) -> Result<Option<u64>, OverlayError> {
        let name = raw_name(image);
        let Some(file) = self.images.read(&name)? else {
            return Ok(None);
        };
        let meta = file
            .metadata()
            .map_err(|e| DiskError::new("look at", self.images.join(&name), e))?;
        Ok(Some(meta.len()))
    }

    /// The mark and the overlay under its temporary name; neither is durable yet.
    fn put(&self, spec: &OverlaySpec) -> Result<(), DiskError> {
        let (mark, name) = (
            mark_name(&spec.member),
            format!("{TEMPORARY}{}", file_name(&spec.member)),
        );
        let fail = |name: &str, e| DiskError::new("write", self.overlays.join(name), e);
        let file = self.create_over(&mark)?;
        (&file)
            .write_all(&spec.encode())
            .map_err(|e| fail(&mark, e))?;
        let file = self.create_over(&name)?;
        header::write(&file, spec.image, spec.size.0).map_err(|e| fail(&name, e))
    }

    /// A new file; what an earlier attempt left under that name goes.
    fn create_over(&self, name: &str) -> Result<std::fs::File, DiskError> {
        match self.overlays.create(name) {
            Err(e) if e.cause.kind() == io::ErrorKind::AlreadyExists => {
                self.overlays.remove(name)?;
                self.overlays.create(name)
            }
            other => other,
        }
    }

    /// Takes back what [`Store::put`] did. What cannot be removed now is removed at the next start.
    fn abandon(&self, spec: &OverlaySpec) {
        self.overlays
            .remove(format!("{TEMPORARY}{}", file_name(&spec.member)))
            .ok();
        self.overlays.remove(mark_name(&spec.member)).ok();
    }

    /// Whether the overlay that is there is the one that is wanted.
    pub(crate) fn compare(&self, spec: &OverlaySpec) -> Result<(), OverlayError> {
        let taken = |what: String| {
            Err(OverlayError::Taken {
                member: spec.member.clone(),
                what,
            })
        };
        let found = match self.mark_of(&spec.member)? {
            Ok(found) => found,
            Err(what) => return taken(what),
        };
        if found.grid != spec.grid {
            return taken(format!("of grid {}", found.grid));
        }
        if found.image != spec.image || found.size != spec.size {
            return taken(format!(
                "based on image {} with a disk of {}",
                found.image.short(),
                found.size
            ));
        }
        Ok(())
    }

    /// The mark of `member`, or in words why it has none that counts.
    fn mark_of(&self, member: &Member) -> Result<Result<Mark, String>, OverlayError> {
        let Some(bytes) = self.overlays.load(mark_name(member))? else {
            return Ok(Err("without a mark".to_owned()));
        };
        Ok(Mark::decode(&bytes).and_then(|mark| {
            if mark.member == *member {
                Ok(mark)
            } else {
                Err(format!("with a mark for {}", mark.member))
            }
        }))
    }

    /// Removes the overlay of `member` and then its mark; says whether there was an overlay. Durable on return.
    /// The caller knows that nothing uses it.
    ///
    /// # Errors
    /// [`OverlayError::NotOurs`] when it has no mark of `grid`; then nothing was touched.
    pub fn remove_overlay(&self, grid: GridId, member: &Member) -> Result<bool, OverlayError> {
        let _names = self.lock_names();
        let not_ours = |what: String| {
            Err(OverlayError::NotOurs {
                member: member.clone(),
                what,
            })
        };
        let there = self.overlays.has(&file_name(member))?;
        match self.mark_of(member)? {
            Ok(mark) if mark.grid == grid => {}
            Ok(mark) => return not_ours(format!("it is of grid {}", mark.grid)),
            Err(_) if !there => return Ok(false),
            Err(what) => return not_ours(format!("it is {what}")),
        }
        self.overlays.remove(file_name(member))?;
        // The mark goes only when the overlay is gone for good, so that no crash leaves an overlay without.
        self.overlays.sync()?;
        self.overlays.remove(mark_name(member))?;
        self.overlays.sync()?;
        Ok(there)
    }
}

pub(crate) fn check_size(spec: &OverlaySpec, image: u64) -> Result<(), OverlayError> {
    let wrong = |what: String| {
        Err(OverlayError::Size {
            member: spec.member.clone(),
            size: spec.size,
            what,
        })
    };
    if spec.size.0 < image {
        return wrong(format!("is smaller than its image of {}", Size(image)));
    }
    if !spec.size.0.is_multiple_of(512) {
        return wrong("is not a whole number of sectors of 512 bytes".to_owned());
    }
    if spec.size > SIZE_MAX {
        return wrong(format!("is larger than {SIZE_MAX}"));
    }
    Ok(())
}
