//! The language's table and the plan agree about every word.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::table::{self, Block, TakesEffect};
use coppice_schema::{Bundle, Desired, Digest, Severity, SourceText};
use serde_json::Value;

use super::{Attribute, edits, flatten, objects};
use crate::plan::{Applies, Edit};

const EVERY: &str = include_str!("every.hcl");

/// The two forms of the grid's certificate, of which one configuration has one.
const CERTIFICATES: [&str; 2] = [
    "files {\n certificate_file = \"ca.pem\"\n key = secret(\"portal-key\")\n }",
    "acme {\n email = \"it@school.example\"\n domains = [\"vdi.school.example\"]\n \
     directory = \"https://acme.example/dir\"\n }",
];

fn desired(text: &str) -> Desired {
    let bundle = Bundle {
        texts: vec![SourceText {
            path: "every.hcl".to_owned(),
            text: text.to_owned(),
        }],
        files: BTreeMap::from([("ca.pem".to_owned(), "PEM".to_owned())]),
        sources: BTreeMap::from([("file.qcow2".to_owned(), Some(Digest([7; 32])))]),
        variables: BTreeMap::new(),
    };
    let loaded = coppice_schema::load(&bundle);
    let mut bad = loaded.diagnostics.iter();
    let bad = bad.find(|found| found.severity == Severity::Error);
    assert_eq!(bad, None, "the configuration has no errors");
    loaded.desired.unwrap_or_default()
}

fn every(certificate: &str) -> Desired {
    desired(&EVERY.replace("CERTIFICATE", certificate))
}

/// Every attribute that plans name in a configuration of every word.
fn named() -> BTreeSet<Attribute> {
    let mut found = BTreeMap::new();
    for certificate in CERTIFICATES {
        for (address, value) in objects(&every(certificate)) {
            flatten(&address, &value, &mut Vec::new(), &mut found);
        }
    }
    found.into_keys().collect()
}

/// The table's path of every attribute within `block`.
fn words(block: &Block, path: &str, into: &mut BTreeSet<String>) {
    into.extend(
        block
            .attributes
            .iter()
            .map(|row| format!("{path}.{}", row.name)),
    );
    for inner in block.blocks {
        words(inner, &format!("{path}.{}", inner.name), into);
    }
}

#[test]
fn plans_call_every_attribute_what_the_language_calls_it() {
    let mut table = BTreeSet::new();
    let resolved_away = ["variable", "locals", "moved"];
    for block in table::BLOCKS {
        if !resolved_away.contains(&block.name) {
            words(block, block.name, &mut table);
        }
    }
    let said: BTreeSet<String> = named().into_iter().filter_map(|it| it.said).collect();
    let unknown: Vec<&String> = said.difference(&table).collect();
    assert!(
        unknown.is_empty(),
        "plans name what the table does not have: {unknown:?}"
    );
    let unsaid: Vec<&String> = table.difference(&said).collect();
    assert!(unsaid.is_empty(), "plans have no name for: {unsaid:?}");
}

#[test]
fn a_change_takes_effect_when_the_table_says() {
    let mut letters = BTreeSet::new();
    for (address, value) in objects(&every(CERTIFICATES[0])) {
        let mut all = BTreeMap::new();
        flatten(&address, &value, &mut Vec::new(), &mut all);
        let effects: BTreeMap<String, Option<TakesEffect>> = all
            .into_keys()
            .map(|it| (it.path, it.said.as_deref().map(table::takes_effect)))
            .collect();
        // Against an object that says nothing, every attribute of it changes.
        for edit in edits(&address, &Value::Object(serde_json::Map::new()), &value) {
            let expected = match effects[&edit.path] {
                Some(TakesEffect::Regrow) => Applies::Regrow,
                Some(TakesEffect::NextBoot) => Applies::NextBoot,
                Some(TakesEffect::Live) | None => Applies::Live,
            };
            assert_eq!(edit.applies, expected, "{address} {}", edit.path);
            letters.insert(edit.applies);
        }
    }
    assert_eq!(letters.len(), 3, "all letters occur");
}

/// What changes when `from` is written as `to`.
fn changed(from: &str, to: &str) -> Vec<(String, String, String, Applies)> {
    assert!(EVERY.contains(from), "{from}");
    let text = EVERY.replace("CERTIFICATE", CERTIFICATES[0]);
    let (before, after) = (desired(&text), desired(&text.replace(from, to)));
    let (before, after) = (objects(&before), objects(&after));
    let mut all: Vec<Edit> = Vec::new();
    for (address, value) in &after {
        all.extend(edits(address, &before[address], value));
    }
    let line = |edit: Edit| {
        let or_none = |value: Option<String>| value.unwrap_or_default();
        let (before, after) = (or_none(edit.before), or_none(edit.after));
        (edit.path, before, after, edit.applies)
    };
    all.into_iter().map(line).collect()
}

#[test]
fn values_are_written_as_the_language_writes_them() {
    let one = |from, to, path: &str, before: &str, after: &str, applies| {
        let expected = vec![(
            path.to_owned(),
            before.to_owned(),
            after.to_owned(),
            applies,
        )];
        assert_eq!(changed(from, to), expected);
    };
    one(
        "bridge = \"br-lab\"",
        "bridge = \"br1\"",
        "bridge",
        "br-lab",
        "br1",
        Applies::Regrow,
    );
    one(
        "from           = \"07:30\"",
        "from           = \"08:05\"",
        "power.schedule.lessons.from",
        "07:30",
        "08:05",
        Applies::Live,
    );
    one(
        "days    = \"sat,sun\"",
        "days    = \"fri\"",
        "update.days",
        "sat,sun",
        "fri",
        Applies::Live,
    );
    one(
        "cron     = \"0 8 * * 1\"",
        "cron     = \"0 9 * * 1\"",
        "cron",
        "0 8 * * 1",
        "0 9 * * 1",
        Applies::Live,
    );
    one(
        "\"lab-{slot:02}\"",
        "\"l-{slot:02}\"",
        "hostname",
        "lab-{slot:02}",
        "l-{slot:02}",
        Applies::Regrow,
    );
    one(
        "version     = \"1\"",
        "version     = \"2\"",
        "version",
        "1",
        "2",
        Applies::Regrow,
    );
    one(
        "memory      = \"96MiB\"",
        "memory      = \"1GiB\"",
        "memory",
        "96MiB",
        "1GiB",
        Applies::NextBoot,
    );
    one(
        "keep_free_disk   = \"10GiB\"",
        "keep_free_disk   = \"11GiB\"",
        "server.s*.keep_free_disk",
        "10GiB",
        "11GiB",
        Applies::Live,
    );
    assert_eq!(
        changed("user = true", "libvirt = \"default\""),
        [
            (
                "libvirt".to_owned(),
                String::new(),
                "default".to_owned(),
                Applies::Regrow
            ),
            (
                "user".to_owned(),
                "true".to_owned(),
                String::new(),
                Applies::Regrow
            ),
        ]
    );
}
