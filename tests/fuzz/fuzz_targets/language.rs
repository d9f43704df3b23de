//! Any text: `RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz language`.
//!
//! Input is one file, or several with a line `--- NAME` before each. What is found goes to `corpus/language`, which
//! `schema/tests/corpus.rs` runs in every test.

#![no_main]

use std::collections::BTreeMap;

use coppice_schema::{Bundle, SourceText, fmt, inputs, load, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut texts = vec![SourceText { path: "main.hcl".to_owned(), text: String::new() }];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("--- ") {
            Some(name) => texts.push(SourceText { path: name.trim().to_owned(), text: String::new() }),
            None => texts.last_mut().unwrap().text.push_str(line),
        }
    }
    let wanted = inputs(&texts);
    let files = wanted.files.into_iter().map(|path| (path, "x".to_owned())).collect();
    let sources = wanted.sources.into_iter().map(|path| (path, None)).collect();
    let variables = BTreeMap::from([("a".to_owned(), "[1, \"b\"]".to_owned())]);
    let bundle = Bundle { texts, files, sources, variables };
    let loaded = load(&bundle);
    assert!(loaded.desired.is_some() || !loaded.diagnostics.is_empty());
    render(&loaded.diagnostics, &bundle.texts, false, 100);
    if let Ok(once) = fmt(text) {
        assert_eq!(fmt(&once).as_ref(), Ok(&once), "formatting twice");
        let reload = |text: &str| {
            let texts = vec![SourceText { path: "main.hcl".to_owned(), text: text.to_owned() }];
            load(&Bundle { texts, ..bundle.clone() }).desired
        };
        assert_eq!(reload(text), reload(&once), "formatting changed the meaning");
    }
});
