//! Reading images back.

use std::io;

use coppice_schema::Digest;
use coppice_schema::units::Size;

use crate::disk::DiskError;
use crate::progress::{Cancel, Phase, Progress, Reporter};
use crate::sparse::{Stopped, bytes_in, data_ranges, merged, scan, touched_chunks};
use crate::store::record::{Hint, raw_name};
use crate::store::{Store, StoreError};

/// An image whose every chunk was read back and is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The image.
    pub root: Digest,
    /// Bytes in its chunks, all of them read.
    pub data: Size,
}

/// A chunk that is not what the manifest says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BadChunk {
    /// Its place.
    pub index: u64,
    /// What it should be; `None`: zeros.
    pub expected: Option<Digest>,
    /// What it is; `None`: zeros.
    pub found: Option<Digest>,
}

/// Why an image is not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Some of it is wrong. The list is complete, so it says what a repair has to fetch.
    #[error("image {} has {} bad chunks, the first at offset {}", root.short(), bad.len(), offset(bad))]
    Bad {
        /// The image.
        root: Digest,
        /// All wrong chunks, ascending.
        bad: Vec<BadChunk>,
    },
    /// It is longer or shorter than it should be.
    #[error("image {} has {} bytes, expected {}", root.short(), found.0, expected.0)]
    Length {
        /// The image.
        root: Digest,
        /// The file's size.
        found: Size,
        /// The image's size.
        expected: Size,
    },
    /// It was cancelled.
    #[error("verifying was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn offset(bad: &[BadChunk]) -> u64 {
    bad.first()
        .map_or(0, |chunk| chunk.index * crate::manifest::CHUNK)
}

impl Store {
    /// Reads every chunk of the image `root` from the disk, past the page cache where the file system can, and
    /// compares it with the manifest; what the manifest leaves out must be zero. What was found is remembered by the store, as
    /// far as the disk lets it.
    ///
    /// # Errors
    /// [`VerifyError::Bad`] with all that is wrong; others when the image cannot be read at all.
    pub fn verify(
        &self,
        root: Digest,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<Verified, VerifyError> {
        self.read_back(root, None, progress, cancel)
    }

    /// The same at rest, at most `rate` bytes a second, so that desktops do not notice.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn scrub(
        &self,
        root: Digest,
        rate: Size,
        cancel: &Cancel,
    ) -> Result<Verified, VerifyError> {
        self.read_back(root, Some(rate), &mut |_| {}, cancel)
    }

    fn read_back(
        &self,
        root: Digest,
        rate: Option<Size>,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<Verified, VerifyError> {
        let manifest = self.manifest(root)?;
        let name = raw_name(root);
        let failed = |operation, e: io::Error| {
            StoreError::from(DiskError::new(operation, self.images.join(&name), e))
        };
        let file = self
            .images
            .read_direct(&name)
            .map_err(StoreError::from)?
            .ok_or(StoreError::NoImage(root))?;
        let size = manifest.size().0;
        let found = file.metadata().map_err(|e| failed("look at", e))?.len();
        let read = Hint::of(&file).map_err(|e| failed("look at", e))?;
        // The verdict counts; one that cannot be noted is found again.
        let remember = |whole| self.remember(root, read, whole).ok();
        if found != size {
            remember(false);
            return Err(VerifyError::Length {
                root,
                found: Size(found),
                expected: manifest.size(),
            });
        }
        // What should be there, and what is there without being listed.
        let mut places: Vec<_> = manifest
            .chunks()
            .iter()
            .map(|(index, _)| *index..*index + 1)
            .collect();
        places.extend(touched_chunks(
            &data_ranges(&file, size).map_err(|e| failed("find holes in", e))?,
        ));
        let places = merged(places);
        let mut report = Reporter::begin(progress, Phase::Verifying, bytes_in(&places, size));
        let scanned = match scan(&file, size, &places, rate, &mut report, cancel) {
            Ok(scanned) => scanned,
            Err(Stopped::Cancelled) => return Err(VerifyError::Cancelled),
            Err(Stopped::Failed(e)) => return Err(failed("read", e).into()),
        };
        report.finish();
        let wrong = scanned.into_iter().filter_map(|(index, found)| {
            let expected = manifest.digest_at(index);
            (expected != found).then_some(BadChunk {
                index,
                expected,
                found,
            })
        });
        let bad: Vec<BadChunk> = wrong.collect();
        remember(bad.is_empty());
        if bad.is_empty() {
            Ok(Verified {
                root,
                data: manifest.data(),
            })
        } else {
            Err(VerifyError::Bad { root, bad })
        }
    }
}
