//! VHD, which QEMU calls vpc. Source: Microsoft's "Virtual Hard Disk Image Format Specification" of 2006.

use std::fs::File;

use super::fields::{be32, be64};
use super::{Format, Refusal, Shape, Unfit, short};
use crate::source::peek;

const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// A file that begins with a copy of its footer: not a fixed one.
pub(super) fn inspect(file: &File, head: &[u8], len: u64) -> Result<Shape, Unfit> {
    match be32(head, 60).ok_or_else(short)? {
        DYNAMIC => {}
        DIFFERENCING => return Err(Refusal::BackingFile("a differencing disk".to_owned()).into()),
        other => return Err(Refusal::Unsupported(format!("VHD type {other}")).into()),
    }
    if !footer_is_whole(head) {
        return Err(Refusal::Damaged("its header's checksum is wrong".to_owned()).into());
    }
    // QEMU reads zeros where the file ends too early, so a file cut short has to be found here: the footer is
    // repeated behind the last block.
    let tail = peek(file, len.saturating_sub(512), 512)?;
    if len < 1536 || !tail.starts_with(b"conectix") || !footer_is_whole(&tail) {
        return Err(
            Refusal::Damaged("its footer is missing, so it is cut short".to_owned()).into(),
        );
    }
    Ok(Shape {
        format: Format::Vpc,
        size: Some(be64(head, 48).ok_or_else(short)?),
    })
}

/// Whether the checksum fits: the complement of the sum of all bytes but its own.
pub(super) fn footer_is_whole(footer: &[u8]) -> bool {
    let Some(footer) = footer.get(..512) else {
        return false;
    };
    let sum: u32 = footer
        .iter()
        .enumerate()
        .filter(|(i, _)| !(64..68).contains(i))
        .map(|(_, b)| u32::from(*b))
        .sum();
    be32(footer, 64) == Some(!sum)
}
