//! No file of Rust that nothing compiles: it would look alive and rot.

use std::collections::BTreeSet;

use crate::{nothing_in, repository};

/// Files of Rust that are neither reached nor named by the manifest of a package outside the workspace, such as a
/// fuzz target is.
fn complaints(
    files: &[String],
    reached: &BTreeSet<&str>,
    manifest: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let named_elsewhere = |file: &str| {
        let mut folder = file;
        while let Some((parent, _)) = folder.rsplit_once('/') {
            folder = parent;
            if let Some(text) = manifest(&format!("{folder}/Cargo.toml")) {
                return text.contains(&format!("path = \"{}\"", &file[folder.len() + 1..]));
            }
        }
        false
    };
    let orphan = |file: &&String| {
        file.ends_with(".rs") && !reached.contains(file.as_str()) && !named_elsewhere(file)
    };
    let complain = |file: &String| match file.rsplit_once('/') {
        Some((_, "mod.rs")) => format!("{file}: use foo.rs beside foo/, not foo/mod.rs"),
        Some(_) | None => format!(
            "{file}: nothing compiles it: declare it with `mod`, name it in its Cargo.toml, or delete it"
        ),
    };
    files.iter().filter(orphan).map(complain).collect()
}

#[test]
fn every_file_is_reached() {
    let reached = repository::sources()
        .iter()
        .map(|source| source.file.as_str())
        .collect();
    nothing_in(complaints(repository::files(), &reached, |file| {
        repository::files()
            .iter()
            .any(|known| known == file)
            .then(|| repository::text(file))
            .flatten()
    }));
}

#[test]
fn a_planted_orphan_is_found() {
    let files = [
        "a/src/lib.rs",
        "a/src/lost.rs",
        "a/src/b/mod.rs",
        "fuzz/one.rs",
        "fuzz/two.rs",
        "a/notes.md",
    ]
    .map(str::to_owned);
    let reached = BTreeSet::from(["a/src/lib.rs"]);
    let manifest = |file: &str| match file {
        "fuzz/Cargo.toml" => Some("[[bin]]\npath = \"one.rs\"".to_owned()),
        _ => None,
    };
    let complaints = complaints(&files, &reached, manifest);
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    assert!(complaints[0].starts_with("a/src/lost.rs: nothing compiles it"));
    assert!(complaints[1].contains("not foo/mod.rs"));
    assert!(complaints[2].starts_with("fuzz/two.rs"));
}

#[test]
fn the_repository_walk_follows_modules() {
    let reached: Vec<&str> = repository::sources()
        .iter()
        .map(|source| source.file.as_str())
        .collect();
    for file in [
        "schema/src/lib.rs",
        "schema/src/ids.rs",
        "tests/tidy.rs",
        "tests/tidy/orphans.rs",
    ] {
        assert!(
            reached.contains(&file),
            "{file} was not reached: {reached:?}"
        );
    }
}
