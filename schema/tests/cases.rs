//! Every configuration in `tests/cases` has its diagnostics beside it, and some their meaning.
//!
//! `NAME.hcl`, or the files of the directory `NAME/`, is loaded; what is said about it must be `NAME.txt`, and what it
//! means `NAME.json` where that exists. In a directory `variables.json` gives variables, and everything else is
//! brought along when a text names it. `COPPICE_UPDATE=1 cargo test -p coppice-schema --test cases` writes the
//! expected files; read the difference before you commit it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use coppice_schema::{Bundle, Digest, SourceText, inputs, load, render};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// The bundle of one case, as the command line would make it.
fn bundle(case: &Path) -> Bundle {
    let mut bundle = Bundle::default();
    let mut names: Vec<PathBuf> = Vec::new();
    if case.is_dir() {
        let mut open = vec![case.to_path_buf()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).expect("the tests' own files can be read") {
                let path = entry.expect("the tests' own files can be read").path();
                if path.is_dir() {
                    open.push(path)
                } else {
                    names.push(path)
                }
            }
        }
    } else {
        names.push(case.to_path_buf());
    }
    names.sort();
    let root = if case.is_dir() {
        case
    } else {
        case.parent().expect("the tests' own files can be read")
    };
    let relative = |path: &Path| {
        path.strip_prefix(root)
            .expect("the tests' own files can be read")
            .to_str()
            .expect("the tests' own files can be read")
            .to_owned()
    };
    for path in &names {
        if path.extension().is_some_and(|extension| extension == "hcl") {
            bundle.texts.push(SourceText {
                path: relative(path),
                text: fs::read_to_string(path).expect("the tests' own files can be read"),
            });
        }
        if path
            .file_name()
            .is_some_and(|name| name == "variables.json")
        {
            bundle.variables =
                serde_json::from_slice(&fs::read(path).expect("the tests' own files can be read"))
                    .expect("the tests' own files can be read");
        }
    }
    let inputs = inputs(&bundle.texts);
    for file in inputs.files {
        if let Ok(text) = fs::read_to_string(root.join(&file)) {
            bundle.files.insert(file, text);
        }
    }
    for source in inputs.sources {
        let digest = fs::read(root.join(&source))
            .ok()
            .map(|bytes| Digest::of(&bytes));
        bundle.sources.insert(source, digest);
    }
    bundle
}

/// Compares, or writes when asked to; says what differs.
fn compare(path: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("COPPICE_UPDATE").is_some() {
        fs::write(path, found).expect("the tests' own files can be read");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != found {
        wrong.push(format!(
            "{}:\n--- expected\n{expected}\n--- found\n{found}",
            path.display()
        ));
    }
}

#[test]
fn what_is_said_about_each_case() {
    let mut cases = BTreeSet::new();
    let mut expected = BTreeSet::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "hcl") {
            cases.insert(path);
        } else {
            expected.insert(path.with_extension(""));
        }
    }
    assert!(cases.len() >= 14, "only {} cases were found", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let bundle = bundle(case);
        let loaded = load(&bundle);
        let mut said = render(&loaded.diagnostics, &bundle.texts, false, 120);
        if said.is_empty() {
            said.push_str("nothing to say\n");
        }
        compare(&case.with_extension("txt"), &said, &mut wrong);
        let meaning = case.with_extension("json");
        if meaning.exists() {
            let text = serde_json::to_string_pretty(&loaded.desired).unwrap();
            compare(&meaning, &format!("{text}\n"), &mut wrong);
        }
        expected.remove(&case.with_extension(""));
    }
    for orphan in expected {
        wrong.push(format!("{}: no case of that name", orphan.display()));
    }
    assert!(
        wrong.is_empty(),
        "{} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_examples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/school");
    let bundle = bundle(&examples);
    let loaded = load(&bundle);
    let said = render(&loaded.diagnostics, &bundle.texts, false, 120);
    let desired = loaded.desired.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(
        desired
            .pools
            .values()
            .map(|pool| pool.desktops)
            .sum::<u32>(),
        32
    );
    for source in &bundle.texts {
        let formatted = coppice_schema::fmt(&source.text).unwrap();
        assert_eq!(formatted, source.text, "{} is not formatted", source.path);
    }
}
