//! What one file of Rust says, as far as tidiness asks: paths, names it defines, modules it declares, attributes.
//!
//! Read from tokens, so that comments and text in quotes never count, and macros' arguments do.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// What was found in a file.
#[derive(Default, Debug)]
pub(crate) struct Facts {
    /// Paths, `use` trees expanded: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
    pub(crate) paths: Vec<Path>,
    /// Names defined here.
    pub(crate) definitions: Vec<Definition>,
    /// `mod name;` declarations.
    pub(crate) modules: Vec<Module>,
    /// Attributes, their text without spaces.
    pub(crate) attributes: Vec<Attribute>,
}

/// A path somewhere in a file.
#[derive(Debug)]
pub(crate) struct Path {
    /// Its segments, without a leading `::`.
    pub(crate) segments: Vec<String>,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Inside something that only tests compile.
    pub(crate) test_only: bool,
}

/// A name defined in a file.
#[derive(Debug)]
pub(crate) struct Definition {
    /// `struct`, `fn` and so on.
    pub(crate) keyword: String,
    /// The name.
    pub(crate) name: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A module in a file of its own.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its name, after those of the inline modules around it.
    pub(crate) names: Vec<String>,
    /// What `#[path]` says.
    pub(crate) path: Option<String>,
    /// Only tests compile it.
    pub(crate) test_only: bool,
}

/// An attribute.
#[derive(Debug)]
pub(crate) struct Attribute {
    /// What stands between the brackets, without spaces.
    pub(crate) text: String,
    /// `#![...]`: about all that is around it.
    pub(crate) inner: bool,
    /// Counted from 1.
    pub(crate) line: usize,
}

const DEFINING: [&str; 11] = [
    "struct", "enum", "trait", "type", "fn", "mod", "const", "static", "union", "macro", "let",
];

/// Words that a path may follow, as in `use ::a::b`, and never begins with.
const KEYWORDS: [&str; 20] = [
    "as", "async", "await", "break", "dyn", "else", "for", "if", "impl", "in", "match", "move",
    "mut", "pub", "ref", "return", "unsafe", "use", "where", "while",
];

/// Reads a file of Rust; an error says where it is none.
pub(crate) fn facts(text: &str) -> Result<Facts, String> {
    let tokens: TokenStream = text
        .parse()
        .map_err(|error| format!("is no Rust: {error}"))?;
    let mut facts = Facts::default();
    walk(
        &tokens.into_iter().collect::<Vec<_>>(),
        false,
        &[],
        &mut facts,
    );
    Ok(facts)
}

fn name(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => {
            Some(ident.to_string().trim_start_matches("r#").to_owned())
        }
        Some(TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_)) | None => None,
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens.first(), Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint)
        && is_punct(tokens.get(1), ':')
}

fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => {
            Some(group.stream().into_iter().collect())
        }
        Some(
            TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_),
        )
        | None => None,
    }
}

