//! The simulated server's disks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, Member, ServerId};
use coppice_schema::known::CopyState;
use coppice_schema::units::{Size, Timestamp};
use futures::future::BoxFuture;

use super::SimServer;
use super::copies;
use super::fault::Operation;
use super::journal::{Deed, Hand};
use super::machine::{Machine, SimImage, SimOverlay, is_ours, overlay_path};
use crate::disks::{
    DiskError, Disks, Imported, NewOverlay, Overlay, Progress, Space, StoredImage, Transfer,
};
use crate::hypervisor::Mark;
use crate::peers::Peers;

type Outcome<T> = Result<T, DiskError>;

impl Disks for SimServer {
    fn space(&self) -> BoxFuture<'_, Outcome<Space>> {
        let act = |machine: &mut Machine, _| {
            let (total, free) = (machine.total, machine.free());
            Ok(Space { total, free })
        };
        Box::pin(self.call(Operation::Space, String::new(), None, act))
    }

    fn overlays(&self) -> BoxFuture<'_, Outcome<Vec<Overlay>>> {
        let act = |machine: &mut Machine, _| {
            let each = |(path, overlay): (&PathBuf, &SimOverlay)| Overlay {
                path: path.clone(),
                mark: overlay.mark.clone(),
                sound: machine.overlay_is_sound(overlay),
                size: overlay.size,
                allocated: overlay.allocated,
            };
            Ok(machine.overlays.iter().map(each).collect())
        };
        Box::pin(self.call(Operation::Overlays, String::new(), None, act))
    }

    fn make_overlays(&self, overlays: Vec<NewOverlay>) -> BoxFuture<'_, Outcome<Vec<PathBuf>>> {
        let bytes = self.setup.overlay;
        let object = format!("{} overlays", overlays.len());
        let act = move |machine: &mut Machine, now| {
            let make = |overlay| make_overlay(machine, overlay, bytes, now);
            overlays.into_iter().map(make).collect()
        };
        Box::pin(self.call(Operation::MakeOverlays, object, None, act))
    }

    fn remove_overlay<'a>(&'a self, member: &'a Member) -> BoxFuture<'a, Outcome<()>> {
        let path = overlay_path(member);
        let grid = self.setup.grid;
        let act = move |machine: &mut Machine, now| remove_overlay(machine, path, grid, now);
        Box::pin(self.call(Operation::RemoveOverlay, member.to_string(), None, act))
    }

    fn images(&self) -> BoxFuture<'_, Outcome<Vec<StoredImage>>> {
        let act = |machine: &mut Machine, _| {
            let each = |(root, image): (&Digest, &SimImage)| StoredImage {
                root: *root,
                state: image.state,
                size: image.size,
                data: image.data,
                read: image.read,
            };
            Ok(machine.images.iter().map(each).collect())
        };
        Box::pin(self.call(Operation::Images, String::new(), None, act))
    }

    fn verify_image(&self, root: Digest) -> BoxFuture<'_, Outcome<CopyState>> {
        let act = move |machine: &mut Machine, now| read_back(machine, root, now);
        Box::pin(self.call(Operation::VerifyImage, root.short(), None, act))
    }

    fn scrub_image(&self, root: Digest, rate: Size) -> BoxFuture<'_, Outcome<CopyState>> {
        let read = move |machine: &mut Machine, now| read_back(machine, root, now);
        Box::pin(async move {
            let data = self.machine().images.get(&root).map(|image| image.data);
            let span = copies::span_of(data.unwrap_or_default(), rate);
            self.clock.sleep(span).await;
            self.call(Operation::ScrubImage, root.short(), None, read)
                .await
        })
    }

    fn receive_image(&self, root: Digest, from: Vec<ServerId>) -> BoxFuture<'_, Outcome<()>> {
        Box::pin(self.receive(root, from))
    }

    fn limit_images(&self, rate: Option<Size>) {
        self.copies.limit(rate);
    }

    fn meet(&self, peers: Arc<dyn Peers>) {
        self.copies.meet(peers);
    }

    fn transfers(&self, server: Option<ServerId>) -> BoxFuture<'_, Outcome<Vec<Transfer>>> {
        Box::pin(self.under_way(server))
    }

    fn drop_image(&self, root: Digest) -> BoxFuture<'_, Outcome<()>> {
        let act = move |machine: &mut Machine, now| {
            let uses = |mark: &Mark| mark.image == root;
            let mut marks = machine.overlays.values().filter_map(|o| o.mark.as_ref());
            if let Some(mark) = marks.find(|m| uses(m)) {
                let (what, by) = (format!("image {}", root.short()), mark.member.to_string());
                machine.scold(format!("drop of {what}, which {by} uses"));
                return Err(DiskError::InUse { what, by });
            }
            let mut copies = machine.replicas.values().map(|r| &r.mark);
            if let Some(mark) = copies.find(|m| uses(m)) {
                let what = format!("image {}", root.short());
                let by = format!("the copy of {}", mark.member);
                return Err(DiskError::InUse { what, by });
            }
            if machine.images.remove(&root).is_some() {
                machine.note(now, Hand::Ours, Deed::ImageGone(root));
            }
            Ok(())
        };
        Box::pin(self.call(Operation::DropImage, root.short(), None, act))
    }

    fn import_image(
        &self,
        source: PathBuf,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> BoxFuture<'_, Outcome<Imported>> {
        let object = source.display().to_string();
        let act = move |machine: &mut Machine, now| {
            let (digest, size) = hashed(&source, progress.as_ref())?;
            let (root, free) = (root_of(digest), machine.free());
            if free < size {
                return Err(DiskError::Full {
                    what: format!("import {}", source.display()),
                    needed: size,
                    free,
                });
            }
            let image = SimImage::whole(size, size, now);
            machine.images.insert(root, image);
            machine.note(now, Hand::Ours, Deed::ImageMade(root));
            Ok(Imported {
                source: digest,
                root,
                size,
                data: size,
            })
        };
        Box::pin(self.call(Operation::ImportImage, object, None, act))
    }
}

