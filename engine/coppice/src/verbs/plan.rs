//! `coppice plan`: what would happen, to whom, and when. It changes nothing.

mod watch;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use coppice_portal::api::{Document, PlanRequest, PlanResponse, SavedPlan};
use coppice_schema::Bundle;
use coppice_schema::ids::{Address, ServerName};

use crate::client::{Client, ClientError};
use crate::configuration::{self, Named};
use crate::exit::Exit;
use crate::failure::{Ended, Failure};
use crate::present::{self, Detail};
use crate::screen::Screen;
use crate::settings::Settings;
use crate::verbs::validate;

/// Show what applying a configuration would do; changes nothing
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:
  coppice plan examples/lab
  coppice plan --out monday.plan         keep it; later: coppice apply monday.plan
  coppice plan --target pool.lab         look at one pool only
  coppice plan --lose host-2             what if that server were lost: who would be affected, and how badly
  coppice plan --format markdown         for a merge request
  coppice plan --watch                   again whenever the files or the grid change, until Ctrl-C
  coppice plan --detailed-exitcode       0: nothing to do, 2: changes, 7: a server was not seen")]
pub(crate) struct Args {
    #[command(flatten)]
    named: Named,
    /// Keep the plan in a file, to be applied later exactly as it is
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    out: Option<PathBuf>,
    /// Look at this only, such as pool.lab; may be repeated. Such a plan cannot be applied
    #[arg(long = "target", value_name = "ADDRESS")]
    targets: Vec<Address>,
    /// What if these servers were lost? Where no files are, on the committed configuration. Such a plan cannot be applied
    #[arg(long, value_name = "SERVER", value_delimiter = ',', conflicts_with_all = ["out", "targets"])]
    lose: Vec<ServerName>,
    /// Show it again whenever the files or the grid change
    #[arg(short, long, conflicts_with_all = ["out", "detailed_exitcode"])]
    watch: bool,
    #[command(flatten)]
    form: Form,
    /// End with 2 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
}

/// How a plan is shown.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Form {
    /// As text, as markdown, or as the plan document itself
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// How much of it
    #[arg(long, value_enum, default_value_t)]
    detail: Detail,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
enum Format {
    /// For a terminal
    #[default]
    Text,
    /// For a merge request
    Markdown,
    /// The plan document
    Json,
}

pub(crate) async fn run(args: Args, settings: &Settings, screen: &Screen) -> Ended {
    let client = Client::new(settings)?;
    if args.watch {
        return watch::watch(&args, &client, screen).await;
    }
    let response = answer(&args, &client, screen).await?;
    show(&response.document, args.form, screen)?;
    if let (Some(path), Some(saved)) = (&args.out, &response.saved) {
        save(path, saved)?;
        screen.note(&format!("the plan is kept in {}", path.display()));
        screen.advise(&format!("coppice apply {}", path.display()));
    }
    Ok(if !response.document.unseen.is_empty() {
        screen.note("a server was not seen whole, so there may be more to do than this says: coppice status");
        Exit::Incomplete
    } else if args.detailed_exitcode && !response.document.is_empty() {
        Exit::Changes
    } else {
        Exit::Done
    })
}

/// The grid's answer to the files as they are now.
async fn answer(args: &Args, client: &Client, screen: &Screen) -> Result<PlanResponse, Failure> {
    let request = PlanRequest {
        bundle: if is_about_committed(args) {
            screen
                .note("there is no *.hcl file here, so this is about the committed configuration");
            Bundle::default()
        } else {
            gather_valid(&args.named, screen)?
        },
        targets: args.targets.iter().cloned().collect::<BTreeSet<_>>(),
        save: args.out.is_some(),
        lose: args.lose.iter().cloned().collect(),
    };
    ask(client, &request, screen).await
}

/// Whether the loss of servers is asked about where no configuration is named, and none is.
fn is_about_committed(args: &Args) -> bool {
    let here = Path::new(".");
    let unnamed = args.named.directories.iter().all(|place| place == here);
    let none = || configuration::hcl_files(here).is_ok_and(|files| files.is_empty());
    !args.lose.is_empty() && unnamed && none()
}

/// A configuration that has no errors; what is worth knowing was told.
pub(crate) fn gather_valid(named: &Named, screen: &Screen) -> Result<Bundle, Failure> {
    let bundle = configuration::gather(named, screen)?;
    let loaded = coppice_schema::load(&bundle);
    if loaded.desired.is_none() {
        let data = serde_json::to_value(&loaded.diagnostics).unwrap_or_default();
        return Err(validate::invalid(&bundle.texts, &loaded.diagnostics, screen).with_data(data));
    }
    validate::tell(&bundle.texts, &loaded.diagnostics, screen);
    Ok(bundle)
}

/// Asks the grid for a plan. A grid of another version may find errors that were not found here.
pub(crate) async fn ask(
    client: &Client,
    request: &PlanRequest,
    screen: &Screen,
) -> Result<PlanResponse, Failure> {
    client
        .post("/plans", request)
        .await
        .map_err(|error: ClientError| match error.problem() {
            Some(problem) if !problem.diagnostics.is_empty() => {
                validate::invalid(&request.bundle.texts, &problem.diagnostics, screen)
            }
            _ => error.into(),
        })
}

/// Shows a plan in the form that was asked for.
pub(crate) fn show(document: &Document, form: Form, screen: &Screen) -> Result<(), Failure> {
    screen.value(document)?;
    draw(document, form, screen)
}

/// The same for people alone.
fn draw(document: &Document, form: Form, screen: &Screen) -> Result<(), Failure> {
    match form.format {
        Format::Text => screen.text(&present::text(document, form.detail, screen.colours)),
        Format::Markdown => screen.text(&coppice_plans::markdown::render(document)),
        Format::Json => {
            let text = serde_json::to_string_pretty(document)
                .map_err(|e| Failure::new("cannot write the plan as JSON").because(&e))?;
            screen.text(&format!("{text}\n"));
        }
    }
    Ok(())
}

fn save(path: &Path, saved: &SavedPlan) -> Result<(), Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new(format!("cannot keep the plan in {}", path.display())).because(e)
    };
    let text = serde_json::to_vec_pretty(saved).map_err(|e| failed(&e))?;
    let mut file = std::fs::File::create(path).map_err(|e| failed(&e))?;
    file.write_all(&text)
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(|e| failed(&e))
}
