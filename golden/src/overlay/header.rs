//! The bytes of an overlay: qcow2 version 3, clusters of 64 KiB. Source: QEMU's docs/interop/qcow2.txt.
//!
//! ```text
//! cluster 0    header, backing format "raw", end of extensions, path of the image
//! cluster 1    refcount table, one entry
//! cluster 2    refcount block: one for each cluster of this list
//! cluster 3..  L1 table, one entry for each 512 MiB of disk, all zero, so a hole in the file
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use coppice_schema::Digest;
use coppice_schema::units::Size;

use super::list::Fault;
use crate::format::fields::{be32, be64};
use crate::source::peek;

/// Largest disk of an overlay. QEMU allows more; nobody has checked more.
pub const SIZE_MAX: Size = Size(64 << 40);

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of disk behind one L1 entry: a cluster full of 8-byte entries, each for a cluster.
const PER_L1: u64 = CLUSTER / 8 * CLUSTER;
const HEADER: u32 = 104;
const MAGIC: &[u8; 4] = b"QFI\xfb";
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// 16-bit reference counts.
const REFCOUNT_ORDER: u32 = 4;
/// Marked by QEMU when it found its own tables broken.
const CORRUPT: u64 = 1 << 1;
/// Data in another file: never ours.
const DATA_FILE: u64 = 1 << 2;
/// Longest path of an image in a header.
const PATH_MAX: usize = 1023;

/// The path of an image as an overlay names it: from the overlay's own directory, so that a store can be moved
/// and is alike on every server.
pub(crate) fn backing_path(image: Digest) -> String {
    format!("../images/{image}.raw")
}

/// Clusters of the L1 table of a disk of `size` bytes.
fn l1_clusters(size: u64) -> u64 {
    l1_entries(size).saturating_mul(8).div_ceil(CLUSTER)
}

fn l1_entries(size: u64) -> u64 {
    size.div_ceil(PER_L1).max(1)
}

/// Where the tables of an overlay are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tables {
    entries: u32,
    l1: u64,
    refcounts: u64,
    refcount_clusters: u32,
}

/// A whole header, with nothing in it but what an overlay of ours needs.
fn head(image: Digest, size: u64, tables: Tables) -> io::Result<Vec<u8>> {
    let path = backing_path(image);
    let length = u32::try_from(path.len()).map_err(io::Error::other)?;
    let mut head = Vec::with_capacity(256);
    head.extend(MAGIC);
    head.extend(3u32.to_be_bytes());
    // Behind the fixed part: backing format (8 + 8 bytes), end of extensions (8 bytes).
    head.extend(u64::from(HEADER + 24).to_be_bytes());
    head.extend(length.to_be_bytes());
    head.extend(CLUSTER_BITS.to_be_bytes());
    head.extend(size.to_be_bytes());
    head.extend(0u32.to_be_bytes()); // not encrypted
    head.extend(tables.entries.to_be_bytes());
    head.extend(tables.l1.to_be_bytes());
    head.extend(tables.refcounts.to_be_bytes());
    head.extend(tables.refcount_clusters.to_be_bytes());
    head.extend([0; 12]); // no snapshots
    head.extend([0; 24]); // no feature bits
    head.extend(REFCOUNT_ORDER.to_be_bytes());
    head.extend(HEADER.to_be_bytes());
    head.extend(BACKING_FORMAT.to_be_bytes());
    head.extend(3u32.to_be_bytes());
    head.extend(b"raw\0\0\0\0\0");
    head.extend([0; 8]); // end of extensions
    head.extend(path.as_bytes());
    Ok(head)
}

