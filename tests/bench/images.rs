//! Rows 7 and 8: an image to many servers, and a new version of one, beside rsync.
//!
//! Servers are stores on one disk, with pipes in memory between them; what each sends is limited as a network card
//! would. An image counts when every chunk on every server was synced and read back. rsync copies from one server to
//! each of the others at once, which share what that one may send; it syncs its files too, and reads nothing back. All
//! of it is compared with the source before it counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use coppice_schema::Digest;
use coppice_schema::ids::{GridId, ServerId};
use coppice_schema::known::CopyState;
use coppice_schema::units::Size;
use coppice_world::disks::{Disks, LocalDisks};
use coppice_world::hypervisor::ByteStream;
use coppice_world::peers::{PeerError, Peers, Purpose, Serves};
use coppice_world::sim::SimWires;
use futures::future::{BoxFuture, FutureExt, join_all, select};
use futures::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cost::{self, By, Cost, Turns, Whose};
use crate::line::{Comparison, Line};
use crate::{Bench, Row, say};

pub(crate) const MANY: Row = Row {
    number: 7,
    packages: &["rsync"],
    measure: many,
};

pub(crate) const CHANGED: Row = Row {
    number: 8,
    packages: &["rsync"],
    measure: changed,
};

/// Bytes a second that a server sends: so few that two processors carry a hundred servers.
const RATE: u64 = 4_000_000;

const CHUNK: usize = 64 << 10;

/// A grid of stores.
struct Grid {
    runtime: Runtime,
    wires: SimWires,
    disks: Vec<LocalDisks>,
    deaths: Vec<watch::Sender<bool>>,
    serving: tokio::task::JoinHandle<()>,
    place: PathBuf,
    /// Bytes on all pipes, in both directions.
    moved: Arc<AtomicU64>,
}