fn read_back(machine: &mut Machine, root: Digest, now: Timestamp) -> Outcome<CopyState> {
    let image = machine.images.get_mut(&root);
    let image = image.filter(|image| image.parts == copies::PARTS || image.state == CopyState::Bad);
    let image = image.ok_or_else(|| absent_image(root))?;
    image.state = if image.rotten {
        CopyState::Bad
    } else {
        image.read = now;
        CopyState::Verified
    };
    Ok(image.state)
}

fn make_overlay(
    machine: &mut Machine,
    new: NewOverlay,
    bytes: Size,
    now: Timestamp,
) -> Outcome<PathBuf> {
    let path = overlay_path(&new.mark.member);
    let life = |m: &Mark| (m.grid, m.epoch, m.member.clone(), m.image);
    if let Some(there) = machine.overlays.get(&path) {
        return match &there.mark {
            Some(mark) if life(mark) == life(&new.mark) => Ok(path),
            Some(_) | None => {
                machine.scold(format!("make of {}, where another's is", path.display()));
                Err(DiskError::NotOurs(path.display().to_string()))
            }
        };
    }
    let image = machine.images.get(&new.mark.image);
    let image = image.filter(|image| image.parts == copies::PARTS);
    let image = image.ok_or_else(|| absent_image(new.mark.image))?;
    if new.size < image.size {
        return Err(DiskError::Io {
            what: format!("make {}", path.display()),
            cause: "it is smaller than its image".to_owned(),
        });
    }
    let free = machine.free();
    if free < bytes {
        return Err(DiskError::Full {
            what: format!("make the overlay of {}", new.mark.member),
            needed: bytes,
            free,
        });
    }
    let mark = Some(new.mark);
    let overlay = SimOverlay {
        mark: mark.clone(),
        readable: true,
        size: new.size,
        allocated: bytes,
        written: 0,
    };
    machine.overlays.insert(path.clone(), overlay);
    let made = path.clone();
    machine.note(now, Hand::Ours, Deed::OverlayMade { path: made, mark });
    Ok(path)
}

fn remove_overlay(
    machine: &mut Machine,
    path: PathBuf,
    grid: Option<GridId>,
    now: Timestamp,
) -> Outcome<()> {
    let what = path.display().to_string();
    let Some(overlay) = machine.overlays.get(&path) else {
        return Ok(());
    };
    if !is_ours(grid, overlay.mark.as_ref()) {
        machine.scold(format!("removal of {what}, which is not ours"));
        return Err(DiskError::NotOurs(what));
    }
    if let Some(by) = machine.user_of(&path) {
        machine.scold(format!("removal of {what}, which {by} has open"));
        return Err(DiskError::InUse { what, by });
    }
    let mark = machine.overlays.remove(&path).and_then(|o| o.mark);
    machine.note(now, Hand::Ours, Deed::OverlayRemoved { path, mark });
    Ok(())
}

fn absent_image(root: Digest) -> DiskError {
    DiskError::Absent(format!("image {}", root.short()))
}

/// The simulated store's name for the stored form of `source`.
fn root_of(source: Digest) -> Digest {
    let mut bytes = b"simulated manifest of ".to_vec();
    bytes.extend_from_slice(&source.0);
    Digest::of(&bytes)
}

fn hashed(source: &Path, progress: &(dyn Fn(Progress) + Send + Sync)) -> Outcome<(Digest, Size)> {
    let bad = |why: std::io::Error| DiskError::BadSource {
        source_file: source.display().to_string(),
        why: why.to_string(),
    };
    let mut file = File::open(source).map_err(bad)?;
    let total = file.metadata().map_err(bad)?.len();
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut buffer).map_err(bad)?;
        if read == 0 {
            return Ok((Digest(*hash.finalize().as_bytes()), Size(done)));
        }
        hash.update(&buffer[..read]);
        done += u64::try_from(read).unwrap_or_default();
        progress(Progress {
            step: "hashing",
            done,
            total,
        });
    }
}
