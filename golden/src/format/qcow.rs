//! The qcow family. Source: QEMU's docs/interop/qcow2.txt and block/qcow.c.

use std::fs::File;
use std::io;

use super::fields::{be32, be64};
use super::{Format, Refusal, Shape, Unfit, short};
use crate::source::peek;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

pub(super) fn inspect(file: &File, head: &[u8], len: u64) -> Result<Shape, Unfit> {
    let version = be32(head, 4).ok_or_else(short)?;
    if version == 1 {
        return version_1(file, head, len);
    }
    if !(2..=3).contains(&version) {
        return Err(Refusal::Unsupported(format!("qcow version {version}")).into());
    }
    let size = be64(head, 24).ok_or_else(short)?;
    if be32(head, 32).ok_or_else(short)? != 0 {
        return Err(Refusal::Encrypted.into());
    }
    let (features, header) = if version == 2 {
        (0, 72)
    } else {
        (
            be64(head, 72).ok_or_else(short)?,
            be32(head, 100).ok_or_else(short)?,
        )
    };
    if features & DATA_FILE != 0 {
        return Err(Refusal::OtherFiles("an external data file".to_owned()).into());
    }
    if features & CORRUPT != 0 {
        return Err(Refusal::Damaged("it is marked as corrupt".to_owned()).into());
    }
    let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | SUBCLUSTERS);
    if unknown != 0 {
        return Err(Refusal::Unsupported(format!("incompatible feature bits {unknown:#x}")).into());
    }
    refuse_backing(file, head)?;
    extensions(file, u64::from(header))?;
    compressed_parts(file, head, features, len)?;
    Ok(Shape {
        format: Format::Qcow2,
        size: Some(size),
    })
}

fn version_1(file: &File, head: &[u8], len: u64) -> Result<Shape, Unfit> {
    refuse_backing(file, head)?;
    if be32(head, 36).ok_or_else(short)? != 0 {
        return Err(Refusal::Encrypted.into());
    }
    let size = be64(head, 24).ok_or_else(short)?;
    let bits = u32::from(*head.get(32).ok_or_else(short)?);
    let l2_bits = u32::from(*head.get(33).ok_or_else(short)?);
    // QEMU's own bounds.
    if !(9..=16).contains(&bits) || !(6..=13).contains(&l2_bits) {
        return Err(Refusal::Unsupported("clusters of that size".to_owned()).into());
    }
    let tables = Tables {
        l1: be64(head, 40).ok_or_else(short)?,
        entries: size.div_ceil(1 << (bits + l2_bits)),
        l2_len: 8 << l2_bits,
        mask: !0,
    };
    tables.each_l2(file, len, &mut |_| Ok(()))?;
    Ok(Shape {
        format: Format::Qcow,
        size: Some(size),
    })
}

/// Where the tables of a file are that say where its data is.
struct Tables {
    l1: u64,
    entries: u64,
    l2_len: u64,
    /// What of an L1 entry is an offset.
    mask: u64,
}

impl Tables {
    /// Shows the bytes of each L2 table; an end of the file before the end of a table is damage. QEMU would read
    /// zeros there, and so a disk without data.
    fn each_l2(
        &self,
        file: &File,
        len: u64,
        show: &mut dyn FnMut(&[u8]) -> Result<(), Unfit>,
    ) -> Result<(), Unfit> {
        let Some(bytes) = self.entries.checked_mul(8).filter(|bytes| *bytes <= L1_MAX) else {
            return Err(Refusal::Unsupported("a table of more than 32 MiB".to_owned()).into());
        };
        let mut read = 0u64;
        for entry in self.whole(file, len, self.l1, bytes)?.as_chunks::<8>().0 {
            let at = u64::from_be_bytes(*entry) & self.mask;
            if at != 0 {
                // Each table is named once. Four million names of one table would be terabytes to read.
                read = read.saturating_add(self.l2_len);
                if read > len {
                    let why = "its tables overlap: together they are longer than the file";
                    return Err(Refusal::Damaged(why.to_owned()).into());
                }
                show(&self.whole(file, len, at, self.l2_len)?)?;
            }
        }
        Ok(())
    }

    fn whole(&self, file: &File, len: u64, at: u64, bytes: u64) -> Result<Vec<u8>, Unfit> {
        let end = at.saturating_add(bytes);
        if end > len {
            return Err(cut_short(end, len));
        }
        Ok(peek(
            file,
            at,
            usize::try_from(bytes).map_err(io::Error::other)?,
        )?)
    }
}

/// Largest L1 table: QEMU's own bound.
const L1_MAX: u64 = 32 << 20;

fn cut_short(end: u64, len: u64) -> Unfit {
    Refusal::Damaged(format!(
        "it is cut short: it goes on to {end}, the file ends at {len}"
    ))
    .into()
}

/// Compressed clusters are the one thing that no check of QEMU's compares with the file's end: what is missing
/// reads as zeros, and may still unpack, to something else.
fn compressed_parts(file: &File, head: &[u8], features: u64, len: u64) -> Result<(), Unfit> {
    let bits = be32(head, 20).ok_or_else(short)?;
    if !(9..=21).contains(&bits) {
        return Err(Refusal::Unsupported("clusters of that size".to_owned()).into());
    }
    let tables = Tables {
        l1: be64(head, 40).ok_or_else(short)?,
        entries: u64::from(be32(head, 36).ok_or_else(short)?),
        l2_len: 1 << bits,
        mask: 0x00ff_ffff_ffff_fe00,
    };
    let step = if features & SUBCLUSTERS == 0 { 8 } else { 16 };
    // The offset takes the lower bits, the number of further sectors the rest, but for the two flags on top.
    let offset_bits = 62 - (bits - 8);
    tables.each_l2(file, len, &mut |table| {
        for at in (0..table.len()).step_by(step) {
            let entry = be64(table, at).unwrap_or(0);
            if entry & (1 << 62) == 0 {
                continue;
            }
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry & ((1 << 62) - 1)) >> offset_bits) + 1;
            let end = (offset & !511).saturating_add(sectors * 512);
            if end > len {
                return Err(cut_short(end, len));
            }
        }
        Ok(())
    })
}

/// All versions keep the offset and the length of the backing file's name at 8 and 16.
fn refuse_backing(file: &File, head: &[u8]) -> Result<(), Unfit> {
    let offset = be64(head, 8).ok_or_else(short)?;
    let len = be32(head, 16).ok_or_else(short)?;
    if offset == 0 {
        return Ok(());
    }
    let name = peek(file, offset, usize::try_from(len.min(200)).unwrap_or(0))?;
    Err(Refusal::BackingFile(String::from_utf8_lossy(&name).into_owned()).into())
}

fn extensions(file: &File, mut at: u64) -> Result<(), Unfit> {
    // A cluster holds the header and all extensions; none is larger than 2 MiB.
    while at < 2 << 20 {
        let head = peek(file, at, 8)?;
        let (Some(kind), Some(len)) = (be32(&head, 0), be32(&head, 4)) else {
            return Err(short());
        };
        if kind == EXTENSION_END {
            return Ok(());
        }
        if kind == EXTENSION_DATA_FILE {
            return Err(Refusal::OtherFiles("an external data file".to_owned()).into());
        }
        if kind == EXTENSION_ENCRYPTION {
            return Err(Refusal::Encrypted.into());
        }
        at += 8 + u64::from(len).next_multiple_of(8);
    }
    Err(Refusal::Damaged("its header extensions have no end".to_owned()).into())
}
