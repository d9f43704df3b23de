//! `coppice server rebalance`: level the load of servers, by a plan that is looked at first.

use coppice_portal::api::{Code, Rebalance, RebalanceRequest};

use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::present::{self, Detail};
use crate::screen::Screen;
use crate::settings::Settings;

/// How it is asked for.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Show what would move, and change nothing
    #[arg(long, conflicts_with_all = ["yes", "stop"])]
    dry_run: bool,
    /// Nothing moves any more: what has not moved yet stays where it is
    #[arg(long)]
    stop: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// How much of the plan is shown
    #[arg(long, value_enum, default_value_t)]
    detail: Detail,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    if args.stop {
        return stop(&client, screen).await;
    }
    let found: Rebalance = client.get("/rebalance").await?;
    let count = found.moves.len();
    screen.text(&present::text(&found.document, args.detail, screen.colours));
    if args.dry_run || count == 0 {
        screen.value(&found)?;
        if count == 0 {
            screen.note(
                "no move is worth it: the load is level, or nothing that is idle fits elsewhere",
            );
            if !found.before.is_empty() {
                screen.note(&format!(
                    "{} still to move, as was decided before; to call that off: coppice server rebalance --stop",
                    desktops(found.before.len())
                ));
            }
        } else {
            screen.advise("coppice server rebalance");
        }
        return Ok(if found.document.unseen.is_empty() {
            Exit::Done
        } else {
            Exit::Incomplete
        });
    }
    if !args.yes {
        consent(count, screen)?;
    }
    let request = RebalanceRequest {
        expect_plan: Some(found.document.plan_id),
        stop: false,
    };
    let agreed = client.post::<Rebalance>("/rebalance", &request).await;
    let agreed = agreed.map_err(|error| {
        let other = error
            .problem()
            .is_some_and(|problem| problem.code == Code::OtherPlan);
        let failure = Failure::from(error);
        if other {
            failure.hint("coppice server rebalance --dry-run shows what would move now")
        } else {
            failure
        }
    })?;
    screen.value(&agreed)?;
    screen.note(&format!(
        "{} to move, each when another is ready in its place; whoever is used by then waits for its person",
        desktops(agreed.moves.len())
    ));
    screen.advise("coppice status --watch");
    Ok(Exit::Done)
}

async fn stop(client: &Client, screen: &Screen) -> Ended {
    let request = RebalanceRequest {
        expect_plan: None,
        stop: true,
    };
    let answer: Rebalance = client.post("/rebalance", &request).await?;
    screen.value(&answer)?;
    match answer.before.len() {
        0 => screen.note("nothing was to move"),
        1 => screen.note("1 desktop was still to move, and stays"),
        count => screen.note(&format!("{count} desktops were still to move, and stay")),
    }
    Ok(Exit::Done)
}

fn desktops(count: usize) -> String {
    match count {
        1 => "1 desktop is".to_owned(),
        count => format!("{count} desktops are"),
    }
}

fn consent(count: usize, screen: &Screen) -> Result<(), Failure> {
    if !screen.may_ask() {
        return Err(Failure::usage(format!(
            "{} to be moved, and nobody is there to be asked",
            desktops(count)
        ))
        .hint("coppice server rebalance --yes, after reading what --dry-run shows"));
    }
    if screen.confirm("\nMove them?")? {
        return Ok(());
    }
    Err(Failure::new("nothing was changed"))
}
