//! `coppice token`: who may use the grid's API.

use std::path::PathBuf;

use coppice_portal::api::{
    JoinTokenCreated, JoinTokenInfo, JoinTokenRequest, TokenCreated, TokenInfo, TokenRequest,
};
use coppice_schema::units::Span;
use coppice_state::join::Role;
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
  coppice token create wall --scope viewer > wall.token
  coppice token create --role server               for one machine, which runs `coppice join ADDRESS TOKEN` within an hour
  coppice token create rack-2 --role witness --ttl 1d")]
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
    #[arg(required_unless_present = "role")]
    name: Option<String>,
    /// What it may do; each includes the ones before it
    #[arg(
        long,
        value_enum,
        required_unless_present = "role",
        conflicts_with = "role"
    )]
    scope: Option<ScopeChoice>,
    /// As what one machine may join the grid with it
    #[arg(long, value_enum)]
    role: Option<RoleChoice>,
    /// When it stops: 12h, 30d; without it never, or after an hour with --role
    #[arg(long, visible_alias = "ttl", value_name = "TIME", value_parser = times::parse_length)]
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

/// Roles as they are typed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleChoice {
    /// It carries desktops, and votes where a seat is free
    Server,
    /// It only votes, beside two servers
    Witness,
}

impl From<RoleChoice> for Role {
    fn from(choice: RoleChoice) -> Self {
        match choice {
            RoleChoice::Server => Self::Server,
            RoleChoice::Witness => Self::Witness,
        }
    }
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
            let joins: Vec<JoinTokenInfo> = client.get("/join-tokens").await?;
            let all = serde_json::to_value(&tokens).and_then(|tokens| {
                let joins = serde_json::to_value(&joins)?;
                let lists = [tokens, joins].into_iter();
                Ok(lists
                    .filter_map(|list| list.as_array().cloned())
                    .flatten()
                    .collect::<Vec<_>>())
            });
            let all =
                all.map_err(|e| Failure::new("cannot write the answer as JSON").because(&e))?;
            screen.value(&all)?;
            screen.text(&table(&tokens).render(screen.colours));
            if !joins.is_empty() {
                let joins = join_table(&joins).render(screen.colours);
                screen.text(&format!("\n{joins}"));
            }
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

/// A token that was made, of either kind.
struct Made {
    text: String,
    name: String,
    whole: serde_json::Value,
    /// Without its secret.
    rest: serde_json::Value,
    note: String,
}

async fn make(create: Create, client: &Client, screen: &Screen) -> Result<(), Failure> {
    // The file is made first: a token that could not be kept would have to be revoked.
    let file = create
        .out
        .as_deref()
        .map(crate::verbs::init::private_file)
        .transpose()?;
    let out = create.out.clone();
    let made = match request(create, client).await {
        Ok(made) => made,
        Err(error) => {
            if let Some(path) = &out {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    };
    match (file, &out) {
        (Some(mut file), Some(path)) => {
            use std::io::Write;
            writeln!(file, "{}", made.text)
                .and_then(|()| file.sync_all())
                .map_err(|e| {
                    Failure::new(format!("cannot write the token to {}", path.display()))
                        .because(&e)
                        .hint(format!(
                            "coppice token revoke {}; then make it again",
                            made.name
                        ))
                })?;
            screen.value(&made.rest)?;
            screen.note(&format!("token {} is in {}", made.name, path.display()));
        }
        _ => {
            screen.value(&made.whole)?;
            screen.text(&format!("{}\n", made.text));
            screen.note(&made.note);
        }
    }
    Ok(())
}

async fn request(create: Create, client: &Client) -> Result<Made, Failure> {
    let json = |value: serde_json::Result<serde_json::Value>| {
        value.map_err(|e| Failure::new("cannot write the answer as JSON").because(&e))
    };
    if let Some(role) = create.role {
        let request = JoinTokenRequest {
            name: create.name,
            role: role.into(),
            expires_in: create.expires,
        };
        let made: JoinTokenCreated = client.post("/join-tokens", &request).await?;
        let until = times::relative(made.expires, times::now());
        let rest = JoinTokenCreated {
            token: String::new(),
            ..made.clone()
        };
        return Ok(Made {
            name: made.name.to_string(),
            whole: json(serde_json::to_value(&made))?,
            rest: json(serde_json::to_value(&rest))?,
            note: format!(
                "it is shown this once, for one {}, and stops {until}; on that machine: coppice join {} TOKEN",
                made.role,
                client.target().authority()
            ),
            text: made.token,
        });
    }
    let (Some(name), Some(scope)) = (create.name, create.scope) else {
        return Err(Failure::usage(
            "a token needs a name and a --scope, or a --role",
        ));
    };
    let request = TokenRequest {
        name,
        scope: scope.into(),
        expires_in: create.expires,
    };
    let made: TokenCreated = client.post("/tokens", &request).await?;
    Ok(Made {
        name: request.name,
        whole: json(serde_json::to_value(&made))?,
        rest: json(serde_json::to_value(&made.info))?,
        note: "it is shown this once; the grid keeps only its hash".to_owned(),
        text: made.token,
    })
}

fn join_table(tokens: &[JoinTokenInfo]) -> Table {
    let now = times::now();
    let mut table = Table::new(&["join token", "role", "created", "stops"]);
    for token in tokens {
        let stops = if token.used {
            Cell::from("was used").tone(Tone::Faint)
        } else if token.expired {
            Cell::from(format!("expired {}", times::relative(token.expires, now))).tone(Tone::Bad)
        } else {
            times::relative(token.expires, now).into()
        };
        table.row([
            token.name.to_string().into(),
            token.role.to_string().into(),
            times::relative(token.created, now).into(),
            stops,
        ]);
    }
    table
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
