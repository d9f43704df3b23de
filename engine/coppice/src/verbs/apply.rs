//! `coppice apply`: make the grid what a configuration asks for, and follow it there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coppice_plans::plan::GateKind;
use coppice_portal::api::{
    ApplyRequest, ApplyResponse, Code, Configuration, Document, Image, PlanRequest, PlanResponse,
};
use coppice_schema::desired::Origin;
use coppice_schema::ids::Revision;
use coppice_schema::{Bundle, Digest};

use crate::client::{Client, ClientError};
use crate::configuration::Named;
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::follow::{self, Ending, Followed};
use crate::present::{self, Detail};
use crate::screen::Screen;
use crate::settings::{self, Settings};
use crate::upload::{self, Sending};
use crate::verbs::{plan, show};

/// Make the grid what a configuration asks for
#[derive(clap::Args, Debug)]
#[command(
    after_long_help = "Shows the plan, asks, commits, and follows the run until the grid has settled. What waits for a \
window or for people to log off goes on by itself; Ctrl-C ends the following only.

Examples:
  coppice apply examples/lab
  coppice apply monday.plan --yes               exactly the plan that was kept, or nothing
  coppice apply --approve mass-delete           after reading what it deletes
  coppice apply --yes --detach                  commit, and leave the rest to the grid

Exit codes: 0 done, or it waits for a window; 3 configuration invalid; 4 something changed since \
the plan was made; 5 a gate is shut, or something came up that was not in the plan; 6 not everything \
could be done; 7 a server was not seen; 130 interrupted. After 5 in a run, 6, 7 and 130 the revision \
stays committed, and the grid goes on with it."
)]
pub(crate) struct Args {
    #[command(flatten)]
    named: Named,
    /// Do not ask. Data loss and an empty configuration still need --approve
    #[arg(long, short)]
    yes: bool,
    /// Say yes to a gate by its name, as the plan shows it; may be repeated
    #[arg(long, value_name = "GATE", value_parser = gate)]
    approve: Vec<GateKind>,
    /// Sessions that may be interrupted; without it, as many as the plan says
    #[arg(long, value_name = "N")]
    max_interrupted: Option<u32>,
    /// Follow the run until it has settled (this is so without it, too)
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// How long nothing may get better, or the server not answer, before it is no longer followed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = settings::duration, conflicts_with = "detach")]
    patience: Duration,
    /// Commit, and do not follow
    #[arg(long)]
    detach: bool,
    /// How much of the plan is shown
    #[arg(long, value_enum, default_value_t)]
    detail: Detail,
}

/// A gate by the name that a plan shows.
pub(super) fn gate(text: &str) -> Result<GateKind, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| {
        "expected one of: server-loss, mass-delete, personal-data, protected, empty-configuration, freeze".to_owned()
    })
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    let (configuration, document) = match saved_file(&args.named.directories) {
        Some(file) => {
            let saved = show::read(&file)?;
            let document = saved.document.clone();
            (Configuration::Saved(Box::new(saved)), document)
        }
        None => {
            let bundle = plan::gather_valid(&args.named, screen)?;
            send_images(&bundle, &client, screen).await?;
            let document = planned(&bundle, &client, settings, screen).await?;
            (Configuration::Bundle(bundle), document)
        }
    };
    screen.text(&present::text(&document, args.detail, screen.colours));
    if !document.is_empty() && !args.yes {
        consent(screen)?;
    }
    let send = async |shown: Digest| {
        let request = ApplyRequest {
            // What was shown, and nothing else; a saved plan names itself.
            expect_plan: matches!(&configuration, Configuration::Bundle(_)).then_some(shown),
            configuration: configuration.clone(),
            approve: args.approve.iter().copied().collect::<BTreeSet<_>>(),
            max_interrupted: args.max_interrupted,
        };
        client.post::<ApplyResponse>("/apply", &request).await
    };
    let renew = async || {
        let document = match &configuration {
            Configuration::Bundle(bundle) => planned(bundle, &client, settings, screen).await?,
            Configuration::Saved(saved) => saved.document.clone(),
        };
        screen.note("the grid went on in the meantime; this is the plan now:");
        screen.text(&present::text(&document, args.detail, screen.colours));
        Ok(document.plan_id)
    };
    // Whoever said yes to a plan said it to that one. With --yes it is for the record, and the next one is as good.
    let renewals = if args.yes { RENEWALS } else { 0 };
    let response = commit(document.plan_id, renewals, send, renew).await?;
    committed(&response, screen);
    if args.detach {
        screen.value(
            &serde_json::json!({ "revision": response.revision, "already": response.already }),
        )?;
        screen.advise("coppice status --watch");
        return Ok(Exit::Done);
    }
    let orders = present::orders(&response.document);
    let followed =
        follow::follow(response.revision, orders, args.patience, &client, screen).await?;
    ended(&response, &followed, screen)
}

