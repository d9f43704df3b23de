//! `coppice secret`: values go in, and never come out.

use std::io::{IsTerminal, Read, Write};

use coppice_portal::api::{SECRET_MAX, SecretInfo};
use coppice_schema::ids::SecretName;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table};
use crate::terminal;
use crate::times;

/// What can be asked of secrets.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the names of secrets, never their values
    #[command(after_long_help = "Examples:\n  coppice secret list\n  coppice secret list --json")]
    List,
    /// Set a secret; its value comes from standard input or is asked for
    #[command(
        after_long_help = "A value is never an argument: arguments are seen by others and kept in the shell's history.

Examples:
  coppice secret set ad-bind                    asks for it, without showing it
  coppice secret set ad-bind < password.txt     the file's one trailing line end is left out
  pass show ad | coppice secret set ad-bind"
    )]
    Set(Named),
    /// Remove a secret
    #[command(after_long_help = "Examples:\n  coppice secret remove ad-bind")]
    Remove(Named),
}

/// A secret by its name.
#[derive(clap::Args, Debug)]
pub(crate) struct Named {
    /// Its name, as `secret("NAME")` in a configuration has it
    name: SecretName,
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::List => {
            let secrets: Vec<SecretInfo> = client.get("/secrets").await?;
            screen.value(&secrets)?;
            let mut table = Table::new(&["name", "version", "set"]);
            for secret in &secrets {
                let set = times::relative(secret.set, times::now());
                table.row([
                    secret.name.as_str().into(),
                    Cell::number(secret.version),
                    set.into(),
                ]);
            }
            screen.text(&table.render(screen.colours));
        }
        Verb::Set(Named { name }) => {
            let value = value(&name, screen)?;
            let path = format!("/secrets/{}", segment(name.as_str()));
            let info: SecretInfo = client.put(&path, value).await?;
            screen.value(&info)?;
            screen.note(&format!("secret {name} is set, version {}", info.version));
        }
        Verb::Remove(Named { name }) => {
            client
                .act(
                    Method::DELETE,
                    &format!("/secrets/{}", segment(name.as_str())),
                )
                .await?;
            screen.done(&name, "removed")?;
            screen.note(&format!("secret {name} is removed"));
        }
    }
    Ok(Exit::Done)
}

fn value(name: &SecretName, screen: &Screen) -> Result<Vec<u8>, Failure> {
    let unreadable = |e: std::io::Error| {
        Failure::new(format!("cannot read the value of secret {name}")).because(&e)
    };
    let mut value = Vec::new();
    if std::io::stdin().is_terminal() {
        if screen.automation {
            return Err(Failure::new(format!(
                "no value for secret {name}: nobody is there to type it"
            ))
            .hint("send it through standard input"));
        }
        let _ = write!(
            terminal::stderr(),
            "value of secret {name} (it is not shown): "
        );
        let line = terminal::hidden_line().map_err(unreadable)?;
        let _ = writeln!(terminal::stderr());
        value = line.into_bytes();
    } else {
        let limit = u64::try_from(SECRET_MAX)
            .unwrap_or(u64::MAX)
            .saturating_add(2);
        std::io::stdin()
            .take(limit)
            .read_to_end(&mut value)
            .map_err(unreadable)?;
    }
    for end in [b'\n', b'\r'] {
        if value.last() == Some(&end) {
            value.pop();
        }
    }
    if value.is_empty() {
        return Err(Failure::new(format!(
            "the value of secret {name} is empty, nothing was changed"
        ))
        .hint(format!(
            "coppice secret set {name} < FILE; or `coppice secret remove {name}`"
        )));
    }
    if value.len() > SECRET_MAX {
        return Err(Failure::new(format!(
            "the value of secret {name} is longer than {SECRET_MAX} bytes"
        )));
    }
    Ok(value)
}
