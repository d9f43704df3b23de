//! A passphrase, from a file or from a person.

use std::io::Write;
use std::path::Path;

use coppice_grid::keys::PASSPHRASE_MIN;

use crate::failure::Failure;
use crate::screen::Screen;
use crate::terminal;

/// A new passphrase: asked for twice, so that a slip is noticed now and not when it is needed.
///
/// # Errors
/// When it cannot be read, is too short, or the two differ.
pub(crate) fn new(file: Option<&Path>, screen: &Screen) -> Result<String, Failure> {
    let passphrase = known(file, screen)?;
    if passphrase.chars().count() < PASSPHRASE_MIN {
        return Err(Failure::new(format!(
            "the passphrase has fewer than {PASSPHRASE_MIN} characters"
        ))
        .hint("several words that do not belong together are long, and can be remembered"));
    }
    if file.is_none() && ask("the same again: ")? != passphrase {
        return Err(Failure::new("the two passphrases differ"));
    }
    Ok(passphrase)
}

/// A passphrase that was chosen before.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn known(file: Option<&Path>, screen: &Screen) -> Result<String, Failure> {
    let Some(path) = file else {
        if !screen.may_ask() {
            return Err(
                Failure::usage("a passphrase is needed, and nobody is there to type it")
                    .hint("--passphrase-file FILE"),
            );
        }
        return ask("the passphrase of the backup's keys (it is not shown): ");
    };
    let text = std::fs::read_to_string(path).map_err(|e| {
        Failure::new(format!("cannot read the passphrase in {}", path.display())).because(&e)
    })?;
    let passphrase = text.trim_end_matches(['\n', '\r']).to_owned();
    if passphrase.is_empty() {
        return Err(Failure::new(format!(
            "{} holds no passphrase",
            path.display()
        )));
    }
    Ok(passphrase)
}

fn ask(what: &str) -> Result<String, Failure> {
    let unreadable = |e: std::io::Error| Failure::new("cannot read the passphrase").because(&e);
    let _ = write!(terminal::stderr(), "{what}");
    let _ = terminal::stderr().flush();
    let line = terminal::hidden_line().map_err(unreadable)?;
    let _ = writeln!(terminal::stderr());
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
