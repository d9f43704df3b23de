//! The canonical layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coppice_schema::fmt;
use skip::skip;

#[path = "../../tests/skip.rs"]
mod skip;

/// Every text of the tests and the examples that is no test of size, and the odd ones below.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = vec![
        root.join("tests"),
        root.join("../examples"),
        root.join("../tests/fuzz/corpus"),
    ];
    let mut found: Vec<(String, String)> = ODD
        .iter()
        .enumerate()
        .map(|(i, text)| (format!("odd {i}"), (*text).to_owned()))
        .collect();
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).expect("the tests' own files can be read") {
            let path = entry.expect("the tests' own files can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path)
                && text.len() < 20_000
            {
                found.push((path.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

const ODD: &[&str] = &[
    "",
    "\n\n\n",
    "# only a comment",
    "a=1",
    "a   =   1   # one\nlonger=2 // two\n\n\nb=3 /* three */\n",
    "pool lab {\na=1\n  bc = 2 # x\n      def   = [1,2,3]   # y\n}\n",
    "pool \"lab\" \"x\"{\na=1\n}\nb {}\nc { a=1 }\nd{\n}\n",
    "a = {\nb=1\n  long = 2\n\n c   = { d=1,e =2 }\n}\n",
    "a = [\n1,\n   2, # two\n  {\n   b=1\n }\n]\n",
    "a = foo( 1,2 , [ 3 ] ...)\nb = foo (1)\nc = x [ 0 ] . y\nd = x.*.y\ne = x [*].y\n",
    "a = -1\nb = 1-2\nc = 1 - -2\nd = !true\ne = ! true&&false||!x\nf = (1+2)*3/4%5\ng = a==b?c:d\nh = a>=b ? -1:+1\n",
    "a = \"x${ b }y${c+1}z\"\nb = \"${ d }\"\nc = \"${\n d\n}\"\ne = \"${d ? 1 : \"${f}\"}\"\nf = \"$${x} %%{y}\"\n",
    "a = <<EOT\n  text ${ x+1 }\n   more\nEOT\nbb = <<-EOT\n      text\n        more\n    EOT\nc = 1\n",
    "a {\n  b = <<EOT\nx\nEOT\n  cc = 1\n}\n",
    "a = [for x in y:x]\nb = {for k,v in y:k=>v...if v}\nc = [for x in [1]: x]\nd = [ for x in { a = 1 } : x ]\n",
    "variable \"a\" {\ntype=list\n}\nvariable \"b\" {\ntype=\"string\"\n}\nvariable \"c\" {\n type = \"map\"\n}\nvariable \"d\" {\ntype = map( string )\n}\n",
    "/* a */ a = 1\n/* b\n  c */\nb = 2 /* d */ # e\n  # f\n\t# g\n{ }\n",
    "a {\n# one\n\n\n    # two\n  b = 1\n\n  # three\n}\n",
    "a = \"%{ if x }y%{ else }z%{ endif }\"\nb = \"%{ for x in y }${x}%{ endfor }\"\nc = \"${~ x ~}\"\n",
    "a = {}\nb = []\nc = { }\nd = [ ]\ne = foo()\nf = foo( )\n",
    "a = 1\r\nbb = 2\r\n\r\nc {\r\nd = 1 # x\r\n}\r\n",
    "größe = 1\nx = \"ä\" # ö\nyy = 2 # u\n",
    "a = b ? [\n1,\n] : [\n2\n]\nc = (\n1 +\n2\n)\n",
    "a = foo(<<EOT\nx\nEOT\n)\nb = [<<EOT\nx\nEOT\n, 2]\n",
    "a = x::y(1)\nb = x :: y (1)\n",
    "a = { \"b\" : 1, c : 2 }\nd = { (e) = 1 }\n",
    "a = foo({\nb = 1\n}, [\n1\n])\nc = [{\nd=1\n},{\ne=2\n}]\n",
    "a {\n  b = 1\n  }\n    c {\nd=1}\n",
    "a = 1 # x\n# y\nb = 2\nccc = 3 # z\n",
    "x = <<-A\n  a\n\n    ${ [for\n  x in y : x] }\n  A\n",
];

#[test]
fn formatting_twice_is_formatting_once() {
    for (name, text) in texts() {
        if let Ok(once) = fmt(&text) {
            assert_eq!(fmt(&once).unwrap(), once, "{name}");
        }
    }
}

#[test]
fn nothing_but_white_space_changes() {
    // What an author may have left out or added: the old forms that `fmt` replaces are not among these texts.
    let bare = |text: &str| {
        text.chars()
            .filter(|c| !c.is_whitespace())
            .collect::<String>()
    };
    let text = "# head\npool \"lab\"   {\n      a=1 # one\n // two\n b = [1,\n2] /* three */\n}\n";
    let formatted = fmt(text).unwrap();
    assert_eq!(bare(&formatted), bare(text));
    assert_eq!(
        formatted,
        "# head\npool \"lab\" {\n  a = 1 # one\n  // two\n  b = [1,\n  2] /* three */\n}\n"
    );
}

#[test]
fn text_that_is_no_hcl_is_refused() {
    let said = fmt("pool \"lab\" {\n  a = \n").unwrap_err();
    assert_eq!(said[0].line, 1, "{said:?}");
}

#[test]
fn the_layout_is_that_of_terraform() {
    if Command::new("terraform").arg("version").output().is_err() {
        return skip("terraform is not installed, so the layout was not compared with its own");
    }
    let directory = tempfile::tempdir().unwrap();
    let texts = texts();
    let place = |i: usize| directory.path().join(format!("t{i:04}.tf"));
    for (i, (_, text)) in texts.iter().enumerate() {
        fs::write(place(i), text).unwrap();
    }
    let output = Command::new("terraform")
        .args(["fmt", "-no-color"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (i, (name, text)) in texts.iter().enumerate() {
        // What either of the two does not read is compared nowhere: that is the parsers' difference.
        let (false, Ok(ours)) = (said.contains(&format!("t{i:04}.tf")), fmt(text)) else {
            continue;
        };
        compared += 1;
        let theirs = fs::read_to_string(place(i)).unwrap();
        if ours != theirs {
            wrong.push(format!(
                "{name}:\n--- terraform\n{theirs}\n--- coppice\n{ours}\n"
            ));
        }
    }
    assert!(compared >= 25, "only {compared} texts could be compared");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
