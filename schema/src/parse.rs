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
/// unoptimized build it needs less than half of a 2 MiB stack for those (`tests/limits.rs` holds it to
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
    let empty = |unread| Tree {
        body: Body::new(),
        unread,
    };
    if source.text.len() > TEXT_MAX {
        let message = format!("the file is larger than {TEXT_MAX} bytes");
        let problem = Problem::error(
            "V0103",
            At {
                file,
                start: 0,
                end: 0,
            },
            message,
        );
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
        let errors = match too_much(&text, &tokens, file) {
            Some((problem, offset)) => {
                let (start, end) = chunk_of(&text, &tokens, offset);
                vec![(problem, start, end)]
            }
            None => match parser::parse_body(&text) {
                Ok(body) => return Tree { body, unread },
                Err(error) => explain(&text, &tokens, file, &error),
            },
        };
        for (problem, start, end) in errors {
            report.push(problem);
            blamed += 1;
            if blamed == SYNTAX_ERRORS_MAX {
                let message = format!("more than {SYNTAX_ERRORS_MAX} syntax errors");
                let problem = Problem::error(
                    "V0105",
                    At {
                        file,
                        start,
                        end: start,
                    },
                    message,
                );
                report
                    .push(problem.help("the rest of this file was not read; correct these first"));
                unread.insert((String::new(), String::new()));
                return empty(unread);
            }
            note_unread(&text[start..end], &mut unread);
            blank(&mut text, start, end);
        }
    }
}

/// The first place that is nested too deeply, or holds too many entries.
fn too_much(text: &str, tokens: &[Token], file: usize) -> Option<(Problem, usize)> {
    let mut open: Vec<(bool, usize)> = Vec::new();
    let mut last = None;
    for token in tokens {
        // The brace of a block stands after a word or a label, that of an expression does not.
        let before = last.replace(*token);
        let word = before.filter(|t: &Token| matches!(t.kind, Kind::Ident | Kind::CloseQuote));
        let object =
            token.kind == Kind::OpenBrace && word.is_none_or(|t| &text[t.start..t.end] == "in");
        let at = At {
            file,
            start: token.start,
            end: token.end,
        };
        let quote = matches!(token.kind, Kind::OpenQuote | Kind::OpenHeredoc);
        if token.kind.bracket() > 0 || quote {
            open.push((object, 0));
        } else if token.kind.bracket() < 0
            || matches!(token.kind, Kind::CloseQuote | Kind::CloseHeredoc)
        {
            open.pop();
        }
        if open.len() > NESTING_MAX {
            let message = format!("nested more than {NESTING_MAX} levels deep");
            return Some((
                Problem::error("V0104", at, message).help("use `locals` for parts of it"),
                token.start,
            ));
        }
        if let (Kind::Equal | Kind::Colon, Some((true, entries))) = (token.kind, open.last_mut()) {
            *entries += 1;
            if *entries > ENTRIES_MAX {
                let message = format!("more than {ENTRIES_MAX} entries between one pair of braces");
                return Some((
                    Problem::error("V0103", at, message).help("divide it"),
                    token.start,
                ));
            }
        }
    }
    None
}

/// What to say of a syntax error, and what to leave out so that the rest can be read.
///
/// A block that is not closed swallows what follows it, and the parser complains far below: so every piece that is
/// out of balance is blamed first, and what the parser says only where there is none.
fn explain(
    text: &str,
    tokens: &[Token],
    file: usize,
    error: &parser::Error,
) -> Vec<(Problem, usize, usize)> {
    let mut found = Vec::new();
    for (start, end) in chunks(text, tokens) {
        let own = &tokens[tokens.partition_point(|t| t.start < start)
            ..tokens.partition_point(|t| t.start < end)];
        if let Some(problem) = imbalance(text, own, file, start, end) {
            found.push((problem, start, end));
        }
    }
    if found.is_empty() {
        let offset = crate::source::floor_char(text, error.location().offset());
        let here = tokens
            .iter()
            .find(|t| t.end > offset && t.kind != Kind::Newline)
            .filter(|t| t.start <= offset);
        let message = error
            .message()
            .replace("expected newline or eof", "expected the end of the line");
        let (start, end) = chunk_of(text, tokens, offset);
        found.push((
            Problem::error(
                "V0101",
                mark(file, here, offset),
                format!("syntax: {message}"),
            ),
            start,
            end,
        ));
    }
    found
}

