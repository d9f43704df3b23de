//! What a server has already of an image that it is to get: all of it but what is bad, a half, or chunks in other images.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use coppice_schema::Digest;

use super::Receiving;
use crate::disk::DiskError;
use crate::manifest::CHUNK;
use crate::store::Look;
use crate::store::record::raw_name;
use crate::transfer::ReceiveError;
use crate::transfer::flow::Target;
use crate::transfer::partial::{Part, part_name};
use crate::transfer::writer::Run;
use crate::verify::VerifyError;

/// Images that are named as known: of more than the youngest, none is likely to be nearer.
const OLDER: usize = 16;

impl Receiving<'_> {
    /// Finds what is here already.
    pub(super) fn begin(&mut self) -> Result<(), ReceiveError> {
        if self.begin_repair()? {
            return Ok(());
        }
        if let Some(part) = self.store.open_half(self.root)? {
            self.take(part)?;
        }
        Ok(())
    }

    /// An image that is here, of the right size, with a manifest: only what is bad of it is fetched. Desktops that
    /// run from it get well by that, and it takes no space.
    fn begin_repair(&mut self) -> Result<bool, ReceiveError> {
        let Ok(manifest) = self.store.manifest(self.root) else {
            return Ok(false);
        };
        let bad = match self.store.verify(self.root, &mut |_| {}, self.cancel) {
            Ok(_) => Vec::new(),
            Err(VerifyError::Bad { bad, .. }) => bad,
            Err(VerifyError::Length { .. }) => return Ok(false),
            Err(VerifyError::Cancelled) => return Err(ReceiveError::Cancelled),
            // Whatever is in its place is replaced.
            Err(VerifyError::Store(_)) => return Ok(false),
        };
        let name = raw_name(self.root);
        let path = self.store.images.join(&name);
        let fail = |operation, e: io::Error| DiskError::new(operation, &path, e);
        let Some(closed) = self.store.images.read(&name)? else {
            return Ok(false);
        };
        let file = if bad.is_empty() {
            closed
        } else {
            closed
                .set_permissions(PermissionsExt::from_mode(0o644))
                .map_err(|e| fail("open for repair", e))?;
            let file = self.store.images.reopen(&name);
            closed
                .set_permissions(PermissionsExt::from_mode(0o444))
                .map_err(|e| fail("protect", e))?;
            file?
        };
        for chunk in bad.iter().filter(|chunk| chunk.expected.is_none()) {
            crate::import::punch(&file, chunk.index * CHUNK, CHUNK)
                .map_err(|e| fail("punch", e))?;
        }
        let wrong: BTreeSet<u64> = bad.iter().map(|chunk| chunk.index).collect();
        let places = manifest.chunks().iter().map(|(place, _)| *place);
        let right: Vec<u64> = places.filter(|place| !wrong.contains(place)).collect();
        self.repairs = true;
        let target = Target {
            manifest: Arc::new(manifest),
            file: Arc::new(file),
        };
        self.registered.flow.set_target(target, right);
        self.resumed = self.stored();
        Ok(true)
    }

    pub(super) fn take(&mut self, mut part: Part) -> Result<(), ReceiveError> {
        let file = part.file.try_clone().map_err(|e| {
            DiskError::new("open", self.store.incoming.join(part_name(self.root)), e)
        })?;
        let target = Target {
            manifest: Arc::new(part.manifest.clone()),
            file: Arc::new(file),
        };
        let stored = std::mem::take(&mut part.stored);
        self.registered
            .flow
            .set_target(target, stored.into_iter().collect());
        self.resumed = self.stored();
        self.part = Some(part);
        Ok(())
    }

    /// Chunks that are wanted, and that other images on this disk have: as few and long runs as there are.
    pub(super) fn find_here(&mut self, target: &Target) -> VecDeque<Run> {
        let mut runs: VecDeque<Run> = VecDeque::new();
        let mut left = self.want.clone();
        for image in self.store.images().unwrap_or_default() {
            let fits = image.root != self.root && image.look != Look::Missing;
            if left.is_empty() || !fits {
                continue;
            }
            // One that cannot be read is of no help, and somebody else's finding.
            let Ok(older) = self.store.manifest(image.root) else {
                continue;
            };
            let Ok(Some(file)) = self.store.images.read(raw_name(image.root)) else {
                continue;
            };
            let file = Arc::new(file);
            let places: HashMap<Digest, u64> = older
                .chunks()
                .iter()
                .map(|(place, digest)| (*digest, *place))
                .collect();
            let found: Vec<(u64, u64)> = left
                .iter()
                .filter_map(|place| {
                    let digest = target.manifest.digest_at(*place)?;
                    let same = older.digest_at(*place) == Some(digest);
                    let there = if same { *place } else { *places.get(&digest)? };
                    Some((*place, there))
                })
                .collect();
            for (here, there) in found {
                left.remove(&here);
                match runs.back_mut() {
                    Some(run)
                        if Arc::ptr_eq(&run.from, &file)
                            && run.here + run.count == here
                            && run.there + run.count == there =>
                    {
                        run.count += 1;
                    }
                    _ => runs.push_back(Run {
                        from: Arc::clone(&file),
                        there,
                        here,
                        count: 1,
                    }),
                }
            }
        }
        runs
    }

    /// Images that the new one may be told as a change of, the youngest first.
    pub(super) fn older(&self) -> Vec<Digest> {
        let images = self.store.images().unwrap_or_default();
        let mut known: Vec<_> = images
            .into_iter()
            .filter(|image| image.root != self.root)
            .filter_map(|image| {
                let modified = image.path.symlink_metadata().ok()?.modified().ok()?;
                Some((std::cmp::Reverse(modified), image.root))
            })
            .collect();
        known.sort();
        known
            .into_iter()
            .map(|(_, root)| root)
            .take(OLDER)
            .collect()
    }
}
