//! How the command ends. These numbers are a promise to scripts and never change their meaning.

/// The exit codes of every verb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed.
    Error = 1,
    /// There are changes, or drift; only with `--detailed-exitcode`.
    Changes = 2,
    /// The configuration is not valid.
    Invalid = 3,
    /// Something that the plan read has changed since.
    Stale = 4,
    /// A gate, a missing approval or a window stands in the way.
    Blocked = 5,
    /// The run settled, and not everything could be done.
    Partly = 6,
    /// A server was not seen, so the answer is not whole.
    Incomplete = 7,
    /// The command line was not understood (`EX_USAGE` of sysexits.h).
    Usage = 64,
    /// Ctrl-C. What runs in the grid goes on.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
