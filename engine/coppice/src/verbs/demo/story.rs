//! What happens in a demo, and how it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coppice_portal::api::{
    ApplyRequest, ApplyResponse, Configuration, Desktop, DesktopState, Document, Image,
    JoinTokenCreated, JoinTokenRequest, LogRole, PlanRequest, PlanResponse, PoolStatus,
    ServerStatus, Status,
};
use coppice_schema::ids::{ImageName, PoolName, ServerName};
use coppice_schema::known::{CopyState, ServerState};
use coppice_schema::{Bundle, SourceText};
use coppice_state::join::Role;

use super::site::{Site, hypervisor};
use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::present::{self, Detail};
use crate::progress::Progress;
use crate::screen::Screen;
use crate::settings::Settings;
use crate::table::{Cell, Table, Tone};
use crate::terminal;
use crate::upload::{self, Sending};
use crate::verbs::{init, join, plan};

/// What is asked for.
const GRID: &str = include_str!("grid.hcl");
const DESKTOPS: &str = include_str!("desktops.hcl");

/// The pool there that is somebody's.
const PERSONAL: &str = "design";

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the grid is looked at while something is measured.
const LOOK: Duration = Duration::from_millis(50);

/// What was measured, counted from the kill, in milliseconds.
#[derive(serde::Serialize)]
struct Measured {
    killed: ServerName,
    leads: ServerName,
    affected: usize,
    another_leads_ms: u128,
    lost_ms: u128,
    regrown_ms: u128,
}

/// From nothing to a grid that has lost a server.
pub(super) async fn tell(
    site: &mut Site,
    settings: &Settings,
    screen: &Screen,
) -> Result<(), Failure> {
    screen.text(&format!(
        "A grid of three servers on this machine, each a process of its own. Their\n\
         hypervisors are simulated, all else is real. What they write is in\n\
         {}, and goes away with them at the end.\n",
        site.path().display()
    ));
    gather(site, settings, screen).await?;
    let first = Client::new(&site.settings(site.first()?, settings)?)?;
    bring(site, &first, screen).await?;
    grow(site, &first, screen).await?;
    let leader =
        leader(&first.get("/status").await?).ok_or_else(|| Failure::new("no server leads"))?;
    foretell(&leader, &first, screen).await?;
    lose(site, &leader, settings, screen).await
}

/// One server makes a grid, two join it.
async fn gather(site: &mut Site, settings: &Settings, screen: &Screen) -> Result<(), Failure> {
    heading(screen, "One server makes the grid, two more join it");
    let begun = Instant::now();
    for n in 0..site.servers.len() {
        enter(n, site, settings, screen).await?;
        let waiting = Progress::waiting(screen, &format!("{} starts", site.servers[n].name));
        site.servers[n].start()?;
        site.servers[n].ready().await?;
        waiting.finish();
    }
    let client = Client::new(&site.settings(site.first()?, settings)?)?;
    let all = site.servers.len();
    let waiting = Progress::waiting(screen, "until all have a vote");
    let vote = until(&client, "every server votes", |status| {
        let votes =
            |s: &&ServerStatus| s.current && s.log.is_some_and(|log| log.part != LogRole::Learner);
        status.servers.iter().filter(votes).count() == all
    });
    vote.await?;
    waiting.finish();
    done(
        screen,
        "the three agree on everything from here on",
        begun.elapsed(),
    );
    Ok(())
}

