//! Both watchdogs keep their contract. The real one is this program again, as a process of its own; what it ends are plain
//! processes with the arguments of a QEMU.

#![cfg(test)] // all of it, which clippy only believes when told

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_schema::ids::GridId;
use coppice_schema::known::PowerState;
use coppice_schema::units::{Span, Timestamp};
use coppice_world::contract::Outcome;
use coppice_world::contract::watchdog::{End, Means, Subject, run};
use coppice_world::sim::{Setup, SimClock, SimServer};
use coppice_world::watchdog::{Guard, LinuxWatchdog, Watchdog};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

const SOCKET: &str = "COPPICE_TEST_WATCHDOG";
const GUARD: &str = "COPPICE_TEST_GUARD";

/// The test as which this program is begun again, for a part in it or in another.
const AGAIN: [&str; 3] = [
    "--exact",
    "the_real_watchdog_keeps_the_contract",
    "--nocapture",
];

/// What begins the watchdog behind `socket`: this program.
fn watchdog(socket: &Path) -> LinuxWatchdog {
    let mut assigned = OsString::from(format!("{SOCKET}="));
    assigned.push(socket);
    let itself = std::env::current_exe().unwrap().into_os_string();
    // Whoever tells it something begins it, too.
    let alone = ["-u", GUARD].map(OsString::from).into_iter();
    let arguments = alone.chain([assigned, itself]);
    let arguments = arguments.chain(AGAIN.map(OsString::from)).collect();
    LinuxWatchdog::new(
        socket.to_path_buf(),
        PathBuf::from("/usr/bin/env"),
        arguments,
    )
}

/// Takes the part that this process was begun for: the watchdog, or one that tells it something. `false`: it is the test.
async fn takes_part() -> bool {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return false;
    };
    let socket = Path::new(&socket);
    let Ok(guard) = std::env::var(GUARD) else {
        coppice_world::watchdog::serve(socket).unwrap();
        return true;
    };
    let guard: Guard = serde_json::from_str(&guard).unwrap();
    watchdog(socket).guard(guard).await.unwrap();
    println!("\ntold");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
    true
}

fn failed(error: impl ToString) -> Outcome {
    Outcome::Failed(error.to_string())
}

/// A machine with processes.
struct Processes {
    socket: PathBuf,
    begun: Mutex<BTreeMap<Uuid, Child>>,
    tellers: Mutex<Vec<Child>>,
}

