//! What every verb shares: which grid, as whom, and how to show things.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::failure::Failure;
use crate::terminal::ColourChoice;
use crate::times;

/// Flags of every verb.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "For every command")]
pub(crate) struct Settings {
    /// The grid's API
    #[arg(
        long,
        global = true,
        env = "COPPICE_SERVER",
        hide_env_values = true,
        value_name = "URL",
        default_value = "https://127.0.0.1:7443"
    )]
    pub(crate) server: String,

    /// A file with your token
    #[arg(
        long,
        global = true,
        env = "COPPICE_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// The grid's own certificate authority, ca.pem
    #[arg(
        long,
        global = true,
        env = "COPPICE_CA_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) ca_file: Option<PathBuf>,

    /// How long to wait for an answer: 30s, 2m
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Write JSON to standard output instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Write JSON to a file, beside what is shown
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json_into: Option<PathBuf>,

    /// When to use colours; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) color: ColourChoice,

    /// Say only what was asked for, and what went wrong
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Settings {
    /// The token, from its file.
    pub(crate) fn token(&self) -> Result<String, Failure> {
        let advice = "--token-file DIR/admin.token, or export COPPICE_TOKEN_FILE=DIR/admin.token; DIR is what `coppice init` was given";
        let path = self
            .token_file
            .as_deref()
            .filter(|p| !p.as_os_str().is_empty())
            .ok_or_else(|| {
                Failure::new("no token is named, so the grid would not answer").hint(advice)
            })?;
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::new(format!("cannot read the token in {}", path.display()))
                .because(&e)
                .hint(advice)
        })?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::new(format!("{} holds no token", path.display()))
                .cause("a token is one line of plain letters")
                .hint(advice));
        }
        Ok(token.to_owned())
    }

    /// The authority's file.
    pub(crate) fn ca_file(&self) -> Result<&Path, Failure> {
        self.ca_file.as_deref().filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| {
            Failure::new("no certificate of the grid is named, so it could not be told from an impostor")
                .hint("--ca-file DIR/ca.pem, or export COPPICE_CA_FILE=DIR/ca.pem; DIR is what `coppice init` was given")
        })
    }
}

/// Reads a length of time.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    times::parse_length(text).map(|span| Duration::from_millis(span.0))
}
