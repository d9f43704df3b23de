//! Disks of which only overlays, space and imports are asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use coppice_schema::Digest;
use coppice_schema::ids::{Member, ServerId, Stamp};
use coppice_schema::known::CopyState;
use coppice_schema::units::Size;
use coppice_world::disks::{
    DiskError, Disks, Imported, NewOverlay, Overlay, Progress, Space, StoredImage, Transfer,
};
use coppice_world::hypervisor::Mark;
use coppice_world::peers::Peers;
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;

use super::{EPOCH, GRID};

/// Disks of which only overlays, space and imports are asked.
#[derive(Default)]
pub(crate) struct Shelf(pub(crate) Mutex<Held>);

/// What a [`Shelf`] holds.
pub(crate) struct Held {
    pub(crate) overlays: Vec<Overlay>,
    pub(crate) images: Vec<Digest>,
    pub(crate) free: Size,
    /// An import waits for this to become true.
    pub(crate) open: watch::Sender<bool>,
    /// What is on its way to which server; others do not answer.
    pub(crate) moving: BTreeMap<Option<ServerId>, Vec<Transfer>>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            overlays: Vec::new(),
            images: Vec::new(),
            free: Size::gib(10),
            open: watch::channel(true).0,
            moving: [(None, Vec::new())].into(),
        }
    }
}

/// The root under which a [`Shelf`] stores bytes.
pub(crate) fn root_of(bytes: &[u8]) -> Digest {
    Digest::of(&[b"root of ", bytes].concat())
}

impl Disks for Shelf {
    fn space(&self) -> BoxFuture<'_, Result<Space, DiskError>> {
        let free = self.0.lock().unwrap().free;
        let space = Space {
            total: Size::gib(20),
            free,
        };
        ready(Ok(space)).boxed()
    }

    fn overlays(&self) -> BoxFuture<'_, Result<Vec<Overlay>, DiskError>> {
        ready(Ok(self.0.lock().unwrap().overlays.clone())).boxed()
    }

    fn make_overlays(&self, _: Vec<NewOverlay>) -> BoxFuture<'_, Result<Vec<PathBuf>, DiskError>> {
        panic!("the portal makes no overlays")
    }

    fn remove_overlay<'a>(&'a self, _: &'a Member) -> BoxFuture<'a, Result<(), DiskError>> {
        panic!("the portal removes no overlays")
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<StoredImage>, DiskError>> {
        panic!("the portal reads the catalogue, not the disk")
    }

    fn verify_image(&self, _: Digest) -> BoxFuture<'_, Result<CopyState, DiskError>> {
        panic!("the portal verifies nothing")
    }

    fn scrub_image(&self, _: Digest, _: Size) -> BoxFuture<'_, Result<CopyState, DiskError>> {
        panic!("the portal reads no image back")
    }

    fn receive_image(&self, _: Digest, _: Vec<ServerId>) -> BoxFuture<'_, Result<(), DiskError>> {
        panic!("the portal copies nothing")
    }

    fn limit_images(&self, _: Option<Size>) {
        panic!("the portal limits nothing")
    }

    fn meet(&self, _: Arc<dyn Peers>) {
        panic!("the portal meets nobody")
    }

    fn transfers(
        &self,
        server: Option<ServerId>,
    ) -> BoxFuture<'_, Result<Vec<Transfer>, DiskError>> {
        let moving = self.0.lock().unwrap().moving.get(&server).cloned();
        let away = || DiskError::Absent("answer".to_owned());
        ready(moving.ok_or_else(away)).boxed()
    }

    fn drop_image(&self, root: Digest) -> BoxFuture<'_, Result<(), DiskError>> {
        let mut held = self.0.lock().unwrap();
        assert!(held.images.contains(&root), "there is no such image");
        held.images.retain(|other| *other != root);
        ready(Ok(())).boxed()
    }

    fn import_image(
        &self,
        source: PathBuf,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> BoxFuture<'_, Result<Imported, DiskError>> {
        let mut open = self.0.lock().unwrap().open.subscribe();
        async move {
            let bytes = std::fs::read(&source).unwrap();
            let size = u64::try_from(bytes.len()).unwrap();
            let said = Progress {
                step: "hashing",
                done: size,
                total: size,
            };
            progress(said);
            open.wait_for(|open| *open).await.unwrap();
            if !bytes.starts_with(b"QFI") {
                return Err(DiskError::BadSource {
                    source_file: "the upload".to_owned(),
                    why: "no format that qemu-img reads".to_owned(),
                });
            }
            self.0.lock().unwrap().images.push(root_of(&bytes));
            Ok(Imported {
                source: Digest::of(&bytes),
                root: root_of(&bytes),
                size: Size(size),
                data: Size(size),
            })
        }
        .boxed()
    }
}

pub(super) fn overlay(member: &Member) -> Overlay {
    Overlay {
        path: format!("/disks/{member}.qcow2").into(),
        mark: Some(Mark {
            grid: GRID,
            epoch: EPOCH,
            member: member.clone(),
            image: Digest([7; 32]),
            stamp: Stamp::default(),
        }),
        sound: true,
        size: Size::gib(1),
        allocated: Size::mib(1),
    }
}