impl Processes {
    fn tell(&self, guard: &Guard, end: End) -> Result<(), Outcome> {
        let mut teller = Command::new(std::env::current_exe().map_err(failed)?)
            .args(AGAIN)
            .env(SOCKET, &self.socket)
            .env(GUARD, serde_json::to_string(guard).map_err(failed)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let told = await_line(teller.stdout.take(), "told");
        match end {
            End::Killed => end_now(&mut teller),
            End::Stopped => {
                let pid = Pid::from_child(&teller);
                kill_process(pid, Signal::STOP).map_err(failed)?;
                self.tellers.lock().unwrap().push(teller);
            }
        }
        told
    }
}

fn await_line(from: Option<ChildStdout>, wanted: &str) -> Result<(), Outcome> {
    let lines = from.map(|from| BufReader::new(from).lines());
    let mut lines = lines.into_iter().flatten();
    let found = lines.any(|line| line.is_ok_and(|line| line == wanted));
    found
        .then_some(())
        .ok_or_else(|| failed("it ended before it was ready"))
}

fn end_now(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

impl Means for Processes {
    fn start(&self, domain: Uuid) -> Result<(), Outcome> {
        let mut child = Command::new("sh")
            .args(["-c", "echo ready; read never", "qemu", "-uuid"])
            .args([&domain.to_string(), "-nographic"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let ready = await_line(child.stdout.take(), "ready");
        if let Some(mut former) = self.begun.lock().unwrap().insert(domain, child) {
            end_now(&mut former);
        }
        // It may have been ended at once.
        drop(ready);
        Ok(())
    }

    fn runs(&self, domain: Uuid) -> Result<bool, Outcome> {
        let mut begun = self.begun.lock().unwrap();
        let child = begun
            .get_mut(&domain)
            .ok_or_else(|| failed("it was not begun"))?;
        Ok(child.try_wait().map_err(failed)?.is_none())
    }

    fn sweep(&self) {
        let begun = std::mem::take(&mut *self.begun.lock().unwrap());
        let tellers = std::mem::take(&mut *self.tellers.lock().unwrap());
        begun
            .into_values()
            .chain(tellers)
            .for_each(|mut child| end_now(&mut child));
    }

    fn breath(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(Duration::from_millis(20)))
    }

    fn another_tells(&self, guard: Guard, end: End) -> BoxFuture<'_, Result<(), Outcome>> {
        Box::pin(async move { self.tell(&guard, end) })
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.sweep();
        if let Some(pid) = pid_of(&self.socket)
            && is_ours(pid, &self.socket)
        {
            let _ended_already = kill_process(pid, Signal::KILL);
        }
    }
}

fn pid_of(socket: &Path) -> Option<Pid> {
    let said = std::fs::read_to_string(socket.with_extension("pid")).ok()?;
    Pid::from_raw(said.split_whitespace().next()?.parse().ok()?)
}

fn is_ours(pid: Pid, socket: &Path) -> bool {
    let said = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    let said = said.unwrap_or_default();
    let assigned = format!("{SOCKET}={}", socket.display());
    said.split(|byte| *byte == 0)
        .any(|word| word == assigned.as_bytes())
}

/// A machine of processes, in a directory of its own whose name is longer than a socket's may be.
fn processes() -> (tempfile::TempDir, Arc<LinuxWatchdog>, Processes) {
    let place = tempfile::tempdir().unwrap();
    let long = place.path().join("d".repeat(120));
    std::fs::create_dir(&long).unwrap();
    let socket = long.join("watchdog.sock");
    let dog = Arc::new(watchdog(&socket));
    let means = Processes {
        socket,
        begun: Mutex::default(),
        tellers: Mutex::default(),
    };
    (place, dog, means)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_watchdog_keeps_the_contract() {
    if takes_part().await {
        return;
    }
    let (_place, dog, means) = processes();
    let subject = Subject {
        watchdog: dog,
        means: Box::new(means),
    };
    let report = run(&subject).await;
    assert!(report.holds() && report.skipped.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_watchdog_serves_all_who_ask_and_another_follows_when_it_is_killed() {
    let (_place, dog, means) = processes();
    let guard = Guard {
        domains: [Uuid::from_u128(7)].into(),
        until: Span(dog.passed().0 + 1_000_000),
    };
    assert_eq!(dog.guarding().await.unwrap(), Guard::default());
    assert_eq!(pid_of(&means.socket), None, "none is begun to be asked");
    dog.guard(guard.clone()).await.unwrap();
    let first = pid_of(&means.socket).unwrap();
    let mode = std::fs::metadata(&means.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let another = watchdog(&means.socket);
    assert_eq!(another.guarding().await.unwrap(), guard);
    another.guard(guard.clone()).await.unwrap();
    assert_eq!(pid_of(&means.socket), Some(first));
    kill_process(first, Signal::KILL).unwrap();
    let forgotten = async || loop {
        // Its socket is still there; whoever connects while it dies is cut off.
        if dog
            .guarding()
            .await
            .is_ok_and(|held| held == Guard::default())
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    forgotten().await;
    dog.guard(guard.clone()).await.unwrap();
    assert_ne!(pid_of(&means.socket), Some(first));
    assert_eq!(another.guarding().await.unwrap(), guard);
}

/// A simulated machine. Whoever told its watchdog something has no part in it.
struct Simulated {
    sim: Arc<SimServer>,
    clock: SimClock,
}

impl Means for Simulated {
    fn start(&self, domain: Uuid) -> Result<(), Outcome> {
        self.sim.define_foreign(&domain.to_string(), domain, None);
        self.sim.start_by_hand(domain).map_err(failed)
    }

    fn runs(&self, domain: Uuid) -> Result<bool, Outcome> {
        let all = self.sim.domains();
        let found = all.into_iter().find(|d| d.uuid == domain);
        let found = found.ok_or_else(|| failed("it was not begun"))?;
        Ok(matches!(found.power, PowerState::Running { .. }))
    }

    fn sweep(&self) {
        for domain in self.sim.domains() {
            self.sim.undefine_by_hand(domain.uuid);
        }
    }

    fn breath(&self) -> BoxFuture<'_, ()> {
        self.clock.advance(Span(20));
        Box::pin(async {})
    }

    fn another_tells(&self, guard: Guard, _: End) -> BoxFuture<'_, Result<(), Outcome>> {
        Box::pin(async move { Ok(self.sim.watchdog().guard(guard).await?) })
    }
}

#[tokio::test]
async fn the_simulated_watchdog_keeps_the_contract() {
    let clock = SimClock::new(Timestamp(1_795_420_800_000));
    let setup = Setup {
        grid: Some(GridId([1; 16])),
        ..Setup::default()
    };
    let sim = SimServer::new(setup, Arc::new(clock.steady()));
    let subject = Subject {
        watchdog: sim.watchdog(),
        means: Box::new(Simulated { sim, clock }),
    };
    let report = run(&subject).await;
    assert!(report.holds() && report.skipped.is_empty(), "{report}");
}

#[tokio::test]
async fn a_simulated_watchdog_goes_with_the_power() {
    let clock = SimClock::new(Timestamp(1_795_420_800_000));
    let sim = SimServer::new(Setup::default(), Arc::new(clock.steady()));
    let dog = sim.watchdog();
    let guard = Guard {
        domains: [Uuid::from_u128(7)].into(),
        until: Span(u64::MAX),
    };
    dog.guard(guard.clone()).await.unwrap();
    assert_eq!(dog.guarding().await.unwrap(), guard);
    sim.black_out();
    assert_eq!(dog.guarding().await.unwrap(), Guard::default());
}
