//! The real binary, as a person or a script uses it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod connection;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod exits;
mod grid;
mod init;
#[cfg(test)]
mod join;
#[cfg(test)]
mod lives;
mod offline;
mod output;
mod place;
mod serve;
#[cfg(test)]
#[path = "../../../../tests/skip.rs"]
mod skip;
mod usage;
