//! The disks of this machine: a [`Store`] behind the port. Its calls block, so each runs where blocking is allowed.

mod copies;
mod replicas;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use coppice_golden::overlay::{Foreign, LinkedClone};
use coppice_golden::store::Look;
use coppice_golden::transfer::Means;
use coppice_golden::{
    Cancel, ImportError, Options, OverlayError, Phase, Store, StoreError, Verified, VerifyError,
};
use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member, ServerId};
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Timestamp};
use futures::future::{BoxFuture, FutureExt};

use super::{
    DiskError, Disks, Imported, NewOverlay, Overlay, Progress, Space, StoredImage, Transfer,
};
use crate::hypervisor::Mark;
use crate::peers::Peers;

pub(crate) use self::replicas::Arriving;

/// Images and overlays in a directory of this machine.
///
/// An image counts as verified when it was imported here and its file is as the import left it, or when
/// [`verify_image`](Disks::verify_image) found it whole since. One whose file was written to or replaced counts as
/// bad until then; what was found bad is so after a restart too. One that is being imported is on its way until it was
/// read back.
#[derive(Clone)]
pub struct LocalDisks {
    store: Arc<Store>,
    grid: GridId,
    memory: Arc<Mutex<BTreeMap<Digest, Remembered>>>,
    means: Means,
    peers: Arc<OnceLock<Arc<dyn Peers>>>,
}

/// What need not be read again for each look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Remembered {
    /// Virtual size and bytes that are not holes, from the manifest.
    sizes: Option<(Size, Size)>,
    /// What the last verification found, and what a glance showed then.
    verdict: Option<(CopyState, Glance)>,
    /// It was here when the store was opened.
    found: bool,
}

/// What tells a file from what it was: size, and times of its last changes in nanoseconds.
type Glance = (u64, i128, i128);

impl LocalDisks {
    /// Opens the store in `dir`, or makes one; only overlays with a mark of `grid` are ever removed.
    ///
    /// # Errors
    /// When the directory holds something else, is of a newer version, or is in use by another process.
    pub async fn open(dir: PathBuf, grid: GridId) -> Result<Self, DiskError> {
        let what = format!("open the images in {}", dir.display());
        let store = blocking(&what, move || Store::open(&dir).map_err(store_error)).await?;
        let found = Remembered {
            found: true,
            ..Remembered::default()
        };
        let images = store.images().map_err(store_error)?.into_iter();
        let memory: BTreeMap<_, _> = images.map(|image| (image.root, found)).collect();
        Ok(Self {
            store: Arc::new(store),
            grid,
            memory: Arc::new(Mutex::new(memory)),
            means: Means::new(Arc::new(copies::Clock)),
            peers: Arc::default(),
        })
    }

    fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, DiskError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, DiskError>> {
        let this = self.clone();
        async move { blocking(what, move || work(&this)).await }.boxed()
    }

