//! An error as a person at a terminal, or a script, gets it: what failed, why, and what to do.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;

use serde_json::json;

use crate::exit::Exit;
use crate::terminal::{self, Colours};

/// Why a verb did not do what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// How the command ends.
    pub(crate) exit: Exit,
    /// Operation and object.
    pub(crate) what: String,
    /// Why, and why that, and so on.
    pub(crate) causes: Vec<String>,
    /// What the person can do, best first.
    pub(crate) tries: Vec<String>,
    /// Text that was made for people already, such as diagnostics with their source lines. Shown first.
    pub(crate) shown: Option<Box<str>>,
    /// The same as data.
    pub(crate) data: Option<Box<serde_json::Value>>,
    /// The same may go well in a moment: a server did not answer.
    pub(crate) passes: bool,
}

/// What every verb gives back.
pub(crate) type Ended = Result<Exit, Failure>;

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            exit: Exit::Error,
            what: what.into(),
            causes: Vec::new(),
            tries: Vec::new(),
            shown: None,
            data: None,
            passes: false,
        }
    }

    /// Something is wrong with how the command was called.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(what).exit(Exit::Usage)
    }

    /// With another exit code.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Because of `error`, and what that was because of.
    pub(crate) fn because(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.push_cause(error.to_string());
            next = error.source();
        }
        self
    }

    /// Because of something that is known in words only.
    pub(crate) fn cause(mut self, cause: impl Display) -> Self {
        self.push_cause(cause.to_string());
        self
    }

    /// As the cause of a larger operation that failed with it.
    pub(crate) fn during(mut self, what: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.what, what.into());
        self.causes.insert(0, cause);
        self
    }

    /// Many libraries repeat their source in their own text: saying it twice helps nobody.
    fn push_cause(&mut self, cause: String) {
        let said = |earlier: &String| earlier.contains(&cause);
        if !cause.is_empty() && !self.causes.iter().any(said) && !self.what.contains(&cause) {
            self.causes.push(cause);
        }
    }

    /// With something to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.tries.push(hint.into());
        self
    }

    /// With text made for people already.
    pub(crate) fn showing(mut self, text: impl Into<Box<str>>) -> Self {
        self.shown = Some(text.into());
        self
    }

    /// With the same as data.
    pub(crate) fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = Some(Box::new(data));
        self
    }

    /// Tells the person, on standard error. Where nobody is there to type, advice is left out.
    pub(crate) fn tell(&self, colours: Colours, advice: bool) {
        let mut out = terminal::stderr();
        let _ = out.write_all(self.text(colours, advice).as_bytes());
    }

    fn text(&self, colours: Colours, advice: bool) -> String {
        let mut text = String::new();
        if let Some(shown) = &self.shown {
            text.push_str(shown);
            if !shown.ends_with('\n') {
                text.push('\n');
            }
        }
        text.push_str(&format!("{} {}\n", colours.bad("error:"), self.what));
        for cause in &self.causes {
            text.push_str(&format!(
                "  {} {}\n",
                colours.faint("cause:"),
                indent(cause)
            ));
        }
        if advice {
            for hint in &self.tries {
                text.push_str(&format!("  {} {}\n", colours.good("try:"), indent(hint)));
            }
        }
        text
    }

    /// The same as one JSON object.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut error = json!({
            "error": self.what,
            "causes": self.causes,
            "try": self.tries,
            "exit": self.exit as u8,
        });
        if let (Some(data), Some(map)) = (&self.data, error.as_object_mut()) {
            map.insert("details".to_owned(), data.as_ref().clone());
        }
        error
    }
}

/// Later lines of a text stand under its first.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n         ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_what_to_do() {
        let failure = Failure::new("cannot open grid.hcl")
            .cause("permission denied")
            .hint("sudo chmod a+r grid.hcl");
        assert_eq!(
            failure.text(Colours::Plain, true),
            "error: cannot open grid.hcl\n  cause: permission denied\n  try: sudo chmod a+r grid.hcl\n"
        );
    }

    #[test]
    fn automation_gets_no_advice() {
        let failure = Failure::new("x").hint("type this");
        assert!(!failure.text(Colours::Plain, false).contains("type this"));
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let failure = Failure::new("x").cause("a: b").cause("b").cause("c");
        assert_eq!(failure.causes, ["a: b", "c"]);
    }
}