fn mark(file: usize, token: Option<&Token>, otherwise: usize) -> At {
    token.map_or(
        At {
            file,
            start: otherwise,
            end: otherwise,
        },
        |t| At {
            file,
            start: t.start,
            end: t.end,
        },
    )
}

/// What is wrong with the tokens of one piece by themselves.
fn imbalance(text: &str, own: &[Token], file: usize, start: usize, end: usize) -> Option<Problem> {
    if let Some(i) = own.iter().position(|t| t.kind == Kind::Bad) {
        let bad = own[i];
        let after_quote = i > 0 && matches!(own[i - 1].kind, Kind::OpenQuote | Kind::CloseTemplate);
        let (message, help) = match text[bad.start..bad.end].chars().next() {
            Some('<') => (
                "this heredoc has no end",
                "end it with a line that holds only its word",
            ),
            Some('/') => ("this comment is not closed", "close it with `*/`"),
            Some(_) if after_quote => (
                "this text is not closed on its line",
                "close it with `\"`; for several lines write a heredoc",
            ),
            Some(_) | None => (
                "this character has no meaning here",
                "remove it, or put the text in quotes",
            ),
        };
        return Some(Problem::error("V0101", mark(file, Some(&bad), start), message).help(help));
    }
    let net: i32 = own.iter().map(|t| t.kind.bracket()).sum();
    if net > 0 {
        let line = text[start..end].find('\n').map_or(end, |i| start + i);
        let problem = Problem::error(
            "V0102",
            At {
                file,
                start,
                end: line,
            },
            "this is not closed",
        )
        .label("opened here");
        let missing = if net == 1 {
            "one closing bracket is".to_owned()
        } else {
            format!("{net} closing brackets are")
        };
        return Some(problem.help(format!("{missing} missing before the next block")));
    }
    if net < 0 {
        let mut depth = 0;
        let over = own.iter().find(|t| {
            depth += t.kind.bracket();
            depth < 0
        });
        let problem = Problem::error(
            "V0102",
            mark(file, over, start),
            "this closes what was never opened",
        );
        return Some(problem.help("remove it"));
    }
    None
}

/// Top-level pieces: each begins with a word at the beginning of a line that is not within a heredoc.
fn chunks(text: &str, tokens: &[Token]) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let at_line_start =
        |t: &&Token| t.kind == Kind::Ident && (t.start == 0 || bytes[t.start - 1] == b'\n');
    let mut starts: Vec<usize> = tokens
        .iter()
        .filter(at_line_start)
        .map(|t| t.start)
        .collect();
    if starts.first() != Some(&0) {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().copied().zip(ends).collect()
}

fn chunk_of(text: &str, tokens: &[Token], offset: usize) -> (usize, usize) {
    let found = chunks(text, tokens)
        .into_iter()
        .rfind(|(start, _)| *start <= offset);
    found.unwrap_or((0, text.len()))
}

/// Remembers which block a piece of text would have been.
fn note_unread(chunk: &str, unread: &mut BTreeSet<(String, String)>) {
    let line = chunk.lines().next().unwrap_or_default();
    let mut words = line
        .split(|c: char| c.is_whitespace() || c == '{' || c == '"')
        .filter(|word| !word.is_empty());
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
    let spaces: String = text[start..end]
        .bytes()
        .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
        .collect();
    text.replace_range(start..end, &spaces);
}
