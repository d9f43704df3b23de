//! The process itself. It waits for a moment, on a clock that goes on while the machine sleeps, and for questions; it does
//! nothing that could block, takes no memory that it has not got, and needs nothing of what the daemon needs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use coppice_schema::units::Span;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{geteuid, setpriority_process, setsid, umask};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::super::Guard;
use super::frame::{self, Answer, Request};
use super::{end, passed, reach};

/// After its moment, it looks for what runs that often.
const SCAN: Span = Span(500);
/// So long it stays where it has nothing to guard: whoever began it, asks it then.
const IDLE: Span = Span::seconds(10);
/// After its moment, it stays so long without anything to end, and without anybody who asks.
const LINGERS: Span = Span::minutes(5);
/// Who says nothing for so long is not listened to any more.
const PATIENCE: Span = Span::seconds(10);

/// Is the watchdog behind `socket`, until it is of no more use. Where another one is already, it ends at once.
///
/// # Errors
/// When it cannot listen there, or the machine has no such clock.
pub fn serve(socket: &Path) -> io::Result<()> {
    let Some(_alone) = alone(socket)? else {
        return Ok(());
    };
    apart();
    let listener = listen(socket)?;
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let mut dog = Dog {
        listener,
        timer: timerfd_create(TimerfdClockId::Boottime, flags)?,
        guard: Guard::default(),
        heard: passed(),
        there: Span(0),
        clients: Vec::new(),
        said: None,
    };
    tracing::info!(pid = std::process::id(), "watching");
    while !dog.is_over(passed()) {
        dog.end_what_runs();
        dog.wait()?;
        dog.attend();
    }
    // Nobody else can be listening there while the lock is held.
    let _gone = fs::remove_file(socket);
    tracing::info!("nothing is left to guard");
    Ok(())
}

/// Holds the file with the process id, which no two do. `None`: another one has it.
fn alone(socket: &Path) -> io::Result<Option<File>> {
    let path = socket.with_extension("pid");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.write_all(identity().as_bytes())?;
    Ok(Some(file))
}

/// Process, start and boot: what no other process ever has.
fn identity() -> String {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let start = stat.rsplit_once(')').map(|(_, rest)| rest);
    let start = start.and_then(|rest| rest.split_whitespace().nth(19));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let pid = std::process::id();
    format!("{pid} {} {}\n", start.unwrap_or_default(), boot.trim())
}

/// Shares as little of the daemon's fate, and of the machine's troubles, as it may.
fn apart() {
    // Each as far as it is allowed. Whoever is the first of a session is so already.
    let _session = setsid();
    let _first = setpriority_process(None, -20);
    let _spared = fs::write("/proc/self/oom_score_adj", "-1000");
    let mut what = MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT;
    // Who is limited would find no memory any more beyond the limit.
    if geteuid().is_root() {
        what |= MlockAllFlags::FUTURE;
    }
    if let Err(error) = mlockall(what) {
        tracing::info!(%error, "its memory may be paged out");
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (place, _folder) = reach(socket)?;
    let former = umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(place);
    umask(former);
    let listener = listener?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Dog {
    listener: UnixListener,
    timer: OwnedFd,
    guard: Guard,
    /// When it was asked last.
    heard: Span,
    /// When there was something to end last.
    there: Span,
    clients: Vec<Client>,
    /// What it said last of what it cannot do.
    said: Option<String>,
}

struct Client {
    stream: UnixStream,
    since: Span,
    come: Vec<u8>,
    go: Vec<u8>,
}

impl Dog {
    /// The moment has come.
    fn is_due(&self, now: Span) -> bool {
        !self.guard.domains.is_empty() && now >= self.guard.until
    }

    fn is_over(&self, now: Span) -> bool {
        let stays = if self.guard.domains.is_empty() {
            self.heard.0 + IDLE.0
        } else {
            let last = self.guard.until.max(self.heard).max(self.there);
            last.0.saturating_add(LINGERS.0)
        };
        self.clients.is_empty() && now.0 >= stays
    }

    fn end_what_runs(&mut self) {
        if !self.is_due(passed()) {
            return;
        }
        let ended = end::end(&self.guard.domains);
        if !ended.killed.is_empty() || ended.unable.is_some() {
            self.there = passed();
        }
        for domain in &ended.killed {
            tracing::warn!(%domain, "ended: the grid may have given this server up");
        }
        if !ended.all {
            tracing::warn!("some of them have not ended yet");
        }
        if ended.unable != self.said {
            if let Some(why) = &ended.unable {
                tracing::error!(why, "cannot end what is to be ended");
            }
            self.said = ended.unable;
        }
    }

    /// Waits for the next moment, or for somebody.
    fn wait(&self) -> io::Result<()> {
        let now = passed();
        let next = if self.guard.domains.is_empty() {
            Span(self.heard.0.saturating_add(IDLE.0)).max(Span(now.0 + 1))
        } else if self.is_due(now) {
            Span(now.0 + SCAN.0)
        } else {
            self.guard.until
        };
        let next = if self.clients.is_empty() {
            next
        } else {
            next.min(Span(now.0 + PATIENCE.0))
        };
        let moment = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(next.0 / 1000).unwrap_or(i64::MAX / 4),
                tv_nsec: i64::try_from(next.0 % 1000).unwrap_or(0) * 1_000_000,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &moment)?;
        let mut all = vec![
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        all.extend(self.clients.iter().map(|client| {
            let mut what = PollFlags::IN;
            if !client.go.is_empty() {
                what |= PollFlags::OUT;
            }
            PollFd::from_borrowed_fd(client.stream.as_fd(), what)
        }));
        match poll(&mut all, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn attend(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if may_ask(&stream) && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    since: passed(),
                    come: Vec::new(),
                    go: Vec::new(),
                });
            }
        }
        let mut clients = std::mem::take(&mut self.clients);
        // Who breaks off, or says what nobody understands, is not listened to any more.
        clients.retain_mut(|client| self.serve(client).unwrap_or(false));
        self.clients = clients;
    }

    /// Hears and answers one, as far as it goes at once. Whether it stays.
    fn serve(&mut self, client: &mut Client) -> io::Result<bool> {
        let stays = client.hear()?;
        while let Some(request) = frame::take::<Request>(&mut client.come)? {
            client.since = passed();
            client.go.extend(frame::encode(&self.answer(request))?);
        }
        client.say()?;
        Ok(stays && passed().0 < client.since.0 + PATIENCE.0)
    }

    fn answer(&mut self, request: Request) -> Answer {
        self.heard = passed();
        let mut unable = None;
        if let Request::Guard(guard) = request {
            unable = end::unable(&guard.domains);
            self.guard = guard;
        }
        Answer {
            guard: self.guard.clone(),
            passed: passed(),
            unable,
        }
    }
}

impl Client {
    /// Takes what has come. Whether more may.
    fn hear(&mut self) -> io::Result<bool> {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(count) => self.come.extend(piece.get(..count).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn say(&mut self) -> io::Result<()> {
        while !self.go.is_empty() {
            match self.stream.write(&self.go) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.go.drain(..count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether whoever connected is this user, or root.
fn may_ask(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|who| who.uid.is_root() || who.uid == geteuid())
}
