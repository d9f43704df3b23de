//! What an image consists of: the digests of its chunks.

use std::collections::{BTreeMap, HashMap};

use coppice_schema::Digest;
use coppice_schema::units::Size;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Bytes in a chunk. Fixed and aligned to the clusters of the overlays: disk images do not shift, so boundaries
/// by content would cost a rolling hash and find nothing more.
pub const CHUNK: u64 = 64 << 10;

/// The newest manifest that this version reads, and the one it writes.
pub const FORMAT: u32 = 1;

/// The sorted digests of an image's chunks. Chunks of zeros are left out, always, so that one content has one
/// manifest however its file is laid out. The last chunk ends where the image ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    size: Size,
    chunks: Vec<(u64, Digest)>,
}

/// A manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It was written by a newer version.
    #[error("the manifest has format {found}, this version reads up to {FORMAT}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is not a manifest, or not a whole one.
    #[error("the manifest is damaged: {0}")]
    Damaged(String),
    /// Its chunks contradict one another or its size.
    #[error("the manifest is not valid: {0}")]
    Invalid(&'static str),
}

/// What it takes to make one image out of another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Chunks that are the same in the same place.
    pub same: u64,
    /// Chunks that the older one holds elsewhere: (place in the newer, place in the older).
    pub moved: Vec<(u64, u64)>,
    /// Chunks that must be fetched.
    pub fetch: Vec<(u64, Digest)>,
    /// Places that become zero.
    pub cleared: Vec<u64>,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    chunk: u64,
    size: Size,
    runs: Vec<Run>,
}

#[derive(Serialize, Deserialize)]
struct Change {
    format: u32,
    chunk: u64,
    size: Size,
    runs: Vec<Run>,
    /// First and number of chunks that are zero now.
    cleared: Vec<(u64, u64)>,
}

/// Consecutive chunks: 32 bytes each, one after another. A million chunks stay a few byte strings.
#[derive(Serialize, Deserialize)]
struct Run {
    first: u64,
    digests: ByteBuf,
}

