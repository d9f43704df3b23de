//! The real binary, as a person or a script uses it.

mod apply;
mod connection;
mod grid;
mod init;
mod offline;
mod place;
mod serve;
mod usage;
