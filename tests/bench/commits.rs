//! Rows 5 and 6: commits of three servers, of one client and of 64, beside etcd.
//!
//! Both sides are three processes on this machine, with their logs on the same disk and every commit synced by a
//! majority before it is acknowledged. A commit is what a client gets: of etcd a `Put` by gRPC, without TLS anywhere;
//! of Coppice a secret set by the HTTPS API, with TLS to the client and between the servers, and sealed. Clients are connected to whoever leads, each by a connection of its own, and
//! set a key of their own over and over. How often each key was set is asked at the end, of another server.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::Instant;

use futures::future::join_all;
use hyper::Method;
use tokio::runtime::Runtime;

use crate::cost::{By, Cost, Turns};
use crate::etcd::{self, Etcd};
use crate::http::{Api, Grpc};
use crate::line::{Comparison, Line};
use crate::servers::Servers;
use crate::{Bench, Row, say};

pub(crate) const ONE: Row = Row {
    number: 5,
    packages: &["etcd-server"],
    measure: one,
};

pub(crate) const MANY: Row = Row {
    number: 6,
    packages: &["etcd-server"],
    measure: many,
};

/// What is set: as a small entry of a log.
const BYTES: usize = 256;

/// Who sets it.
enum Client {
    Coppice(Api),
    Etcd(Grpc),
}

impl Client {
    async fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        match self {
            Self::Coppice(api) => {
                let path = format!("/secrets/{key}");
                api.ask(Method::PUT, &path, value).await.map(drop)
            }
            Self::Etcd(grpc) => etcd::put(grpc, key, value).await,
        }
    }
}

/// Both sides, running.
pub(crate) struct Sides {
    pub(crate) coppice: Servers,
    pub(crate) etcd: Result<Etcd, String>,
}

impl Sides {
    pub(crate) async fn start(bench: &Bench, row: u32) -> Result<Self, String> {
        let etcd = Etcd::start(&bench.place.join(format!("etcd-{row}"))).await;
        if let Err(why) = &etcd {
            say(&format!("row {row}: no comparison with etcd: {why}"));
        }
        let place = bench.place.join(format!("servers-{row}"));
        Ok(Self {
            coppice: Servers::start(&place, 3).await?,
            etcd,
        })
    }

    /// So many clients of Coppice.
    async fn ours(&self, many: u32) -> Result<Vec<Client>, String> {
        let leader = self.coppice.leader(0).await?;
        let mut clients = Vec::new();
        for _ in 0..many {
            clients.push(Client::Coppice(self.coppice.connect(leader).await?));
        }
        Ok(clients)
    }

    async fn theirs(etcd: &Etcd, many: u32) -> Result<Vec<Client>, String> {
        let leader = etcd.address(etcd.leader().await?)?;
        let mut clients = Vec::new();
        for _ in 0..many {
            clients.push(Client::Etcd(Grpc::connect(leader).await?));
        }
        Ok(clients)
    }

    /// Every key was set so often, as a server that does not lead says.
    async fn check(&self, keys: u32, times: u64) -> Result<(), String> {
        let other = (self.coppice.leader(0).await? + 1) % 3;
        let mut api = self.coppice.connect(other).await?;
        let secrets = api.ask(Method::GET, "/secrets", &[]).await?;
        for n in 0..keys {
            let named = |secret: &&serde_json::Value| secret["name"] == key(n).as_str();
            let secret = secrets.as_array().into_iter().flatten().find(named);
            let version = secret.and_then(|secret| secret["version"].as_u64());
            if version != Some(times) {
                return Err(format!("{} was set {version:?} times, not {times}", key(n)));
            }
        }
        let Ok(etcd) = &self.etcd else { return Ok(()) };
        let other = (etcd.leader().await? + 1) % 3;
        let mut grpc = Grpc::connect(etcd.address(other)?).await?;
        for n in 0..keys {
            let (version, value) = etcd::version(&mut grpc, &key(n)).await?;
            if version != times || value != value_of(n) {
                return Err(format!(
                    "etcd: {} was put {version} times, not {times}",
                    key(n)
                ));
            }
        }
        Ok(())
    }
}

fn key(n: u32) -> String {
    format!("key-{n}")
}

fn value_of(n: u32) -> Vec<u8> {
    (0..BYTES)
        .map(|i| b'a' + (n as usize + i).to_le_bytes()[0] % 26)
        .collect()
}

