//! Every text that a fuzzer or a person found worth keeping: none may panic, hang or exhaust memory, and each has one
//! answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coppice_schema::{Bundle, SourceText, fmt, inputs, load, render};

/// As the fuzz target reads its input: several files, each after a line `--- NAME`.
fn texts(text: &str) -> Vec<SourceText> {
    let mut texts = vec![SourceText {
        path: "main.hcl".to_owned(),
        text: String::new(),
    }];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(name) => texts.push(SourceText {
                path: name.trim().to_owned(),
                text: String::new(),
            }),
            None => texts
                .iter_mut()
                .next_back()
                .into_iter()
                .for_each(|last| last.text.push_str(line)),
        }
    }
    texts
}

#[test]
fn every_text_of_the_corpus_has_one_answer() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/language");
    let mut count = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let texts = texts(&text);
        let wanted = inputs(&texts);
        let files = wanted
            .files
            .into_iter()
            .map(|path| (path, "x".to_owned()))
            .collect();
        let sources = wanted
            .sources
            .into_iter()
            .map(|path| (path, None))
            .collect();
        let variables = BTreeMap::from([("a".to_owned(), "[1, \"b\"]".to_owned())]);
        let bundle = Bundle {
            texts,
            files,
            sources,
            variables,
        };
        // The stack of a worker thread in its usual size.
        let name = path.display().to_string();
        let run = move || {
            let loaded = load(&bundle);
            assert_eq!(loaded, load(&bundle), "{name}");
            assert!(
                loaded.desired.is_some() || !loaded.diagnostics.is_empty(),
                "{name}"
            );
            assert!(loaded.diagnostics.len() <= 501, "{name}");
            let said = render(&loaded.diagnostics, &bundle.texts, false, 100);
            assert_eq!(said.is_empty(), loaded.diagnostics.is_empty(), "{name}");
            if let Ok(once) = fmt(&bundle.texts[0].text) {
                assert_eq!(fmt(&once), Ok(once), "{name}");
            }
        };
        let thread = std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(run)
            .unwrap();
        assert!(thread.join().is_ok(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 30, "only {count} texts were found");
}
