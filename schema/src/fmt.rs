//! The canonical layout: the same bytes as `terraform fmt`, so that editors and habits need no other.
//!
//! Works on tokens, not on the tree, so that nothing that was written can be lost: only white space changes, and
//! three old forms that mean the same (`fmt/rewrite.rs`). The order of attributes and blocks is the author's.

mod layout;
mod rewrite;
mod space;

use crate::diagnostic::{Diagnostic, Report};
use crate::lex::{self, Kind};
use crate::parse;
use crate::source::SourceText;

/// A token on its way to the output.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Piece {
    kind: Kind,
    text: String,
    /// Spaces before it.
    spaces: usize,
}

impl Piece {
    fn new(kind: Kind, text: &str) -> Self {
        Self {
            kind,
            text: text.to_owned(),
            spaces: 0,
        }
    }

    /// Whether a line ends with it.
    fn ends_line(&self) -> bool {
        self.kind == Kind::Newline || self.kind == Kind::Comment && self.text.ends_with('\n')
    }
}

/// Formats one file. Formatting twice is formatting once, and the meaning stays.
///
/// # Errors
///
/// What keeps the text from being read: only text that is HCL is formatted.
pub fn fmt(text: &str) -> Result<String, Vec<Diagnostic>> {
    let source = SourceText {
        path: String::new(),
        text: text.to_owned(),
    };
    let report = Report::default();
    let tree = parse::parse(&source, 0, &report);
    if report.has_errors() {
        return Err(report.finish(&[&source]));
    }
    let mark = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let tokens = lex::tokens(&text[mark..]);
    let mut last = 0;
    let mut pieces = Vec::with_capacity(tokens.len());
    let mut starts = Vec::with_capacity(tokens.len());
    for token in &tokens {
        let mut piece = Piece::new(token.kind, &text[mark + token.start..mark + token.end]);
        piece.spaces = token.start - last;
        last = token.end;
        starts.push(mark + token.start);
        pieces.push(piece);
    }
    let pieces = rewrite::rewrite(pieces, &starts, &tree.body);
    let words = |pieces: &[Piece]| {
        pieces
            .iter()
            .map(|p| (p.kind, p.text.clone()))
            .collect::<Vec<_>>()
    };
    let before = words(&pieces);
    let laid_out = layout::layout(pieces);
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for piece in &laid_out {
        out.extend(std::iter::repeat_n(' ', piece.spaces));
        out.push_str(&piece.text);
    }
    // White space that would change what is read is never written: better unformatted than something else.
    let after: Vec<(Kind, String)> = lex::tokens(&out)
        .iter()
        .map(|token| (token.kind, out[token.start..token.end].to_owned()))
        .collect();
    if after == before {
        Ok(out)
    } else {
        Ok(text.to_owned())
    }
}