/// Each client sets its key so often, one after the other. Every time that it took is returned.
async fn set(clients: Vec<Client>, times: u32) -> Result<Vec<f64>, String> {
    let each = clients.into_iter().zip(0u32..).map(|(mut client, n)| {
        tokio::spawn(async move {
            let (key, value) = (key(n), value_of(n));
            let mut took = Vec::new();
            for _ in 0..times {
                let begun = Instant::now();
                client.set(&key, &value).await?;
                took.push(begun.elapsed().as_secs_f64());
            }
            Ok::<_, String>(took)
        })
    });
    let mut all = Vec::new();
    for one in join_all(each).await {
        all.extend(one.map_err(|e| e.to_string())??);
    }
    Ok(all)
}

/// What the disk allows: as many bytes written and synced, one after the other, into a file that has its blocks already,
/// so that nothing but these bytes is to be written.
fn synced(bench: &Bench, times: u32) -> Result<Vec<f64>, String> {
    let path = bench.place.join("synced");
    let failed = |e: std::io::Error| format!("cannot write {}: {e}", path.display());
    let mut file = File::create(&path).map_err(failed)?;
    let all = vec![1; BYTES * times as usize];
    file.write_all(&all).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut took = Vec::new();
    for n in 0..times {
        let begun = Instant::now();
        file.write_all(&value_of(n)).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        took.push(begun.elapsed().as_secs_f64());
    }
    Ok(took)
}

/// The value that so much of all is below.
pub(crate) fn quantile(values: &[f64], of_hundred: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * of_hundred / 100).copied().unwrap_or(0.0)
}

fn told(row: u32, name: &str, took: &[f64]) {
    let ms = |of_hundred| quantile(took, of_hundred) * 1e3;
    say(&format!(
        "row {row}: {name}: median {:.2} ms, of a hundred 99 within {:.2} ms",
        ms(50),
        ms(99)
    ));
}

fn one(bench: &Bench) -> Result<Vec<Line>, String> {
    let runtime = Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let times = bench.size(500);
    let mut ours = Turns::new("Coppice", 1.0);
    let mut theirs = Turns::new("etcd", 1.0);
    let mut disk = Turns::new("fdatasync", 1.0);
    runtime.block_on(async {
        let sides = Sides::start(bench, 5).await?;
        for round in 1..=bench.rounds {
            say(&format!("row 5: round {round} of {}", bench.rounds));
            let took = synced(bench, times)?;
            told(5, "256 bytes and fdatasync", &took);
            disk.costs.push(Cost::of(quantile(&took, 50)));
            let took = set(sides.ours(1).await?, times).await?;
            told(5, "Coppice", &took);
            ours.costs.push(Cost::of(quantile(&took, 50)));
            if let Ok(etcd) = &sides.etcd {
                let took = set(Sides::theirs(etcd, 1).await?, times).await?;
                told(5, "etcd", &took);
                theirs.costs.push(Cost::of(quantile(&took, 50)));
            }
        }
        sides.check(1, u64::from(times * bench.rounds)).await
    })?;
    let peer = (!theirs.costs.is_empty()).then_some(&theirs);
    let line = |metric, peer, target| {
        Comparison {
            row: ONE.number,
            metric,
            unit: "commits/s",
            by: By::Wall,
            ours: &ours,
            peer,
            limit: Some(&disk),
            target,
        }
        .line()
    };
    Ok(vec![
        line("3 servers, 1 client, median, beside etcd", peer, 1.0)?,
        line("the same, beside one fdatasync", Some(&disk), 0.5)?,
    ])
}

fn many(bench: &Bench) -> Result<Vec<Line>, String> {
    let runtime = Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
    let (clients, times) = (64, bench.size(100));
    let all = f64::from(clients * times);
    let mut ours = Turns::new("Coppice", all);
    let mut theirs = Turns::new("etcd", all);
    runtime.block_on(async {
        let sides = Sides::start(bench, 6).await?;
        for round in 1..=bench.rounds {
            say(&format!("row 6: round {round} of {}", bench.rounds));
            let connected = sides.ours(clients).await?;
            let begun = Instant::now();
            let took = set(connected, times).await?;
            ours.costs.push(Cost::of(begun.elapsed().as_secs_f64()));
            told(6, "Coppice", &took);
            if let Ok(etcd) = &sides.etcd {
                let connected = Sides::theirs(etcd, clients).await?;
                let begun = Instant::now();
                let took = set(connected, times).await?;
                theirs.costs.push(Cost::of(begun.elapsed().as_secs_f64()));
                told(6, "etcd", &took);
            }
        }
        sides.check(clients, u64::from(times * bench.rounds)).await
    })?;
    let peer = (!theirs.costs.is_empty()).then_some(&theirs);
    let line = Comparison {
        row: MANY.number,
        metric: "3 servers, 64 clients, beside etcd",
        unit: "commits/s",
        by: By::Wall,
        ours: &ours,
        peer,
        limit: None,
        target: 10.0,
    };
    Ok(vec![line.line()?])
}
