//! What is kept of a half image: its bytes, its manifest, and which of its chunks are known to be right.
//!
//! ```text
//! incoming/copy-ROOT.raw        what has arrived
//! incoming/copy-ROOT.manifest   checked to have that root
//! incoming/copy-ROOT.have       which chunks were read back, written after they were
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;

use coppice_schema::Digest;
use coppice_schema::units::Size;
use serde::{Deserialize, Serialize};

use rustix::fs::{FallocateFlags, fallocate};

use super::ReceiveError;
use crate::disk::{Dir, DiskError};
use crate::manifest::{Manifest, chunk_len};
use crate::store::record::{Hint, Record, manifest_name, raw_name, record_name};
use crate::store::{Store, StoreError};

const PREFIX: &str = "copy-";

/// Part of an image that is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HalfImage {
    /// The image.
    pub root: Digest,
    /// Size of its disk.
    pub size: Size,
    /// Bytes in its chunks.
    pub data: Size,
    /// Bytes of chunks that are here and right.
    pub here: Size,
    /// It is being received now.
    pub moving: bool,
    /// Bytes a second that came so far in this try; 0: none, or not known.
    pub rate: Size,
}

pub(super) fn part_name(root: Digest) -> String {
    format!("{PREFIX}{root}.raw")
}

fn title_name(root: Digest) -> String {
    format!("{PREFIX}{root}.manifest")
}

fn have_name(root: Digest) -> String {
    format!("{PREFIX}{root}.have")
}

/// A half image that is open.
pub(super) struct Part {
    pub(super) manifest: Manifest,
    pub(super) file: File,
    pub(super) have: Have,
    pub(super) stored: BTreeSet<u64>,
}

/// The record of chunks that are here.
pub(super) struct Have(File);

impl Have {
    /// The same record, for whoever adds to it.
    pub(super) fn another(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Adds places. They are on the medium when this returns; a batch that is torn by a crash does not count.
    pub(super) fn add(&mut self, places: &[u64]) -> io::Result<()> {
        let mut batch = Vec::with_capacity(places.len() * 8 + 16);
        let count = u64::try_from(places.len()).map_err(io::Error::other)?;
        batch.extend_from_slice(&count.to_le_bytes());
        for place in places {
            batch.extend_from_slice(&place.to_le_bytes());
        }
        let sum = check(&batch);
        batch.extend_from_slice(&sum);
        self.0.write_all(&batch)?;
        self.0.sync_data()
    }
}

fn check(batch: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(batch);
    hash.as_bytes()
        .first_chunk::<8>()
        .copied()
        .unwrap_or([0; 8])
}

/// The places in a record, and how many of its bytes are whole batches.
fn parse(bytes: &[u8]) -> (BTreeSet<u64>, u64) {
    let mut places = BTreeSet::new();
    let mut rest = bytes;
    let mut whole = 0;
    while let Some((count, tail)) = rest.split_first_chunk::<8>()
        && let Ok(count) = usize::try_from(u64::from_le_bytes(*count))
        && let Some(len) = count.checked_mul(8)
        && let Some((listed, tail)) = tail.split_at_checked(len)
        && let Some((sum, tail)) = tail.split_first_chunk::<8>()
        && check(&rest[..8 + len]) == *sum
    {
        places.extend(
            listed
                .as_chunks::<8>()
                .0
                .iter()
                .map(|p| u64::from_le_bytes(*p)),
        );
        whole += u64::try_from(len).unwrap_or_default() + 16;
        rest = tail;
    }
    (places, whole)
}

impl Store {
    /// Opens what is here of `root`; `None` where there is nothing that can be continued.
    pub(super) fn open_half(&self, root: Digest) -> Result<Option<Part>, StoreError> {
        let Some(manifest) = self.half_manifest(root)? else {
            return Ok(None);
        };
        if !self.incoming.has(&part_name(root))? {
            return Ok(None);
        }
        let file = self.incoming.reopen(&part_name(root))?;
        let fail = |operation, e| DiskError::new(operation, self.incoming.join(part_name(root)), e);
        if file.metadata().map_err(|e| fail("look at", e))?.len() != manifest.size().0 {
            return Ok(None);
        }
        let (have, places) = self.open_have(root)?;
        let listed = |place: &u64| manifest.digest_at(*place).is_some();
        let stored = places.into_iter().filter(listed).collect();
        Ok(Some(Part {
            manifest,
            file,
            have,
            stored,
        }))
    }

    /// Begins anew with `manifest`.
    pub(super) fn begin_half(&self, manifest: Manifest) -> Result<Part, StoreError> {
        let root = manifest.root();
        self.discard_half(root)?;
        let file = self.incoming.create(&part_name(root))?;
        let path = self.incoming.join(part_name(root));
        file.set_len(manifest.size().0)
            .map_err(|e| DiskError::new("enlarge", path, e))?;
        self.incoming.save(&title_name(root), &manifest.encode())?;
        let have = self.incoming.create(&have_name(root))?;
        // On a disk that has become full what is right must still be noted: half as much again as all places take.
        let room = manifest.chunks().len() as u64 * 12 + (64 << 10);
        match fallocate(&have, FallocateFlags::KEEP_SIZE, 0, room) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => {
                let path = self.incoming.join(have_name(root));
                return Err(DiskError::new("make room in", path, e).into());
            }
        }
        let have = Have(have);
        self.incoming.sync()?;
        Ok(Part {
            manifest,
            file,
            have,
            stored: BTreeSet::new(),
        })
    }

