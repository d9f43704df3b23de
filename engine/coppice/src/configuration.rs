//! From directories to a [`Bundle`]: the only place where files of a configuration are opened.

use std::io::Read;
use std::path::{Path, PathBuf};

use coppice_schema::{Bundle, SourceText};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::sources;
use crate::variables;

/// Largest text that the language takes.
const TEXT_MAX: u64 = 1 << 20;

/// What names a configuration on the command line.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Named {
    /// Directories whose *.hcl files are one configuration
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directories: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) variables: variables::Given,
}

/// Reads a configuration with everything it depends on.
///
/// # Errors
/// When a directory or file cannot be read, or there is nothing to read. What is wrong *in* the texts is found by
/// whoever loads the bundle.
pub(crate) fn gather(named: &Named, screen: &Screen) -> Result<Bundle, Failure> {
    let texts = texts(&named.directories)?;
    let inputs = coppice_schema::inputs(&texts);
    let mut bundle = Bundle {
        variables: variables::collect(&named.variables)?,
        texts,
        ..Bundle::default()
    };
    for path in inputs.files {
        // A file that is not there is told by the language, with the line that names it.
        if let Some(text) = beside(&bundle.texts, &path)? {
            bundle.files.insert(path, text);
        }
    }
    for path in inputs.sources {
        let digest = sources::digest(Path::new(&path), screen)?;
        bundle.sources.insert(path, digest);
    }
    Ok(bundle)
}

/// Every `*.hcl` file of the directories, by path.
pub(crate) fn texts(directories: &[PathBuf]) -> Result<Vec<SourceText>, Failure> {
    let mut paths = Vec::new();
    for directory in directories {
        let found = hcl_files(directory)?;
        if found.is_empty() {
            return Err(
                Failure::new(format!("there is no *.hcl file in {}", directory.display()))
                    .exit(Exit::Invalid)
                    .hint("name the directory of your configuration: coppice plan DIR"),
            );
        }
        paths.extend(found);
    }
    paths.sort();
    paths.dedup();
    paths
        .iter()
        .map(|path| {
            Ok(SourceText {
                path: shown(path),
                text: read_text(path)?,
            })
        })
        .collect()
}

/// The `*.hcl` files of a directory, or the file itself.
pub(crate) fn hcl_files(place: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(format!("cannot read {}", place.display()))
            .because(&e)
            .hint("name a directory with *.hcl files; without one, it is the current directory")
    };
    if std::fs::metadata(place).map_err(failed)?.is_file() {
        return Ok(vec![place.to_path_buf()]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(place).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let wanted = name.ends_with(".hcl") && !name.starts_with('.');
        if wanted && std::fs::metadata(&path).is_ok_and(|m| m.is_file()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A path as diagnostics show it: without a leading `./`.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy().into_owned();
    let mut rest = text.as_str();
    while let Some(shorter) = rest.strip_prefix("./") {
        rest = shorter;
    }
    rest.to_owned()
}

/// A text of the language.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new(format!("cannot read {}", path.display())).because(e)
    };
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    file.take(TEXT_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(&e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > TEXT_MAX {
        return Err(
            Failure::new(format!("{} is larger than 1 MiB", path.display()))
                .exit(Exit::Invalid)
                .hint("split it: all *.hcl files of a directory are one configuration"),
        );
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .split(|b| *b == b'\n')
            .count();
        Failure::new(format!("{} is not UTF-8 in line {line}", path.display()))
            .exit(Exit::Invalid)
            .hint(format!(
                "convert it: iconv -f latin1 -t utf-8 {}",
                path.display()
            ))
    })
}

/// A file that a text names; `None` when there is none. A link out of the text's directory is refused: what a
/// configuration takes in should be seen in that directory.
fn beside(texts: &[SourceText], path: &str) -> Result<Option<String>, Failure> {
    let Ok(real) = std::fs::canonicalize(path) else {
        return Ok(None);
    };
    let inside = texts.iter().any(|text| {
        let directory = Path::new(&text.path)
            .parent()
            .filter(|p| !p.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        Path::new(path).starts_with(directory.strip_prefix(".").unwrap_or(directory))
            && std::fs::canonicalize(directory).is_ok_and(|d| real.starts_with(d))
    });
    if !inside {
        return Err(Failure::new(format!(
            "{path} leads out of the directory of the configuration"
        ))
        .exit(Exit::Invalid)
        .cause(format!("it is a link to {}", real.display()))
        .hint("copy the file into the directory"));
    }
    read_text(Path::new(path)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> tempfile::TempDir {
        tempfile::Builder::new().prefix(name).tempdir().unwrap()
    }

    #[test]
    fn hcl_files_are_taken_in_order_and_nothing_else() {
        let dir = place("cli-texts");
        for name in ["b.hcl", "a.hcl", ".hidden.hcl", "notes.md"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("sub.hcl")).unwrap();
        let names: Vec<String> = hcl_files(dir.path())
            .unwrap()
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["a.hcl", "b.hcl"]);
    }

    #[test]
    fn a_directory_named_twice_is_read_once() {
        let dir = place("cli-twice");
        std::fs::write(dir.path().join("a.hcl"), "").unwrap();
        let both = [dir.path().to_path_buf(), dir.path().to_path_buf()];
        assert_eq!(texts(&both).unwrap().len(), 1);
    }

    #[test]
    fn an_empty_directory_is_told_as_an_invalid_configuration() {
        let failure = texts(&[place("cli-empty").path().to_path_buf()]).unwrap_err();
        assert_eq!(failure.exit, Exit::Invalid);
        assert!(failure.what.contains("no *.hcl file"));
    }

    #[test]
    fn text_that_is_not_utf8_names_its_line() {
        let dir = place("cli-utf8");
        let path = dir.path().join("a.hcl");
        std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        assert!(read_text(&path).unwrap_err().what.contains("line 2"));
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused() {
        let (dir, outside) = (place("cli-in"), place("cli-out"));
        std::fs::write(outside.path().join("key"), "secret").unwrap();
        std::fs::write(dir.path().join("own"), "fine").unwrap();
        std::os::unix::fs::symlink(outside.path().join("key"), dir.path().join("link")).unwrap();
        let name = |n: &str| dir.path().join(n).to_string_lossy().into_owned();
        let texts = [SourceText {
            path: name("a.hcl"),
            text: String::new(),
        }];
        assert_eq!(
            beside(&texts, &name("own")).unwrap().as_deref(),
            Some("fine")
        );
        assert_eq!(beside(&texts, &name("absent")).unwrap(), None);
        assert!(
            beside(&texts, &name("link"))
                .unwrap_err()
                .what
                .contains("leads out")
        );
    }
}
