//! `coppice server drain`: a server is emptied, and one can look on.

use coppice_plans::plan::FindingKind;
use coppice_plans::text;
use coppice_portal::api::{Explanation, Server};
use coppice_schema::ids::{Address, ServerName};
use coppice_schema::units::Span;
use hyper::Method;

use crate::client::{Client, segment};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::screen::Screen;
use crate::times;
use crate::watch::{PATIENCE, Watch};

/// What is emptied, and how.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Its name, as `coppice server list` shows it
    name: ServerName,
    /// Wait for people no longer than that: 30m, 2h. Without, they are always waited for
    #[arg(long, value_name = "TIME", value_parser = times::parse_length)]
    force_after: Option<Span>,
    /// Show how many desktops are left, until there is none
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: Args, client: &Client, screen: &Screen) -> Ended {
    let Args {
        name,
        force_after,
        watch,
    } = args;
    let query = force_after.map_or(String::new(), |span| format!("?force_after={}", span.0));
    let path = format!("/servers/{}/drain{query}", segment(name.as_str()));
    // Whoever looks on must not miss what happens first.
    let watch = if watch {
        Some(Watch::begin(client, PATIENCE).await?)
    } else {
        None
    };
    client.act(Method::POST, &path).await?;
    let Some(mut watch) = watch else {
        screen.done(&name, "draining")?;
        let people = match force_after {
            Some(span) => format!("people there have {}", times::length(span)),
            None => "people there are waited for".to_owned(),
        };
        screen.note(&format!(
            "server {name} is being emptied, and {people}; look on: coppice server drain {name} --watch"
        ));
        return Ok(Exit::Done);
    };
    let mut last = String::new();
    loop {
        let server = look(&mut watch, &name, screen).await?;
        let told = told(&mut watch, &server, screen).await?;
        if told != last {
            screen.line(&server)?;
            screen.text(&format!("{told}\n"));
            last = told;
        }
        if server.desktops == 0 {
            return Ok(Exit::Done);
        }
        watch.wait().await;
    }
}

async fn look(
    watch: &mut Watch<'_>,
    name: &ServerName,
    screen: &Screen,
) -> Result<Server, Failure> {
    let servers: Vec<Server> = watch.get("/servers", screen).await?;
    let mut mine = servers.into_iter();
    mine.find(|server| server.status.name == *name)
        .ok_or_else(|| Failure::new(format!("server {name} is no member any more")))
}

/// How far it is, in a line.
async fn told(watch: &mut Watch<'_>, server: &Server, screen: &Screen) -> Result<String, Failure> {
    let name = &server.status.name;
    if server.desktops == 0 {
        return Ok(format!("server {name} is empty"));
    }
    let address = Address::Server(name.clone()).to_string();
    let path = format!("/explain/{}", segment(&address));
    let explained: Explanation = watch.get(&path, screen).await?;
    let findings = explained.findings.iter();
    let mut mine = findings.filter(|found| matches!(found.kind, FindingKind::Draining { .. }));
    let how = mine.next().map(|found| text::finding(&found.kind));
    Ok(match how {
        Some(how) => format!("server {name}: {how}"),
        None => format!("server {name}: {} desktops are left", server.desktops),
    })
}
