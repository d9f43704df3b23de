//! What is where in a server's data directory.

use std::path::{Path, PathBuf};

/// A server's data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layout(PathBuf);

impl Layout {
    /// The layout below `data`.
    pub(crate) fn new(data: &Path) -> Self {
        Self(data.to_path_buf())
    }

    /// The directory itself.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.clone()
    }

    /// The server's own file.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("coppice.toml")
    }

    /// The grid's authority, for clients to copy.
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The first token.
    pub(crate) fn token(&self) -> PathBuf {
        self.0.join("admin.token")
    }

    /// Keys and certificates.
    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The log and the snapshots of the state.
    pub(crate) fn grid(&self) -> PathBuf {
        self.0.join("grid")
    }

    /// Images and overlays.
    pub(crate) fn disks(&self) -> PathBuf {
        self.0.join("disks")
    }

    /// Image files on their way in.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// Small disks from which guests learn their names.
    pub(crate) fn seeds(&self) -> PathBuf {
        self.0.join("seeds")
    }

    /// The newest order taken on for each slot.
    pub(crate) fn stamps(&self) -> PathBuf {
        self.0.join("stamps")
    }

    /// Where the watchdog answers. Its process id and its log are beside it.
    pub(crate) fn watchdog(&self) -> PathBuf {
        self.0.join("watchdog.sock")
    }

    /// Number of the last start.
    pub(crate) fn boot(&self) -> PathBuf {
        self.0.join("boot")
    }

    /// The embedded hypervisor's own directory.
    pub(crate) fn hypervisor(&self) -> PathBuf {
        self.0.join("h")
    }

    /// To which grid this server is to belong, from the first step of `coppice join` to its last.
    pub(crate) fn joining(&self) -> PathBuf {
        self.0.join("join.begun")
    }

    /// Where `coppice server rejoin` puts what this server was in a former life of the grid, as long as it is under way.
    pub(crate) fn leaving(&self) -> PathBuf {
        self.0.join("rejoin.begun")
    }

    /// Is there from the first step of `coppice init` or `coppice join` to its last: a directory with it may be begun
    /// anew.
    pub(crate) fn begun(&self) -> PathBuf {
        self.0.join("init.begun")
    }
}
