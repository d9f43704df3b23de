//! The directory that holds a server's images and overlays.
//!
//! ```text
//! store                    what this directory is, and its format
//! images/ROOT.raw          an image: read-only, sparse
//! images/ROOT.manifest     its chunks
//! images/ROOT.record       where it came from
//! incoming/import-*        half conversions, removed at the next start
//! incoming/upload-*        half uploads, resumed
//! incoming/copy-*          half images from other servers, resumed
//! overlays/MEMBER.qcow2    a linked clone
//! overlays/MEMBER.mark     whose it is
//! replicas/MEMBER.SLOT.qcow2  what the overlay of a desktop of another server held
//! replicas/MEMBER.label    whose it is, and which slot counts
//! outgoing/MEMBER.qcow2    what an overlay here holds, on its way to another server; removed at the next start
//! ```
//!
//! An image exists when its `.raw` has its final name: the manifest gets its own before. All of it is on one file
//! system, because a rename is what makes half work whole.

pub(crate) mod record;
mod recover;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coppice_schema::Digest;
use coppice_schema::ids::Member;
use rustix::fs::FlockOperation;

use crate::disk::{Dir, DiskError};
use crate::manifest::{Manifest, ManifestError};
use crate::space::Space;
use crate::transfer::{Flow, Flows};
use record::{Hint, Record};

/// The newest store that this version opens, and the one it makes.
pub const FORMAT: u32 = 1;

/// A store that cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was written by a newer version.
    #[error("the store in {} has format {found}, this version opens up to {FORMAT}", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The directory holds something else.
    #[error("{} is not empty and holds no image store", .0.display())]
    NotAStore(PathBuf),
    /// Another process has it open.
    #[error("the store in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Its directories are on different file systems.
    #[error("{} is on another file system than the store it belongs to", .0.display())]
    Split(PathBuf),
    /// A small file in it cannot be read.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An image's manifest cannot be used.
    #[error("image {}: {cause}", root.short())]
    Manifest {
        /// The image.
        root: Digest,
        /// Why.
        #[source]
        cause: ManifestError,
    },
    /// There is no such image.
    #[error("there is no image {}", .0.short())]
    NoImage(Digest),
    /// Overlays are based on the image.
    #[error("image {} is in use by {} of the overlays, among them {}", root.short(), users.len(), first(users))]
    ImageInUse {
        /// The image.
        root: Digest,
        /// File names of the overlays.
        users: Vec<String>,
    },
}

fn first(users: &[String]) -> &str {
    users.first().map_or("none", String::as_str)
}

/// An image as the store's directory shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredImage {
    /// Its name.
    pub root: Digest,
    /// Its raw file.
    pub path: PathBuf,
    /// What can be said without reading it.
    pub look: Look,
    /// When all of it was last read back and was right, in seconds since 1970; 0: never, as far as is known.
    pub read: u64,
}

/// What a glance at an image shows. Only [`Store::verify`] proves that its content is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Size, time and inode are those of the import.
    Unchanged,
    /// Somebody wrote to it, or replaced it.
    Changed,
    /// It has no manifest that can be read: it cannot be verified, and should be removed or imported again.
    Unknown,
    /// There is a manifest, and no data.
    Missing,
}

