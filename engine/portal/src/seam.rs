//! Shapes of the language and of the plan document.

use std::collections::BTreeMap;

use coppice_schema::Digest;
use serde::{Deserialize, Serialize};

/// The plan document: versioned JSON.
pub type Document = serde_json::Value;

/// One file of a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SourceText {
    /// Its path relative to where the command was given, separated by '/'.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// Everything a configuration depends on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundle {
    /// The `*.hcl` files.
    pub texts: Vec<SourceText>,
    /// Contents of the files that the texts name, by path.
    pub files: BTreeMap<String, String>,
    /// Digests of the image sources that the texts name; `None` when the file is not there.
    pub sources: BTreeMap<String, Option<Digest>>,
    /// Values of variables as they were given.
    pub variables: BTreeMap<String, String>,
}

/// One thing that is wrong with a configuration, or worth knowing about it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file; empty when it is about no file.
    pub path: String,
    /// Where in that file.
    pub span: ByteRange,
    /// From 1; 0 when it is about no file.
    pub line: usize,
    /// In characters, from 1; 0 when it is about no file.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// Stable code.
    pub code: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands at the span.
    pub label: String,
    /// Other places that belong to it.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// Text that would be right in place of the span.
    pub suggestion: Option<String>,
}

/// Another place that belongs to a diagnostic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Label {
    /// The file.
    pub path: String,
    /// Where in it.
    pub span: ByteRange,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Its part in the matter.
    pub text: String,
}

/// Bytes of a text, end excluded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, and probably does not do what was meant.
    Warning,
    /// It can.
    Note,
}
