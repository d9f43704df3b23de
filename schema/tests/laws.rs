//! Laws of the language, over generated configurations.

use std::collections::BTreeMap;

use coppice_schema::{Bundle, Loaded, SourceText, fmt, load};
use proptest::prelude::*;

fn bundle(texts: Vec<SourceText>) -> Bundle {
    Bundle {
        texts,
        variables: BTreeMap::from([("given".to_owned(), "x".to_owned())]),
        ..Bundle::default()
    }
}

fn one(text: &str) -> Bundle {
    bundle(vec![SourceText {
        path: "main.hcl".to_owned(),
        text: text.to_owned(),
    }])
}

/// What a load says, without places: white space moves them.
fn meaning(loaded: &Loaded) -> (Option<coppice_schema::Desired>, Vec<(String, String)>) {
    let mut said: Vec<(String, String)> = loaded
        .diagnostics
        .iter()
        .map(|d| (d.code.clone(), d.message.clone()))
        .collect();
    said.sort();
    (loaded.desired.clone(), said)
}

/// An expression, right or wrong.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0u32..40).prop_map(|n| n.to_string()),
        Just("true".to_owned()),
        Just("null".to_owned()),
        "[a-z]{1,4}".prop_map(|text| format!("\"{text}\"")),
        Just("var.given".to_owned()),
        Just("local.a".to_owned()),
        Just("template.t".to_owned()),
        Just("policy.p".to_owned()),
        Just("[network.n]".to_owned()),
        Just("\"2GiB\"".to_owned()),
        Just("\"10%\"".to_owned()),
        Just("secret(\"s\")".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[ {a},{b} ]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}+{b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}=={b} ? {a}:{b}")),
            inner.clone().prop_map(|a| format!("\"x${{ {a} }}\"")),
            inner.clone().prop_map(|a| format!("\"${{{a}}}\"")),
            inner.clone().prop_map(|a| format!("length( {a} )")),
            inner.clone().prop_map(|a| format!("{{ a={a}, \"b\" :1 }}")),
            inner
                .clone()
                .prop_map(|a| format!("[for x in {a}:x if  x!=null]")),
            inner.clone().prop_map(|a| format!("{{\n  a = {a}\n}}")),
            inner.prop_map(|a| format!("[\n{a},\n # said\n]")),
        ]
    })
}

fn block() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "t", "n", "p", "i"]);
    let kind = prop::sample::select(vec![
        "pool", "template", "image", "network", "policy", "window", "locals", "nonsense",
    ]);
    let word = prop::sample::select(vec![
        "template", "desktops", "hostname", "policies", "image", "cpus", "memory", "network",
        "version", "os", "user", "bridge", "days", "from", "to", "a", "b", "protect", "for_each",
        "count", "display",
    ]);
    let spaces = prop::sample::select(vec!["", " ", "  ", "\t"]);
    let attributes = prop::collection::btree_map(word, (expression(), spaces), 0..6);
    (kind, name, attributes, any::<bool>()).prop_map(|(kind, name, attributes, comment)| {
        let label = if kind == "locals" {
            String::new()
        } else {
            format!(" \"{name}\"")
        };
        let mut text = format!("{kind}{label}   {{\n");
        for (word, (value, spaces)) in attributes {
            text.push_str(&format!(
                "{spaces}{word}{spaces}={spaces}{value}{}\n",
                if comment { " # why" } else { "" }
            ));
        }
        text + "}\n"
    })
}

/// A configuration in which most is right, so that much of it is reached.
fn good() -> impl Strategy<Value = String> {
    (1u32..40, 1u32..9, prop::sample::select(vec!["linux", "windows", "other"]), any::<bool>()).prop_map(
        |(desktops, cpus, os, protect)| {
            format!(
                "variable \"given\" {{}}\nlocals {{\n a=1\n}}\nnetwork \"n\" {{\nuser=true\n}}\nimage \"i\" {{\nversion=\"1\"\n os = \"{os}\"\n}}\n\
                 template \"t\" {{\nimage=image.i\ncpus={cpus}\n memory=\"2GiB\"\nnetwork=network.n\n}}\npolicy \"p\" {{\nrollout {{ canary={cpus} }}\n}}\n\
                 pool \"good\" {{\n template=template.t\n desktops={desktops}\n  policies=[policy.p]\n protect={protect}\n}}\n"
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formatting_twice_is_formatting_once(good in good(), blocks in prop::collection::vec(block(), 0..4)) {
        let text = good + &blocks.join("\n");
        if let Ok(once) = fmt(&text) {
            prop_assert_eq!(fmt(&once).unwrap(), once);
        }
    }

    #[test]
    fn formatting_keeps_the_meaning(good in good(), blocks in prop::collection::vec(block(), 0..4)) {
        let text = good + &blocks.join("\n");
        if let Ok(once) = fmt(&text) {
            prop_assert_eq!(meaning(&load(&one(&text))), meaning(&load(&one(&once))));
        }
    }

    #[test]
    fn a_good_configuration_is_understood(good in good()) {
        let loaded = load(&one(&good));
        prop_assert!(loaded.desired.is_some(), "{:?}", loaded.diagnostics);
    }

    #[test]
    fn the_order_of_files_does_not_matter(good in good(), blocks in prop::collection::vec(block(), 1..5), turn in 0usize..5) {
        let mut texts: Vec<SourceText> = std::iter::once(good)
            .chain(blocks)
            .enumerate()
            .map(|(i, text)| SourceText { path: format!("f{i}.hcl"), text })
            .collect();
        let straight = load(&bundle(texts.clone()));
        let length = texts.len();
        texts.rotate_left(turn % length);
        prop_assert_eq!(&load(&bundle(texts.clone())), &straight);
        texts.reverse();
        prop_assert_eq!(&load(&bundle(texts)), &straight);
    }

    #[test]
    fn the_order_of_blocks_does_not_matter(good in good()) {
        let mut blocks: Vec<&str> = good.split_inclusive("\n}\n").collect();
        let straight = load(&one(&good)).desired;
        blocks.reverse();
        prop_assert_eq!(load(&one(&blocks.concat())).desired, straight);
    }

    #[test]
    fn no_text_panics(text in "([a-z]{1,3}|[\\{\\}\\[\\]\\(\\)\"$%=<>.,:?!\n ~-]|pool|<<A\n|for|in|\\$\\{|%\\{if|[0-9]|ä|\r\n){0,60}") {
        let _formatted = fmt(&text);
        let loaded = load(&one(&text));
        prop_assert!(loaded.desired.is_some() || !loaded.diagnostics.is_empty());
    }

    #[test]
    fn sizes_and_spans_are_read_back(size in 16u64 << 20..1 << 46, seconds in 60u64..8_000_000) {
        let size = coppice_schema::units::Size(size);
        let span = coppice_schema::units::Span::seconds(seconds);
        let text = format!(
            "image \"i\" {{\n  version = \"1\"\n  os = \"other\"\n  ready_after = \"1s\"\n}}\ntemplate \"t\" {{\n  image = image.i\n  memory = \"{size}\"\n}}\n\
             policy \"p\" {{\n  refresh {{\n    every = \"{span}\"\n  }}\n}}\n"
        );
        let desired = load(&one(&text)).desired.unwrap();
        prop_assert_eq!(desired.templates.values().next().unwrap().memory, size);
        let policy = desired.policies.values().next().unwrap();
        prop_assert_eq!(policy.refresh.as_ref().unwrap().every, Some(span));
    }
}
