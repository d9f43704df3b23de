//! Row 11: whoever leads is killed, again and again: until a commit is acknowledged again, beside etcd; and until the
//! desktops that it held are ready elsewhere.
//!
//! Both sides are three processes as in row 5. A client of another server asks for a commit as soon as the leader is
//! killed, and again whenever that fails. The desktops are simulated and come up at once, so that what is measured is
//! the grid: `lost_after` as it is without a word, 5 s. What a killed server held is gone, and it comes back empty.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hyper::Method;
use tokio::runtime::Runtime;

use crate::commits::{Sides, quantile};
use crate::cost::{By, Turns};
use crate::etcd::{self, Etcd};
use crate::http::Grpc;
use crate::line::{Comparison, Line};
use crate::servers::{Servers, of};
use crate::{Bench, Row, say};

pub(crate) const ROW: Row = Row {
    number: 11,
    packages: &["etcd-server"],
    measure,
};

const DESKTOPS: u64 = 60;

/// Within this, 99 of a hundred times, desktops are to be taken over.
const WANTED: f64 = 10.0;

/// How long one attempt may take: etcd holds on to what was asked of a leader that is dead for 7 s.
const ATTEMPT: Duration = Duration::from_millis(500);

/// How long a commit is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

fn configuration() -> String {
    format!(
        "grid \"bench\" {{\n  timezone = \"UTC\"\n}}\nimage \"tiny\" {{\n  version = \"1\"\n  os = \"linux\"\n  copies = \"all\"\n}}\n\
         template \"small\" {{\n  image = image.tiny\n  memory = \"96MiB\"\n}}\n\
         pool \"lab\" {{\n  template = template.small\n  desktops = {DESKTOPS}\n  hostname = \"lab-{{slot:02}}\"\n}}\n"
    )
}

/// An image and a pool.
async fn grow(bench: &Bench, grid: &Servers) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot write: {e}");
    let image = bench.place.join("tiny.raw");
    let mut disk = vec![0u8; 1 << 20];
    if let Some(end) = disk.get_mut(510..512) {
        end.copy_from_slice(&[0x55, 0xaa]);
    }
    std::fs::write(&image, disk).map_err(failed)?;
    let conf = bench.place.join("conf");
    std::fs::create_dir_all(&conf).map_err(failed)?;
    std::fs::write(conf.join("bench.hcl"), configuration()).map_err(failed)?;
    let image = image.display().to_string();
    grid.run(&["image", "import", "tiny", &image, "--version", "1"])?;
    grid.run(&["apply", &conf.display().to_string(), "--yes", "--detach"])?;
    Ok(())
}

fn ready(status: &serde_json::Value) -> bool {
    of(status, "pools").any(|pool| pool["available"] == DESKTOPS)
}

/// All three take part, and every desktop is there, on servers that are.
async fn whole(grid: &Servers) -> Result<(), String> {
    let all = |status: &serde_json::Value| {
        let fine = |s: &&serde_json::Value| {
            s["state"] == "ready"
                && s["current"] == true
                && s["log"]["behind"] == 0
                && s["log"]["part"] != "learner"
        };
        of(status, "servers").filter(fine).count() == 3 && ready(status)
    };
    for n in 0..3 {
        grid.until(n, "all take part", all).await?;
    }
    Ok(())
}

/// The desktops that server `n` holds.
async fn held(grid: &Servers, n: usize, asked: usize) -> Result<BTreeSet<String>, String> {
    let mut api = grid.connect(asked).await?;
    let desktops = api.ask(Method::GET, "/desktops", &[]).await?;
    let name = format!("host-{n}");
    let all = desktops.as_array().into_iter().flatten();
    let there = all.filter(|desktop| desktop["server"] == name.as_str());
    Ok(there.map(|desktop| desktop["id"].to_string()).collect())
}