impl Grid {
    fn new(place: &Path, servers: u32, rate: Option<u64>) -> Result<Self, String> {
        std::fs::create_dir_all(place).map_err(|e| format!("cannot make a directory: {e}"))?;
        let runtime = Runtime::new().map_err(|e| format!("no runtime: {e}"))?;
        let wires = SimWires::default();
        let moved = Arc::new(AtomicU64::new(0));
        let (mut disks, mut deaths) = (Vec::new(), Vec::new());
        for n in 0..=servers {
            let id = ServerId(u64::from(n));
            let open = LocalDisks::open(place.join(n.to_string()), GridId([7; 16]));
            let store = runtime.block_on(open).map_err(|e| e.to_string())?;
            store.limit_images(rate.map(Size));
            store.meet(Arc::new(Counted(wires.peers(id), Arc::clone(&moved))));
            let (death, dead) = watch::channel(false);
            let serves = Mortal(store.clone(), dead);
            wires.serve(id, Purpose::Images, Arc::new(serves));
            disks.push(store);
            deaths.push(death);
        }
        let served = wires.clone();
        let serving = runtime.spawn(async move {
            loop {
                for one in served.served() {
                    tokio::spawn(one);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Ok(Self {
            runtime,
            wires,
            disks,
            deaths,
            serving,
            place: place.to_owned(),
            moved,
        })
    }

    fn import(&self, source: &Path) -> Result<Digest, String> {
        let first = self.disks.first().ok_or("no server")?;
        let told = Arc::new(|_| {});
        let imported = first.import_image(source.to_owned(), told);
        let imported = self.runtime.block_on(imported).map_err(|e| e.to_string())?;
        Ok(imported.root)
    }

    /// All others get it from the first, in a chain, as a plan would tell them. The server `dies` is killed when it has
    /// half of it.
    fn share(&self, root: Digest, dies: Option<usize>) -> Result<(), String> {
        let gets = self.disks.iter().enumerate().skip(1).map(|(n, disks)| {
            let before = u64::try_from(n - 1).unwrap_or_default();
            let mut from = vec![ServerId(before)];
            if before > 0 {
                from.push(ServerId(0));
            }
            let get = disks.receive_image(root, from);
            let mut death = self.deaths.get(n).map(watch::Sender::subscribe);
            async move {
                let dead = async {
                    match &mut death {
                        Some(death) => drop(death.wait_for(|dead| *dead).await),
                        None => std::future::pending().await,
                    }
                };
                match select(get, Box::pin(dead)).await {
                    futures::future::Either::Left((got, _)) => got.map_err(|e| e.to_string()),
                    futures::future::Either::Right(_) => Ok(()),
                }
            }
        });
        let kill = async {
            let Some(n) = dies else { return };
            let Some(disks) = self.disks.get(n) else {
                return;
            };
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let moving = disks.transfers(None).await.unwrap_or_default();
                if moving
                    .iter()
                    .any(|t| t.here.0 * 2 >= t.data.0 && t.here.0 > 0)
                {
                    break;
                }
            }
            for other in 0..self.disks.len() {
                let ends = (u64::try_from(other), u64::try_from(n));
                if let (Ok(from), Ok(to)) = ends {
                    self.wires.cut(ServerId(from), ServerId(to), true);
                }
            }
            if let Some(death) = self.deaths.get(n) {
                death.send_replace(true);
            }
        };
        let all = self.runtime.block_on(async {
            let gets = join_all(gets);
            match dies {
                // Who has it all before it was half way is not killed any more, and whoever reads the words knows.
                Some(_) => match select(Box::pin(gets), Box::pin(kill)).await {
                    futures::future::Either::Left((all, _)) => {
                        say("row 7: it was all there before one could be killed");
                        all
                    }
                    futures::future::Either::Right(((), gets)) => gets.await,
                },
                None => gets.await,
            }
        });
        all.into_iter().collect()
    }

    /// Every store has it, and each byte of it is the source's.
    fn check(&self, root: Digest, but: Option<usize>) -> Result<(), String> {
        for (n, disks) in self.disks.iter().enumerate() {
            if Some(n) == but {
                continue;
            }
            let read = self.runtime.block_on(disks.verify_image(root));
            if read != Ok(CopyState::Verified) {
                return Err(format!("server {n} does not have the image: {read:?}"));
            }
        }
        Ok(())
    }

    fn end(self) -> Result<(), String> {
        self.serving.abort();
        drop(self.disks);
        self.runtime.shutdown_timeout(Duration::from_secs(10));
        // A turn pays for nothing that an earlier one left to be written.
        std::fs::remove_dir_all(&self.place).map_err(|e| format!("cannot remove a turn: {e}"))?;
        sync(self.place.parent().unwrap_or(&self.place))
    }
}

/// Serves until it is killed.
struct Mortal(LocalDisks, watch::Receiver<bool>);

impl Serves for Mortal {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let (serve, mut dead) = (self.0.serve(from, stream), self.1.clone());
        async move {
            let death = async { drop(dead.wait_for(|dead| *dead).await) };
            select(serve, Box::pin(death)).await;
        }
        .boxed()
    }
}

/// Counts what passes.
struct Counted<P>(P, Arc<AtomicU64>);

impl<P: Peers> Peers for Counted<P> {
    fn connect(
        &self,
        server: ServerId,
        purpose: Purpose,
    ) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        async move {
            let stream = self.0.connect(server, purpose).await?;
            Ok(Box::pin(Counting(stream, Arc::clone(&self.1))) as ByteStream)
        }
        .boxed()
    }
}

struct Counting(ByteStream, Arc<AtomicU64>);

impl Counting {
    fn count(&self, poll: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = poll {
            let bytes = u64::try_from(*bytes).unwrap_or_default();
            self.1.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let poll = self.0.as_mut().poll_read(context, buffer);
        self.count(&poll);
        poll
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = self.0.as_mut().poll_write(context, buffer);
        self.count(&poll);
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_close(context)
    }
}

/// A disk of `bytes` in which nothing can be packed.
fn source(place: &Path, bytes: usize) -> Result<PathBuf, String> {
    let path = place.join("source.raw");
    let failed = |e: io::Error| format!("cannot write {}: {e}", path.display());
    let file = File::create(&path).map_err(failed)?;
    for n in 0..bytes / CHUNK {
        file.write_all_at(&noise(n, 0), (n * CHUNK) as u64)
            .map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(path)
}

/// A chunk without a pattern, another one for each pair of numbers.
fn noise(n: usize, version: usize) -> Vec<u8> {
    let mut state = (n as u64 + 1) << 20 | (version as u64 + 1);
    let mut bytes = Vec::with_capacity(CHUNK);
    while bytes.len() < CHUNK {
        // xorshift64*: no pattern that any packer finds.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn sync(place: &Path) -> Result<(), String> {
    let synced = File::open(place).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(|e| format!("cannot sync {}: {e}", place.display()))
}

/// One turn of a chain.
fn chain(
    bench: &Bench,
    image: &Path,
    servers: u32,
    rate: u64,
    dies: Option<usize>,
) -> Result<Cost, String> {
    let grid = Grid::new(&bench.place.join("chain"), servers, Some(rate))?;
    let root = grid.import(image)?;
    sync(&bench.place)?;
    let (cost, ()) = cost::of(Whose::Mine, || grid.share(root, dies))?;
    grid.check(root, dies)?;
    grid.end()?;
    Ok(cost)
}

fn many(bench: &Bench) -> Result<Vec<Line>, String> {
    // A chunk takes a while from server to server; with so many chunks that is a hundredth of all for fifty.
    let chunks = bench.size(4096).max(64);
    let bytes = usize::try_from(chunks).map_err(|e| e.to_string())? * CHUNK;
    let image = source(&bench.place, bytes)?;
    let megabytes = bytes as u64 / 1_000_000;
    let whole = f64::from(chunks) * 65_536.0 / 1e6;
    // The image's size by what one server may send.
    let limit = |rate: u64| {
        let mut turns = Turns::new("size / bandwidth", whole);
        let seconds = Duration::from_micros(bytes as u64 * 1_000_000 / rate).as_secs_f64();
        turns.costs.push(Cost {
            wall: seconds,
            processors: seconds,
        });
        turns
    };
    let mut lines = Vec::new();
    let few = bench.size(8).max(2);
    let fast = RATE * 5;
    let mut ours = Turns::new("Coppice", whole);
    let mut rsync = Turns::new("rsync", whole);
    let mut alive = true;
    for round in 1..=bench.rounds.min(3) {
        say(&format!(
            "row 7: {few} servers, {megabytes} MB, round {round}"
        ));
        ours.costs.push(chain(bench, &image, few, fast, None)?);
        if alive {
            match star(bench, &image, few, fast) {
                Ok(cost) => rsync.costs.push(cost),
                Err(why) => {
                    say(&format!("row 7: no comparison with rsync: {why}"));
                    alive = false;
                }
            }
        }
    }
    let physical = limit(fast);
    let peer = (!rsync.costs.is_empty()).then_some(&rsync);
    lines.push(
        Comparison {
            row: MANY.number,
            metric: &format!("image to {few} servers, each, beside rsync"),
            unit: "MB/s",
            by: By::Wall,
            ours: &ours,
            peer,
            limit: Some(&physical),
            target: 7.0,
        }
        .line()?,
    );
    let half = bench.size(50).max(3);
    let all = bench.size(100).max(3);
    // To the limit, by the target of 1.05, 1.10 and 1.2 of it.
    let rows = [
        (
            half,
            RATE * 2,
            None,
            1.0 / 1.05,
            "each, beside size / bandwidth",
        ),
        (all, RATE, None, 1.0 / 1.10, "each, beside size / bandwidth"),
        (
            half,
            RATE * 2,
            usize::try_from(half / 2).ok(),
            1.0 / 1.2,
            "one killed half way, beside size / bandwidth",
        ),
    ];
    for (servers, rate, dies, target, words) in rows {
        let mut ours = Turns::new("Coppice", whole);
        for round in 1..=bench.rounds.min(3) {
            say(&format!("row 7: {servers} servers, round {round}"));
            ours.costs.push(chain(bench, &image, servers, rate, dies)?);
        }
        let physical = limit(rate);
        say(&format!("row 7: {}", ours.describe("MB/s")));
        lines.push(
            Comparison {
                row: MANY.number,
                metric: &format!("image to {servers} servers, {words}"),
                unit: "MB/s",
                by: By::Wall,
                ours: &ours,
                peer: Some(&physical),
                limit: Some(&physical),
                target,
            }
            .line()?,
        );
    }
    Ok(lines)
}

/// rsync from one to each of the others at once, with what one may send parted among them.
fn star(bench: &Bench, image: &Path, servers: u32, rate: u64) -> Result<Cost, String> {
    let place = bench.place.join("star");
    std::fs::create_dir_all(&place).map_err(|e| format!("cannot make a directory: {e}"))?;
    let each = rate / u64::from(servers) / 1024;
    let copies: Vec<PathBuf> = (0..servers).map(|n| place.join(n.to_string())).collect();
    let (cost, ()) = cost::of(Whose::Programs, || {
        let begin = |copy: &PathBuf| {
            let mut rsync = Command::new("rsync");
            rsync.args(["-W", "--fsync", &format!("--bwlimit={each}")]);
            rsync.arg(image).arg(copy).stdin(Stdio::null()).spawn()
        };
        let begun: io::Result<Vec<Child>> = copies.iter().map(begin).collect();
        for mut child in begun.map_err(|e| format!("cannot run rsync: {e}"))? {
            let ended = child
                .wait()
                .map_err(|e| format!("cannot wait for rsync: {e}"))?;
            if !ended.success() {
                return Err(format!("rsync ended with {ended}"));
            }
        }
        sync(&place)
    })?;
    let wanted = std::fs::read(image).map_err(|e| e.to_string())?;
    for copy in &copies {
        if std::fs::read(copy).map_err(|e| e.to_string())? != wanted {
            return Err("rsync's copy is not the image".to_owned());
        }
    }
    std::fs::remove_dir_all(&place).map_err(|e| format!("cannot remove a turn: {e}"))?;
    sync(&bench.place)?;
    Ok(cost)
}

fn changed(bench: &Bench) -> Result<Vec<Line>, String> {
    let chunks = usize::try_from(bench.size(4096).max(64)).map_err(|e| e.to_string())?;
    let fresh = usize::try_from(bench.size(50).max(4)).map_err(|e| e.to_string())?;
    let old = source(&bench.place, chunks * CHUNK)?;
    let new = bench.place.join("changed.raw");
    let failed = |e: io::Error| format!("cannot make the new version: {e}");
    std::fs::copy(&old, &new).map_err(failed)?;
    let file = File::options().write(true).open(&new).map_err(failed)?;
    for n in 0..fresh {
        let place = n * (chunks / fresh) * CHUNK;
        file.write_all_at(&noise(n, 1), place as u64)
            .map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    let bytes = f64::from(u32::try_from(fresh * CHUNK).map_err(|e| e.to_string())?);
    // A rate of changed bytes by moved ones: what is moved stands where time stands elsewhere.
    let mut ours = Turns::new("Coppice", bytes);
    let mut rsync = Turns::new("rsync", bytes);
    for round in 1..=bench.rounds.min(3) {
        say(&format!("row 8: round {round}"));
        let grid = Grid::new(&bench.place.join("versions"), 1, None)?;
        let before = grid.import(&old)?;
        grid.share(before, None)?;
        let root = grid.import(&new)?;
        let passed = grid.moved.swap(0, Ordering::Relaxed);
        let begun = Instant::now();
        let (cost, ()) = cost::of(Whose::Mine, || grid.share(root, None))?;
        let moved = grid.moved.load(Ordering::Relaxed);
        say(&format!(
            "row 8: {moved} bytes moved in {:.1} s, {passed} of the first version",
            begun.elapsed().as_secs_f64()
        ));
        grid.check(root, None)?;
        grid.end()?;
        ours.costs.push(Cost {
            wall: f64::from(u32::try_from(moved).map_err(|e| e.to_string())?),
            processors: cost.processors,
        });
        match delta(bench, &old, &new) {
            Ok(cost) => rsync.costs.push(cost),
            Err(why) => say(&format!("row 8: no comparison with rsync: {why}")),
        }
    }
    let peer = (!rsync.costs.is_empty()).then_some(&rsync);
    let mut limit = Turns::new("what changed", bytes);
    limit.costs.push(Cost {
        wall: bytes,
        processors: bytes,
    });
    let line = |metric, by, peer, limit, target| {
        Comparison {
            row: CHANGED.number,
            metric,
            unit: match by {
                By::Wall => "changed/moved",
                By::Processors => "B/CPU-s",
            },
            by,
            ours: &ours,
            peer,
            limit,
            target,
        }
        .line()
    };
    Ok(vec![
        line(
            "new version, bytes changed ÷ moved",
            By::Wall,
            Some(&limit),
            Some(&limit),
            1.0 / 1.05,
        )?,
        line(
            "new version, bytes changed ÷ moved, beside rsync",
            By::Wall,
            peer,
            Some(&limit),
            1.0,
        )?,
        line(
            "new version, changed bytes by CPU, beside rsync",
            By::Processors,
            peer,
            None,
            3.0,
        )?,
    ])
}

/// rsync finds what changed, as it does between two machines.
fn delta(bench: &Bench, old: &Path, new: &Path) -> Result<Cost, String> {
    let copy = bench.place.join("copy.raw");
    std::fs::copy(old, &copy).map_err(|e| e.to_string())?;
    sync(&bench.place)?;
    let mut said = String::new();
    let (cost, ()) = cost::of(Whose::Programs, || {
        let mut rsync = Command::new("rsync");
        rsync.args([
            "--inplace",
            "--no-whole-file",
            "--ignore-times",
            "--stats",
            "--fsync",
        ]);
        let output = rsync.arg(new).arg(&copy).env("LC_ALL", "C").output();
        let output = output.map_err(|e| format!("cannot run rsync: {e}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("rsync failed: {}", why.trim()));
        }
        said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(())
    })?;
    if std::fs::read(&copy).map_err(|e| e.to_string())?
        != std::fs::read(new).map_err(|e| e.to_string())?
    {
        return Err("rsync's copy is not the new version".to_owned());
    }
    let count = |words: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(words))?;
        line.trim().replace(',', "").parse::<u32>().ok()
    };
    let moved = count("Total bytes sent:").zip(count("Total bytes received:"));
    let (sent, received) = moved.ok_or("rsync does not say what it moved")?;
    Ok(Cost {
        wall: f64::from(sent) + f64::from(received),
        processors: cost.processors,
    })
}
