//! Parts of a copy by which two servers find out what both have: clusters of a qcow2 file, whole and where clusters are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::parts;

/// Bytes of a chunk.
pub const CHUNK: u64 = 64 << 10;

/// Most chunks of a file that are looked at: 64 GiB. What is beyond is as if the other had it not.
const MOST: usize = 1 << 20;

/// The first half of a chunk's BLAKE3. It only saves sending: that all bytes are right is compared at the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = blake3::hash(bytes);
        let mut half = [0; 16];
        half.copy_from_slice(digest.as_bytes().split_at(16).0);
        Self(u128::from_le_bytes(half))
    }
}

/// The chunks of a copy that is here, by their fingerprints, as far as they were read.
#[derive(Debug)]
pub struct Chunks {
    file: File,
    left: Vec<u64>,
    places: BTreeMap<Fingerprint, u64>,
}

impl Chunks {
    /// None was read yet.
    ///
    /// # Errors
    /// The disk's.
    pub fn of(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let ranges = parts(&file, length)?.into_iter();
        let each = ranges.flat_map(|range| {
            let first = range.start.next_multiple_of(CHUNK);
            let last = range.end / CHUNK * CHUNK;
            (first..last).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX))
        });
        let mut left: Vec<u64> = each.take(MOST).collect();
        left.reverse();
        Ok(Self {
            file,
            left,
            places: BTreeMap::new(),
        })
    }

    /// Reads some more; their fingerprints. Empty: all were read.
    ///
    /// # Errors
    /// The disk's.
    pub fn more(&mut self, count: usize) -> io::Result<Vec<Fingerprint>> {
        let mut found = Vec::with_capacity(count);
        while found.len() < count
            && let Some(offset) = self.left.pop()
        {
            let fingerprint = Fingerprint::of(&self.read(offset)?);
            self.places.insert(fingerprint, offset);
            found.push(fingerprint);
        }
        Ok(found)
    }

    /// The bytes of a chunk that was read.
    ///
    /// # Errors
    /// When there is none, or the disk's.
    pub fn get(&self, fingerprint: Fingerprint) -> io::Result<Vec<u8>> {
        let place = self.places.get(&fingerprint);
        self.read(*place.ok_or_else(|| io::Error::other("there is no such chunk here"))?)
    }

    fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(CHUNK).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
