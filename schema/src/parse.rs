//! Text to trees: everything that can be read is read, whatever else is wrong.

use std::collections::BTreeSet;

use hcl::edit::parser;
use hcl::edit::structure::Body;

use crate::diagnostic::{Problem, Report};
use crate::lex::{self, Kind, Token};
use crate::source::{At, SourceText};

/// Largest text, in bytes.
pub(crate) const TEXT_MAX: usize = 1 << 20;

/// Deepest nesting of brackets, quotes and templates. The parser itself stops at 64 levels; measured in an
/// unoptimized build it needs less than a quarter of a 2 MiB stack for those (`tests/limits.rs` holds it to
/// that), and nobody writes a configuration of half as many.
const NESTING_MAX: usize = 32;

/// Most entries of one `{ }` in an expression: the parser compares each key with all before it.
const ENTRIES_MAX: usize = 2_000;

/// Most syntax errors that are reported of one text.
const SYNTAX_ERRORS_MAX: usize = 20;

/// What could be read of one text.
pub(crate) struct Tree {
    pub(crate) body: Body,
    /// Blocks that could not be read, as far as their first line says: kind and label. They are neither missing
    /// nor known.
    pub(crate) unread: BTreeSet<(String, String)>,
}

/// Reads one text; what is wrong with it goes to `report`.
pub(crate) fn parse(source: &SourceText, file: usize, report: &Report) -> Tree {
    let mut unread = BTreeSet::new();
    let empty = |unread| Tree { body: Body::new(), unread };
    if source.text.len() > TEXT_MAX {
        let message = format!("the file is larger than {TEXT_MAX} bytes");
        let problem = Problem::error("V0103", At { file, start: 0, end: 0 }, message);
        report.push(problem.help("divide it: all files of a directory are one configuration"));
        return empty(unread);
    }
    let mut text = source.text.clone();
    if text.starts_with('\u{feff}') {
        text.replace_range(0..3, "   ");
    }
    let mut blamed = 0;
    loop {
        let tokens = lex::tokens(&text);
        let (error, start, end) = match too_much(&tokens, file) {
            Some((problem, offset)) => {
                let (start, end) = chunk_of(&text, &tokens, offset);
                (problem, start, end)
            }
            None => match parser::parse_body(&text) {
                Ok(body) => return Tree { body, unread },
                Err(error) => explain(&text, &tokens, file, &error),
            },
        };
        report.push(error);
        blamed += 1;
        if blamed == SYNTAX_ERRORS_MAX {
            let message = format!("more than {SYNTAX_ERRORS_MAX} syntax errors");
            let problem = Problem::error("V0105", At { file, start, end }, message);
            report.push(problem.help("the rest of this file was not read; correct these first"));
            unread.insert((String::new(), String::new()));
            return empty(unread);
        }
        note_unread(&text[start..end], &mut unread);
        blank(&mut text, start, end);
    }
}

/// The first place that is nested too deeply, or holds too many entries.
fn too_much(tokens: &[Token], file: usize) -> Option<(Problem, usize)> {
    let mut open: Vec<(bool, usize)> = Vec::new();
    for token in tokens {
        let at = At { file, start: token.start, end: token.end };
        let quote = matches!(token.kind, Kind::OpenQuote | Kind::OpenHeredoc);
        if token.kind.bracket() > 0 || quote {
            open.push((token.kind == Kind::OpenBrace, 0));
        } else if token.kind.bracket() < 0 || matches!(token.kind, Kind::CloseQuote | Kind::CloseHeredoc) {
            open.pop();
        }
        if open.len() > NESTING_MAX {
            let message = format!("nested more than {NESTING_MAX} levels deep");
            return Some((Problem::error("V0104", at, message).help("use `locals` for parts of it"), token.start));
        }
        if let (Kind::Equal | Kind::Colon, Some((true, entries))) = (token.kind, open.last_mut()) {
            *entries += 1;
            if *entries > ENTRIES_MAX {
                let message = format!("more than {ENTRIES_MAX} entries between one pair of braces");
                return Some((Problem::error("V0103", at, message).help("divide it"), token.start));
            }
        }
    }
    None
}