/// Writes an overlay of `image` with a disk of `size` bytes into the empty `file`. `size` is at most [`SIZE_MAX`].
pub(crate) fn write(file: &File, image: Digest, size: u64) -> io::Result<()> {
    let tables = Tables {
        entries: u32::try_from(l1_entries(size)).map_err(io::Error::other)?,
        l1: 3 * CLUSTER,
        refcounts: CLUSTER,
        refcount_clusters: 1,
    };
    let clusters = 3 + l1_clusters(size);
    // One block counts 32,768 clusters; the largest disk needs 19.
    let counts = 1u16
        .to_be_bytes()
        .repeat(usize::try_from(clusters).map_err(io::Error::other)?);
    file.write_all_at(&head(image, size, tables)?, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    file.write_all_at(&counts, 2 * CLUSTER)?;
    file.set_len(clusters * CLUSTER)
}

/// Makes a qcow2 file that another server wrote an overlay of `image`: of its header only the size and the places of its
/// tables are kept, so it names no file but that image, whatever it named before. Not synced.
pub(crate) fn adopt(file: &File, image: Digest, size: u64) -> Result<(), Fault> {
    let unreadable = |e: io::Error| Fault::Unreadable(e.to_string());
    let found = read(file)?;
    if found.size != size {
        return Err(Fault::Size {
            found: Size(found.size),
            expected: Size(size),
        });
    }
    let bytes = peek(file, 0, 104).map_err(unreadable)?;
    let word = |at| be32(&bytes, at).unwrap_or(u32::MAX);
    let long = |at| be64(&bytes, at).unwrap_or(u64::MAX);
    if long(72) != 0 || word(32) != 0 {
        return Err(Fault::Damaged("it needs features that overlays have not"));
    }
    if word(60) != 0 {
        return Err(Fault::Damaged("it has snapshots"));
    }
    if word(96) != REFCOUNT_ORDER {
        return Err(Fault::Damaged("its reference counts have another size"));
    }
    let tables = Tables {
        entries: word(36),
        l1: long(40),
        refcounts: long(48),
        refcount_clusters: word(56),
    };
    let len = file.metadata().map_err(unreadable)?.len();
    let end = u64::from(tables.refcount_clusters)
        .saturating_mul(CLUSTER)
        .saturating_add(tables.refcounts);
    if !tables.l1.is_multiple_of(CLUSTER) || !tables.refcounts.is_multiple_of(CLUSTER) {
        return Err(Fault::Damaged("its tables are not where they can be"));
    }
    if tables.refcount_clusters == 0 || end > len.next_multiple_of(CLUSTER) {
        return Err(Fault::Damaged("it is shorter than its tables"));
    }
    let mut whole = head(image, size, tables).map_err(unreadable)?;
    // What else was in the first cluster is read by nobody, and would only be found by whoever looks.
    whole.resize(usize::try_from(CLUSTER).unwrap_or_default(), 0);
    file.write_all_at(&whole, 0).map_err(unreadable)
}

/// What an overlay's header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) size: u64,
    /// The path of what it is based on, as written; empty for none.
    pub(crate) backing: String,
}

/// Reads the header of `file`, ours or as QEMU has rewritten it since.
pub(crate) fn read(file: &File) -> Result<Header, Fault> {
    let unreadable = |e: io::Error| Fault::Unreadable(e.to_string());
    let len = file.metadata().map_err(unreadable)?.len();
    let head = peek(file, 0, 104).map_err(unreadable)?;
    let fields = |()| {
        Some((
            be64(&head, 8)?,
            be32(&head, 16)?,
            be32(&head, 20)?,
            be64(&head, 24)?,
            be32(&head, 36)?,
            be64(&head, 40)?,
            be64(&head, 48)?,
            be64(&head, 72)?,
        ))
    };
    if !head.starts_with(MAGIC) || be32(&head, 4) != Some(3) {
        return Err(Fault::NotQcow2);
    }
    let Some((path_at, path_len, bits, size, entries, l1, refcounts, features)) = fields(()) else {
        return Err(Fault::Damaged("it ends in its header"));
    };
    if features & (CORRUPT | DATA_FILE) != 0 {
        return Err(Fault::Damaged(
            "it is marked as corrupt, or keeps its data elsewhere",
        ));
    }
    if bits != CLUSTER_BITS {
        return Err(Fault::Damaged("its clusters have another size"));
    }
    let end = l1.saturating_add(u64::from(entries).saturating_mul(8));
    if l1 < CLUSTER || refcounts < CLUSTER || end > len || refcounts >= len {
        return Err(Fault::Damaged("it is shorter than its tables"));
    }
    if u64::from(entries) < l1_entries(size) {
        return Err(Fault::Damaged("its table is smaller than its disk"));
    }
    let wanted = usize::try_from(path_len).unwrap_or(usize::MAX);
    if wanted > PATH_MAX {
        return Err(Fault::Damaged("the path of its image is too long"));
    }
    let path = peek(file, path_at, wanted).map_err(unreadable)?;
    if path.len() < wanted {
        return Err(Fault::Damaged("it ends in its header"));
    }
    Ok(Header {
        size,
        backing: if path_at == 0 {
            String::new()
        } else {
            String::from_utf8_lossy(&path).into_owned()
        },
    })
}
