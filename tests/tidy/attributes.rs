//! Lints are lifted on one item, with a reason; in a file of tests, for that file. Tests are never switched off.

use crate::tokens::{Attribute, Facts};
use crate::{nothing_in, repository};

fn complaint(attribute: &Attribute, test_only: bool) -> Option<&'static str> {
    let text = attribute.text.as_str();
    // Inside cfg_attr it is the same attribute.
    let says = |word: &str| {
        text.starts_with(word)
            || (text.starts_with("cfg_attr(") && text.contains(&format!(",{word}")))
    };
    if says("allow(") {
        Some(
            "use #[expect(lint, reason = \"...\")] on one item: it fails when it is no longer needed",
        )
    } else if says("expect(") && attribute.inner && !test_only {
        Some("a lint lifted for a whole file hides what comes later: put it on one item")
    } else if says("expect(") && !text.contains("reason=\"") {
        Some("say why: reason = \"...\"")
    } else if says("ignore") {
        Some("a test that does not run tests nothing: mend it, or delete it")
    } else {
        None
    }
}

fn complaints(file: &str, facts: &Facts, test_only: bool) -> Vec<String> {
    let found = facts
        .attributes
        .iter()
        .filter_map(|attribute| Some((attribute, complaint(attribute, test_only)?)));
    found
        .map(|(attribute, why)| format!("{file}:{}: #[{}]: {why}", attribute.line, attribute.text))
        .collect()
}

#[test]
fn lints_are_lifted_one_by_one_with_a_reason() {
    nothing_in(
        repository::sources()
            .iter()
            .flat_map(|source| complaints(&source.file, &source.facts, source.test_only))
            .collect(),
    );
}

#[test]
fn planted_attributes_are_found() {
    for text in [
        "#![allow(dead_code)]",
        "#[allow(dead_code)] fn f() {}",
        "#![expect(dead_code, reason = \"x\")]",
        "#[expect(dead_code)] fn f() {}",
        "#[cfg_attr(test, allow(dead_code))] fn f() {}",
        "#[test] #[ignore] fn f() {}",
        "#[test] #[ignore = \"slow\"] fn f() {}",
    ] {
        assert_eq!(
            complaints("planted.rs", &crate::tokens::facts(text).unwrap(), false).len(),
            1,
            "{text}"
        );
    }
    let fine = "#[expect(dead_code, reason = \"read by the debugger\")] fn f() {}";
    assert_eq!(
        complaints("planted.rs", &crate::tokens::facts(fine).unwrap(), false),
        Vec::<String>::new()
    );
    let file = "#![expect(clippy::unwrap_used, reason = \"a test fails by panicking\")]";
    assert_eq!(
        complaints("planted.rs", &crate::tokens::facts(file).unwrap(), true),
        Vec::<String>::new()
    );
}
