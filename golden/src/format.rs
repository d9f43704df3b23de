//! Which format an image file has, by its first bytes, and whether it may be opened at all.
//!
//! The format is never guessed by the converting program: a raw disk whose guest wrote another format's header
//! into its first sector would make it read files of the host. And a file that names other files, or that is
//! larger than any disk, is refused here, before any other program has seen it.

pub(crate) mod fields;
mod qcow;
mod vhd;
mod vmdk;

use std::fmt;
use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};

use crate::source::peek;
use fields::{be32, le32, le64};

/// A format that can be imported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU, version 1.
    Qcow,
    /// QEMU, versions 2 and 3.
    Qcow2,
    /// QEMU enhanced disk.
    Qed,
    /// VMware, in one file.
    Vmdk,
    /// VirtualBox.
    Vdi,
    /// Virtual PC and older Hyper-V (VHD).
    Vpc,
    /// Hyper-V.
    Vhdx,
    /// Parallels.
    Parallels,
}

/// Why a file may not be opened as an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is incomplete without another file: a snapshot or a differencing disk.
    #[error("it is based on another file ({0}); flatten it first")]
    BackingFile(String),
    /// Its data is in another file, or in several.
    #[error("its data is in other files ({0}); convert it to one file first")]
    OtherFiles(String),
    /// It is encrypted.
    #[error("it is encrypted; decrypt it first")]
    Encrypted,
    /// It is not a disk image, but something that may contain one.
    #[error("it is {0}, not a disk image; unpack it first")]
    Packed(&'static str),
    /// Its virtual disk is larger than allowed.
    #[error("its virtual disk has {found} bytes, more than the allowed {limit}")]
    TooLarge {
        /// The virtual size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// It is damaged, or ends too early.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It uses a feature that is not known to be safe.
    #[error("it uses a feature that is not supported: {0}")]
    Unsupported(String),
}

/// What the first bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) format: Format,
    /// Virtual size, where the header says it in a fixed place.
    pub(crate) size: Option<u64>,
}

/// Why a file could not be inspected.
#[derive(Debug)]
pub(crate) enum Unfit {
    Refused(Refusal),
    Failed(io::Error),
}

impl From<io::Error> for Unfit {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

impl From<Refusal> for Unfit {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Format {
    /// Its name in qemu-img's `-f`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
            Self::Parallels => "parallels",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

const PACKED: [(u64, &[u8], &str); 8] = [
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
    (257, b"ustar", "a tar archive (an .ova is one)"),
];

/// Finds the format of `file`, which has `len` bytes, and refuses what must not be opened.
pub(crate) fn inspect(file: &File, len: u64) -> Result<Shape, Unfit> {
    let head = peek(file, 0, 1024)?;
    for (offset, magic, what) in PACKED {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(Refusal::Packed(what).into());
        }
    }
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"QFI\xfb") {
        return qcow::inspect(file, &head, len);
    }
    if starts(b"LUKS\xba\xbe") {
        return Err(Refusal::Encrypted.into());
    }
    if starts(b"QED\0") {
        return qed(&head);
    }
    if starts(b"KDMV")
        || starts(b"COWD")
        || starts(b"# Disk DescriptorFile")
        || vmdk::is_descriptor(&head)
    {
        return vmdk::inspect(file, &head);
    }
    if le32(&head, 0x40) == Some(0xbeda_107f) {
        return vdi(&head, len);
    }
    if starts(b"conectix") {
        return vhd::inspect(file, &head, len);
    }
    if starts(b"vhdxfile") {
        // QEMU finds blocks beyond the file's end, but rounds that end up to a sector.
        if !len.is_multiple_of(512) {
            return Err(Refusal::Damaged(format!(
                "its {len} bytes are not whole sectors, so it is cut short"
            ))
            .into());
        }
        // Its size is in a table elsewhere; differencing disks and damage are refused by the converting program.
        return Ok(Shape {
            format: Format::Vhdx,
            size: None,
        });
    }
    if starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt") {
        let sectors = le64(&head, 0x24).ok_or_else(short)?;
        // The older variant keeps 32 bits there, and something else behind.
        let sectors = if starts(b"WithoutFreeSpace") {
            sectors & 0xffff_ffff
        } else {
            sectors
        };
        return Ok(Shape {
            format: Format::Parallels,
            size: Some(sectors.saturating_mul(512)),
        });
    }
    let tail = peek(file, len.saturating_sub(512), 512)?;
    if tail.starts_with(b"conectix") && be32(&tail, 60) == Some(2) && vhd::footer_is_whole(&tail) {
        return Ok(Shape {
            format: Format::Vpc,
            size: fields::be64(&tail, 48),
        });
    }
    if !len.is_multiple_of(512) {
        let what =
            format!("its {len} bytes are not whole sectors, so it is cut short or no disk image");
        return Err(Refusal::Damaged(what).into());
    }
    Ok(Shape {
        format: Format::Raw,
        size: Some(len),
    })
}

pub(crate) fn short() -> Unfit {
    Unfit::Refused(Refusal::Damaged("it ends in its header".to_owned()))
}

/// QED: little-endian header; feature bit 0 is a backing file. Source: QEMU's docs/interop/qed_spec.
fn qed(head: &[u8]) -> Result<Shape, Unfit> {
    let features = le64(head, 16).ok_or_else(short)?;
    if features & 1 != 0 {
        return Err(Refusal::BackingFile("its header says so".to_owned()).into());
    }
    if features & !0b110 != 0 {
        return Err(Refusal::Unsupported(format!("feature bits {features:#x}")).into());
    }
    Ok(Shape {
        format: Format::Qed,
        size: Some(le64(head, 48).ok_or_else(short)?),
    })
}

/// VDI: type 1 grows, type 2 is fixed; others are differences. Source: QEMU's block/vdi.c.
fn vdi(head: &[u8], len: u64) -> Result<Shape, Unfit> {
    let kind = le32(head, 0x4c).ok_or_else(short)?;
    let parent = head.get(0x1a8..0x1c8).ok_or_else(short)?;
    if !(1..=2).contains(&kind) || parent.iter().any(|b| *b != 0) {
        return Err(Refusal::BackingFile("a differencing disk".to_owned()).into());
    }
    let (data, block, used) = (le32(head, 0x158), le32(head, 0x178), le32(head, 0x184));
    let (Some(data), Some(block), Some(used)) = (data, block, used) else {
        return Err(short());
    };
    // QEMU reads zeros where the file ends too early, so a file cut short has to be found here.
    let end = u64::from(data).saturating_add(u64::from(block).saturating_mul(u64::from(used)));
    if end > len {
        return Err(Refusal::Damaged(format!("it should have {end} bytes and has {len}")).into());
    }
    Ok(Shape {
        format: Format::Vdi,
        size: Some(le64(head, 0x170).ok_or_else(short)?),
    })
}