/// Server `n` begins, as the first or as another one.
async fn enter(n: usize, site: &Site, settings: &Settings, screen: &Screen) -> Result<(), Failure> {
    let server = &site.servers[n];
    let (name, data) = (server.name.clone(), server.layout.data());
    if n == 0 {
        command(screen, &format!("coppice init --data {name}"));
        let args = init::Args {
            data,
            name: Some(name),
            listen: server.address,
            names: Vec::new(),
            hypervisor: Some(hypervisor(n)),
        };
        return init::make(args).await.map(drop);
    }
    let first = site.first()?;
    let request = JoinTokenRequest {
        name: None,
        role: Role::Server,
        expires_in: None,
    };
    let client = Client::new(&site.settings(first, settings)?)?;
    let made: JoinTokenCreated = client.post("/join-tokens", &request).await?;
    let through = first.address;
    if n == 1 {
        command(screen, "coppice token create --role server");
    }
    command(
        screen,
        &format!("coppice join {through} TOKEN --data {name}"),
    );
    let args = join::Args {
        address: Target {
            host: through.ip().to_string(),
            port: through.port(),
        },
        token: made.token,
        data,
        name: Some(name),
        listen: Some(server.address),
        advertise: None,
        names: Vec::new(),
        hypervisor: Some(hypervisor(n)),
        witness: false,
    };
    join::enter(args, None, settings, &Screen::beside())
        .await
        .map(drop)
}

