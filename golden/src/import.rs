//! From an image file of any format to an image of the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coppice_schema::Digest;
use coppice_schema::units::Size;
use rustix::fs::{FallocateFlags, fallocate};

use crate::confine::{Confinement, confinement};
use crate::convert::{Conversion, Facts, Trouble, copy};
use crate::disk::{DiskError, is_full};
use crate::format::{Format, Refusal, Unfit, inspect};
use crate::manifest::{CHUNK, Manifest, chunk_len};
use crate::progress::{Cancel, Phase, Progress, Reporter};
use crate::source::{self, Identity};
use crate::sparse::{Stopped, bytes_in, data_ranges, digest_of_file, scan, touched_chunks};
use crate::store::record::{Hint, Record, manifest_name, raw_name};
use crate::store::{Look, Store, StoreError};

/// Prefix of names of half conversions.
pub(crate) const HALF: &str = "import-";

/// What an import may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Largest virtual disk. The default is 16 TiB: more is a mistake or an attack.
    pub limit: Size,
    /// Longest that one run of the converting program may take. The default is six hours.
    pub deadline: Duration,
    /// Room that must stay free on the disk. The default is 1 GiB: running desktops write, too.
    pub keep_free: Size,
    /// What the source's digest must be, where it is known beforehand.
    pub expect: Option<Digest>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limit: Size::gib(16 << 10),
            deadline: Duration::from_secs(6 * 3600),
            keep_free: Size::gib(1),
            expect: None,
        }
    }
}

/// An image that is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// BLAKE3 of the source's bytes.
    pub source: Digest,
    /// The image's name: the root of its manifest.
    pub root: Digest,
    /// Size of its disk.
    pub size: Size,
    /// Bytes that are not zero, in whole chunks.
    pub data: Size,
    /// The source's format.
    pub format: Format,
    /// It was here before: nothing was stored.
    pub already: bool,
    /// How the converting program was confined; `None` if none was needed.
    pub confinement: Option<Confinement>,
}

/// Why there is no image. Nothing is left behind but what the next [`Store::open`] removes.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The source is no regular file with content.
    #[error("{} is {found}, not an image file", path.display())]
    NotAFile {
        /// The source.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// The source is not safe, not whole, or not an image.
    #[error("{} cannot be imported: {refusal}", path.display())]
    Refused {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        refusal: Refusal,
    },
    /// The source has another digest than it should.
    #[error("{} has the digest {found}, expected {expected}", path.display())]
    Unexpected {
        /// The source.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// What was asked for.
        expected: Digest,
    },
    /// The source was written to in the meantime.
    #[error("{} changed while it was imported", .0.display())]
    Changed(PathBuf),
    /// The disk has not enough room.
    #[error("not enough space in {}: {} needed, {} free", path.display(), needed.rounded(), free.rounded())]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// What the image takes, and what must stay free.
        needed: Size,
        /// What is free.
        free: Size,
    },
    /// qemu-img cannot be run.
    #[error("cannot run qemu-img: {0}")]
    NoTool(#[source] io::Error),
    /// qemu-img failed.
    #[error("cannot convert {}: {what}", path.display())]
    Failed {
        /// The source.
        path: PathBuf,
        /// What it said.
        what: String,
    },
    /// qemu-img took longer than it may.
    #[error("converting {} took longer than {} s", path.display(), limit.as_secs())]
    Deadline {
        /// The source.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// It was cancelled.
    #[error("the import was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for ImportError {
    fn from(e: DiskError) -> Self {
        Self::Store(e.into())
    }
}

/// A file in `incoming` that goes when nobody gave it its final name.
struct Half<'a> {
    store: &'a Store,
    name: String,
    file: File,
    published: bool,
}

impl<'a> Half<'a> {
    fn new(store: &'a Store) -> Result<Self, DiskError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "{HALF}{}-{}.raw",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let file = store.incoming.create(&name)?;
        Ok(Self {
            store,
            name,
            file,
            published: false,
        })
    }

    fn path(&self) -> PathBuf {
        self.store.incoming.join(&self.name)
    }
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is removed at the next start.
            self.store.incoming.remove(&self.name).ok();
        }
    }
}

/// One import under way.
struct Run<'a> {
    store: &'a Store,
    path: &'a Path,
    file: File,
    before: Identity,
    options: &'a Options,
    cancel: &'a Cancel,
}

