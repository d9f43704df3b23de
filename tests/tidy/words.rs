//! Names that say nothing, and words that only make sense on somebody's machine.

use crate::tokens::Facts;
use crate::{nothing_in, repository};

/// Words that name no thing: code is placed by its noun.
const EMPTY: [&str; 7] = [
    "helper", "helpers", "manager", "managers", "misc", "util", "utils",
];

/// Not part of a finished text. Put together here, so that this file does not hold them.
const FOREIGN: [&str; 6] = [
    concat!("Chat", "GPT"),
    concat!("Cla", "ude"),
    concat!("Anth", "ropic"),
    concat!("Open", "AI"),
    concat!("../", "shared"),
    concat!("/wo", "rk/"),
];

/// The words of a name: `FooBar_baz-2` gives foo, bar, baz, 2.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in name.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && !before.is_uppercase()) {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words
                .last_mut()
                .expect("never empty")
                .extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

fn empty_word(name: &str) -> Option<String> {
    words(name)
        .into_iter()
        .find(|word| EMPTY.contains(&word.as_str()))
}

fn in_file_name(file: &str) -> Option<String> {
    empty_word(file).map(|word| format!("{file}: {word:?} names nothing: place it by its noun"))
}

fn in_definitions(file: &str, facts: &Facts) -> Vec<String> {
    let mut complaints = Vec::new();
    for definition in &facts.definitions {
        let place = format!(
            "{file}:{}: {} {}",
            definition.line, definition.keyword, definition.name
        );
        if let Some(word) = empty_word(&definition.name) {
            complaints.push(format!("{place}: {word:?} names nothing: name what it is"));
        }
        if definition.name == "Engine" {
            complaints.push(format!(
                "{place}: everything here is the engine: name the part"
            ));
        }
    }
    complaints
}

fn in_text(file: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in FOREIGN {
            let absolute = word.starts_with('/');
            let stands = |at: usize| {
                let before = line[..at].chars().next_back();
                // A path of a machine begins there; within a longer path it is only somebody's folder name.
                !absolute
                    || !before.is_some_and(|letter| {
                        letter.is_alphanumeric() || "_-.}~*$".contains(letter)
                    })
            };
            if line.match_indices(word).any(|(at, _)| stands(at)) {
                complaints.push(format!(
                    "{file}:{}: {word:?} means nothing outside one machine: say it without",
                    number + 1
                ));
            }
        }
    }
    complaints
}

#[test]
fn file_names_say_something() {
    nothing_in(
        repository::files()
            .iter()
            .filter_map(|file| in_file_name(file))
            .collect(),
    );
}

#[test]
fn definitions_say_something() {
    nothing_in(
        repository::sources()
            .iter()
            .flat_map(|source| in_definitions(&source.file, &source.facts))
            .collect(),
    );
}

#[test]
fn texts_stand_alone() {
    let texts = repository::files()
        .iter()
        .filter_map(|file| Some((file, repository::text(file)?)));
    nothing_in(
        texts
            .flat_map(|(file, text)| in_text(file, &text))
            .collect(),
    );
}

#[test]
fn planted_names_are_found() {
    assert!(in_file_name("plans/src/utils.rs").is_some());
    assert!(in_file_name("plans/src/place_helper.rs").is_some());
    assert!(in_file_name("plans/src/futility.rs").is_none());
    let planted = |text| in_definitions("planted.rs", &crate::tokens::facts(text).unwrap()).len();
    assert_eq!(
        planted("struct DesktopManager; fn misc_things() {} mod util {} enum Engine {}"),
        4
    );
    assert_eq!(
        planted("struct Desktop; use futures_util::future; type Search = x::Engine;"),
        0
    );
}

#[test]
fn planted_words_are_found() {
    for word in FOREIGN {
        assert_eq!(
            in_text("planted.md", &format!("see {word}x")).len(),
            1,
            "{word}"
        );
    }
    assert_eq!(
        in_text("planted.sh", concat!("cd $home/wo", "rk/x")),
        Vec::<String>::new()
    );
}
