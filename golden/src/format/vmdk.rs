//! VMDK. Only files that hold everything themselves are let through. Source: VMware's "Virtual Disk Format 5.0"
//! and QEMU's block/vmdk.c.

use std::fs::File;

use super::fields::{le32, le64};
use super::{Format, Refusal, Shape, Unfit, short};
use crate::source::peek;

/// As much of an embedded descriptor as QEMU reads, and more.
const DESCRIPTOR_MAX: usize = 1 << 20;

/// Whether QEMU would take this text for a descriptor: comments and blank lines, then `version=`.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .next()
        .is_some_and(|line| line.to_ascii_lowercase().starts_with("version="))
}

pub(super) fn inspect(file: &File, head: &[u8]) -> Result<Shape, Unfit> {
    if head.starts_with(b"COWD") {
        refuse_parent(&peek(file, 0x200, DESCRIPTOR_MAX)?)?;
        let sectors = le32(head, 12).ok_or_else(short)?;
        return Ok(Shape {
            format: Format::Vmdk,
            size: Some(u64::from(sectors) * 512),
        });
    }
    if !head.starts_with(b"KDMV") {
        return Err(Refusal::OtherFiles("a descriptor that lists extents".to_owned()).into());
    }
    let number = |at| le64(head, at).ok_or_else(short);
    let (sectors, descriptor, length) = (number(12)?, number(28)?, number(36)?);
    if sectors == 0 {
        return Err(Refusal::OtherFiles("a descriptor that lists extents".to_owned()).into());
    }
    if descriptor != 0 {
        let room = usize::try_from(length.saturating_mul(512))
            .unwrap_or(DESCRIPTOR_MAX)
            .clamp(20 * 512, DESCRIPTOR_MAX);
        refuse_parent(&peek(file, descriptor.saturating_mul(512), room)?)?;
    }
    Ok(Shape {
        format: Format::Vmdk,
        size: Some(sectors.saturating_mul(512)),
    })
}

/// A parent is named by a hint, or by a content id other than "none".
fn refuse_parent(descriptor: &[u8]) -> Result<(), Unfit> {
    let text = String::from_utf8_lossy(descriptor);
    // A zero byte ends the text; behind it may be anything, as in a file without an embedded descriptor.
    let text = text.split('\0').next().unwrap_or_default();
    let value = |name: &str| {
        let rest = &text[text.find(name)? + name.len()..];
        Some(
            rest.lines()
                .next()
                .unwrap_or_default()
                .trim_matches([' ', '=', '"', '\r'])
                .to_owned(),
        )
    };
    if let Some(parent) = value("parentFileNameHint") {
        return Err(Refusal::BackingFile(parent).into());
    }
    match value("parentCID") {
        Some(id) if !id.eq_ignore_ascii_case("ffffffff") => {
            Err(Refusal::BackingFile("a parent disk".to_owned()).into())
        }
        _ => Ok(()),
    }
}
