//! Every file in `scenarios/` is a test: its commands must give what stands below them.
//!
//! `UPDATE=1` writes the transcripts anew; read the difference before you believe it.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use coppice_tests::scenario::Scenario;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_scenario_goes_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    let files = files();
    assert!(!files.is_empty(), "there are scenarios");
    for path in files {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        assert!(
            name.ends_with(".scenario"),
            "{name} is no scenario and does not belong there"
        );
        let written = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let scenario = Scenario::read(&written);
        let went = scenario.run().unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = scenario.run().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            went, again,
            "{name}: the same scenario must go the same way twice"
        );
        if went != written {
            if update {
                std::fs::write(&path, &went).unwrap_or_else(|e| panic!("{name}: {e}"));
            } else {
                let difference = similar::TextDiff::from_lines(&written, &went);
                wrong.push(format!(
                    "{name}:\n{}",
                    difference.unified_diff().header("written", "went")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
