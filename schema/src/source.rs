//! Texts as the caller brings them, and places in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One file of a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SourceText {
    /// Its path relative to where the command was given, separated by '/'.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// Everything a configuration depends on: nothing else decides what [`crate::load`] returns.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundle {
    /// The `*.hcl` files.
    pub texts: Vec<SourceText>,
    /// Contents of the files that [`crate::inputs`] listed, by the path listed there.
    pub files: BTreeMap<String, String>,
    /// Digests of the image sources that [`crate::inputs`] listed; `None` when the file is not there.
    pub sources: BTreeMap<String, Option<Digest>>,
    /// Values of variables as they were given: by `--var`, by a file of variables, by the environment.
    pub variables: BTreeMap<String, String>,
}

/// A position that a person can go to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Location {
    /// The file, as in [`SourceText::path`].
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    /// Characters from the start of the line, counted from 1.
    pub column: usize,
}

/// A range of bytes in one of the texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct At {
    /// Which text, as an index.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) start: usize,
    /// First byte after it.
    pub(crate) end: usize,
}

impl At {
    /// No text at all: what is wrong was brought along otherwise.
    pub(crate) const NOWHERE: Self = Self {
        file: usize::MAX,
        start: 0,
        end: 0,
    };

    pub(crate) fn new(file: usize, span: Option<std::ops::Range<usize>>) -> Self {
        let span = span.unwrap_or(0..0);
        Self {
            file,
            start: span.start,
            end: span.end,
        }
    }
}

/// Turns byte offsets of one text into lines and columns.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(i, _)| i + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// Line and column of `offset`, both from 1.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor_char(self.text, offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line.saturating_sub(1)];
        (line, self.text[start..offset].chars().count() + 1)
    }
}

/// The nearest character boundary at or before `offset`.
pub(crate) fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The digest of a configuration's texts, whatever their order.
pub(crate) fn digest(texts: &[&SourceText]) -> Digest {
    let mut bytes = Vec::new();
    for source in texts {
        for part in [&source.path, &source.text] {
            bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    Digest::of(&bytes)
}
