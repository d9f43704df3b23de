//! `coppice history`: what was applied, and what happened.

use coppice_portal::api::{HistoryPage, RevisionInfo};
use coppice_state::state::Happening;

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::Ended;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::times;

/// Show what was applied, by whom, and how it went
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice history                 revisions, the newest first
  coppice history --events        everything that happened, the oldest first
  coppice history --events --json | jq 'select(.about == \"desktop.lab-001\")'")]
pub(crate) struct Args {
    /// Everything that happened, not only what was applied
    #[arg(long)]
    events: bool,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    if args.events {
        events(&client, screen).await
    } else {
        revisions(&client, screen).await
    }
}

async fn revisions(client: &Client, screen: &Screen) -> Ended {
    let revisions: Vec<RevisionInfo> = client.get("/revisions").await?;
    screen.value(&revisions)?;
    let now = times::now();
    let mut table = Table::new(&["revision", "applied", "by", "plan", "went"]);
    for it in &revisions {
        let went = match &it.run {
            None => Cell::default(),
            Some(run) if run.finished.is_some() => {
                Cell::from(format!("done, {} actions", run.done)).tone(Tone::Good)
            }
            Some(run) => Cell::from(format!(
                "{} done, {} under way, {} failed attempts",
                run.done, run.open_orders, run.failed
            ))
            .tone(Tone::Warn),
        };
        table.row([
            Cell::number(it.revision),
            times::relative(it.at, now).into(),
            it.author.as_str().into(),
            it.plan.short().into(),
            went,
        ]);
    }
    screen.text(&table.render(screen.colours));
    Ok(Exit::Done)
}

async fn events(client: &Client, screen: &Screen) -> Ended {
    let mut next = None;
    let mut first = true;
    loop {
        let path = next.map_or("/history".to_owned(), |after: u64| {
            format!("/history?after={after}")
        });
        let page: HistoryPage = client.get(&path).await?;
        if first && page.lost > 0 {
            screen.note(&format!("{} earlier events are no longer kept", page.lost));
        }
        first = false;
        for event in &page.events {
            screen.line(event)?;
            screen.text(&format!(
                "{}  {}  {}\n",
                times::absolute(event.at),
                event.about,
                words(&event.what)
            ));
        }
        match page.next {
            Some(after) if !page.events.is_empty() => next = Some(after),
            _ => return Ok(Exit::Done),
        }
    }
}

/// What happened, in words.
pub(crate) fn words(what: &Happening) -> String {
    match what {
        Happening::Applied { author, revision } => {
            format!("revision {revision} was applied by {author}")
        }
        Happening::Ordered { what } => format!("ordered: {what}"),
        Happening::Done { what } => format!("done: {what}"),
        Happening::Failed { what, why } => format!("failed: {what}: {why}"),
        Happening::Became { phase } => format!("is {}", phase.replace('_', " ")),
        Happening::Image { what } | Happening::Server { what } => what.clone(),
        Happening::Changed { what, author } => format!("{what}, by {author}"),
    }
}
