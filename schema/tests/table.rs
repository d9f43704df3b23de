//! The one table, and what is made from it.

use coppice_schema::table::{
    self, BLOCKS, Block, CarriedOut, Default, TakesEffect, find, takes_effect,
};
use coppice_schema::{Bundle, SourceText, load, reference_markdown, schema_json};

fn all<'t>(blocks: &'t [Block], within: &str, into: &mut Vec<(String, &'t Block)>) {
    for block in blocks {
        let path = if within.is_empty() {
            block.name.to_owned()
        } else {
            format!("{within}.{}", block.name)
        };
        all(block.blocks, &path, into);
        into.push((path, block));
    }
}

fn blocks() -> Vec<(String, &'static Block)> {
    let mut found = Vec::new();
    all(BLOCKS, "", &mut found);
    found
}

#[test]
fn every_word_is_documented_once() {
    for (path, block) in blocks() {
        assert!(block.doc.ends_with('.'), "{path}: {}", block.doc);
        let mut names: Vec<&str> = block.all_attributes().map(|row| row.name).collect();
        names.extend(block.blocks.iter().map(|inner| inner.name));
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before, "{path}");
        for row in block.all_attributes() {
            assert!(
                row.doc.ends_with('.') || row.doc.ends_with(')'),
                "{path}.{}: {}",
                row.name,
                row.doc
            );
            assert!(
                !row.required || row.default == Default::Unset,
                "{path}.{}",
                row.name
            );
        }
    }
}

#[test]
fn every_word_is_in_the_reference_and_in_the_schema() {
    let page = reference_markdown();
    let schema: serde_json::Value = serde_json::from_str(&schema_json()).unwrap();
    for (path, block) in blocks() {
        assert!(page.contains(block.doc), "{path}");
        let mut here = &schema;
        for word in path.split('.') {
            here = &here["properties"][word];
            if here["properties"].is_null() && here["additionalProperties"].is_object() {
                here = &here["additionalProperties"];
            }
        }
        for row in block.all_attributes() {
            assert!(
                page.contains(&format!("| `{}`", row.name)),
                "{path}.{}",
                row.name
            );
            assert_eq!(
                here["properties"][row.name]["description"], row.doc,
                "{path}.{}",
                row.name
            );
        }
    }
}

#[test]
fn a_change_takes_effect_when_the_table_says() {
    assert_eq!(takes_effect("template.cpus"), TakesEffect::NextBoot);
    assert_eq!(takes_effect("template.firmware"), TakesEffect::Regrow);
    assert_eq!(takes_effect("pool.desktops"), TakesEffect::Live);
    assert_eq!(
        takes_effect("policy.power.schedule.spare"),
        TakesEffect::Live
    );
    assert_eq!(takes_effect("policy.channels.usb"), TakesEffect::NextBoot);
    assert_eq!(takes_effect("template.nonsense"), TakesEffect::Regrow);
    assert!(find("pool.for_each").is_some() && find("image.for_each").is_none());
}

#[test]
fn what_is_known_and_not_carried_out_is_what_later_issues_bring() {
    let mut later: Vec<String> = Vec::new();
    for (path, block) in blocks() {
        if block.carried_out == CarriedOut::Later {
            later.push(path.clone());
        }
        later.extend(
            block
                .attributes
                .iter()
                .filter(|row| row.carried_out == CarriedOut::Later)
                .map(|row| format!("{path}.{}", row.name)),
        );
    }
    later.sort();
    let expected = [
        "directory",
        "grid.certificate",
        "image.update",
        "location",
        "policy.channels",
        "policy.drift.server",
        "policy.refresh.warn",
        "policy.session",
        "pool.booking",
        "pool.entitled",
        "pool.hours",
        "template.guest",
        "template.tpm",
    ];
    assert_eq!(later, expected);
}

#[test]
fn the_table_and_the_nouns_have_the_same_defaults() {
    let text = "grid \"g\" {\n}\npolicy \"p\" {\n  rollout {\n  }\n  drift {\n  }\n  power {\n  }\n  session {\n  }\n  channels {\n  }\n}\nserver \"*\" {\n}\n";
    let texts = vec![SourceText {
        path: "main.hcl".to_owned(),
        text: text.to_owned(),
    }];
    let desired = load(&Bundle {
        texts,
        ..Bundle::default()
    })
    .desired
    .unwrap();
    let grid = coppice_schema::desired::Grid {
        name: "g".to_owned(),
        ..coppice_schema::desired::Grid::default()
    };
    assert_eq!(desired.grid, grid);
    let policy = desired.policies.values().next().unwrap();
    assert_eq!(policy.rollout, coppice_schema::desired::Rollout::default());
    assert_eq!(policy.drift, coppice_schema::desired::DriftRules::default());
    assert_eq!(
        policy.power,
        Some(coppice_schema::desired::Power::default())
    );
    assert_eq!(
        policy.session,
        Some(coppice_schema::desired::SessionRules::default())
    );
    assert_eq!(
        policy.channels,
        Some(coppice_schema::desired::Channels::default())
    );
    assert_eq!(
        desired.servers["*"],
        coppice_schema::desired::ServerRule::default()
    );
    assert_eq!(table::VERSION, "0.1");
}
