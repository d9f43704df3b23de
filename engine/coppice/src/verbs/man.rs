//! `coppice man`: the manual page.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;

/// Print the manual page, of everything or of one verb
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice man | man -l -
  coppice man apply | man -l -
  coppice man > /usr/local/share/man/man1/coppice.1")]
pub(crate) struct Args {
    /// The verb, such as apply or image import
    verb: Vec<String>,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Ended {
    let mut command = Cli::command();
    command.build();
    let mut name = "coppice".to_owned();
    for word in &args.verb {
        let next = command.find_subcommand(word).cloned();
        command = next.ok_or_else(|| {
            Failure::usage(format!("there is no verb `{name} {word}`"))
                .hint(format!("{name} --help lists them"))
        })?;
        name = format!("{name} {word}");
    }
    let page = command.name(name.replace(' ', "-"));
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|e| Failure::new("cannot write the manual page").because(&e))?;
    screen.raw(&String::from_utf8_lossy(&text));
    Ok(Exit::Done)
}
