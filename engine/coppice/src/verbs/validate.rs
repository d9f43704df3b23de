//! `coppice validate`: everything that is wrong with a configuration, at once and offline.

use coppice_schema::{Diagnostic, Severity, SourceText};

use crate::configuration::{self, Named};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::terminal;

/// Check a configuration, without any grid
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "All *.hcl files of the directories are one configuration. Everything that is wrong is told in one \
run, with file, line and a suggestion. Exit code 3 says that there are errors.

Examples:
  coppice validate                       the current directory
  coppice validate common/ site/         two directories as one configuration
  coppice validate --var desktops=12
  coppice validate --json | jq '.diagnostics[].message'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    named: Named,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Ended {
    let bundle = configuration::gather(&args.named, screen)?;
    let loaded = coppice_schema::load(&bundle);
    let (valid, diagnostics) = (loaded.desired.is_some(), loaded.diagnostics);
    screen.value(&serde_json::json!({ "valid": valid, "diagnostics": diagnostics }))?;
    if !valid {
        let failure = invalid(&bundle.texts, &diagnostics, screen);
        // As JSON, the answer was given already.
        if screen.json {
            return Ok(Exit::Invalid);
        }
        return Err(failure);
    }
    tell(&bundle.texts, &diagnostics, screen);
    let files = match bundle.texts.len() {
        1 => "one file".to_owned(),
        n => format!("{n} files"),
    };
    let noted = match diagnostics.len() {
        0 => String::new(),
        1 => ", and one thing is worth a look".to_owned(),
        n => format!(", and {n} things are worth a look"),
    };
    screen.text(&format!(
        "{} {files}{noted}\n",
        screen.colours.good("valid:")
    ));
    Ok(Exit::Done)
}

/// What is worth knowing, on standard error.
pub(crate) fn tell(texts: &[SourceText], diagnostics: &[Diagnostic], screen: &Screen) {
    if !diagnostics.is_empty() {
        let colour = screen.error_colours.any();
        screen
            .note(coppice_schema::render(diagnostics, texts, colour, terminal::width()).trim_end());
    }
}

/// A configuration with errors, as a failure.
pub(crate) fn invalid(
    texts: &[SourceText],
    diagnostics: &[Diagnostic],
    screen: &Screen,
) -> Failure {
    let colour = screen.error_colours.any();
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    let what = match errors {
        1 => "the configuration has one error".to_owned(),
        n => format!("the configuration has {n} errors"),
    };
    Failure::new(what)
        .exit(Exit::Invalid)
        .showing(coppice_schema::render(diagnostics, texts, colour, terminal::width()))
        .hint("correct what is marked above; `coppice schema --json` is the whole language, for editors")
}
