//! The repository as the checks see it: its files, its packages, and what each file of Rust says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use crate::tokens::{self, Facts};

/// The top of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is a folder of the repository")
}

/// Every file that is, or would be, committed; relative to the top, sorted.
pub(crate) fn files() -> &'static [String] {
    static FILES: OnceLock<Vec<String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let output = Command::new("git")
            // Another user's checkout is read all the same, as in a container.
            .args([
                "-c",
                "safe.directory=*",
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root())
            .output()
            .expect("git runs: these checks look at what would be committed");
        assert!(
            output.status.success(),
            "git ls-files: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listed = String::from_utf8(output.stdout).expect("file names are UTF-8");
        // One that is deleted and not yet committed as such is listed, and not there.
        let mut files: Vec<String> = listed
            .split_terminator('\0')
            .filter(|file| root().join(file).exists())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        assert!(
            files.iter().any(|file| file == "Cargo.toml"),
            "git ls-files does not list Cargo.toml in {}",
            root().display()
        );
        files
    })
}

/// The text of a file, unless it is no text.
pub(crate) fn text(file: &str) -> Option<String> {
    let bytes = std::fs::read(root().join(file))
        .unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
    String::from_utf8(bytes).ok()
}

/// What cargo says of the workspace and all its dependencies on Linux.
pub(crate) fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        // Coppice runs on Linux only, and only what that needs has been downloaded by the build.
        let options =
            ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned);
        MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .other_options(options)
            .exec()
            .expect("cargo metadata runs")
    })
}

/// A file of Rust that a target reaches.
#[derive(Debug)]
pub(crate) struct Source {
    /// The package it belongs to.
    pub(crate) package: String,
    /// Relative to the top.
    pub(crate) file: String,
    /// Only tests compile it.
    pub(crate) test_only: bool,
    /// What it says.
    pub(crate) facts: Facts,
}

/// Every file that a target of the workspace reaches by `mod`.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut found = BTreeMap::new();
        for package in metadata().workspace_packages() {
            for target in &package.targets {
                let for_tests = target.kind.iter().any(|kind| {
                    matches!(
                        kind,
                        TargetKind::Test | TargetKind::Bench | TargetKind::Example
                    )
                });
                follow(
                    package.name.as_str(),
                    target.src_path.as_std_path(),
                    None,
                    for_tests,
                    &mut found,
                );
            }
        }
        found.into_values().collect()
    })
}

/// The path without `..`: one file may be named from several crates.
fn plainly(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

/// Reads a file and the files of its modules. `children` is where these are, for all but a target's first file.
fn follow(
    package: &str,
    file: &Path,
    children: Option<PathBuf>,
    test_only: bool,
    found: &mut BTreeMap<PathBuf, Source>,
) {
    // Reached before; a second time only matters when it turns out to be compiled outside tests as well.
    if found
        .get(file)
        .is_some_and(|source| test_only || !source.test_only)
    {
        return;
    }
    let relative = file
        .strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string();
    let text = std::fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("cannot read {relative}: {error}"));
    let facts = tokens::facts(&text).unwrap_or_else(|error| panic!("{relative} {error}"));
    let folder = file.parent().expect("a file is in a folder");
    let children = children.unwrap_or_else(|| folder.to_owned());
    let mut next = Vec::new();
    for module in &facts.modules {
        let plain = children.join(module.names.join("/"));
        let module_file = match &module.path {
            Some(path) => plainly(&folder.join(path)),
            None => plain.with_extension("rs"),
        };
        if module_file.exists() {
            let children = if module.path.is_some() {
                module_file.with_extension("")
            } else {
                plain
            };
            next.push((module_file, children, test_only || module.test_only));
        }
    }
    found.insert(
        file.to_owned(),
        Source {
            package: package.to_owned(),
            file: relative,
            test_only,
            facts,
        },
    );
    for (module_file, children, test_only) in next {
        follow(package, &module_file, Some(children), test_only, found);
    }
}
