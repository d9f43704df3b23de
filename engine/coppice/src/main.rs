//! The one binary: the command line of a grid, and the daemon of a server.
//!
//! One file per verb in `verbs/`. Advice and exit codes exist only here: rooms below say what happened, this one
//! says what a person can do about it.

mod begin;
mod cli;
mod client;
mod config;
mod configuration;
mod exit;
mod failure;
mod follow;
mod layout;
mod names;
mod passphrase;
mod present;
mod progress;
mod screen;
mod serve;
mod settings;
mod sources;
mod table;
mod terminal;
mod times;
mod upload;
mod variables;
mod verbs;
mod watch;

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run().into()
}
