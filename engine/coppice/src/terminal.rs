//! Where text goes: colours only where a terminal shows them, and a closed pipe is no error.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};

/// When to use colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub(crate) enum ColourChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// Whether a stream gets colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Colours {
    /// It does.
    Ansi,
    /// It does not.
    Plain,
}

impl Colours {
    /// For a stream that is, or is not, a terminal.
    pub(crate) fn choose(choice: ColourChoice, terminal: bool) -> Self {
        let wanted = match choice {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto => {
                let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
                terminal && !dumb && !set("NO_COLOR")
            }
        };
        if wanted { Self::Ansi } else { Self::Plain }
    }

    /// Whether there are any.
    pub(crate) fn any(self) -> bool {
        self == Self::Ansi
    }

    fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Ansi => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_owned(),
        }
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// Something needs a look.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// All is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// Less important.
    pub(crate) fn faint(self, text: &str) -> String {
        self.paint(Style::new().dimmed(), text)
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }
}

/// Standard output.
pub(crate) fn stdout() -> impl Write {
    io::stdout().lock()
}

/// Standard error.
pub(crate) fn stderr() -> impl Write {
    io::stderr().lock()
}

/// Whether a person sits at both ends: questions can be asked and will be read.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// How many columns the terminal has; 100 where there is none.
pub(crate) fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(100)
}

/// A line typed with the terminal's echo off; it comes back on however reading ends.
pub(crate) fn hidden_line() -> std::io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    struct Restore(rustix::termios::Termios);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        }
    }
    let before = tcgetattr(std::io::stdin())?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let _restore = Restore(before);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &hidden)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line)
}
