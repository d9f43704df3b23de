//! From an image file of any format to an image of the store.

mod terms;

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_schema::Digest;
use coppice_schema::units::Size;
use rustix::fs::{FallocateFlags, fallocate};

use crate::confine::{Confinement, confinement};
use crate::convert::{Conversion, Facts, Trouble, copy};
use crate::disk::{DiskError, is_full};
use crate::format::{Format, Refusal, Unfit, inspect};
use crate::manifest::{CHUNK, Manifest};
use crate::progress::{Cancel, Phase, Progress, Reporter};
use crate::source::{self, Identity};
use crate::sparse::{Stopped, bytes_in, data_ranges, digest_of_file, scan, touched_chunks};
use crate::store::record::{Hint, Record, manifest_name, raw_name, record_name};
use crate::store::{Look, Store, StoreError};

pub use terms::{ImportError, Imported, Options};

/// Prefix of names of half conversions.
pub(crate) const HALF: &str = "import-";

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
    /// is synced under its final name. The same content twice is stored once, and one that a glance or
    /// [`Store::verify`] found bad is replaced.
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
        // One whose manifest is damaged is made again.
        if let Some(root) = self.store.image_of_source(source)?
            && let Ok(manifest) = self.store.manifest(root)
        {
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
        let found = match scan(&half.file, size, &places, None, &mut report, self.cancel) {
            Ok(found) => found,
            Err(Stopped::Cancelled) => return Err(ImportError::Cancelled),
            Err(Stopped::Failed(e)) => return Err(failed("read", e)),
        };
        report.finish();
        let mut chunks = Vec::new();
        for (index, digest) in found {
            match digest {
                Some(digest) => chunks.push((index, digest)),
                // Whole, also where the image ends in it: of a block that is cleared in part, none is given back.
                None => punch(&half.file, index * CHUNK, CHUNK).map_err(|e| failed("punch", e))?,
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
            && there
                .as_ref()
                .is_some_and(|image| image.look == Look::Unchanged)
            && self.store.manifest(root).is_ok()
        {
            record.with(sources).save(images, root)?;
            return Ok(true);
        }
        let hint = Hint::of(&half.file).map_err(|e| DiskError::new("look at", half.path(), e))?;
        let described = images
            .save(&manifest_name(root), &manifest.encode())
            .map_err(StoreError::from)
            // Syncs the directory for both.
            .and_then(|()| Record::new(sources, hint).save(images, root));
        if let Err(e) = described {
            if there.is_none() {
                // The first failure is the one to tell; a manifest alone is no image.
                images.remove(manifest_name(root)).ok();
                images.remove(record_name(root)).ok();
            }
            return Err(self.publish_failed(e));
        }
        self.store
            .incoming
            .rename(&half.name, images, &raw_name(root))?;
        half.published = true;
        images.sync()?;
        self.store.incoming.sync()?;
        Ok(false)
    }

    fn publish_failed(&self, e: StoreError) -> ImportError {
        if matches!(&e, StoreError::Disk(e) if e.is_full()) {
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

pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
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