    fn remember<T>(&self, root: Digest, change: impl FnOnce(&mut Remembered) -> T) -> T {
        // It guards nothing that a panic could leave half changed.
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(root).or_default())
    }

    fn sizes(&self, root: Digest) -> Option<(Size, Size)> {
        if let Some(known) = self.remember(root, |r| r.sizes) {
            return Some(known);
        }
        let manifest = self.store.manifest(root).ok()?;
        let sizes = (manifest.size(), manifest.data());
        self.remember(root, |r| r.sizes = Some(sizes));
        Some(sizes)
    }

    fn look(&self, image: &coppice_golden::store::StoredImage) -> StoredImage {
        let sizes = self.sizes(image.root);
        let (verdict, found) = self.remember(image.root, |r| (r.verdict, r.found));
        let state = match (image.look, verdict, sizes) {
            (Look::Missing | Look::Unknown, _, _) | (_, _, None) => CopyState::Bad,
            (_, Some((state, then)), _) if glance(&image.path) == Some(then) => state,
            // An import put it there, and has not read it back yet.
            (Look::Unchanged, Some((CopyState::Bad, _)), _) => CopyState::Copying,
            (Look::Unchanged, None, _) if !found => CopyState::Copying,
            (Look::Unchanged, _, _) => CopyState::Verified,
            (Look::Changed, _, _) => CopyState::Bad,
        };
        let (size, data) = sizes.unwrap_or_default();
        StoredImage {
            root: image.root,
            state,
            size,
            data,
            read: Timestamp(image.read.saturating_mul(1000)),
        }
    }

    fn verify(
        &self,
        root: Digest,
        progress: &mut dyn FnMut(coppice_golden::Progress),
        cancel: &Cancel,
    ) -> Result<CopyState, DiskError> {
        self.read_back(root, |store| store.verify(root, progress, cancel))
    }

    fn read_back(
        &self,
        root: Digest,
        read: impl FnOnce(&Store) -> Result<Verified, VerifyError>,
    ) -> Result<CopyState, DiskError> {
        let before = glance(&self.store.image_path(root));
        let state = match read(&self.store) {
            Ok(_) => CopyState::Verified,
            Err(VerifyError::Bad { .. } | VerifyError::Length { .. }) => CopyState::Bad,
            Err(VerifyError::Store(StoreError::Manifest { .. })) => CopyState::Bad,
            Err(VerifyError::Store(StoreError::NoImage(_))) => {
                return Err(DiskError::Absent(format!("image {}", root.short())));
            }
            Err(error @ VerifyError::Cancelled) => {
                return Err(failed(format!("verify image {}", root.short()), &error));
            }
            Err(VerifyError::Store(error)) => return Err(store_error(error)),
        };
        self.remember(root, |r| r.verdict = before.map(|glance| (state, glance)));
        Ok(state)
    }

    fn import(
        &self,
        source: &Path,
        progress: &(dyn Fn(Progress) + Send + Sync),
        cancel: &Cancel,
    ) -> Result<Imported, DiskError> {
        let mut told = |p: coppice_golden::Progress| {
            progress(Progress {
                step: step(p.phase),
                done: p.done.0,
                total: p.total.0,
            });
        };
        let mut import = || {
            let made = self
                .store
                .import(source, &Options::default(), &mut told, cancel)
                .map_err(|e| self.import_error(source, e))?;
            // What was written is believed when it was read back.
            let state = self.verify(made.root, &mut told, cancel)?;
            Ok((made, state))
        };
        let (mut made, mut state) = import()?;
        if made.already && state == CopyState::Bad {
            // It rotted since, which is known now: the source takes its place.
            (made, state) = import()?;
        }
        if state != CopyState::Verified {
            return Err(DiskError::Io {
                what: format!("read image {} back", made.root.short()),
                cause: "the disk does not hold what was written to it".to_owned(),
            });
        }
        Ok(Imported {
            source: made.source,
            root: made.root,
            size: made.size,
            data: made.data,
        })
    }

    fn import_error(&self, source: &Path, error: ImportError) -> DiskError {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let bad = |why: String| DiskError::BadSource {
            source_file: name.to_string(),
            why,
        };
        match error {
            ImportError::Source { cause, .. } => bad(cause.to_string()),
            ImportError::NotAFile { found, .. } => bad(format!("it is {found}")),
            ImportError::Refused { refusal, .. } => bad(refusal.to_string()),
            ImportError::Unexpected {
                found, expected, ..
            } => bad(format!(
                "its digest is {found}, and should have been {expected}"
            )),
            ImportError::Changed(_) => bad("it changed in the meantime".to_owned()),
            ImportError::Failed { what, .. } => bad(format!("it cannot be converted: {what}")),
            ImportError::Deadline { limit, .. } => {
                bad(format!("converting it took longer than {limit:?}"))
            }
            ImportError::NoSpace { needed, free, .. } => DiskError::Full {
                what: format!("import {name}"),
                needed,
                free,
            },
            error @ (ImportError::NoTool(_) | ImportError::Cancelled) => {
                failed(format!("import {name}"), &error)
            }
            ImportError::Store(StoreError::Disk(error)) if error.is_full() => {
                self.full(format!("import {name}"), Size(0))
            }
            ImportError::Store(error) => store_error(error),
        }
    }

    /// The disk said that it is full in the midst of something: what is needed is a little more than there is.
    fn full(&self, what: String, needed: Size) -> DiskError {
        let free = self.store.space().map_or(Size(0), |space| space.free);
        DiskError::Full {
            what,
            needed: needed.max(Size(free.0.saturating_add(1))),
            free,
        }
    }

    fn overlay_error(&self, error: OverlayError) -> DiskError {
        match error {
            OverlayError::NoImage { image, .. } => {
                DiskError::Absent(format!("image {}", image.short()))
            }
            OverlayError::Taken { member, what } => {
                DiskError::NotOurs(format!("the overlay of {member}, {what},"))
            }
            OverlayError::NotOurs { member, what } => {
                DiskError::NotOurs(format!("the overlay of {member} ({what})"))
            }
            OverlayError::NoSpace { member, .. } => {
                self.full(format!("write the overlay of {member}"), Size(256 << 10))
            }
            OverlayError::Size { ref member, .. } => {
                failed(format!("write the overlay of {member}"), &error)
            }
            OverlayError::Store(error) => store_error(error),
        }
    }
}

