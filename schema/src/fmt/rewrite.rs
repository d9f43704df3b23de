//! Old forms that mean the same as a newer one: names without quotes, `"${x}"` for `x`, and types in quotes.

use std::ops::Range;

use hcl::edit::Span;
use hcl::edit::structure::{BlockLabel, Body};

use super::Piece;
use crate::lex::Kind;

/// `pieces`, which begin at `starts`, with the old forms of `body` replaced.
pub(super) fn rewrite(pieces: Vec<Piece>, starts: &[usize], body: &Body) -> Vec<Piece> {
    let mut changes: Vec<(Range<usize>, Vec<Piece>)> = Vec::new();
    collect(&pieces, starts, body, &mut Vec::new(), &mut changes);
    changes.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(pieces.len());
    let mut changes = changes.into_iter().peekable();
    let mut skip_to = 0;
    for (i, piece) in pieces.into_iter().enumerate() {
        if let Some((range, with)) = changes.next_if(|(range, _)| range.start == i) {
            skip_to = range.end;
            out.extend(with);
        }
        if i >= skip_to {
            out.push(piece);
        }
    }
    out
}

/// The pieces that stand in a span of the text.
fn within(starts: &[usize], span: Option<Range<usize>>) -> Range<usize> {
    let span = span.unwrap_or(0..0);
    starts.partition_point(|start| *start < span.start)
        ..starts.partition_point(|start| *start < span.end)
}

fn collect<'b>(
    pieces: &[Piece],
    starts: &[usize],
    body: &'b Body,
    blocks: &mut Vec<&'b str>,
    changes: &mut Vec<(Range<usize>, Vec<Piece>)>,
) {
    for attribute in body.attributes() {
        let range = within(starts, attribute.value.span());
        let is_type = blocks.as_slice() == ["variable"] && attribute.key.as_str() == "type";
        let own = &pieces[range.clone()];
        // Again while it helps: formatting twice is to be formatting once, which Terraform's own is not here.
        let again =
            |with: Vec<Piece>| std::iter::successors(Some(with), |with| unwrapped(with)).last();
        if let Some(with) = if is_type {
            plain_type(own)
        } else {
            unwrapped(own).and_then(again)
        } {
            changes.push((range, with));
        }
    }
    for block in body.blocks() {
        for label in &block.labels {
            if let BlockLabel::Ident(name) = label {
                let quote = |kind| Piece::new(kind, "\"");
                let name = Piece::new(Kind::Literal, name.as_str());
                let with = vec![quote(Kind::OpenQuote), name, quote(Kind::CloseQuote)];
                changes.push((within(starts, label.span()), with));
            }
        }
        blocks.push(block.ident.as_str());
        collect(pieces, starts, &block.body, blocks, changes);
        blocks.pop();
    }
}

/// `x` for `"${x}"`.
fn unwrapped(pieces: &[Piece]) -> Option<Vec<Piece>> {
    let [open_quote, open, inside @ .., close, close_quote] = pieces else {
        return None;
    };
    let kinds = [open_quote.kind, open.kind, close.kind, close_quote.kind];
    if kinds
        != [
            Kind::OpenQuote,
            Kind::OpenTemplate,
            Kind::CloseTemplate,
            Kind::CloseQuote,
        ]
        || inside.is_empty()
        || !open.text.starts_with('$')
    {
        return None;
    }
    let mut quotes = 0;
    for piece in inside {
        let opens = matches!(
            piece.kind,
            Kind::OpenTemplate | Kind::CloseTemplate | Kind::Literal | Kind::OpenHeredoc
        );
        if opens && quotes == 0 {
            return None;
        }
        quotes +=
            i32::from(piece.kind == Kind::OpenQuote) - i32::from(piece.kind == Kind::CloseQuote);
    }
    let newline = |piece: &Piece| piece.kind == Kind::Newline;
    let begin = inside.iter().position(|piece| !newline(piece))?;
    let end = inside.iter().rposition(|piece| !newline(piece))? + 1;
    let trimmed = &inside[begin..end];
    // A comment would swallow what follows it.
    if trimmed
        .last()
        .is_some_and(|piece| piece.kind == Kind::Comment)
    {
        return None;
    }
    let parens = trimmed.first().map(|p| p.kind) == Some(Kind::OpenParen)
        && trimmed.last().map(|p| p.kind) == Some(Kind::CloseParen);
    if trimmed.iter().any(newline) && !parens {
        let open = [Piece::new(Kind::OpenParen, "(")];
        let close = [Piece::new(Kind::CloseParen, ")")];
        return Some(
            open.into_iter()
                .chain(trimmed.iter().cloned())
                .chain(close)
                .collect(),
        );
    }
    Some(trimmed.to_vec())
}

/// `list(any)` for `list`, and `string`, `list(string)` and `map(string)` for the same in quotes.
fn plain_type(pieces: &[Piece]) -> Option<Vec<Piece>> {
    let of = |outer: &str, inner: &str| {
        let word = |text| Piece::new(Kind::Ident, text);
        vec![
            word(outer),
            Piece::new(Kind::OpenParen, "("),
            word(inner),
            Piece::new(Kind::CloseParen, ")"),
        ]
    };
    match pieces {
        [word]
            if word.kind == Kind::Ident && ["list", "map", "set"].contains(&word.text.as_str()) =>
        {
            Some(of(&word.text, "any"))
        }
        [open, word, _] if open.kind == Kind::OpenQuote && word.kind == Kind::Literal => {
            match word.text.as_str() {
                "string" => Some(vec![Piece::new(Kind::Ident, "string")]),
                "list" | "map" => Some(of(&word.text, "string")),
                _ => None,
            }
        }
        _ => None,
    }
}
