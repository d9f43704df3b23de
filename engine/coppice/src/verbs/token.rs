//! `coppice token`: who may use the grid's API.

use std::path::PathBuf;

use coppice_portal::api::{TokenCreated, TokenInfo, TokenRequest};
use coppice_schema::units::Span;
use coppice_state::token::Scope;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::times;

/// What can be asked of tokens.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// Make a token; it is shown this once
    #[command(after_long_help = "Examples:
  coppice token create ci --scope planner --expires 90d     enough for `coppice plan`
  coppice token create anna --scope operator --out anna.token
  coppice token create wall --scope viewer > wall.token")]
    Create(Create),
    /// Show tokens, never their secret part
    #[command(after_long_help = "Examples:\n  coppice token list\n  coppice token list --json")]
    List,
    /// Make a token worthless at once
    #[command(after_long_help = "Examples:\n  coppice token revoke ci")]
    Revoke {
        /// Its name
        name: String,
    },
}

/// A token to be made.
#[derive(clap::Args, Debug)]
pub(crate) struct Create {
    /// Its name: whose it is, or what for
    name: String,
    /// What it may do; each includes the ones before it
    #[arg(long, value_enum)]
    scope: ScopeChoice,
    /// When it stops: 12h, 30d; without it, never
    #[arg(long, value_name = "TIME", value_parser = times::parse_length)]
    expires: Option<Span>,
    /// Write it to a file that only you can read, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Scopes as they are typed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ScopeChoice {
    /// Look
    Viewer,
    /// Look and make plans
    Planner,
    /// See and restart desktops
    Helpdesk,
    /// Apply, import images, change servers; no libvirt_xml that an admin has not committed
    Operator,
    /// Everything: tokens and secrets too
    Admin,
}

impl From<ScopeChoice> for Scope {
    fn from(choice: ScopeChoice) -> Self {
        match choice {
            ScopeChoice::Viewer => Self::Viewer,
            ScopeChoice::Planner => Self::Planner,
            ScopeChoice::Helpdesk => Self::Helpdesk,
            ScopeChoice::Operator => Self::Operator,
            ScopeChoice::Admin => Self::Admin,
        }
    }
}

pub(crate) async fn run(verb: Verb, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    match verb {
        Verb::Create(create) => make(create, &client, screen).await?,
        Verb::List => {
            let tokens: Vec<TokenInfo> = client.get("/tokens").await?;
            screen.value(&tokens)?;
            screen.text(&table(&tokens).render(screen.colours));
        }
        Verb::Revoke { name } => {
            client
                .act(Method::DELETE, &format!("/tokens/{}", segment(&name)))
                .await?;
            screen.done(&name, "revoked")?;
            screen.note(&format!("token {name} opens nothing any more"));
        }
    }
    Ok(Exit::Done)
}

async fn make(create: Create, client: &Client, screen: &Screen) -> Result<(), Failure> {
    // The file is made first: a token that could not be kept would have to be revoked.
    let file = create
        .out
        .as_deref()
        .map(crate::verbs::init::private_file)
        .transpose()?;
    let request = TokenRequest {
        name: create.name,
        scope: create.scope.into(),
        expires_in: create.expires,
    };
    let made: Result<TokenCreated, _> = client.post("/tokens", &request).await;
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            if let Some(path) = &create.out {
                let _ = std::fs::remove_file(path);
            }
            return Err(error.into());
        }
    };
    match (file, &create.out) {
        (Some(mut file), Some(path)) => {
            use std::io::Write;
            writeln!(file, "{}", made.token)
                .and_then(|()| file.sync_all())
                .map_err(|e| {
                    Failure::new(format!("cannot write the token to {}", path.display()))
                        .because(&e)
                        .hint(format!(
                            "coppice token revoke {}; then make it again",
                            request.name
                        ))
                })?;
            screen.value(&made.info)?;
            screen.note(&format!("token {} is in {}", request.name, path.display()));
        }
        _ => {
            screen.value(&made)?;
            screen.text(&format!("{}\n", made.token));
            screen.note("it is shown this once; the grid keeps only its hash");
        }
    }
    Ok(())
}

fn table(tokens: &[TokenInfo]) -> Table {
    let now = times::now();
    let mut table = Table::new(&["name", "scope", "created", "expires"]);
    for token in tokens {
        let expires = match token.expires {
            None => Cell::from("never"),
            Some(at) if token.expired => {
                Cell::from(format!("expired {}", times::relative(at, now))).tone(Tone::Bad)
            }
            Some(at) => times::relative(at, now).into(),
        };
        let created = times::relative(token.created, now);
        table.row([
            token.name.to_string().into(),
            token.scope.to_string().into(),
            created.into(),
            expires,
        ]);
    }
    table
}