impl Disks for LocalDisks {
    fn space(&self) -> BoxFuture<'_, Result<Space, DiskError>> {
        self.work("ask for space", |this| {
            let space = this.store.space().map_err(store_error)?;
            Ok(Space {
                total: space.total,
                free: space.free,
            })
        })
    }

    fn overlays(&self) -> BoxFuture<'_, Result<Vec<Overlay>, DiskError>> {
        self.work("list overlays", |this| {
            let listing = this.store.list_overlays().map_err(store_error)?;
            let ours = listing.clones.into_iter().map(marked);
            Ok(ours
                .chain(listing.foreign.into_iter().map(foreign))
                .collect())
        })
    }

    fn make_overlays(
        &self,
        overlays: Vec<NewOverlay>,
    ) -> BoxFuture<'_, Result<Vec<PathBuf>, DiskError>> {
        self.work("write overlays", move |this| {
            let specs: Vec<_> = overlays.into_iter().map(spec).collect();
            let written = this
                .store
                .write_overlays(&specs)
                .map_err(|e| this.overlay_error(e))?;
            written
                .into_iter()
                .map(|one| one.map(|w| w.path).map_err(|e| this.overlay_error(e)))
                .collect()
        })
    }

    fn remove_overlay<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Result<(), DiskError>> {
        let member = member.clone();
        self.work("remove an overlay", move |this| {
            let removed = this.store.remove_overlay(this.grid, &member);
            removed.map(drop).map_err(|e| this.overlay_error(e))
        })
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, DiskError>> {
        self.work("list images", |this| {
            let images = this.store.images().map_err(store_error)?;
            let mut all: Vec<StoredImage> = images.iter().map(|image| this.look(image)).collect();
            let halves = this.store.half_images().map_err(store_error)?;
            // One that is to take the place of a bad one is told as that until it does.
            let new = halves
                .iter()
                .filter(|half| images.iter().all(|i| i.root != half.root));
            all.extend(new.map(copies::half));
            Ok(all)
        })
    }

    fn verify_image(&self, root: Digest) -> BoxFuture<'_, Result<CopyState, DiskError>> {
        let cancel = CancelOnDrop::default();
        let asked = cancel.0.clone();
        let work = self.work("verify an image", move |this| {
            this.verify(root, &mut |_| {}, &asked)
        });
        async move {
            let _cancel = cancel;
            work.await
        }
        .boxed()
    }

    fn scrub_image(&self, root: Digest, rate: Size) -> BoxFuture<'_, Result<CopyState, DiskError>> {
        let cancel = CancelOnDrop::default();
        let asked = cancel.0.clone();
        let work = self.work("read an image back", move |this| {
            this.read_back(root, |store| store.scrub(root, rate, &asked))
        });
        async move {
            let _cancel = cancel;
            work.await
        }
        .boxed()
    }

    fn receive_image(
        &self,
        root: Digest,
        from: Vec<ServerId>,
    ) -> BoxFuture<'_, Result<(), DiskError>> {
        self.receive(root, from)
    }

    fn limit_images(&self, rate: Option<Size>) {
        self.means.incoming.set(rate);
        self.means.outgoing.set(rate);
    }

    fn meet(&self, peers: Arc<dyn Peers>) {
        // There is one way to the others as long as the daemon runs.
        let _ = self.peers.set(peers);
    }

    fn transfers(
        &self,
        server: Option<ServerId>,
    ) -> BoxFuture<'_, Result<Vec<Transfer>, DiskError>> {
        match server {
            None => self.work("list half images", Self::under_way),
            Some(server) => self.under_way_on(server),
        }
    }

    fn drop_image(&self, root: Digest) -> BoxFuture<'_, Result<(), DiskError>> {
        self.work("remove an image", move |this| {
            match this.store.drop_image(root) {
                Ok(_) => {
                    let mut memory = this.memory.lock().unwrap_or_else(PoisonError::into_inner);
                    memory.remove(&root);
                    Ok(())
                }
                Err(StoreError::ImageInUse { root, users }) => Err(DiskError::InUse {
                    what: format!("image {}", root.short()),
                    by: users.join(", "),
                }),
                Err(error) => Err(store_error(error)),
            }
        })
    }

    fn import_image(
        &self,
        source: PathBuf,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> BoxFuture<'_, Result<Imported, DiskError>> {
        let cancel = CancelOnDrop::default();
        let asked = cancel.0.clone();
        let work = self.work("import an image", move |this| {
            this.import(&source, progress.as_ref(), &asked)
        });
        async move {
            let _cancel = cancel;
            work.await
        }
        .boxed()
    }
}

