//! `coppice show`: a saved plan, offline and even when it is stale.

use std::path::{Path, PathBuf};

use coppice_portal::api::{SAVED_FORMAT, SavedPlan};

use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::verbs::plan::{self, Form};

/// Show a saved plan, without any grid and even when it is stale
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice show monday.plan
  coppice show monday.plan --detail full
  coppice show monday.plan --format markdown")]
pub(crate) struct Args {
    /// What `coppice plan --out FILE` wrote
    file: PathBuf,
    #[command(flatten)]
    form: Form,
}

pub(crate) fn run(args: &Args, screen: &Screen) -> Ended {
    let saved = read(&args.file)?;
    plan::show(&saved.document, args.form, screen)?;
    screen.note(&format!(
        "made by grid {} at revision {}; whether it still fits is told when it is applied",
        saved.grid, saved.base.revision
    ));
    Ok(Exit::Done)
}

/// Reads a saved plan. Whether it was changed since, only the grid can say: it knows its own seal.
pub(crate) fn read(path: &Path) -> Result<SavedPlan, Failure> {
    let wrong = || Failure::new(format!("{} is not a saved plan", path.display()));
    let advice = "coppice plan --out FILE writes one";
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::new(format!("cannot read the plan {}", path.display()))
            .because(&e)
            .hint(advice)
    })?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| wrong().because(&e).hint(advice))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(SAVED_FORMAT) => {}
        Some(format) => {
            return Err(wrong()
                .cause(format!(
                    "it has format {format}, this version reads format {SAVED_FORMAT}"
                ))
                .hint("use the version of coppice that made it, or make the plan anew"));
        }
        None => return Err(wrong().cause("it names no format").hint(advice)),
    }
    serde_json::from_value(value).map_err(|e| wrong().because(&e).hint(advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_saved_plan_is_told_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).unwrap_err().causes.join(" ")
        };
        assert!(told("{}").contains("names no format"));
        assert!(told("{\"format\": 99}").contains("format 99"));
        assert!(told("{\"format\": 1}").contains("missing field"));
        assert!(!told("pool \"x\" {}").is_empty());
    }
}
