//! No text may overflow the stack: measured on threads that have half of the usual one.

use coppice_schema::{Bundle, SourceText, fmt, load};

/// Loads and formats `text` on a thread with `stack` bytes; a stack that is too small ends the test's process.
fn run(text: &str, stack: usize) -> Vec<String> {
    let texts = vec![SourceText {
        path: "main.hcl".to_owned(),
        text: text.to_owned(),
    }];
    let bundle = Bundle {
        texts,
        ..Bundle::default()
    };
    let work = move || {
        let _formatted = fmt(&bundle.texts[0].text);
        load(&bundle)
            .diagnostics
            .into_iter()
            .map(|d| format!("{} {}", d.code, d.message))
            .collect()
    };
    let thread = std::thread::Builder::new()
        .stack_size(stack)
        .spawn(work)
        .expect("a thread");
    thread.join().expect("no panic")
}

/// What the parser is given at most: 29 to 31 levels of everything that nests.
fn deepest() -> Vec<String> {
    let nest = |open: &str, middle: &str, close: &str, times: usize| {
        format!(
            "locals {{\n  a = {}{middle}{}\n}}\n",
            open.repeat(times),
            close.repeat(times)
        )
    };
    vec![
        nest("[", "1", "]", 29),
        nest("(", "1", ")", 29),
        nest("{ a = ", "1", " }", 29),
        nest("upper(", "\"a\"", ")", 29),
        nest("[for x in ", "[1]", " : x]", 29),
        nest("{for k, v in ", "{}", " : k => v}", 29),
        nest("\"${", "1", "}\"", 15),
        nest("\"%{if true}${", "1", "}%{endif}\"", 10),
        nest("[1][", "0", "]", 29),
        nest("true ? ", "1", " : 2", 60),
        nest("!", "true", "", 60),
        nest("1 + (", "1", ")", 29),
        format!("locals {{\n  a = {}1\n}}\n", "1 + ".repeat(127)),
        format!("{}{}", "a \"b\" {\n".repeat(31), "}\n".repeat(31)),
    ]
}

#[test]
fn the_deepest_text_that_is_parsed_needs_half_of_the_usual_stack() {
    for text in deepest() {
        let said = run(&text, 1 << 20);
        assert!(
            !said.iter().any(|s| s.starts_with("V0104")),
            "this was to be parsed: {text}\n{said:?}"
        );
    }
}

#[test]
fn deeper_text_is_refused_and_says_so() {
    for (open, close) in [("[", "]"), ("(", ")"), ("{ a = ", " }"), ("\"${", "}\"")] {
        for depth in [33, 100, 1_000, 50_000] {
            let text = format!(
                "locals {{\n  a = {}1{}\n}}\n",
                open.repeat(depth),
                close.repeat(depth)
            );
            let said = run(&text, 2 << 20);
            assert!(
                said.iter()
                    .any(|s| s == "V0104 nested more than 32 levels deep"),
                "{open} {depth}: {said:?}"
            );
        }
    }
}

#[test]
fn locals_that_follow_each_other_too_far_are_refused() {
    let chain = |length: usize| {
        let links: String = (0..length)
            .map(|i| format!("  a{i} = 1 + local.a{}\n", i + 1))
            .collect();
        format!("locals {{\n{links}  a{length} = 1\n}}\n")
    };
    assert!(run(&chain(50), 2 << 20).is_empty());
    let said = run(&chain(5_000), 2 << 20);
    assert!(
        said.iter()
            .any(|s| s.contains("refer to each other too deeply")),
        "{said:?}"
    );
}

#[test]
fn objects_beyond_what_the_parser_can_compare_are_refused() {
    let object = |length: usize| {
        let entries: String = (0..length).map(|i| format!("    k{i} = {i}\n")).collect();
        format!("locals {{\n  a = {{\n{entries}  }}\n}}\n")
    };
    assert!(run(&object(2_000), 2 << 20).is_empty());
    assert_eq!(
        run(&object(2_001), 2 << 20),
        ["V0103 more than 2000 entries between one pair of braces"]
    );
    let locals: String = (0..9_000).map(|i| format!("  k{i} = {i}\n")).collect();
    assert!(run(&format!("locals {{\n{locals}}}\n"), 2 << 20).is_empty());
}

#[test]
fn a_file_beyond_one_mebibyte_is_refused() {
    let text = format!("# {}\n", "x".repeat(1 << 20));
    assert_eq!(
        run(&text, 2 << 20),
        ["V0103 the file is larger than 1048576 bytes"]
    );
}