/// What to say of a syntax error, and what to leave out so that the rest can be read.
fn explain(text: &str, tokens: &[Token], file: usize, error: &parser::Error) -> (Problem, usize, usize) {
    let offset = crate::source::floor_char(text, error.location().offset());
    let mark = |token: Option<&Token>| match token {
        Some(token) => At { file, start: token.start, end: token.end },
        None => At { file, start: offset, end: offset },
    };
    let (start, end) = chunk_of(text, tokens, offset);
    // A block that is not closed swallows what follows it, and the parser complains far below: blame the first
    // that is out of balance.
    for (start, end) in chunks(text, tokens).into_iter().take_while(|(start, _)| *start <= offset) {
        let own: Vec<&Token> = tokens.iter().filter(|t| (start..end).contains(&t.start)).collect();
        if let Some(bad) = own.iter().find(|t| t.kind == Kind::Bad) {
            let shown = text[bad.start..bad.end].chars().next();
            let (message, help) = match shown {
                Some('<') => ("this heredoc has no end", "end it with a line that holds only its word"),
                Some('/') => ("this comment is not closed", "close it with `*/`"),
                Some(c) if bad.start > 0 && own.iter().any(|t| t.kind == Kind::OpenQuote && t.end == bad.start) => {
                    let _ = c;
                    ("this text is not closed on its line", "close it with `\"`; for several lines write a heredoc")
                }
                Some(_) | None => ("this character has no meaning here", "remove it, or put the text in quotes"),
            };
            return (Problem::error("V0101", mark(Some(bad)), message).help(help), start, end);
        }
        let net: i32 = own.iter().map(|t| t.kind.bracket()).sum();
        if net > 0 {
            let line = text[start..end].find('\n').map_or(end, |i| start + i);
            let at = At { file, start, end: line };
            let problem = Problem::error("V0102", at, "this block is not closed").label("opened here");
            let help = format!("{net} closing bracket{} missing before the next block", if net == 1 { " is" } else { "s are" });
            return (problem.help(help), start, end);
        }
        if net < 0 {
            let mut depth = 0;
            let over = own.iter().find(|t| {
                depth += t.kind.bracket();
                depth < 0
            });
            let problem = Problem::error("V0102", mark(over.copied()), "this closes what was never opened");
            return (problem.help("remove it"), start, end);
        }
    }
    let here = tokens.iter().find(|t| t.end > offset && t.kind != Kind::Newline);
    let here = here.filter(|t| t.start <= offset);
    let message = error.message().replace("expected newline or eof", "expected the end of the line");
    (Problem::error("V0101", mark(here), format!("syntax: {message}")), start, end)
}

/// Top-level pieces: each begins with a word at the beginning of a line that is not within a heredoc.
fn chunks(text: &str, tokens: &[Token]) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let at_line_start = |t: &&Token| t.kind == Kind::Ident && (t.start == 0 || bytes[t.start - 1] == b'\n');
    let mut starts: Vec<usize> = tokens.iter().filter(at_line_start).map(|t| t.start).collect();
    if starts.first() != Some(&0) {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).collect()
}

fn chunk_of(text: &str, tokens: &[Token], offset: usize) -> (usize, usize) {
    let found = chunks(text, tokens).into_iter().rfind(|(start, _)| *start <= offset);
    found.unwrap_or((0, text.len()))
}

/// Remembers which block a piece of text would have been.
fn note_unread(chunk: &str, unread: &mut BTreeSet<(String, String)>) {
    let line = chunk.lines().next().unwrap_or_default();
    let mut words = line.split(|c: char| c.is_whitespace() || c == '{' || c == '"').filter(|word| !word.is_empty());
    let kind = words.next().unwrap_or_default().to_owned();
    if kind == "locals" {
        for line in chunk.lines() {
            if let Some((name, _)) = line.split_once('=') {
                unread.insert((kind.clone(), name.trim().to_owned()));
            }
        }
    }
    unread.insert((kind, words.next().unwrap_or_default().to_owned()));
}

/// Overwrites with spaces, so that every later byte keeps its place.
fn blank(text: &mut String, start: usize, end: usize) {
    let spaces: String = text[start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(start..end, &spaces);
}
