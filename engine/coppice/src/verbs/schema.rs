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
    let schema: serde_json::Value = serde_json::from_str(&coppice_schema::schema_json())
        .map_err(|e| Failure::new("cannot write the language as JSON").because(&e))?;
    screen.value(&schema)?;
    // It has no other form, so that --json is a matter of taste.
    screen.text(&format!("{schema:#}\n"));
    Ok(Exit::Done)
}