/// Tries until it is acknowledged.
async fn committed<T>(attempt: impl AsyncFn() -> Result<T, String>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let attempt = tokio::time::timeout(ATTEMPT, attempt()).await;
        match attempt.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(_) => return Ok(()),
            Err(why) if begun.elapsed() > PATIENCE => return Err(why),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// One kill of Coppice: seconds until a commit, and until its desktops are ready elsewhere.
async fn kill(grid: &mut Servers) -> Result<(f64, Option<f64>), String> {
    whole(grid).await?;
    let leader = grid.leader(0).await?;
    let other = (leader + 1) % 3;
    let held_before = held(grid, leader, other).await?;
    grid.kill(leader)?;
    let killed = Instant::now();
    let grid_now = &*grid;
    let commit = async {
        committed(async || {
            let mut api = grid_now.connect(other).await?;
            api.ask(Method::PUT, "/secrets/after", b"after").await
        })
        .await?;
        Ok::<_, String>(killed.elapsed().as_secs_f64())
    };
    let name = format!("host-{leader}");
    let taken = grid_now.until(other, "its desktops are elsewhere", |status| {
        let lost = |s: &serde_json::Value| s["name"] == name.as_str() && s["state"] == "lost";
        of(status, "servers").any(lost) && ready(status)
    });
    let (commit, taken) = tokio::join!(commit, taken);
    let (commit, taken) = (commit?, taken?.duration_since(killed).as_secs_f64());
    let mut api = grid.connect(other).await?;
    let now = api.ask(Method::GET, "/desktops", &[]).await?;
    let elsewhere = now.as_array().into_iter().flatten();
    let elsewhere = elsewhere.filter(|d| d["server"] != name.as_str() && d["state"] == "available");
    if elsewhere.count() as u64 != DESKTOPS {
        return Err("not every desktop was taken over".to_owned());
    }
    grid.begin(leader)?;
    Ok((commit, (!held_before.is_empty()).then_some(taken)))
}

/// One kill of etcd: seconds until a commit.
async fn kill_etcd(etcd: &mut Etcd) -> Result<f64, String> {
    let leader = etcd.leader().await?;
    let other = etcd.address((leader + 1) % 3)?;
    etcd.kill(leader)?;
    let killed = Instant::now();
    committed(async || {
        let mut grpc = Grpc::connect(other).await?;
        etcd::put(&mut grpc, "after", b"after").await
    })
    .await?;
    let took = killed.elapsed().as_secs_f64();
    etcd.start_again(leader)?;
    Ok(took)
}

fn told(what: &str, took: &[f64]) {
    say(&format!(
        "row 11: {what}: {} kills, min {:.2} s, median {:.2} s, max {:.2} s",
        took.len(),
        quantile(took, 0),
        quantile(took, 50),
        quantile(took, 100)
    ));
}

fn measure(bench: &Bench) -> Result<Vec<Line>, String> {
    let runtime = Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let kills = bench.size(20);
    let (mut commits, mut takeovers, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let mut sides = Sides::start(bench, 11).await?;
        grow(bench, &sides.coppice).await?;
        for n in 1..=kills {
            say(&format!("row 11: kill {n} of {kills}"));
            let (commit, taken) = kill(&mut sides.coppice).await?;
            say(&format!(
                "row 11: a commit after {commit:.2} s, desktops after {:.2} s",
                taken.unwrap_or(0.0)
            ));
            commits.push(commit);
            takeovers.extend(taken);
            if let Ok(etcd) = &mut sides.etcd {
                theirs.push(kill_etcd(etcd).await?);
            }
        }
        Ok::<_, String>(())
    })?;
    told("Coppice, until a commit", &commits);
    told(
        "Coppice, until its desktops are ready elsewhere",
        &takeovers,
    );
    told("etcd, until a commit", &theirs);
    let etcd = Turns::of("etcd", &theirs);
    let peer = (!theirs.is_empty()).then_some(&etcd);
    let line = |metric, ours: &[f64], peer: Option<&Turns>| {
        Comparison {
            row: ROW.number,
            metric,
            unit: "kills/s",
            by: By::Wall,
            ours: &Turns::of("Coppice", ours),
            peer,
            limit: None,
            target: 1.0,
        }
        .line()
    };
    let worst = [quantile(&takeovers, 99)];
    Ok(vec![
        line(
            "leader killed until a commit, median, beside etcd",
            &commits,
            peer,
        )?,
        line(
            "leader killed until its desktops are ready elsewhere, p99, beside 10 s",
            &worst,
            Some(&Turns::of("10 s", &[WANTED])),
        )?,
    ])
}