impl Store {
    /// Makes an image of the file `path`. The source is hashed before and after it is converted; its format is
    /// found by its first bytes and told to the converting program, which runs confined. Blocks until the image
    /// is synced under its final name. The same content twice is stored once.
    ///
    /// The image was written by this machine, and not yet read back from the disk: that is [`Store::verify`].
    ///
    /// # Errors
    /// Each [`ImportError`]; then the store is as before.
    pub fn import(
        &self,
        path: &Path,
        options: &Options,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<Imported, ImportError> {
        let file = source::open(path)?;
        let before = Identity::of(&file).map_err(|cause| ImportError::Source {
            path: path.to_owned(),
            cause,
        })?;
        Run {
            store: self,
            path,
            file,
            before,
            options,
            cancel,
        }
        .run(progress)
    }
}

impl Run<'_> {
    fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Imported, ImportError> {
        // Before the hash, so that nobody waits for the hash of what is refused anyway.
        let shape = inspect(&self.file, self.before.size()).map_err(|unfit| match unfit {
            Unfit::Refused(refusal) => self.refused(refusal),
            Unfit::Failed(cause) => self.unreadable(cause),
        })?;
        if let Some(size) = shape.size {
            self.check_size(size)?;
        }
        let source = self.hash(Phase::Hashing, progress)?;
        if let Some(expected) = self.options.expect
            && expected != source
        {
            return Err(ImportError::Unexpected {
                path: self.path.to_owned(),
                found: source,
                expected,
            });
        }
        if let Some(root) = self.store.image_of_source(source)? {
            let manifest = self.store.manifest(root)?;
            return Ok(imported(source, root, &manifest, shape.format, true, None));
        }
        let half = self.convert(shape.format, progress)?;
        if self.hash(Phase::Rehashing, progress)? != source {
            return Err(ImportError::Changed(self.path.to_owned()));
        }
        let manifest = self.index(&half, progress)?;
        let root = manifest.root();
        let already = self.publish(half, source, shape.format, &manifest)?;
        let confinement = (shape.format != Format::Raw).then(confinement);
        Ok(imported(
            source,
            root,
            &manifest,
            shape.format,
            already,
            confinement,
        ))
    }

    fn check_size(&self, size: u64) -> Result<(), ImportError> {
        if size > self.options.limit.0 {
            return Err(self.refused(Refusal::TooLarge {
                found: size,
                limit: self.options.limit.0,
            }));
        }
        if size == 0 {
            return Err(self.refused(Refusal::Damaged("its virtual disk has no bytes".to_owned())));
        }
        Ok(())
    }