/// How often a plan that is no longer the right one is shown anew, before it is given up: a grid in which so much
/// happens between a plan and its apply wants a person.
const RENEWALS: u32 = 5;

/// Commits the plan that was shown. When another one would be applied by then, that one is shown first, at most
/// `renewals` times.
async fn commit<T>(
    mut shown: Digest,
    mut renewals: u32,
    send: impl AsyncFn(Digest) -> Result<T, ClientError>,
    renew: impl AsyncFn() -> Result<Digest, Failure>,
) -> Result<T, Failure> {
    let other = |error: &ClientError| error.problem().is_some_and(|p| p.code == Code::OtherPlan);
    loop {
        match send(shown).await {
            Err(error) if renewals > 0 && other(&error) => {
                renewals -= 1;
                shown = renew().await?;
            }
            answer => return Ok(answer?),
        }
    }
}

/// A saved plan stands in place of directories.
fn saved_file(places: &[PathBuf]) -> Option<PathBuf> {
    match places {
        [one] if one.extension().is_none_or(|e| e != "hcl") && one.is_file() => Some(one.clone()),
        _ => None,
    }
}

/// Sends the sources of images that the grid does not hold.
async fn send_images(bundle: &Bundle, client: &Client, screen: &Screen) -> Result<(), Failure> {
    let Some(desired) = coppice_schema::load(bundle).desired else {
        return Ok(());
    };
    let mut held: Option<Vec<Image>> = None;
    for (name, image) in &desired.images {
        let Origin::Source {
            path,
            digest: Some(digest),
        } = &image.origin
        else {
            continue;
        };
        let images = match &mut held {
            Some(images) => images,
            None => held.insert(client.get("/images").await?),
        };
        let there = images
            .iter()
            .find(|i| i.name == *name && i.digest == *digest);
        if there.is_some_and(Image::is_held) {
            continue;
        }
        // A version is known by the digest of its source; the name is for people, and follows from it. One that is
        // lost comes back under the name that it had.
        let version = match there {
            Some(image) => image.version.clone(),
            None => digest.short().parse().map_err(|e| {
                Failure::new(format!("cannot name a version of image {name}")).because(&e)
            })?,
        };
        // The path in the texts is relative to the text; that of the bundle to where the command was given.
        let file = bundle
            .sources
            .iter()
            .find(|(place, found)| **found == Some(*digest) && place.ends_with(path.as_str()))
            .map_or(path, |(place, _)| place);
        upload::send(
            &Sending {
                name,
                version: &version,
                file: Path::new(file),
            },
            client,
            screen,
        )
        .await?;
    }
    Ok(())
}

