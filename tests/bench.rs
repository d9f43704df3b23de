//! `sh tests/bench.sh` with so little work that its figures mean nothing: its words and the shape of its result.

#![cfg(test)] // all of it, which clippy only believes when told

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench.sh");
    Command::new("sh")
        .arg(script)
        .args(arguments)
        .args(["--quick", "--no-install"])
        .env("COPPICE_BENCH_BINARY", env!("CARGO_BIN_EXE_bench"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_row_is_in_the_json_and_its_ratio_grows_with_coppice() {
    let output = bench(&["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut rows: Vec<u64> = lines.iter().map(|l| l["row"].as_u64().unwrap()).collect();
    rows.dedup();
    assert_eq!(rows, [1, 4, 5, 6, 7, 8, 10, 11, 13]);
    for line in &lines {
        let names: Vec<&String> = line.as_object().unwrap().keys().collect();
        let expected = [
            "limit", "metric", "ours", "peer", "ratio", "row", "target", "unit",
        ];
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
        let ours = line["ours"].as_f64().unwrap();
        assert!(ours > 0.0, "{line}");
        // Every unit is so much of something for another, so that more is better; a peer that is not installed has no figure.
        assert!(line["unit"].as_str().unwrap().contains('/'), "{line}");
        match line["peer"].as_f64() {
            Some(peer) => {
                let ratio = line["ratio"].as_f64().unwrap();
                assert!((ratio * peer / ours - 1.0).abs() < 1e-9, "{line}");
            }
            None => assert!(line["ratio"].is_null(), "{line}"),
        }
    }
    // qemu-img is what Coppice itself needs, so that comparison is always there.
    let clones: Vec<&Value> = lines
        .iter()
        .filter(|line| line["metric"].as_str().unwrap().ends_with("qemu-img"))
        .collect();
    assert_eq!(clones.len(), 2);
    assert!(
        clones.iter().all(|line| line["peer"].is_f64()),
        "{clones:?}"
    );
}

#[test]
fn one_row_is_a_table_of_its_own() {
    let output = bench(&["--row", "4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        [
            "row", "metric", "Coppice", "peer", "unit", "ratio", "limit", "target", "met"
        ]
    );
    let rows: Vec<&str> = lines.map(|line| line.trim_start()).collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows.iter().all(|row| row.starts_with("4  ")), "{table}");
}

#[test]
fn what_it_does_not_know_is_told_with_the_usage() {
    for (arguments, what) in [
        (["--row", "99"].as_slice(), "there is no row 99"),
        (&["--row"], "there is no row --quick"),
        (&["--fast"], "unknown argument --fast"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(what) && said.contains("usage: "), "{said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
