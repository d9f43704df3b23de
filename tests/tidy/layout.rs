//! Where things are: the fixed top level, and files that can be read in one sitting.

use std::collections::BTreeSet;

use crate::{nothing_in, repository};

/// All that may stand at the top.
const TOP: [&str; 17] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "engine",
    "examples",
    "golden",
    "plans",
    "rustfmt.toml",
    "schema",
];
/// And the room of the tests, where these checks are.
const TESTS: &str = "tests";

/// Lines of a file of Rust.
const LIMIT: usize = 600;

/// Longer files: name, lines allowed, reason.
const LONG: &[(&str, usize, &str)] = &[];

fn strangers<'a>(files: impl Iterator<Item = &'a str>) -> Vec<String> {
    let tops: BTreeSet<&str> = files
        .map(|file| file.split('/').next().unwrap_or(file))
        .collect();
    let strange = tops
        .into_iter()
        .filter(|top| *top != TESTS && !TOP.contains(top));
    strange
        .map(|top| format!("{top}: the top level is fixed: place it in a room"))
        .collect()
}

fn too_long(file: &str, lines: usize, exceptions: &[(&str, usize, &str)]) -> Option<String> {
    match exceptions.iter().find(|(excepted, _, _)| *excepted == file) {
        Some(_) if lines <= LIMIT => Some(format!(
            "{file}: {lines} lines need no exception: remove it from the list"
        )),
        Some((_, allowed, _)) if lines <= *allowed => None,
        Some((_, allowed, _)) => Some(format!(
            "{file}: {lines} lines, and its exception ends at {allowed}: split it by noun"
        )),
        None if lines <= LIMIT => None,
        None => Some(format!(
            "{file}: {lines} lines, over {LIMIT}: split it by noun, foo.rs beside foo/"
        )),
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    nothing_in(strangers(repository::files().iter().map(String::as_str)));
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let rust: Vec<&String> = repository::files()
        .iter()
        .filter(|file| file.ends_with(".rs"))
        .collect();
    let judge = |file: &&String| too_long(file, repository::text(file)?.lines().count(), LONG);
    let mut complaints: Vec<String> = rust.iter().filter_map(judge).collect();
    let gone = LONG
        .iter()
        .filter(|(file, _, _)| !rust.iter().any(|known| known == file));
    complaints.extend(
        gone.map(|(file, _, _)| {
            format!("{file}: excepted, and not there: remove it from the list")
        }),
    );
    nothing_in(complaints);
}

#[test]
fn a_planted_folder_is_found() {
    assert_eq!(
        strangers(
            [
                "docs/a.md",
                "docs/b.md",
                "schema/src/lib.rs",
                "tests/tidy.rs",
                "x"
            ]
            .into_iter()
        )
        .len(),
        2
    );
}

#[test]
fn planted_long_files_are_found() {
    let exceptions = &[("long.rs", 900, "a reason")];
    assert!(
        too_long("a.rs", 601, exceptions)
            .unwrap()
            .contains("over 600")
    );
    assert_eq!(too_long("a.rs", 600, exceptions), None);
    assert_eq!(too_long("long.rs", 900, exceptions), None);
    assert!(
        too_long("long.rs", 901, exceptions)
            .unwrap()
            .contains("ends at 900")
    );
    assert!(
        too_long("long.rs", 600, exceptions)
            .unwrap()
            .contains("need no exception")
    );
}
