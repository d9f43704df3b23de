//! `coppice fmt`: one layout for all configurations.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use coppice_schema::{Diagnostic, SourceText};
use similar::TextDiff;

use crate::configuration;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::terminal::{self, Colours};

/// Lay configuration files out in the one canonical way
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Only blanks and line ends change, never what is said.

Examples:
  coppice fmt                    all *.hcl files of the current directory
  coppice fmt --check examples/  exit code 3 and the names of files that would change; writes nothing
  coppice fmt --diff             shows what would change; writes nothing
  coppice fmt - < grid.hcl       standard input to standard output"
)]
pub(crate) struct Args {
    /// Directories or files; `-` is standard input
    #[arg(default_value = ".")]
    places: Vec<PathBuf>,
    /// Write nothing; name the files that would change, with exit code 3 if there are any
    #[arg(long)]
    check: bool,
    /// Write nothing; show what would change
    #[arg(long)]
    diff: bool,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Ended {
    if args.places.iter().any(|p| p == Path::new("-")) {
        return stdin(args, screen);
    }
    let mut changed = Vec::new();
    for place in &args.places {
        for path in configuration::hcl_files(place)? {
            let text = configuration::read_text(&path)?;
            let laid_out = lay_out(&path.display().to_string(), &text, screen)?;
            if laid_out == text {
                continue;
            }
            if args.diff {
                screen.text(&diff(
                    &path.display().to_string(),
                    &text,
                    &laid_out,
                    screen.colours,
                ));
            } else {
                screen.text(&format!("{}\n", path.display()));
            }
            if !args.check && !args.diff {
                replace(&path, &laid_out)?;
            }
            changed.push(path.display().to_string());
        }
    }
    screen
        .value(&serde_json::json!({ "changed": changed, "written": !args.check && !args.diff }))?;
    if args.check && !changed.is_empty() {
        screen.advise("coppice fmt");
        return Ok(Exit::Invalid);
    }
    Ok(Exit::Done)
}

fn stdin(args: &Args, screen: &Screen) -> Ended {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Failure::new("cannot read standard input").because(&e))?;
    let laid_out = lay_out("standard input", &text, screen)?;
    if args.diff {
        screen.raw(&diff("standard input", &text, &laid_out, screen.colours));
    } else if !args.check {
        screen.raw(&laid_out);
    }
    Ok(if args.check && laid_out != text {
        Exit::Invalid
    } else {
        Exit::Done
    })
}

fn lay_out(path: &str, text: &str, screen: &Screen) -> Result<String, Failure> {
    coppice_schema::fmt(text).map_err(|diagnostics| {
        let texts = [SourceText {
            path: path.to_owned(),
            text: text.to_owned(),
        }];
        let shown: Vec<Diagnostic> = diagnostics
            .into_iter()
            .map(|d| Diagnostic {
                path: path.to_owned(),
                ..d
            })
            .collect();
        Failure::new(format!("{path} is left as it is, since it does not parse"))
            .exit(Exit::Invalid)
            .showing(coppice_schema::render(
                &shown,
                &texts,
                screen.error_colours.any(),
                terminal::width(),
            ))
            .hint("correct what is marked above")
    })
}

/// Writes beside the file and renames: a crash leaves the old text or the new one, never half of it.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let new = real.with_extension(format!("hcl.{}.new", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create_new(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(std::fs::metadata(&real)?.permissions())?;
        file.sync_all()?;
        std::fs::rename(&new, &real)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&new);
        Failure::new(format!("cannot write {}", path.display())).because(&e)
    })
}

fn diff(path: &str, before: &str, after: &str, colours: Colours) -> String {
    let diff = TextDiff::from_lines(before, after);
    let text = diff
        .unified_diff()
        .context_radius(2)
        .header(path, path)
        .to_string();
    text.lines()
        .map(|line| {
            let painted = match line.as_bytes().first() {
                Some(b'+') => colours.good(line),
                Some(b'-') => colours.bad(line),
                Some(b'@') => colours.faint(line),
                _ => line.to_owned(),
            };
            painted + "\n"
        })
        .collect()
}