/// One image, with a copy on every server.
async fn bring(site: &Site, client: &Client, screen: &Screen) -> Result<(), Failure> {
    heading(screen, "One golden image, and a copy of it on every server");
    let image = site.path().join("linux.raw");
    let mut disk = vec![0u8; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let directory = configuration(site);
    let written = std::fs::write(&image, disk)
        .and_then(|()| std::fs::create_dir(&directory))
        .and_then(|()| std::fs::write(directory.join("grid.hcl"), GRID));
    written.map_err(|e| unwritten(&e))?;
    let name: ImageName = "linux".parse().map_err(|e| unwritten(&e))?;
    let sending = Sending {
        name: &name,
        version: &"1".parse().map_err(|e| unwritten(&e))?,
        file: &image,
    };
    command(screen, "coppice image import linux linux.raw --version 1");
    let begun = Instant::now();
    let waiting = Progress::waiting(screen, "the image is sent");
    upload::send(&sending, client, &Screen::beside()).await?;
    waiting.finish();
    command(screen, "coppice apply demo");
    apply(client, bundle(&[("grid.hcl", GRID)])).await?;
    let waiting = Progress::waiting(screen, "until every server has a copy");
    let all = site.servers.len();
    loop {
        let images: Vec<Image> = client.get("/images").await?;
        let whole = |image: &Image| {
            let copies = image.copies.iter();
            copies.filter(|c| c.state == CopyState::Verified).count()
        };
        if images.iter().map(whole).max() >= Some(all) {
            break;
        }
        if begun.elapsed() > PATIENCE {
            let what = "waited until every server has a copy of the image";
            return Err(Failure::new("it did not come about").during(what.to_owned()));
        }
        tokio::time::sleep(LOOK).await;
    }
    waiting.finish();
    done(
        screen,
        "three copies, each chunk of them verified",
        begun.elapsed(),
    );
    Ok(())
}

/// Two hundred desktops.
async fn grow(site: &Site, client: &Client, screen: &Screen) -> Result<(), Failure> {
    heading(screen, "Two hundred desktops, from a file of thirty lines");
    let file = configuration(site).join("desktops.hcl");
    std::fs::write(file, DESKTOPS).map_err(|e| unwritten(&e))?;
    command(screen, "coppice apply demo");
    let bundle = bundle(&[("desktops.hcl", DESKTOPS), ("grid.hcl", GRID)]);
    let document = planned(client, bundle.clone(), BTreeSet::new(), screen).await?;
    show(&document, Detail::Summary, screen);
    let begun = Instant::now();
    apply(client, bundle).await?;
    // How many, the grid says.
    let grow = Progress::things(screen, "desktops grow", 1);
    until(client, "every desktop is there", |status| {
        let away: u64 = status.pools.iter().map(lacks).sum();
        let all: u64 = status.pools.iter().map(|p| u64::from(p.desired)).sum();
        grow.set(all.saturating_sub(away), all);
        !status.pools.is_empty() && away == 0
    })
    .await?;
    grow.finish();
    let took = begun.elapsed();
    let desktops: Vec<Desktop> = client.get("/desktops").await?;
    let table = spread(site, &desktops, None).render(screen.colours);
    screen.text(&format!("\n{}\n", indent(&table)));
    let (all, used) = (desktops.len(), used(&desktops));
    done(
        screen,
        &format!("{all} desktops are ready, and somebody is at {used} of them"),
        took,
    );
    Ok(())
}

/// Commits a configuration.
async fn apply(client: &Client, bundle: Bundle) -> Result<(), Failure> {
    let request = ApplyRequest {
        expect_plan: None,
        configuration: Configuration::Bundle(bundle),
        approve: BTreeSet::new(),
        max_interrupted: None,
    };
    let _: ApplyResponse = client.post("/apply", &request).await?;
    Ok(())
}

fn configuration(site: &Site) -> PathBuf {
    site.path().join("demo")
}

fn bundle(texts: &[(&str, &str)]) -> Bundle {
    let text = |(name, text): &(&str, &str)| SourceText {
        path: format!("demo/{name}"),
        text: (*text).to_owned(),
    };
    Bundle {
        texts: texts.iter().map(text).collect(),
        ..Bundle::default()
    }
}

fn unwritten(error: &dyn std::error::Error) -> Failure {
    Failure::new("cannot write the demo's own files").because(error)
}

/// Who would be affected.
async fn foretell(name: &ServerName, client: &Client, screen: &Screen) -> Result<(), Failure> {
    heading(screen, &format!("What if {name}, which leads, were lost?"));
    command(screen, &format!("coppice plan --lose {name}"));
    let lose = BTreeSet::from([name.clone()]);
    let document = planned(client, Bundle::default(), lose, screen).await?;
    show(&document, Detail::Normal, screen);
    Ok(())
}

/// Kills the server that leads, and tells what comes of it.
async fn lose(
    site: &mut Site,
    name: &ServerName,
    settings: &Settings,
    screen: &Screen,
) -> Result<(), Failure> {
    heading(screen, &format!("{name} loses its power"));
    let other = site.servers.iter().find(|s| s.name != *name);
    let other = other.ok_or_else(|| Failure::new("a demo has servers"))?;
    let client = Client::new(&site.settings(other, settings)?)?;
    let desktops: Vec<Desktop> = client.get("/desktops").await?;
    let (on_it, _) = desktops
        .into_iter()
        .partition::<Vec<_>, _>(|d| d.server == *name);
    let personal = on_it.iter().filter(|d| d.pool.as_str() == PERSONAL).count();
    let pooled = on_it.len() - personal;
    let server = site.server(name)?;
    command(
        screen,
        &format!("kill -9 {}", server.pid().unwrap_or_default()),
    );
    server.kill().await?;
    let killed = Instant::now();

    let waiting = Progress::waiting(screen, "until another server leads");
    let mut leads = None;
    let led = until(&client, "another server leads", |status| {
        leads = leader(status).filter(|leader| leader != name);
        leads.is_some()
    });
    let led = led.await?.duration_since(killed);
    let leads = leads.unwrap_or_else(|| name.clone());
    waiting.finish();
    done(screen, &format!("{leads} leads"), led);

    let waiting = Progress::waiting(screen, &format!("until {name} counts as lost"));
    let lost = until(&client, "the server is lost", |status| {
        let mut servers = status.servers.iter();
        servers.any(|s| s.name == *name && s.state == ServerState::Lost)
    });
    let lost = lost.await?.duration_since(killed);
    waiting.finish();
    done(
        screen,
        &format!("{name} is lost: the others agree, as `lost_after` is 5 s"),
        lost,
    );

    let grows = Progress::things(screen, "desktops grow elsewhere", pooled as u64);
    let whole = until(&client, "others have grown", |status| {
        let pools = status.pools.iter().filter(|p| p.name.as_str() != PERSONAL);
        let away = pools.map(lacks).sum::<u64>();
        grows.set((pooled as u64).saturating_sub(away), pooled as u64);
        away == 0
    });
    let whole = whole.await?.duration_since(killed);
    grows.finish();
    done(
        screen,
        &format!("{pooled} desktops are ready elsewhere, in place of those it held"),
        whole,
    );

    let after: Vec<Desktop> = client.get("/desktops").await?;
    let table = spread(site, &after, Some(name)).render(screen.colours);
    screen.text(&format!("\n{}\n", indent(&table)));
    let used = used(&on_it);
    screen.text(&format!(
        "  {used} people were cut off, as the plan said: they sign in again.\n"
    ));
    if personal > 0 {
        screen.text(&format!(
            "  {personal} personal desktops wait for {name}, with what is on them.\n"
        ));
    }
    screen.value(&Measured {
        killed: name.clone(),
        leads,
        affected: on_it.len(),
        another_leads_ms: led.as_millis(),
        lost_ms: lost.as_millis(),
        regrown_ms: whole.as_millis(),
    })
}

/// Says how to use the grid that is there.
pub(super) fn keep(site: &Site, screen: &Screen) -> Result<(), Failure> {
    let first = site.first()?;
    let runs = site.servers.iter().find(|server| server.pid().is_some());
    let runs = runs.ok_or_else(|| Failure::new("no server of the demo runs"))?;
    let env = site.path().join("env");
    let text = format!(
        "export COPPICE_SERVER=https://{}\nexport COPPICE_CA_FILE={}\nexport COPPICE_TOKEN_FILE={}\n",
        runs.address,
        first.layout.ca().display(),
        first.layout.token().display(),
    );
    std::fs::write(&env, text)
        .map_err(|e| Failure::new(format!("cannot write {}", env.display())).because(&e))?;
    heading(screen, "It goes on until Ctrl-C. In another terminal");
    command(screen, &format!(". {}", env.display()));
    for line in [
        "coppice status",
        "coppice desktop list",
        "coppice explain desktop.class-001",
    ] {
        command(screen, line);
    }
    command(screen, &format!("coppice server drain {}", runs.name));
    command(
        screen,
        &format!("coppice plan {}", configuration(site).display()),
    );
    let lost = site.servers.iter().filter(|server| server.pid().is_none());
    for server in lost {
        let config = server.layout.config();
        screen.text(&format!(
            "\n  Bring {} back, with an empty disk:\n",
            server.name
        ));
        command(
            screen,
            &format!("coppice serve --config {}", config.display()),
        );
    }
    screen.text("\n");
    for server in &site.servers {
        let pid = match server.pid() {
            Some(pid) => format!("process {pid}"),
            None => "killed".to_owned(),
        };
        screen.text(&format!(
            "  {}  https://{}  {pid}\n",
            server.name, server.address
        ));
    }
    let token = first.layout.token();
    let secret = std::fs::read_to_string(&token).unwrap_or_default();
    screen.text(&format!(
        "\n  The token to sign in with, from {}:\n  {}\n",
        token.display(),
        secret.trim()
    ));
    Ok(())
}

/// Says that nothing is left, and where to go from here.
pub(super) fn end(screen: &Screen) {
    screen.text("\nThe servers are ended, and everything is removed.\n");
    screen.advise("coppice demo --keep                       the same, and it stays");
    screen.advise("coppice init --data /var/lib/coppice      a server of your own");
}

fn heading(screen: &Screen, text: &str) {
    screen.text(&format!("\n{}\n", screen.colours.bold(text)));
}

fn command(screen: &Screen, text: &str) {
    screen.text(&format!("  {} {text}\n", screen.colours.faint("$")));
}

/// What came about, and after how long: in a column of its own.
fn done(screen: &Screen, text: &str, took: Duration) {
    let took = format!("{:.1} s", took.as_secs_f64());
    let gap = 74usize
        .saturating_sub(text.chars().count() + took.len())
        .max(2);
    let text = screen.colours.good(text);
    screen.text(&format!("  {text}{}{took}\n", " ".repeat(gap)));
}

fn show(document: &Document, detail: Detail, screen: &Screen) {
    let text = present::text(document, detail, screen.colours);
    screen.text(&format!("\n{}", wrapped(&text)));
}

/// A little to the right.
fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// No wider than the terminal, what goes on under what it belongs to.
fn wrapped(text: &str) -> String {
    let width = terminal::width().max(40);
    let wrap = |line: &str| {
        let inner = line.chars().take_while(|c| *c == ' ').count();
        let deeper = " ".repeat(inner + 4);
        let options = textwrap::Options::new(width).subsequent_indent(&deeper);
        let pieces = textwrap::wrap(line, options.break_words(false));
        pieces
            .iter()
            .fold(String::new(), |all, piece| all + piece.trim_end() + "\n")
    };
    text.lines().map(wrap).collect()
}

/// How many desktops of each pool each server has that can be used; of the one that is gone, none.
fn spread(site: &Site, desktops: &[Desktop], gone: Option<&ServerName>) -> Table {
    let mut pools: BTreeMap<&PoolName, BTreeMap<&ServerName, u32>> = BTreeMap::new();
    for desktop in desktops {
        let counts = pools.entry(&desktop.pool).or_default();
        if gone != Some(&desktop.server) {
            *counts.entry(&desktop.server).or_default() += 1;
        }
    }
    let mut headings = vec!["pool", "desktops"];
    headings.extend(site.servers.iter().map(|server| server.name.as_str()));
    let mut table = Table::new(&headings);
    for (pool, counts) in pools {
        let servers = site
            .servers
            .iter()
            .map(|server| match counts.get(&server.name) {
                Some(count) => Cell::number(count),
                None => Cell::number("–").tone(Tone::Faint),
            });
        let all: u32 = counts.values().sum();
        let row = [pool.as_str().into(), Cell::number(all)];
        table.row(row.into_iter().chain(servers));
    }
    table
}

/// The plan that the grid has for it, once every server was seen.
async fn planned(
    client: &Client,
    bundle: Bundle,
    lose: BTreeSet<ServerName>,
    screen: &Screen,
) -> Result<Document, Failure> {
    let begun = Instant::now();
    let request = PlanRequest {
        bundle,
        targets: BTreeSet::new(),
        save: false,
        lose,
    };
    loop {
        let response: PlanResponse = plan::ask(client, &request, screen).await?;
        if response.document.unseen.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(response.document);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks how the grid stands until it is so, and tells when that was. Nobody may answer for a while.
async fn until(
    client: &Client,
    what: &str,
    mut is: impl FnMut(&Status) -> bool,
) -> Result<Instant, Failure> {
    let begun = Instant::now();
    loop {
        let wrong = match client.get::<Status>("/status").await {
            Ok(status) if is(&status) => return Ok(Instant::now()),
            Ok(_) => None,
            Err(error) if error.passes() => Some(error),
            Err(error) => return Err(error.into()),
        };
        if begun.elapsed() > PATIENCE {
            let failure =
                wrong.map_or_else(|| Failure::new("it did not come about"), Failure::from);
            return Err(failure.during(format!("waited for {} s until {what}", PATIENCE.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn leader(status: &Status) -> Option<ServerName> {
    let leads = |s: &&ServerStatus| s.log.is_some_and(|log| log.part == LogRole::Leader);
    status.servers.iter().find(leads).map(|s| s.name.clone())
}

fn used(desktops: &[Desktop]) -> usize {
    let used = |desktop: &&Desktop| desktop.state == DesktopState::InUse;
    desktops.iter().filter(used).count()
}

/// How many desktops it has too few.
fn lacks(pool: &PoolStatus) -> u64 {
    let there = pool.available + pool.in_use + pool.off;
    u64::from(pool.desired.saturating_sub(there))
}
