//! Where a space stands between two tokens of a line.

use super::Piece;
use crate::lex::Kind;

/// Sets the spaces between the pieces of a line; those before the first, before the `=` at `assign` and before the
/// comment at `comment` are decided elsewhere.
pub(super) fn within(pieces: &mut [Piece], assign: Option<usize>, comment: Option<usize>) {
    for i in 1..pieces.len() {
        if comment == Some(i) {
            continue;
        }
        // What stands before an assignment is as if it were not there.
        let first = if assign.is_some_and(|at| i > at) {
            assign.unwrap_or(0)
        } else {
            0
        };
        let before = (i >= first + 2).then(|| &pieces[i - 2]);
        let space = assign == Some(i) || between(before, &pieces[i - 1], &pieces[i]);
        pieces[i].spaces = usize::from(space);
    }
}

/// Whether a space stands between `left` and `right`; `before` stands before `left`.
fn between(before: Option<&Piece>, left: &Piece, right: &Piece) -> bool {
    use Kind::{
        Bang, CloseBrace, CloseHeredoc, CloseQuote, CloseTemplate, Comma, Dot, DoubleColon,
        Ellipsis, Ident, Literal, Minus, Newline, Number, OpenBrace, OpenBracket, OpenHeredoc,
        OpenParen, OpenQuote, OpenTemplate,
    };
    let (l, r) = (left.kind, right.kind);
    if r == Newline
        || l == Ident && r == OpenParen
        || matches!((l, r), (Ident, DoubleColon) | (DoubleColon, Ident))
    {
        return false;
    }
    if l == Dot || matches!(r, Dot | Comma | Ellipsis) {
        return false;
    }
    if l == Comma {
        return true;
    }
    if matches!(l, Literal | OpenQuote | OpenHeredoc)
        || matches!(r, Literal | CloseQuote | CloseHeredoc)
    {
        return false;
    }
    // `[for x in [a] : x]`: a keyword, not something with an index.
    if l == Ident && left.text == "in" && before.is_some_and(|before| before.kind == Ident) {
        return true;
    }
    if r == OpenBracket && (matches!(l, Ident | Number) || l.bracket() < 0) {
        return false;
    }
    if l == Bang {
        return false;
    }
    if l == Minus {
        return before.is_some_and(|before| ends_operand(before.kind));
    }
    if l == OpenBrace && r == CloseBrace {
        return false;
    }
    if l == OpenBrace
        || r == CloseBrace
        || l == OpenTemplate && r == OpenBrace
        || l == CloseBrace && r == CloseTemplate
    {
        return true;
    }
    if l == CloseTemplate && r == OpenTemplate {
        return false;
    }
    l.bracket() <= 0 && r.bracket() >= 0
}

/// Whether a `-` after it subtracts; otherwise it negates.
fn ends_operand(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::OpenParen
            | Kind::OpenBrace
            | Kind::OpenBracket
            | Kind::Equal
            | Kind::Colon
            | Kind::Comma
            | Kind::Question
            | Kind::Operator
            | Kind::Minus
            | Kind::Bang
    )
}