/// The plan. A grid that has just started has not looked yet: it is given the time of `--timeout` to.
async fn planned(
    bundle: &Bundle,
    client: &Client,
    settings: &Settings,
    screen: &Screen,
) -> Result<Document, Failure> {
    let begun = Instant::now();
    let request = PlanRequest {
        bundle: bundle.clone(),
        targets: BTreeSet::new(),
        save: false,
        lose: BTreeSet::new(),
    };
    let mut told = false;
    loop {
        let response: PlanResponse = plan::ask(client, &request, screen).await?;
        if response.document.complete || begun.elapsed() > settings.timeout {
            return Ok(response.document);
        }
        if !told {
            screen.note("waiting for every server to be seen");
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn consent(screen: &Screen) -> Result<(), Failure> {
    if !screen.may_ask() {
        return Err(Failure::usage(
            "applying this changes the grid, and nobody is there to be asked",
        )
        .hint("coppice apply --yes, after reading the plan"));
    }
    if screen.confirm("\nApply this?")? {
        return Ok(());
    }
    Err(Failure::new("nothing was changed"))
}

fn committed(response: &ApplyResponse, screen: &Screen) {
    if response.already {
        screen.note(&format!(
            "revision {} asks for exactly this already",
            response.revision
        ));
    } else {
        screen.note(&format!("committed as revision {}", response.revision));
    }
}

fn ended(response: &ApplyResponse, followed: &Followed, screen: &Screen) -> Ended {
    let exit = followed.ending.exit();
    let revision = response.revision;
    let why = match &followed.ending {
        Ending::Waits(why) | Ending::Blocked(why) | Ending::Partly(why) | Ending::Unseen(why) => {
            why.clone()
        }
        Ending::Settled | Ending::Superseded(_) | Ending::Interrupted => Vec::new(),
    };
    screen.value(&serde_json::json!({
        "revision": revision,
        "already": response.already,
        "settled": followed.ending == Ending::Settled,
        "run": followed.run,
        "why": why,
    }))?;
    match &followed.ending {
        Ending::Settled => {
            let done = followed.run.as_ref().map_or(0, |run| run.done);
            let done = match done {
                _ if response.already => String::new(),
                0 => String::new(),
                1 => ", one action done".to_owned(),
                n => format!(", {n} actions done"),
            };
            screen.text(&format!(
                "{} the grid is what revision {revision} asks for{done}\n",
                screen.colours.good("settled:")
            ));
            return Ok(exit);
        }
        Ending::Waits(_) => {
            screen.text(&format!(
                "{} revision {revision} is committed; the grid goes on by itself\n",
                screen.colours.warn("waiting:")
            ));
            for line in &why {
                screen.text(&format!("  for {line}\n"));
            }
            return Ok(exit);
        }
        Ending::Blocked(_)
        | Ending::Partly(_)
        | Ending::Unseen(_)
        | Ending::Superseded(_)
        | Ending::Interrupted => {}
    }
    if screen.json {
        return Ok(exit);
    }
    Err(stopped(revision, &followed.ending, why))
}

fn stopped(revision: Revision, ending: &Ending, why: Vec<String>) -> Failure {
    let failure = match ending {
        Ending::Blocked(_) => Failure::new(format!(
            "revision {revision} is committed, and the rest of it needs approval"
        ))
        .hint("coppice plan shows what came up since; coppice apply reviews it and lets it go on"),
        Ending::Superseded(other) => Failure::new(format!(
            "revision {revision} was replaced by revision {other} while it was carried out"
        ))
        .hint("coppice history shows who applied it"),
        Ending::Interrupted => Failure::new(format!(
            "stopped following revision {revision}; the run goes on in the grid"
        ))
        .hint("coppice status --watch follows it again"),
        Ending::Unseen(_) => Failure::new(format!(
            "revision {revision} is committed, and nothing is done where a server is not seen; the grid goes on when it is"
        ))
        .hint("coppice status says what is wrong with the server"),
        Ending::Partly(_) | Ending::Settled | Ending::Waits(_) => Failure::new(format!(
            "revision {revision} was applied in part; the grid keeps trying"
        ))
        .hint("coppice explain ADDRESS says why; coppice status shows how it stands"),
    };
    why.into_iter()
        .fold(failure.exit(ending.exit()), |failure, line| {
            failure.cause(line)
        })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Applies plan 0 in a grid whose plan is another one of `moves` at each try, and the same until the next. Gives
    /// what was committed, and what was shown before.
    async fn applied(moves: &[u8], renewals: u32) -> (Result<u8, Failure>, Vec<u8>) {
        let (tries, shown) = (Cell::new(0), RefCell::new(vec![0]));
        let send = async |Digest(sent): Digest| {
            let now = moves[tries.get()];
            tries.set(tries.get() + 1);
            if sent[0] == now {
                return Ok(now);
            }
            let problem = serde_json::json!({
                "type": "", "title": "", "status": 409, "code": "other-plan", "detail": "another", "help": "",
            });
            Err(ClientError::Problem(
                serde_json::from_value(problem).unwrap(),
            ))
        };
        let renew = async || {
            let now = moves[tries.get() - 1];
            shown.borrow_mut().push(now);
            Ok(Digest([now; 32]))
        };
        let answer = commit(Digest([0; 32]), renewals, send, renew).await;
        (answer, shown.into_inner())
    }

    #[tokio::test]
    async fn what_is_committed_was_shown_just_before() {
        for (moves, committed) in [(&[0][..], 0), (&[1, 1], 1), (&[1, 2, 3, 3], 3)] {
            let (answer, shown) = applied(moves, RENEWALS).await;
            assert_eq!(answer.unwrap(), committed);
            assert_eq!(shown.last(), Some(&committed));
        }
    }

    #[tokio::test]
    async fn a_plan_that_is_never_the_right_one_is_not_committed() {
        let (answer, shown) = applied(&[1, 2, 3], 2).await;
        assert_eq!(answer.unwrap_err().exit, Exit::Stale);
        assert_eq!(shown, [0, 1, 2]);
        let (answer, shown) = applied(&[1], 0).await;
        assert_eq!(answer.unwrap_err().exit, Exit::Stale);
        assert_eq!(shown, [0], "a person is asked anew");
    }
}