impl Manifest {
    /// A manifest of an image of `size` bytes from its chunks that are not zero.
    ///
    /// # Errors
    /// [`ManifestError::Invalid`] when they are not strictly ascending, lie beyond the end, or one is of zeros.
    pub fn new(size: Size, chunks: Vec<(u64, Digest)>) -> Result<Self, ManifestError> {
        if !chunks.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(ManifestError::Invalid(
                "its chunks are not in ascending order",
            ));
        }
        let count = size.0.div_ceil(CHUNK);
        if chunks.last().is_some_and(|(index, _)| *index >= count) {
            return Err(ManifestError::Invalid(
                "a chunk lies beyond the end of the image",
            ));
        }
        let zero = zero_digest(CHUNK);
        let short = zero_digest(chunk_len(size.0, count.saturating_sub(1)));
        let is_zero = |(index, digest): &(u64, Digest)| {
            *digest == if index + 1 == count { short } else { zero }
        };
        if chunks.iter().any(is_zero) {
            return Err(ManifestError::Invalid("a chunk of zeros is listed"));
        }
        Ok(Self { size, chunks })
    }

    /// The image's size in bytes.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// The chunks that are not zero, by place: the chunk's offset divided by [`CHUNK`].
    #[must_use]
    pub fn chunks(&self) -> &[(u64, Digest)] {
        &self.chunks
    }

    /// Bytes in its chunks: what a copy moves and stores.
    #[must_use]
    pub fn data(&self) -> Size {
        Size(
            self.chunks
                .iter()
                .map(|(index, _)| chunk_len(self.size.0, *index))
                .sum(),
        )
    }

    /// The digest of the chunk at `index`; `None` for zeros.
    #[must_use]
    pub fn digest_at(&self, index: u64) -> Option<Digest> {
        let found = self
            .chunks
            .binary_search_by_key(&index, |(index, _)| *index)
            .ok()?;
        self.chunks.get(found).map(|(_, digest)| *digest)
    }

    /// The name of the content. BLAKE3 in key derivation mode, context "coppice 2026 image manifest root", over
    /// little-endian 64-bit [`CHUNK`], size and number of chunks, then each chunk's place and 32-byte digest.
    /// It depends on nothing but content and size: neither on the file's layout nor on how a manifest is written.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut hash = blake3::Hasher::new_derive_key("coppice 2026 image manifest root");
        for number in [CHUNK, self.size.0, self.chunks.len() as u64] {
            hash.update(&number.to_le_bytes());
        }
        for (index, digest) in &self.chunks {
            hash.update(&index.to_le_bytes());
            hash.update(&digest.0);
        }
        Digest(*hash.finalize().as_bytes())
    }

    /// What is needed to make this image where `older` is at hand: exactly the chunks that it holds nowhere are
    /// to be fetched.
    #[must_use]
    pub fn difference(&self, older: &Self) -> Difference {
        let mut places: HashMap<Digest, u64> = HashMap::with_capacity(older.chunks.len());
        for (index, digest) in &older.chunks {
            places.entry(*digest).or_insert(*index);
        }
        let mut found = Difference::default();
        for (index, digest) in &self.chunks {
            if older.digest_at(*index) == Some(*digest) {
                found.same += 1;
            } else if let Some(place) = places.get(digest) {
                found.moved.push((*index, *place));
            } else {
                found.fetch.push((*index, *digest));
            }
        }
        let count = self.size.0.div_ceil(CHUNK);
        let gone = older.chunks.iter().map(|(index, _)| *index);
        found.cleared = gone
            .filter(|index| *index < count && self.digest_at(*index).is_none())
            .collect();
        found
    }

    /// As stored: a CBOR map with named fields.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(&Wire {
            format: FORMAT,
            chunk: CHUNK,
            size: self.size,
            runs: runs(self.chunks.iter()),
        })
    }

    /// What [`Manifest::from_change`] makes this manifest of, where `older` is at hand: as large as what differs, not as
    /// the image.
    #[must_use]
    pub fn change(&self, older: &Self) -> Vec<u8> {
        let other = |(index, digest): &&(u64, Digest)| older.digest_at(*index) != Some(*digest);
        let gone = older.chunks.iter().map(|(index, _)| *index);
        let gone = gone.filter(|index| self.digest_at(*index).is_none());
        let mut cleared: Vec<(u64, u64)> = Vec::new();
        for index in gone {
            match cleared.last_mut() {
                Some((first, count)) if *first + *count == index => *count += 1,
                _ => cleared.push((index, 1)),
            }
        }
        encode(&Change {
            format: FORMAT,
            chunk: CHUNK,
            size: self.size,
            runs: runs(self.chunks.iter().filter(other)),
            cleared,
        })
    }

    /// Reads what [`Manifest::change`] wrote. Nothing in `bytes` is trusted: whoever asked for a root compares it.
    ///
    /// # Errors
    /// Each [`ManifestError`].
    pub fn from_change(older: &Self, bytes: &[u8]) -> Result<Self, ManifestError> {
        let change: Change = decode(bytes)?;
        if change.chunk != CHUNK {
            return Err(ManifestError::Invalid("its chunks have another size"));
        }
        let mut chunks: BTreeMap<u64, Digest> = older.chunks.iter().copied().collect();
        for (first, count) in change.cleared {
            let end = first.saturating_add(count);
            let gone: Vec<u64> = chunks.range(first..end).map(|(index, _)| *index).collect();
            for index in gone {
                chunks.remove(&index);
            }
        }
        chunks.extend(listed(&change.runs)?);
        Self::new(change.size, chunks.into_iter().collect())
    }

    /// Reads what [`Manifest::encode`] wrote. Nothing in `bytes` is trusted.
    ///
    /// # Errors
    /// Each [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let wire: Wire = decode(bytes)?;
        if wire.chunk != CHUNK {
            return Err(ManifestError::Invalid("its chunks have another size"));
        }
        Self::new(wire.size, listed(&wire.runs)?)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    let damaged = |e: ciborium::de::Error<std::io::Error>| ManifestError::Damaged(e.to_string());
    let head: Head = ciborium::from_reader(bytes).map_err(damaged)?;
    if head.format > FORMAT {
        return Err(ManifestError::Newer { found: head.format });
    }
    ciborium::from_reader(bytes).map_err(damaged)
}

fn runs<'a>(chunks: impl Iterator<Item = &'a (u64, Digest)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut next = None;
    for (index, digest) in chunks {
        match runs.last_mut() {
            Some(run) if next == Some(*index) => run.digests.extend_from_slice(&digest.0),
            _ => runs.push(Run {
                first: *index,
                digests: ByteBuf::from(digest.0.to_vec()),
            }),
        }
        next = index.checked_add(1);
    }
    runs
}

fn listed(runs: &[Run]) -> Result<Vec<(u64, Digest)>, ManifestError> {
    let mut chunks = Vec::new();
    for run in runs {
        let (digests, rest) = run.digests.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(ManifestError::Invalid("a digest is cut short"));
        }
        for (n, digest) in (0u64..).zip(digests) {
            let index = run
                .first
                .checked_add(n)
                .ok_or(ManifestError::Invalid("a place is beyond any disk"))?;
            chunks.push((index, Digest(*digest)));
        }
    }
    Ok(chunks)
}

/// Bytes of the chunk at `index` in an image of `size` bytes.
pub(crate) fn chunk_len(size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(CHUNK)).min(CHUNK)
}

fn zero_digest(len: u64) -> Digest {
    let len = usize::try_from(len.min(CHUNK)).unwrap_or(0);
    Digest::of(&crate::sparse::ZEROS[..len])
}

/// Any of our small structures as CBOR.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("plain structures always encode into memory");
    bytes
}
