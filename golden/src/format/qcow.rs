//! The qcow family. Source: QEMU's docs/interop/qcow2.txt and block/qcow.c.

use std::fs::File;

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

pub(super) fn inspect(file: &File, head: &[u8]) -> Result<Shape, Unfit> {
    let version = be32(head, 4).ok_or_else(short)?;
    if version == 1 {
        return version_1(file, head);
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
    Ok(Shape {
        format: Format::Qcow2,
        size: Some(size),
    })
}

fn version_1(file: &File, head: &[u8]) -> Result<Shape, Unfit> {
    refuse_backing(file, head)?;
    if be32(head, 36).ok_or_else(short)? != 0 {
        return Err(Refusal::Encrypted.into());
    }
    Ok(Shape {
        format: Format::Qcow,
        size: Some(be64(head, 24).ok_or_else(short)?),
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
