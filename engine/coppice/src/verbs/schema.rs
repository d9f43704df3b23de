//! `coppice schema`: the language, for editors and other programs.

use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;

/// Print the language as a JSON Schema
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice schema --json > coppice.schema.json
  coppice schema --json | jq '.properties | keys'")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, screen: &Screen) -> Ended {
    let schema = coppice_schema::json_schema();
    if screen.json {
        screen.value(&schema)?;
    } else {
        let text = serde_json::to_string_pretty(&schema)
            .map_err(|e| Failure::new("cannot write the language as JSON").because(&e))?;
        screen.raw(&format!("{text}\n"));
    }
    Ok(Exit::Done)
}