/// Long work that nobody waits for any more stops.
#[derive(Default)]
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(failed(what.to_owned(), &e)))
}

fn glance(path: &Path) -> Option<Glance> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.symlink_metadata().ok()?;
    let nanos = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Some((
        meta.len(),
        nanos(meta.mtime(), meta.mtime_nsec()),
        nanos(meta.ctime(), meta.ctime_nsec()),
    ))
}

fn step(phase: Phase) -> &'static str {
    match phase {
        // Reading the source again shows that it did not change: to people it is the same work.
        Phase::Hashing | Phase::Rehashing => "hashing",
        Phase::Converting => "converting",
        Phase::Indexing => "indexing",
        Phase::Verifying => "verifying",
        Phase::Copying => "copying",
    }
}

fn spec(new: NewOverlay) -> coppice_golden::OverlaySpec {
    coppice_golden::Mark {
        grid: new.mark.grid,
        epoch: new.mark.epoch,
        member: new.mark.member,
        image: new.mark.image,
        size: new.size,
        stamp: new.mark.stamp,
    }
}

fn marked(clone: LinkedClone) -> Overlay {
    Overlay {
        sound: clone.sound(),
        path: clone.path,
        size: clone.mark.size,
        allocated: clone.allocated,
        mark: Some(Mark {
            grid: clone.mark.grid,
            epoch: clone.mark.epoch,
            member: clone.mark.member,
            image: clone.mark.image,
            stamp: clone.mark.stamp,
        }),
    }
}

fn foreign(file: Foreign) -> Overlay {
    Overlay {
        path: file.path,
        mark: None,
        sound: false,
        size: Size(0),
        allocated: Size(0),
    }
}

fn failed(what: String, error: &dyn std::error::Error) -> DiskError {
    DiskError::Io {
        what,
        cause: error.to_string(),
    }
}

fn store_error(error: StoreError) -> DiskError {
    match error {
        StoreError::NoImage(root) => DiskError::Absent(format!("image {}", root.short())),
        StoreError::ImageInUse { root, ref users } => DiskError::InUse {
            what: format!("image {}", root.short()),
            by: users.join(", "),
        },
        StoreError::Disk(_)
        | StoreError::Newer { .. }
        | StoreError::NotAStore(_)
        | StoreError::InUse(_)
        | StoreError::Split(_)
        | StoreError::Damaged { .. }
        | StoreError::Manifest { .. } => failed("use the image store".to_owned(), &error),
    }
}

#[cfg(test)]
mod tests;