/// A server's images and overlays. Calls from several threads are safe.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: Dir,
    pub(crate) images: Dir,
    pub(crate) incoming: Dir,
    pub(crate) overlays: Dir,
    pub(crate) replicas: Dir,
    pub(crate) outgoing: Dir,
    /// Which arrival of a copy counts, for each desktop.
    pub(crate) arrivals: Mutex<BTreeMap<Member, u64>>,
    /// Held while names appear or go that others depend on: an image being dropped gets no new overlay.
    names: Mutex<()>,
    flows: Flows,
    cleaned: Vec<PathBuf>,
    /// Locked as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`; makes one where the directory is missing or empty. Removes what crashes left
    /// under temporary names ([`Store::cleaned`]), keeps half uploads. Only one process can have it open.
    ///
    /// # Errors
    /// Each of [`StoreError`]'s that is about the whole store. Nothing is changed in a directory that is not a
    /// store, or one of a newer version.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| DiskError::new("make", dir, e))?;
        let dir = dir
            .canonicalize()
            .map_err(|e| DiskError::new("find", dir, e))?;
        let root = Dir::open(&dir)?;
        record::check_or_write_head(&root)?;
        let lock = root.reopen(record::HEAD)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(dir)),
            Err(e) => return Err(DiskError::new("lock", root.join(record::HEAD), e).into()),
        }
        let images = root.open_or_make("images")?;
        let incoming = root.open_or_make("incoming")?;
        let overlays = root.open_or_make("overlays")?;
        let replicas = root.open_or_make("replicas")?;
        let outgoing = root.open_or_make("outgoing")?;
        for part in [&images, &incoming, &overlays, &replicas, &outgoing] {
            if device(part)? != device(&root)? {
                return Err(StoreError::Split(part.path().to_owned()));
            }
        }
        let mut store = Self {
            root,
            images,
            incoming,
            overlays,
            replicas,
            outgoing,
            arrivals: Mutex::default(),
            names: Mutex::new(()),
            flows: Flows::default(),
            cleaned: Vec::new(),
            _lock: lock,
        };
        store.cleaned = recover::clean(&store)?;
        Ok(store)
    }

    /// What [`Store::open`] removed: leftovers of crashes, none of them ever in use.
    #[must_use]
    pub fn cleaned(&self) -> &[PathBuf] {
        &self.cleaned
    }

    /// The store's directory, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Where the image `root` is, or would be.
    #[must_use]
    pub fn image_path(&self, root: Digest) -> PathBuf {
        self.images.join(record::raw_name(root))
    }

    /// Where the overlay of `member` is, or would be.
    #[must_use]
    pub fn overlay_path(&self, member: &Member) -> PathBuf {
        self.overlays.join(crate::overlay::file_name(member))
    }

    /// Room on the store's disk.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn space(&self) -> Result<Space, StoreError> {
        Ok(
            Space::of(&self.root)
                .map_err(|e| DiskError::new("ask the space of", self.path(), e))?,
        )
    }

    /// Its images by root. A glance only: see [`Look`].
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let mut roots = Vec::new();
        for name in self.images.names()? {
            let stem = name.to_str().and_then(|name| name.split_once('.'));
            if let Some((root, "raw" | "manifest")) = stem
                && let Ok(root) = root.parse::<Digest>()
            {
                roots.push(root);
            }
        }
        roots.sort();
        roots.dedup();
        let found = roots.into_iter().map(|root| {
            let (look, read) = self.look(root)?;
            Ok(StoredImage {
                root,
                path: self.image_path(root),
                look,
                read,
            })
        });
        found.collect()
    }

    fn look(&self, root: Digest) -> Result<(Look, u64), StoreError> {
        let file = match self.images.read(record::raw_name(root)) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok((Look::Missing, 0)),
            // A link or a directory in an image's place.
            Err(_) => return Ok((Look::Unknown, 0)),
        };
        if !self.images.has(&record::manifest_name(root))? {
            return Ok((Look::Unknown, 0));
        }
        let record = Record::load(&self.images, root)?;
        let now = record::Hint::of(&file)
            .map_err(|e| DiskError::new("look at", self.image_path(root), e))?;
        Ok(match record {
            Some(record) if record.hint == now => (Look::Unchanged, record.read),
            Some(_) | None => (Look::Changed, 0),
        })
    }

    /// The manifest of the image `root`, which was checked to have that root.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::Manifest`], or the disk's.
    pub fn manifest(&self, root: Digest) -> Result<Manifest, StoreError> {
        let name = record::manifest_name(root);
        let Some(file) = self.images.read(&name)? else {
            return Err(StoreError::NoImage(root));
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut &file, &mut bytes)
            .map_err(|e| DiskError::new("read", self.images.join(&name), e))?;
        let wrong = |cause| StoreError::Manifest { root, cause };
        let manifest = Manifest::decode(&bytes).map_err(wrong)?;
        if manifest.root() != root {
            return Err(wrong(ManifestError::Damaged(
                "it belongs to another image".to_owned(),
            )));
        }
        Ok(manifest)
    }

    /// The image made from the source with that digest, if a glance finds it whole.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn image_of_source(&self, source: Digest) -> Result<Option<Digest>, StoreError> {
        for image in self.images()? {
            if image.look == Look::Unchanged
                && let Some(record) = Record::load(&self.images, image.root)?
                && record.sources.contains_key(&source)
            {
                return Ok(Some(image.root));
            }
        }
        Ok(None)
    }

    /// Remembers, for later starts too, what reading back the image `root` gave: `read` is the file as it was then.
    /// A bad one loses its record, so that no glance takes it for whole and the next import of its source replaces
    /// it; a whole one has one again.
    pub(crate) fn remember(&self, root: Digest, read: Hint, whole: bool) -> Result<(), StoreError> {
        let _names = self.lock_names();
        let name = record::raw_name(root);
        let there = self.images.read(&name)?;
        let there = there.map(|file| Hint::of(&file)).transpose();
        // An import may have put another file in its place.
        if there.map_err(|e| DiskError::new("look at", self.images.join(&name), e))? != Some(read) {
            return Ok(());
        }
        let record = Record::load(&self.images, root)?;
        if !whole {
            self.images.remove(record::record_name(root))?;
            return Ok(self.images.sync()?);
        }
        let sources = record.map(|record| record.sources).unwrap_or_default();
        let record = Record::new(sources, read).read_now();
        record.save(&self.images, root)
    }

    /// Removes the image `root`; says whether there was anything. Durable on return.
    ///
    /// # Errors
    /// [`StoreError::ImageInUse`] while any overlay or copy of one here is based on it, marked or not.
    pub fn drop_image(&self, root: Digest) -> Result<bool, StoreError> {
        let _names = self.lock_names();
        let mut users = self.overlays_on(root)?;
        users.extend(self.replicas_on(root)?);
        if !users.is_empty() {
            return Err(StoreError::ImageInUse { root, users });
        }
        let mut any = false;
        for name in [
            record::raw_name(root),
            record::record_name(root),
            record::manifest_name(root),
        ] {
            any |= self.images.remove(&name)?;
        }
        self.images.sync()?;
        // One that is being received ends by itself: its files have lost their names.
        any |= self.discard_half(root)?;
        Ok(any)
    }

    /// Images that are being received.
    pub(crate) fn flows(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody found a chunk of the image `root` wrong: no glance takes it for whole until it was read back.
    pub(crate) fn suspect(&self, root: Digest) -> Result<(), StoreError> {
        let _names = self.lock_names();
        self.images.remove(record::record_name(root))?;
        Ok(self.images.sync()?)
    }

    pub(crate) fn lock_names(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a thread that panicked with it left nothing half changed in memory.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn device(dir: &Dir) -> Result<u64, StoreError> {
    let meta = rustix::fs::fstat(dir).map_err(|e| DiskError::new("look at", dir.path(), e))?;
    Ok(meta.st_dev)
}

/// Size on disk of an open file.
pub(crate) fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}
