//! What is wrong with a configuration, or worth knowing about it, as data.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::source::{At, Lines, SourceText};

/// One thing that is wrong with a configuration, or worth knowing about it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file, as in [`SourceText::path`]; empty when it is about no file.
    pub path: String,
    /// Where in that file.
    pub span: ByteRange,
    /// Line of the span's beginning, from 1; 0 when it is about no file.
    pub line: usize,
    /// Column of the span's beginning in characters, from 1; 0 when it is about no file.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// Stable code: `V01` text, `V02` words and types, `V03` evaluation, `V04` the whole, `V05` worth knowing.
    pub code: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands at the span; empty when the message says it all.
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

/// How bad a diagnostic is. Only errors keep a configuration from being used.
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

/// Most diagnostics that one load returns: nobody reads more, and text may be hostile.
const MOST: usize = 500;

/// Longest text of a diagnostic, in bytes: names in it come from the configuration.
const WORDS: usize = 1_000;

/// A diagnostic before its offsets were turned into lines.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    severity: Severity,
    code: &'static str,
    message: String,
    at: At,
    label: String,
    others: Vec<(At, String)>,
    help: Option<String>,
    suggestion: Option<String>,
}

impl Problem {
    fn new(severity: Severity, code: &'static str, at: At, message: impl Into<String>) -> Self {
        let (label, others) = (String::new(), Vec::new());
        Self {
            severity,
            code,
            message: message.into(),
            at,
            label,
            others,
            help: None,
            suggestion: None,
        }
    }

    pub(crate) fn error(code: &'static str, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, at, message)
    }

    pub(crate) fn warning(code: &'static str, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, at, message)
    }

    pub(crate) fn note(code: &'static str, at: At, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, at, message)
    }

    pub(crate) fn label(self, label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            ..self
        }
    }

    pub(crate) fn also(mut self, at: At, text: impl Into<String>) -> Self {
        self.others.push((at, text.into()));
        self
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    /// Help that names the nearest of `known`, and offers it as replacement.
    pub(crate) fn nearest<'a>(
        self,
        wanted: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        match nearest(wanted, known) {
            Some(near) => {
                let help = format!("did you mean `{near}`?");
                Self {
                    help: Some(help),
                    suggestion: Some(near.to_owned()),
                    ..self
                }
            }
            None => self,
        }
    }

    /// As [`Self::nearest`]; `help` when nothing is near.
    pub(crate) fn nearest_or<'a>(
        self,
        wanted: &str,
        known: impl IntoIterator<Item = &'a str>,
        help: impl Into<String>,
    ) -> Self {
        let asked = self.nearest(wanted, known);
        if asked.help.is_some() {
            asked
        } else {
            asked.help(help)
        }
    }

    /// The replacement is `text`.
    pub(crate) fn instead(self, text: impl Into<String>) -> Self {
        Self {
            suggestion: Some(text.into()),
            ..self
        }
    }
}

/// The one of `known` that `wanted` was probably meant to be.
pub(crate) fn nearest<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if wanted.len() > 100 {
        return None;
    }
    let limit = wanted.chars().count().max(3) / 3;
    let mut best: Option<(usize, &str)> = None;
    for candidate in known.into_iter().take(2_000) {
        let distance =
            strsim::damerau_levenshtein(&wanted.to_lowercase(), &candidate.to_lowercase());
        let prefix = wanted.len() >= 3 && candidate.starts_with(wanted);
        let distance = if prefix {
            distance.min(limit)
        } else {
            distance
        };
        if distance <= limit
            && best.is_none_or(|(least, name)| (distance, candidate) < (least, name))
        {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// Collects problems. The same problem at the same place counts once: blocks that are repeated are evaluated
/// several times.
#[derive(Default)]
pub(crate) struct Report {
    problems: RefCell<BTreeMap<(At, &'static str, String), Problem>>,
}

impl Report {
    pub(crate) fn push(&self, mut problem: Problem) {
        for text in [
            Some(&mut problem.message),
            problem.help.as_mut(),
            problem.suggestion.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            if text.len() > WORDS {
                text.truncate(crate::source::floor_char(text, WORDS));
                text.push('…');
            }
        }
        let mut problems = self.problems.borrow_mut();
        let full = problems.len() >= MOST && problem.severity != Severity::Error;
        if problems.len() < 4 * MOST && !full {
            let key = (problem.at, problem.code, problem.message.clone());
            problems.entry(key).or_insert(problem);
        }
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.problems
            .borrow()
            .values()
            .any(|p| p.severity == Severity::Error)
    }

    /// The problems as diagnostics, in the order of files and places.
    pub(crate) fn finish(self, texts: &[&SourceText]) -> Vec<Diagnostic> {
        if self.problems.borrow().is_empty() {
            return Vec::new();
        }
        let lines: Vec<Lines<'_>> = texts
            .iter()
            .map(|source| Lines::new(&source.text))
            .collect();
        let place = |at: At| match (texts.get(at.file), lines.get(at.file)) {
            (Some(source), Some(lines)) => {
                let (line, column) = lines.position(at.start);
                let end = at.end.min(source.text.len());
                (
                    source.path.clone(),
                    ByteRange {
                        start: at.start.min(end),
                        end,
                    },
                    line,
                    column,
                )
            }
            _ => (String::new(), ByteRange::default(), 0, 0),
        };
        let mut found: Vec<Diagnostic> = Vec::new();
        for problem in self.problems.into_inner().into_values() {
            let (path, span, line, column) = place(problem.at);
            let labels = problem.others.into_iter().map(|(at, text)| {
                let (path, span, line, column) = place(at);
                Label {
                    path,
                    span,
                    line,
                    column,
                    text,
                }
            });
            found.push(Diagnostic {
                path,
                span,
                line,
                column,
                severity: problem.severity,
                code: problem.code.to_owned(),
                message: problem.message,
                label: problem.label,
                labels: labels.collect(),
                help: problem.help,
                suggestion: problem.suggestion,
            });
        }
        found.sort();
        if found.len() > MOST {
            let more = found.len() - MOST;
            // Errors first: what is cut must not be what keeps the configuration from being used.
            found.sort_by_key(|d| d.severity);
            found.truncate(MOST);
            found.sort();
            found.push(Diagnostic {
                path: String::new(),
                span: ByteRange::default(),
                line: 0,
                column: 0,
                severity: Severity::Error,
                code: "V0105".to_owned(),
                message: format!("{more} more problems are not shown"),
                label: String::new(),
                labels: Vec::new(),
                help: Some("correct these first".to_owned()),
                suggestion: None,
            });
        }
        found
    }
}