    fn open_have(&self, root: Digest) -> Result<(Have, BTreeSet<u64>), StoreError> {
        let name = have_name(root);
        if !self.incoming.has(&name)? {
            self.incoming.create(&name)?;
            self.incoming.sync()?;
        }
        let mut file = self.incoming.reopen(&name)?;
        let fail = |e| DiskError::new("read", self.incoming.join(&name), e);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(fail)?;
        let (places, whole) = parse(&bytes);
        // What a crash tore is cut off, so that what is added is read again.
        file.set_len(whole).map_err(fail)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(whole)).map_err(fail)?;
        Ok((Have(file), places))
    }

    fn half_manifest(&self, root: Digest) -> Result<Option<Manifest>, StoreError> {
        load_manifest(&self.incoming, &title_name(root), root)
    }

    /// Gives a half image that is whole its name. Durable on return.
    pub(super) fn publish_half(&self, part: &Part) -> Result<(), ReceiveError> {
        let root = part.manifest.root();
        let fail = |operation, e: io::Error| {
            DiskError::new(operation, self.incoming.join(part_name(root)), e)
        };
        part.file
            .set_permissions(PermissionsExt::from_mode(0o444))
            .map_err(|e| fail("protect", e))?;
        part.file.sync_all().map_err(|e| fail("sync", e))?;
        let hint = Hint::of(&part.file).map_err(|e| fail("look at", e))?;
        let _names = self.lock_names();
        let sources = Record::load(&self.images, root)?.map(|record| record.sources);
        let described = self
            .images
            .save(&manifest_name(root), &part.manifest.encode())
            .map_err(StoreError::from)
            .and_then(|()| {
                Record::new(sources.unwrap_or_default(), hint)
                    .read_now()
                    .save(&self.images, root)
            });
        if let Err(e) = described {
            if !self.images.has(&raw_name(root))? {
                // The first failure is the one to tell; a manifest alone is no image.
                self.images.remove(manifest_name(root)).ok();
                self.images.remove(record_name(root)).ok();
            }
            return Err(e.into());
        }
        self.incoming
            .rename(&part_name(root), &self.images, &raw_name(root))?;
        self.images.sync()?;
        self.discard_half(root)?;
        Ok(())
    }

    /// Removes what is here of a half image; says whether there was anything.
    pub(crate) fn discard_half(&self, root: Digest) -> Result<bool, StoreError> {
        // The record first: what it lists must be there as long as it is.
        let mut any = self.incoming.remove(have_name(root))?;
        any |= self.incoming.remove(title_name(root))?;
        any |= self.incoming.remove(part_name(root))?;
        if any {
            self.incoming.sync()?;
        }
        Ok(any)
    }

    /// Images of which a part is here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn half_images(&self) -> Result<Vec<HalfImage>, StoreError> {
        let mut found = Vec::new();
        for name in self.incoming.names()? {
            let root = name.to_str().and_then(|name| {
                name.strip_prefix(PREFIX)?
                    .strip_suffix(".manifest")?
                    .parse()
                    .ok()
            });
            let Some(root) = root else { continue };
            let flow = self.flows().get(&root).cloned();
            let Ok(Some(manifest)) = self.half_manifest(root) else {
                continue;
            };
            let size = manifest.size().0;
            let known = flow.as_ref().map(|flow| flow.progress());
            let here = match known {
                Some((here, total)) if total.0 > 0 => here,
                Some(_) | None => {
                    let bytes = match self.incoming.read(have_name(root))? {
                        Some(mut file) => {
                            let mut bytes = Vec::new();
                            io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| {
                                DiskError::new("read", self.incoming.join(have_name(root)), e)
                            })?;
                            bytes
                        }
                        None => Vec::new(),
                    };
                    let (places, _) = parse(&bytes);
                    Size(places.iter().map(|place| chunk_len(size, *place)).sum())
                }
            };
            found.push(HalfImage {
                root,
                size: manifest.size(),
                data: manifest.data(),
                here,
                moving: flow.is_some(),
                rate: flow.map_or(Size(0), |flow| flow.rate()),
            });
        }
        Ok(found)
    }
}

fn load_manifest(dir: &Dir, name: &str, root: Digest) -> Result<Option<Manifest>, StoreError> {
    let Some(mut file) = dir.read(name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes)
        .map_err(|e| DiskError::new("read", dir.join(name), e))?;
    Ok(Manifest::decode(&bytes)
        .ok()
        .filter(|manifest| manifest.root() == root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cut_off_anywhere_gives_what_was_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("have");
        let mut have = Have(File::create(&path).unwrap());
        have.add(&[3, 9]).unwrap();
        have.add(&[1]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(parse(&bytes), (BTreeSet::from([1, 3, 9]), 56));
        for len in 0..bytes.len() {
            let first = if len < 32 { vec![] } else { vec![3, 9] };
            let whole = if len < 32 { 0 } else { 32 };
            let cut = parse(&bytes[..len]);
            assert_eq!(cut, (first.into_iter().collect(), whole), "{len}");
        }
        let mut zeros = bytes.clone();
        zeros.extend_from_slice(&[0; 64]);
        assert_eq!(parse(&zeros).1, 56, "what a file system filled up");
    }
}
