//! Diagnostics for people, in rustc's manner.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::diagnostic::{Diagnostic, Severity};
use crate::source::{SourceText, floor_char};

/// Longest stretch of a text that is looked at for one diagnostic, in bytes: texts may be hostile.
const STRETCH: usize = 16_384;

/// The diagnostics as text, each with its source lines, with an empty line between them. `width` is that of the
/// terminal in columns; 0 means 140.
#[must_use]
pub fn render(
    diagnostics: &[Diagnostic],
    texts: &[SourceText],
    colour: bool,
    width: usize,
) -> String {
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let renderer = renderer
        .decor_style(DecorStyle::Ascii)
        .term_width(if width == 0 {
            140
        } else {
            width.clamp(40, 1_000)
        });
    let mut out = String::new();
    for diagnostic in diagnostics {
        if !out.is_empty() {
            out.push('\n');
        }
        let report = [group(diagnostic, texts)];
        out.push_str(renderer.render(&report).trim_end());
        out.push('\n');
    }
    out
}

fn group<'a>(diagnostic: &'a Diagnostic, texts: &'a [SourceText]) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut group = Group::with_title(
        level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.as_str()),
    );
    let mut marks = vec![(
        &diagnostic.path,
        diagnostic.span,
        diagnostic.label.as_str(),
        true,
    )];
    marks.extend(
        diagnostic
            .labels
            .iter()
            .map(|l| (&l.path, l.span, l.text.as_str(), false)),
    );
    let mut paths: Vec<&String> = Vec::new();
    for (path, ..) in &marks {
        if !paths.contains(path) {
            paths.push(path);
        }
    }
    for path in paths {
        let Some(source) = texts.iter().find(|source| source.path == *path) else {
            continue;
        };
        let here: Vec<_> = marks.iter().filter(|mark| mark.0 == path).collect();
        let (cut, first_line, text) = stretch(&source.text, here.iter().map(|mark| mark.1.start));
        let mut snippet = Snippet::source(text)
            .path(path.as_str())
            .line_start(first_line);
        for (_, span, label, primary) in here {
            let start = floor_char(text, span.start.saturating_sub(cut));
            let end = floor_char(text, span.end.saturating_sub(cut)).max(start);
            let outside = span.start < cut || span.start - cut > text.len();
            if outside {
                continue;
            }
            let kind = if *primary {
                AnnotationKind::Primary
            } else {
                AnnotationKind::Context
            };
            let mark = kind.span(start..first_line_end(text, start, end));
            snippet = snippet.annotation(if label.is_empty() {
                mark
            } else {
                mark.label(*label)
            });
        }
        group = group.element(snippet);
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// A span of several lines is marked on its first: whole blocks would hide what is said about them.
fn first_line_end(text: &str, start: usize, end: usize) -> usize {
    text[start..end]
        .find('\n')
        .map_or(end, |length| start + length)
}

/// The lines around all `starts`, as far as [`STRETCH`] reaches: where they begin, as byte and line, and the text.
fn stretch(text: &str, starts: impl Iterator<Item = usize> + Clone) -> (usize, usize, &str) {
    let first = floor_char(text, starts.clone().min().unwrap_or(0));
    let last = floor_char(text, starts.max().unwrap_or(0).min(first + STRETCH));
    let near = floor_char(text, first.saturating_sub(STRETCH));
    let begin = text[near..first].rfind('\n').map_or(near, |i| near + i + 1);
    let far = floor_char(text, last + STRETCH);
    let end = text[last..far].find('\n').map_or(far, |i| last + i);
    let line = text[..begin].bytes().filter(|byte| *byte == b'\n').count() + 1;
    (begin, line, &text[begin..end])
}
