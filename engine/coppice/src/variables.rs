//! Values of variables, from the environment, from files, and from the command line: the later wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;

/// Variables on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Given {
    /// A variable's value; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) values: Vec<(String, String)>,

    /// A file with lines NAME = VALUE in HCL; may be repeated
    #[arg(long = "var-file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

const PREFIX: &str = "COPPICE_VAR_";

/// All values: the environment's, then those of files in their order, then those of the command line.
pub(crate) fn collect(given: &Given) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        if let (Some(name), Some(value)) = (
            name.to_str().and_then(|n| n.strip_prefix(PREFIX)),
            value.to_str(),
        ) {
            values.insert(name.to_owned(), value.to_owned());
        }
    }
    for file in &given.files {
        values.extend(read(&configuration::read_text(file)?, file)?);
    }
    values.extend(given.values.iter().cloned());
    Ok(values)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Attributes of a file. Text stands for itself; anything else is handed on as it is written.
fn read(text: &str, file: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let wrong = |cause: String| {
        Failure::new(format!("{} is not a file of variables", file.display()))
            .exit(Exit::Invalid)
            .cause(cause)
            .hint("each line is NAME = VALUE, such as: desktops = 12, or site = \"north\"")
    };
    let body: hcl::edit::structure::Body = text
        .parse()
        .map_err(|e: hcl::edit::parser::Error| wrong(e.to_string()))?;
    let mut values = BTreeMap::new();
    for structure in body {
        match structure {
            hcl::edit::structure::Structure::Attribute(attribute) => {
                let value = if let hcl::edit::expr::Expression::String(text) = &attribute.value {
                    text.to_string()
                } else {
                    attribute.value.to_string().trim().to_owned()
                };
                values.insert(attribute.key.to_string(), value);
            }
            hcl::edit::structure::Structure::Block(block) => {
                return Err(wrong(format!(
                    "it holds a block `{}`",
                    block.ident.as_str()
                )));
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_text_numbers_and_lists() {
        let text = "site = \"north\"\ndesktops = 12 # twelve\nlabels = [\"a\", \"b\"]\n";
        let values = read(text, Path::new("x")).unwrap();
        assert_eq!(values["site"], "north");
        assert_eq!(values["desktops"], "12");
        assert_eq!(values["labels"], "[\"a\", \"b\"]");
    }

    #[test]
    fn what_is_no_file_of_variables_is_refused() {
        assert_eq!(
            read("pool \"x\" {}", Path::new("x")).unwrap_err().exit,
            Exit::Invalid
        );
        assert_eq!(
            read("a = ", Path::new("x")).unwrap_err().exit,
            Exit::Invalid
        );
        assert!(pair("novalue").is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    }

    #[test]
    fn the_command_line_wins_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v");
        std::fs::write(&file, "a = 1\nb = 2\n").unwrap();
        let given = Given {
            values: vec![("b".to_owned(), "3".to_owned())],
            files: vec![file],
        };
        let values = collect(&given).unwrap();
        assert_eq!((values["a"].as_str(), values["b"].as_str()), ("1", "3"));
    }
}
