//! `coppice.toml`: what only this server knows. Everything that a grid agrees on is in HCL instead.

mod read;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use coppice_schema::desired::NetworkTarget;
use coppice_schema::ids::{NetworkName, ServerName};
use tracing::level_filters::LevelFilter;

use crate::exit::Exit;
use crate::failure::Failure;

pub(crate) use template::{Chosen, text};

/// A server's own file, read and valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    /// Where the grid's log, keys, images and overlays are on this server.
    pub(crate) data: PathBuf,
    /// The server's name in the grid.
    pub(crate) name: ServerName,
    /// Where the API answers.
    pub(crate) listen: SocketAddr,
    /// Where the other servers reach it, where that is elsewhere: `HOST:PORT`.
    pub(crate) advertise: Option<String>,
    /// Host names and addresses under which clients reach it, beside those that it knows itself.
    pub(crate) names: BTreeSet<String>,
    /// It only votes: it has no hypervisor and no desktops.
    pub(crate) witness: bool,
    /// Which hypervisor: a libvirt URI, or `sim://`. Empty for a witness.
    pub(crate) hypervisor: String,
    /// Whether desktops run on the processor or emulated.
    pub(crate) accelerate: Accelerate,
    /// Labels that pools may ask for.
    pub(crate) labels: BTreeSet<String>,
    /// Networks that are something else here than the configuration says.
    pub(crate) networks: BTreeMap<NetworkName, NetworkTarget>,
    /// What the daemon writes to its log.
    pub(crate) log: LevelFilter,
}

impl Config {
    /// Where other servers reach this one, which listens on `bound`.
    pub(crate) fn reached_at(&self, bound: SocketAddr) -> String {
        let advertised = self.advertise.clone();
        advertised.unwrap_or_else(|| crate::names::reached_at(bound))
    }
}

/// Whether desktops run on the processor or emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Accelerate {
    /// By what the processor can.
    #[default]
    Auto,
    /// On the processor, or not at all.
    Kvm,
    /// Emulated, slower, everywhere.
    Emulated,
}

/// Something wrong in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    /// Counted from 1.
    pub(crate) line: usize,
    /// Counted from 1, in characters.
    pub(crate) column: usize,
    /// The line as it stands in the file.
    pub(crate) source: String,
    /// What is wrong and what was expected.
    pub(crate) message: String,
    /// What may have been meant.
    pub(crate) suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "{number} | {}", self.source.trim_end())?;
        let pad = " ".repeat(self.column.saturating_sub(1));
        write!(f, "\n{margin} | {pad}^ {}", self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// Reads and checks a server's file.
///
/// # Errors
/// When it cannot be read, or with everything that is wrong in it.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let failure =
            Failure::new(format!("cannot read the server's file {}", path.display())).because(&e);
        if e.kind() == std::io::ErrorKind::NotFound {
            failure.hint(
                "coppice init --data DIR makes one; then: coppice serve --config DIR/coppice.toml",
            )
        } else {
            failure.hint("run as the user that ran `coppice init`, or as root")
        }
    })?;
    let folder = std::path::absolute(path)
        .ok()
        .and_then(|p| p.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| PathBuf::from("."));
    read::read(&text, &folder).map_err(|problems| refuse(path, &problems))
}

fn refuse(path: &Path, problems: &[Problem]) -> Failure {
    let shown: Vec<String> = problems
        .iter()
        .map(|p| format!("{}:{}:{}\n{p}\n", path.display(), p.line, p.column))
        .collect();
    let count = match problems.len() {
        1 => "one thing is".to_owned(),
        n => format!("{n} things are"),
    };
    Failure::new(format!(
        "{}: {count} wrong in the server's file",
        path.display()
    ))
    .exit(Exit::Invalid)
    .showing(shown.join("\n"))
    .hint("correct the lines above; every key is explained in the file that `coppice init` writes")
}
