//! `coppice completion`: what makes a shell complete commands.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;

/// Print what makes your shell complete these commands
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice completion bash > /etc/bash_completion.d/coppice
  coppice completion zsh > ~/.zfunc/_coppice
  coppice completion fish > ~/.config/fish/completions/coppice.fish")]
pub(crate) struct Args {
    /// Your shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Ended {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coppice", &mut script);
    screen.raw(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}