    fn hash(
        &self,
        phase: Phase,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Digest, ImportError> {
        self.unchanged()?;
        let size = self.before.size();
        let mut report = Reporter::begin(progress, phase, size);
        let digest = match digest_of_file(&self.file, size, &mut report, self.cancel) {
            Ok(digest) => digest,
            Err(Stopped::Cancelled) => return Err(ImportError::Cancelled),
            Err(Stopped::Failed(cause)) => {
                self.unchanged()?;
                return Err(self.unreadable(cause));
            }
        };
        report.finish();
        self.unchanged()?;
        Ok(digest)
    }

    /// Size, times and inode are those of the begin. The digests prove more, and this is earlier.
    fn unchanged(&self) -> Result<(), ImportError> {
        let now = Identity::of(&self.file).map_err(|cause| self.unreadable(cause))?;
        if now == self.before {
            Ok(())
        } else {
            Err(ImportError::Changed(self.path.to_owned()))
        }
    }

    fn convert(
        &self,
        format: Format,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Half<'_>, ImportError> {
        let conversion = Conversion {
            source: &self.file,
            format,
            deadline: self.options.deadline,
            cancel: self.cancel,
        };
        let facts = if format == Format::Raw {
            let data = data_ranges(&self.file, self.before.size())
                .map_err(|cause| self.unreadable(cause))?;
            let needed = data.iter().map(|range| range.end - range.start).sum();
            Facts {
                size: self.before.size(),
                needed,
            }
        } else {
            conversion
                .examine(self.options.limit.0)
                .map_err(|trouble| self.trouble(trouble, 0))?
        };
        self.check_size(facts.size)?;
        self.check_space(facts.needed)?;
        let half = Half::new(self.store)?;
        half.file
            .set_len(facts.size)
            .map_err(|e| DiskError::new("enlarge", half.path(), e))?;
        let mut report = Reporter::begin(progress, Phase::Converting, facts.needed);
        let done = if format == Format::Raw {
            copy(&self.file, &half.file, facts.size, self.cancel, &mut report)
        } else {
            conversion.convert(&half.file, &half.path(), facts, &mut report)
        };
        if let Err(trouble) = done {
            // A source that shrinks under the reader shows as a failure to read.
            self.unchanged()?;
            return Err(self.trouble(trouble, facts.needed));
        }
        report.finish();
        Ok(half)
    }

    fn check_space(&self, needed: u64) -> Result<(), ImportError> {
        let free = self.store.space()?.free;
        let needed = Size(needed.saturating_add(self.options.keep_free.0));
        if needed > free {
            return Err(ImportError::NoSpace {
                path: self.store.path().to_owned(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Hashes the chunks, makes holes of those that are zero, and syncs.
    fn index(
        &self,
        half: &Half<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Manifest, ImportError> {
        let failed =
            |operation, e: io::Error| ImportError::from(DiskError::new(operation, half.path(), e));
        // What is on the disk is final before it is named by its content; and blocks that were promised and cannot
        // be written show here.
        half.file
            .sync_all()
            .map_err(|e| self.full_or("sync", half, e))?;
        let size = half
            .file
            .metadata()
            .map_err(|e| failed("look at", e))?
            .len();
        let places =
            touched_chunks(&data_ranges(&half.file, size).map_err(|e| failed("find holes in", e))?);
        let mut report = Reporter::begin(progress, Phase::Indexing, bytes_in(&places, size));
        let found = match scan(&half.file, size, &places, &mut report, self.cancel) {
            Ok(found) => found,
            Err(Stopped::Cancelled) => return Err(ImportError::Cancelled),
            Err(Stopped::Failed(e)) => return Err(failed("read", e)),
        };
        report.finish();
        let mut chunks = Vec::new();
        for (index, digest) in found {
            match digest {
                Some(digest) => chunks.push((index, digest)),
                None => punch(&half.file, index * CHUNK, chunk_len(size, index))
                    .map_err(|e| failed("punch", e))?,
            }
        }
        half.file
            .set_permissions(PermissionsExt::from_mode(0o444))
            .map_err(|e| failed("protect", e))?;
        half.file
            .sync_all()
            .map_err(|e| self.full_or("sync", half, e))?;
        Manifest::new(Size(size), chunks).map_err(|cause| ImportError::Failed {
            path: self.path.to_owned(),
            what: cause.to_string(),
        })
    }

    fn full_or(&self, operation: &'static str, half: &Half<'_>, e: io::Error) -> ImportError {
        if is_full(&e) {
            self.trouble(Trouble::Full, 0)
        } else {
            DiskError::new(operation, half.path(), e).into()
        }
    }

    /// Gives the image its name, unless a whole one has it already; then only notes the source.
    fn publish(
        &self,
        mut half: Half<'_>,
        source: Digest,
        format: Format,
        manifest: &Manifest,
    ) -> Result<bool, ImportError> {
        let _names = self.store.lock_names();
        let (images, root) = (&self.store.images, manifest.root());
        let there = self
            .store
            .images()?
            .into_iter()
            .find(|image| image.root == root);
        let record = Record::load(images, root)?;
        let mut sources = record
            .as_ref()
            .map(|record| record.sources.clone())
            .unwrap_or_default();
        sources.insert(source, format);
        if let Some(record) = record
            && there.is_some_and(|image| image.look == Look::Unchanged)
            && self.store.manifest(root).is_ok()
        {
            Record::new(sources, record.hint).save(images, root)?;
            return Ok(true);
        }
        images
            .save(&manifest_name(root), &manifest.encode())
            .map_err(|e| self.publish_failed(e))?;
        images.sync()?;
        self.store
            .incoming
            .rename(&half.name, images, &raw_name(root))?;
        half.published = true;
        images.sync()?;
        self.store.incoming.sync()?;
        let hint = Hint::of(&half.file).map_err(|e| DiskError::new("look at", half.path(), e))?;
        Record::new(sources, hint).save(images, root)?;
        Ok(false)
    }

    fn publish_failed(&self, e: DiskError) -> ImportError {
        if e.is_full() {
            self.trouble(Trouble::Full, 0)
        } else {
            e.into()
        }
    }

    fn refused(&self, refusal: Refusal) -> ImportError {
        ImportError::Refused {
            path: self.path.to_owned(),
            refusal,
        }
    }

    fn unreadable(&self, cause: io::Error) -> ImportError {
        ImportError::Source {
            path: self.path.to_owned(),
            cause,
        }
    }

    fn trouble(&self, trouble: Trouble, needed: u64) -> ImportError {
        let path = self.path.to_owned();
        match trouble {
            Trouble::Refused(refusal) => self.refused(refusal),
            Trouble::Cancelled => ImportError::Cancelled,
            Trouble::Deadline => ImportError::Deadline {
                path,
                limit: self.options.deadline,
            },
            Trouble::NoTool(e) => ImportError::NoTool(e),
            Trouble::Failed(what) => ImportError::Failed { path, what },
            Trouble::Full => {
                let free = self.store.space().map_or(Size(0), |space| space.free);
                let needed = Size(needed.saturating_add(self.options.keep_free.0));
                ImportError::NoSpace {
                    path: self.store.path().to_owned(),
                    needed,
                    free,
                }
            }
        }
    }
}

fn imported(
    source: Digest,
    root: Digest,
    manifest: &Manifest,
    format: Format,
    already: bool,
    confinement: Option<Confinement>,
) -> Imported {
    Imported {
        source,
        root,
        size: manifest.size(),
        data: manifest.data(),
        format,
        already,
        confinement,
    }
}

fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(
        file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        offset,
        len,
    ) {
        // A file system without holes keeps the zeros; the manifest is the same.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
