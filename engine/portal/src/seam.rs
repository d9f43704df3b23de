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

/// What a bundle means.
pub(crate) struct Loaded {
    pub(crate) desired: Option<coppice_schema::Desired>,
    pub(crate) texts: Digest,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

pub(crate) fn load(bundle: &Bundle) -> Loaded {
    let _ = bundle;
    Loaded {
        desired: Some(Default::default()),
        texts: Digest([0; 32]),
        diagnostics: Vec::new(),
    }
}

pub(crate) fn plan(
    _: &coppice_schema::Desired,
    known: &coppice_schema::Known,
    _: coppice_schema::units::Timestamp,
) -> coppice_plans::plan::Plan {
    coppice_plans::plan::Plan {
        base: coppice_plans::plan::Base {
            revision: known.revision,
            objects: Default::default(),
        },
        looked: Default::default(),
        complete: known.servers.values().all(|server| server.current),
        actions: Vec::new(),
        drift: Vec::new(),
        gates: Vec::new(),
        findings: Vec::new(),
        pools: Default::default(),
        next: None,
    }
}

pub(crate) fn document(plan: &coppice_plans::plan::Plan) -> Document {
    serde_json::to_value(plan).unwrap_or_default()
}

pub(crate) fn plan_id(document: &Document) -> Digest {
    Digest::of(document.to_string().as_bytes())
}

pub(crate) fn faults(
    _: &coppice_plans::plan::Plan,
    _: &coppice_schema::Desired,
    _: &coppice_schema::Known,
) -> Vec<String> {
    Vec::new()
}
