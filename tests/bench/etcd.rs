//! Three etcd servers on loopback, and the few messages of its API that are needed here.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::body::Bytes;

use crate::http::Grpc;

/// How long they may take to be one.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Etcd {
    members: Vec<Member>,
}

struct Member {
    arguments: Vec<String>,
    client: SocketAddr,
    place: PathBuf,
    process: Child,
}

/// Ports that are free now.
pub(crate) fn ports(many: usize) -> Result<Vec<SocketAddr>, String> {
    let all: Result<Vec<_>, _> = (0..many)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect();
    let all = all.map_err(|e| format!("no free port: {e}"))?;
    let all: Result<Vec<_>, _> = all.iter().map(TcpListener::local_addr).collect();
    all.map_err(|e| e.to_string())
}

impl Member {
    fn start(arguments: &[String], place: &Path) -> Result<Child, String> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(place.with_extension("log"));
        Command::new("etcd")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(|e| e.to_string())?)
            .spawn()
            .map_err(|e| format!("cannot run etcd: {e}"))
    }
}

impl Etcd {
    /// Starts three; they are one when this returns.
    pub(crate) async fn start(place: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(place).map_err(|e| e.to_string())?;
        let (peers, clients) = (ports(3)?, ports(3)?);
        let name = |n: usize| format!("e{n}");
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(n, peer)| format!("{}=http://{peer}", name(n)))
            .collect();
        let cluster = cluster.join(",");
        let mut members = Vec::new();
        for (n, (peer, client)) in peers.iter().zip(&clients).enumerate() {
            let data = place.join(name(n));
            let pairs = [
                ("--name", name(n)),
                ("--data-dir", data.display().to_string()),
                ("--listen-peer-urls", format!("http://{peer}")),
                ("--initial-advertise-peer-urls", format!("http://{peer}")),
                ("--listen-client-urls", format!("http://{client}")),
                ("--advertise-client-urls", format!("http://{client}")),
                ("--initial-cluster", cluster.clone()),
                ("--logger", "zap".to_owned()),
            ];
            let arguments: Vec<String> = pairs
                .into_iter()
                .flat_map(|(key, value)| [key.to_owned(), value])
                .collect();
            let process = Member::start(&arguments, &data)?;
            members.push(Member {
                arguments,
                client: *client,
                place: data,
                process,
            });
        }
        let etcd = Self { members };
        etcd.leader().await?;
        Ok(etcd)
    }

    pub(crate) fn address(&self, n: usize) -> Result<SocketAddr, String> {
        let member = self.members.get(n).ok_or("etcd has three members")?;
        Ok(member.client)
    }

    /// Which one leads, once all of them answer and say the same.
    pub(crate) async fn leader(&self) -> Result<usize, String> {
        let begun = Instant::now();
        loop {
            let mut says = Vec::new();
            for member in &self.members {
                if let Ok(answer) = status(member.client).await {
                    says.push(answer);
                }
            }
            let same = says.windows(2).all(|two| two[0].1 == two[1].1);
            let leads = says.iter().position(|(me, leader)| me == leader);
            if let (3, true, Some(leads)) = (says.len(), same, leads) {
                return Ok(leads);
            }
            if begun.elapsed() > PATIENCE {
                return Err("etcd elects nobody".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, n: usize) -> Result<(), String> {
        let member = self.members.get_mut(n).ok_or("etcd has three members")?;
        member.process.kill().map_err(|e| e.to_string())?;
        member.process.wait().map_err(|e| e.to_string())?;
        Ok(())
    }

    pub(crate) fn start_again(&mut self, n: usize) -> Result<(), String> {
        let member = self.members.get_mut(n).ok_or("etcd has three members")?;
        member.process = Member::start(&member.arguments, &member.place)?;
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ended = member.process.kill();
            let _waited = member.process.wait();
        }
    }
}

/// Its own number, and the number of whoever leads.
async fn status(address: SocketAddr) -> Result<(u64, u64), String> {
    let mut grpc = Grpc::connect(address).await?;
    let answer = grpc.call("/etcdserverpb.Maintenance/Status", &[]).await?;
    let header = bytes(&answer, 1).unwrap_or_default();
    let me = number(&header, 2).ok_or("etcd says not who it is")?;
    Ok((me, number(&answer, 4).unwrap_or(0)))
}

/// PutRequest: a key and a value.
pub(crate) async fn put(grpc: &mut Grpc, key: &str, value: &[u8]) -> Result<(), String> {
    let mut message = Vec::new();
    field(&mut message, 1, key.as_bytes());
    field(&mut message, 2, value);
    grpc.call("/etcdserverpb.KV/Put", &message).await.map(drop)
}

/// How often a key was put, and its value.
pub(crate) async fn version(grpc: &mut Grpc, key: &str) -> Result<(u64, Bytes), String> {
    let mut message = Vec::new();
    field(&mut message, 1, key.as_bytes());
    let answer = grpc.call("/etcdserverpb.KV/Range", &message).await?;
    let found = bytes(&answer, 2).ok_or_else(|| format!("etcd has no key {key}"))?;
    let value = bytes(&found, 5).unwrap_or_default();
    Ok((number(&found, 4).unwrap_or(0), value))
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push((value & 0x7f) as u8);
}

fn field(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(message, number << 3 | 2);
    varint(message, content.len() as u64);
    message.extend(content);
}

/// A field of a message, as it is on the wire.
enum Field {
    Number(u64),
    Bytes(Bytes),
}

fn find(message: &Bytes, wanted: u64) -> Option<Field> {
    let mut at = 0;
    while at < message.len() {
        let tag = read(message, &mut at)?;
        let found = match tag & 7 {
            0 => Field::Number(read(message, &mut at)?),
            2 => {
                let length = usize::try_from(read(message, &mut at)?).ok()?;
                let end = at.checked_add(length).filter(|end| *end <= message.len())?;
                let content = message.slice(at..end);
                at = end;
                Field::Bytes(content)
            }
            // Nothing else is in the messages that are read here.
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(found);
        }
    }
    None
}

fn read(message: &Bytes, at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *message.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn number(message: &Bytes, wanted: u64) -> Option<u64> {
    match find(message, wanted)? {
        Field::Number(value) => Some(value),
        Field::Bytes(_) => None,
    }
}

fn bytes(message: &Bytes, wanted: u64) -> Option<Bytes> {
    match find(message, wanted)? {
        Field::Bytes(content) => Some(content),
        Field::Number(_) => None,
    }
}
