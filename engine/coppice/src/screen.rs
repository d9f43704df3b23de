//! What a verb shows: text for people, or the API's own JSON for programs, never both in one stream.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;
use crate::settings::Settings;
use crate::terminal::{self, Colours};

/// Where a verb's answers go.
pub(crate) struct Screen {
    /// Colours of standard output.
    pub(crate) colours: Colours,
    /// Colours of standard error.
    pub(crate) error_colours: Colours,
    /// Standard output carries JSON.
    pub(crate) json: bool,
    /// Say only what was asked for.
    pub(crate) quiet: bool,
    /// Nobody is there to answer, or to type what advice says.
    pub(crate) automation: bool,
    /// JSON goes here too.
    into: Option<File>,
}

impl Screen {
    /// As the settings want it.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Failure> {
        use std::io::IsTerminal;
        let into = match &settings.json_into {
            None => None,
            Some(path) => Some(private(path).map_err(|e| {
                Failure::new(format!("cannot write {}", path.display()))
                    .because(&e)
                    .hint("name another file: --json-into F")
            })?),
        };
        Ok(Self {
            colours: Colours::choose(settings.color, std::io::stdout().is_terminal()),
            error_colours: Colours::choose(settings.color, std::io::stderr().is_terminal()),
            json: settings.json,
            quiet: settings.quiet,
            automation: automation(),
            into,
        })
    }

    /// One for a step of something larger, which tells by itself what came of it.
    pub(crate) fn beside() -> Self {
        Self {
            colours: Colours::Plain,
            error_colours: Colours::Plain,
            json: false,
            quiet: true,
            automation: true,
            into: None,
        }
    }

    /// Text that was asked for. Programs get [`Self::value`] instead.
    pub(crate) fn text(&self, text: &str) {
        if !self.json {
            self.raw(text);
        }
    }

    /// Text that goes to standard output whatever was asked for.
    pub(crate) fn raw(&self, text: &str) {
        // A reader that has enough, such as `head`, is no error.
        let _ = terminal::stdout().write_all(text.as_bytes());
    }

    /// What a person likes to know beside the answer; standard error.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(terminal::stderr(), "{text}");
        }
    }

    /// What a person can do next. Left out where nobody would type it.
    pub(crate) fn advise(&self, text: &str) {
        if !self.automation {
            self.note(&format!("{} {text}", self.error_colours.good("next:")));
        }
    }

    /// The answer as one JSON value.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.write(value, true)
    }

    /// The answer to what changes something and gives nothing back: what was done, about what.
    pub(crate) fn done(&self, about: impl std::fmt::Display, done: &str) -> Result<(), Failure> {
        self.value(&serde_json::json!({ "about": about.to_string(), "done": done }))
    }

    /// One of many answers, as one line.
    pub(crate) fn line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.write(value, false)
    }

    fn write(&self, value: &impl Serialize, pretty: bool) -> Result<(), Failure> {
        if !self.json && self.into.is_none() {
            return Ok(());
        }
        let text = if pretty {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let text = text.map_err(|e| Failure::new("cannot write the answer as JSON").because(&e))?;
        if self.json {
            self.raw(&format!("{text}\n"));
        }
        if let Some(mut file) = self.into.as_ref() {
            writeln!(file, "{text}")
                .map_err(|e| Failure::new("cannot write the file of --json-into").because(&e))?;
        }
        Ok(())
    }

    /// Tells what went wrong, in the form that was asked for.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let _ = writeln!(terminal::stderr(), "{}", failure.json());
        } else {
            failure.tell(self.error_colours, !self.automation);
        }
        if let Some(mut file) = self.into.as_ref() {
            let _ = writeln!(file, "{}", failure.json());
        }
    }

    /// Asks a person for consent; only the whole word counts.
    pub(crate) fn confirm(&self, question: &str) -> Result<bool, Failure> {
        let _ = write!(
            terminal::stderr(),
            "{question} Type {} to go on: ",
            self.error_colours.bold("yes")
        );
        let _ = terminal::stderr().flush();
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|e| Failure::new("cannot read the answer").because(&e))?;
        Ok(answer.trim() == "yes")
    }

    /// A person is there to be asked.
    pub(crate) fn may_ask(&self) -> bool {
        !self.automation && !self.json && terminal::is_interactive()
    }
}

/// The file of `--json-into`: only its owner reads it, also when it was there before, since what is written may be a
/// token.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // A pipe or a terminal keeps nothing.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// COPPICE_IN_AUTOMATION is set to anything.
pub(crate) fn automation() -> bool {
    std::env::var_os("COPPICE_IN_AUTOMATION").is_some_and(|v| !v.is_empty())
}
