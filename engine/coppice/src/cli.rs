//! What can be typed, and what becomes of it.

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::terminal::Colours;
use crate::verbs;

/// Virtual desktops from files: describe pools in HCL, read the plan, apply it, and see what others changed.
#[derive(Parser, Debug)]
#[command(name = "coppice", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,

    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Begin:
  coppice demo                                see it work first: no root, no hypervisor, nothing left behind
  coppice init --data /var/lib/coppice        make a grid of this server
  coppice serve --config /var/lib/coppice/coppice.toml
  coppice token create --role server          then, on another machine: coppice join ADDRESS TOKEN
  coppice image import tiny tiny.qcow2 --version 1
  coppice plan examples/lab                   what would happen
  coppice apply examples/lab                  make it so

Exit codes:
  0 done   1 error   2 changes or drift (only with --detailed-exitcode)   3 configuration invalid
  4 stale plan   5 blocked by gate, approval or window   6 applied partly   7 observation incomplete
  64 usage   130 interrupted (what runs in the grid goes on)";

#[derive(Subcommand, Debug)]
enum Verb {
    /// See a grid of three servers and 200 desktops, and lose one: simulated, without root, half a minute
    Demo(verbs::demo::Args),
    /// Make a grid of this server
    Init(verbs::init::Args),
    /// Make this machine a server of a grid that is there
    Join(verbs::join::Args),
    /// Run this server's part of the grid
    Serve(verbs::serve::Args),
    /// Lay configuration files out in the one canonical way
    Fmt(verbs::fmt::Args),
    /// Check a configuration, without any grid
    Validate(verbs::validate::Args),
    /// Print the language as a JSON Schema
    Schema(verbs::schema::Args),
    /// Show what applying a configuration would do
    Plan(verbs::plan::Args),
    /// Show a saved plan
    Show(verbs::show::Args),
    /// Make the grid what a configuration asks for
    Apply(verbs::apply::Args),
    /// Show what other hands changed
    Drift(verbs::drift::Args),
    /// Show how the grid stands
    Status(verbs::status::Args),
    /// Say why something is as it is, and why nothing is happening
    Explain(verbs::explain::Args),
    /// Show what was applied, by whom, and how it went
    History(verbs::history::Args),
    /// Golden images
    #[command(subcommand)]
    Image(verbs::image::Verb),
    /// Servers of the grid
    #[command(subcommand)]
    Server(verbs::server::Verb),
    /// Desktops
    #[command(subcommand)]
    Desktop(verbs::desktop::Verb),
    /// Secrets: their values go in and never come out
    #[command(subcommand)]
    Secret(verbs::secret::Verb),
    /// Who may use the grid's API
    #[command(subcommand)]
    Token(verbs::token::Verb),
    /// The grid's certificate authority
    #[command(subcommand)]
    Ca(verbs::ca::Verb),
    /// Keep everything that the grid remembers in one file
    Backup(verbs::backup::Args),
    /// Make a grid of this server again, from a backup
    Restore(verbs::restore::Args),
    /// Leave something alone until told otherwise
    Pause(verbs::pause::PauseArgs),
    /// Act on something again
    Resume(verbs::pause::ResumeArgs),
    /// Check everything between you and the grid, with advice
    Doctor(verbs::doctor::Args),
    /// Print what makes your shell complete these commands
    Completion(verbs::completion::Args),
    /// Print the manual page
    Man(verbs::man::Args),
    /// End desktops of which there are copies when the grid may have given this server up. `coppice serve` begins it
    #[command(hide = true)]
    Watchdog(verbs::watchdog::Args),
}

/// Reads the command line, does what it says, and tells what went wrong.
pub(crate) fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that closed the pipe of --help is no error.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
        }
    };
    let screen = match Screen::new(&cli.settings) {
        Ok(screen) => screen,
        Err(failure) => {
            failure.tell(Colours::Plain, true);
            return failure.exit;
        }
    };
    match start(cli.verb, &cli.settings, &screen) {
        Ok(exit) => exit,
        Err(failure) => {
            screen.failure(&failure);
            failure.exit
        }
    }
}

fn start(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    // It shares as little as it can with everything else.
    if let Verb::Watchdog(args) = &verb {
        return verbs::watchdog::run(args);
    }
    // A server uses all processors; a client waits for one answer at a time.
    let mut builder = if matches!(verb, Verb::Serve(_)) {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Failure::new("cannot start").because(&e))?;
    let ended = runtime.block_on(dispatch(verb, settings, screen));
    // A thread may sit in a read that never ends, such as one of standard input.
    runtime.shutdown_background();
    ended
}

async fn dispatch(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    match verb {
        Verb::Demo(args) => verbs::demo::run(args, settings, screen).await,
        Verb::Init(args) => verbs::init::run(args, screen).await,
        Verb::Join(args) => verbs::join::run(args, settings, screen).await,
        Verb::Serve(args) => verbs::serve::run(args, screen).await,
        Verb::Fmt(args) => verbs::fmt::run(&args, screen),
        Verb::Validate(args) => verbs::validate::run(&args, screen),
        Verb::Schema(args) => verbs::schema::run(&args, screen),
        Verb::Plan(args) => verbs::plan::run(args, settings, screen).await,
        Verb::Show(args) => verbs::show::run(&args, screen),
        Verb::Apply(args) => verbs::apply::run(args, settings, screen).await,
        Verb::Drift(args) => verbs::drift::run(args, settings, screen).await,
        Verb::Status(args) => verbs::status::run(args, settings, screen).await,
        Verb::Explain(args) => verbs::explain::run(args, settings, screen).await,
        Verb::History(args) => verbs::history::run(args, settings, screen).await,
        Verb::Image(verb) => verbs::image::run(verb, settings, screen).await,
        Verb::Server(verb) => verbs::server::run(verb, settings, screen).await,
        Verb::Desktop(verb) => verbs::desktop::run(verb, settings, screen).await,
        Verb::Secret(verb) => verbs::secret::run(verb, settings, screen).await,
        Verb::Token(verb) => verbs::token::run(verb, settings, screen).await,
        Verb::Ca(verb) => verbs::ca::run(verb, settings, screen).await,
        Verb::Backup(args) => verbs::backup::run(args, settings, screen).await,
        Verb::Restore(args) => verbs::restore::run(args, screen).await,
        Verb::Pause(args) => verbs::pause::pause(args, settings, screen).await,
        Verb::Resume(args) => verbs::pause::resume(args, settings, screen).await,
        Verb::Doctor(args) => verbs::doctor::run(args, settings, screen).await,
        Verb::Completion(args) => verbs::completion::run(&args, screen),
        Verb::Man(args) => verbs::man::run(&args, screen),
        Verb::Watchdog(args) => verbs::watchdog::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_teaches_by_example() {
        fn look(command: &clap::Command, path: &str) {
            for verb in command.get_subcommands().filter(|c| c.get_name() != "help") {
                let path = format!("{path} {}", verb.get_name());
                if verb.has_subcommands() {
                    look(verb, &path);
                    continue;
                }
                let examples = verb
                    .get_after_long_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let mentions = examples.lines().filter(|line| line.contains(&path)).count();
                assert!(mentions >= 1, "{path} has no example");
            }
        }
        look(&Cli::command(), "coppice");
    }
}