fn walk(tokens: &[TokenTree], mut test_only: bool, inside: &[String], facts: &mut Facts) {
    let mut at = 0;
    let mut path = None;
    while let Some(token) = tokens.get(at) {
        let line = token.span().start().line;
        if is_punct(Some(token), '#') {
            let inner = is_punct(tokens.get(at + 1), '!');
            let bracket = at + 1 + usize::from(inner);
            if let Some(content) = group(tokens.get(bracket), Delimiter::Bracket) {
                let text = content
                    .iter()
                    .cloned()
                    .collect::<TokenStream>()
                    .to_string()
                    .replace(' ', "");
                let for_tests = text == "cfg(test)" || text == "test" || text.ends_with("::test");
                if let Some(literal) = text.strip_prefix("path=") {
                    path = Some(literal.trim_matches('"').to_owned());
                }
                facts.attributes.push(Attribute { text, inner, line });
                at = bracket + 1;
                if for_tests && inner {
                    test_only = true;
                } else if for_tests {
                    // What the attribute is on: up to its body or its semicolon.
                    let ends = |token: &TokenTree| {
                        is_punct(Some(token), ';') || group(Some(token), Delimiter::Brace).is_some()
                    };
                    let end = tokens[at..]
                        .iter()
                        .position(ends)
                        .map_or(tokens.len(), |length| at + length + 1);
                    walk(&tokens[at..end], true, inside, facts);
                    at = end;
                }
                continue;
            }
        }
        match token {
            TokenTree::Ident(ident) => {
                let word = ident.to_string();
                if word == "mod"
                    && let Some(module) = name(tokens.get(at + 1))
                {
                    let names: Vec<String> =
                        inside.iter().cloned().chain([module.clone()]).collect();
                    facts.definitions.push(Definition {
                        keyword: word,
                        name: module,
                        line,
                    });
                    if let Some(body) = group(tokens.get(at + 2), Delimiter::Brace) {
                        walk(&body, test_only, &names, facts);
                    } else {
                        facts.modules.push(Module {
                            names,
                            path: path.take(),
                            test_only,
                        });
                    }
                    at += 3;
                    continue;
                }
                if DEFINING.contains(&word.as_str()) {
                    if let Some(name) = name(tokens.get(at + 1)) {
                        facts.definitions.push(Definition {
                            keyword: word,
                            name,
                            line,
                        });
                    }
                    at += 1;
                    continue;
                }
                if KEYWORDS.contains(&word.as_str()) {
                    at += 1;
                    continue;
                }
                at += collect_path(&tokens[at..], &[], test_only, facts);
            }
            TokenTree::Group(group) => {
                walk(
                    &group.stream().into_iter().collect::<Vec<_>>(),
                    test_only,
                    inside,
                    facts,
                );
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Collects the path, or the tree of paths, that begins here; returns how many tokens it took, at least one.
fn collect_path(
    tokens: &[TokenTree],
    prefix: &[String],
    test_only: bool,
    facts: &mut Facts,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = 0;
    let line = tokens[0].span().start().line;
    while let Some(segment) = name(tokens.get(at)) {
        if segment != "self" || segments.is_empty() {
            segments.push(segment);
        }
        at += 1;
        if !is_path_separator(&tokens[at..]) {
            break;
        }
        if let Some(tree) = group(tokens.get(at + 2), Delimiter::Brace) {
            for branch in tree.split(|token| is_punct(Some(token), ',')) {
                if !branch.is_empty() {
                    collect_path(branch, &segments, test_only, facts);
                }
            }
            return at + 3;
        }
        if name(tokens.get(at + 2)).is_none() {
            break;
        }
        at += 2;
    }
    facts.paths.push(Path {
        segments,
        line,
        test_only,
    });
    at.max(1)
}

#[cfg(test)]
mod tests {
    use super::facts;

    fn paths(text: &str) -> Vec<String> {
        let facts = facts(text).unwrap();
        let marked = |path: &super::Path| {
            format!(
                "{}{}",
                path.segments.join("::"),
                if path.test_only { " (test)" } else { "" }
            )
        };
        facts
            .paths
            .iter()
            .filter(|path| path.segments.len() > 1)
            .map(marked)
            .collect()
    }

    #[test]
    fn use_trees_are_expanded() {
        assert_eq!(
            paths("use a::{b, c::{d, self}}; pub use ::e::f as g; use h::*;"),
            ["a::b", "a::c::d", "a::c", "e::f"]
        );
    }

    #[test]
    fn comments_and_texts_do_not_count_and_macros_do() {
        assert_eq!(
            paths("// a::b\n/// c::d\nfn f() { m!(e::f(), \"g::h\"); i::<j::k>() }"),
            ["e::f", "j::k"]
        );
    }

    #[test]
    fn what_only_tests_compile_is_marked() {
        let text = "#[cfg(test)] mod tests { use a::b; } use c::d; #[test] fn f() { e::f() } fn g() { h::i() }";
        assert_eq!(paths(text), ["a::b (test)", "c::d", "e::f (test)", "h::i"]);
        assert_eq!(paths("#[cfg(not(test))] fn f() { a::b() }"), ["a::b"]);
    }

    #[test]
    fn modules_are_found_with_where_they_are() {
        let facts =
            facts("mod a; mod b { #[path = \"x/y.rs\"] mod c; } #[cfg(test)] mod d;").unwrap();
        let seen: Vec<_> = facts
            .modules
            .iter()
            .map(|m| (m.names.join("/"), m.path.clone(), m.test_only))
            .collect();
        assert_eq!(
            seen,
            [
                ("a".to_owned(), None, false),
                ("b/c".to_owned(), Some("x/y.rs".to_owned()), false),
                ("d".to_owned(), None, true)
            ]
        );
    }

    #[test]
    fn what_is_no_rust_is_said() {
        assert!(facts("fn f( {").unwrap_err().contains("is no Rust"));
    }
}
