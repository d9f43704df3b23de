//! Indents, and what stands below each other.

use super::{Piece, space};
use crate::lex::Kind;

/// One line: what leads, from where it assigns, and its closing comment.
#[derive(Default)]
struct Line {
    pieces: Vec<Piece>,
    /// Where the `=` is, when what follows it ends on this line.
    assign: Option<usize>,
    /// Where the comment is that closes it.
    comment: Option<usize>,
}

impl Line {
    fn columns(&self, end: usize) -> usize {
        self.pieces[..end]
            .iter()
            .map(|piece| piece.spaces + piece.text.chars().count())
            .sum()
    }

    /// How much more it opens than it closes. What is in a heredoc does not count, as in `terraform fmt`; its end
    /// does, which shifts what follows an expression of several lines within a heredoc.
    fn net(&self) -> i32 {
        let counted = self
            .pieces
            .iter()
            .take_while(|piece| piece.kind != Kind::OpenHeredoc);
        counted.map(|piece| piece.kind.bracket()).sum()
    }
}

pub(super) fn layout(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut lines = lines(pieces);
    indent(&mut lines);
    for line in &mut lines {
        let comment = line.comment;
        space::within(&mut line.pieces, line.assign, comment);
    }
    align(&mut lines, |line| line.assign);
    align(&mut lines, |line| line.comment);
    lines.into_iter().flat_map(|line| line.pieces).collect()
}

fn lines(pieces: Vec<Piece>) -> Vec<Line> {
    let mut lines = vec![Line::default()];
    for piece in pieces {
        let ends = piece.ends_line();
        if let Some(line) = lines.last_mut() {
            line.pieces.push(piece);
        }
        if ends {
            lines.push(Line::default());
        }
    }
    for line in &mut lines {
        let length = line.pieces.len();
        if length > 1 && line.pieces[length - 1].kind == Kind::Comment {
            line.comment = Some(length - 1);
        }
        let cells = line.comment.unwrap_or(length);
        let equal = line.pieces[..cells]
            .iter()
            .skip(1)
            .position(|piece| piece.kind == Kind::Equal)
            .map(|i| i + 1);
        line.assign = equal.filter(|at| {
            let net: i32 = line.pieces[*at..cells]
                .iter()
                .map(|piece| piece.kind.bracket())
                .sum();
            net == 0
        });
    }
    lines
}

/// Each line that opens more than it closes indents what follows by one step, however many it opens.
fn indent(lines: &mut [Line]) {
    let mut open: Vec<i32> = Vec::new();
    for line in lines {
        if line.pieces.is_empty() {
            continue;
        }
        if line.pieces[0].kind == Kind::Newline {
            line.pieces[0].spaces = 0;
            continue;
        }
        let net = line.net();
        let depth = open.len();
        if net > 0 {
            open.push(net);
        }
        let mut closed = -net;
        while closed > 0 {
            let Some(last) = open.pop() else { break };
            if last > closed {
                open.push(last - closed);
            }
            closed -= last;
        }
        line.pieces[0].spaces = 2 * if net < 0 { open.len() } else { depth };
    }
}

/// Puts the cells of neighbouring lines below each other.
fn align(lines: &mut [Line], cell: impl Fn(&Line) -> Option<usize>) {
    let mut begin = 0;
    while begin < lines.len() {
        let length = lines[begin..]
            .iter()
            .take_while(|line| cell(line).is_some())
            .count();
        let run = &mut lines[begin..begin + length];
        let columns = |line: &Line| cell(line).map_or(0, |at| line.columns(at));
        let widest = run.iter().map(columns).max().unwrap_or(0);
        for line in run {
            let own = columns(line);
            if let Some(at) = cell(line) {
                line.pieces[at].spaces = widest - own + 1;
            }
        }
        begin += length.max(1);
    }
}
