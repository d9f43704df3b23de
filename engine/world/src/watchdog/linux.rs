//! The watchdog as a process of its own, which outlives the daemon that began it.
//!
//! The daemon and the watchdog talk over a socket in the data directory. Who finds nobody there begins one; who is begun and
//! finds another at work ends at once. So there is one for a data directory, whatever dies when.

mod end;
mod frame;
mod serve;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use coppice_schema::units::Span;
use futures::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};

pub use self::serve::serve;

use self::frame::{Answer, Request};
use super::{Guard, Watchdog, WatchdogError};

/// How long one that was begun may take until it answers.
const BEGINS: Duration = Duration::from_secs(5);
/// How long an answer may take: it waits for nothing but the processor, and for what it ends.
const ANSWERS: Duration = Duration::from_secs(5);

/// What asks the watchdog behind a socket, and begins one where there is none.
pub struct LinuxWatchdog(Arc<Inner>);

struct Inner {
    socket: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Those that were begun here, to be waited for when they end. Held while asking: one question at a time.
    begun: Mutex<Vec<Child>>,
}

impl LinuxWatchdog {
    /// The watchdog behind `socket`. One is begun by running `program` with these arguments, which is to call [`serve`]
    /// with that socket; what it says goes to a file beside it.
    #[must_use]
    pub fn new(socket: PathBuf, program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self(Arc::new(Inner {
            socket,
            program,
            arguments,
            begun: Mutex::default(),
        }))
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Inner, &mut Vec<Child>) -> Result<T, WatchdogError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, WatchdogError>> {
        let inner = Arc::clone(&self.0);
        let work = move || {
            let mut begun = inner.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            question(&inner, &mut begun)
        };
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|e| Err(WatchdogError::Away(e.to_string())))
        })
    }
}

impl Watchdog for LinuxWatchdog {
    fn passed(&self) -> Span {
        passed()
    }

    fn guard(&self, guard: Guard) -> BoxFuture<'_, Result<(), WatchdogError>> {
        self.ask(move |inner, begun| {
            let request = Request::Guard(guard.clone());
            let answer = match inner.talk(&request) {
                Ok(answer) => answer,
                Err(Silence::Nobody(_)) if guard.domains.is_empty() => return Ok(()),
                Err(Silence::Nobody(_)) => inner.begin(begun, &request)?,
                Err(Silence::Broken(e)) => return Err(away(&e)),
            };
            if let Some(why) = answer.unable {
                return Err(WatchdogError::Unable(why));
            }
            if answer.guard != guard {
                return Err(WatchdogError::Away("it guards something else".to_owned()));
            }
            Ok(())
        })
    }

    fn guarding(&self) -> BoxFuture<'_, Result<Guard, WatchdogError>> {
        self.ask(|inner, _| match inner.talk(&Request::Guarding) {
            Ok(answer) => Ok(answer.guard),
            // Where there is none, none guards anything.
            Err(Silence::Nobody(_)) => Ok(Guard::default()),
            Err(Silence::Broken(e)) => Err(away(&e)),
        })
    }
}

/// Why there is no answer.
enum Silence {
    /// Nobody is there, or was about to end.
    Nobody(io::Error),
    /// Somebody is there.
    Broken(io::Error),
}

impl Inner {
    fn talk(&self, request: &Request) -> Result<Answer, Silence> {
        let connected = reach(&self.socket).and_then(|(place, _folder)| UnixStream::connect(place));
        let mut stream = connected.map_err(|e| {
            let nobody = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
            if nobody {
                Silence::Nobody(e)
            } else {
                Silence::Broken(e)
            }
        })?;
        let limits = stream
            .set_read_timeout(Some(ANSWERS))
            .and_then(|()| stream.set_write_timeout(Some(ANSWERS)));
        limits.map_err(Silence::Broken)?;
        frame::exchange(&mut stream, request).map_err(|e| {
            let ended = matches!(
                e.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            );
            if ended {
                Silence::Nobody(e)
            } else {
                Silence::Broken(e)
            }
        })
    }

    /// Begins one, and asks it as soon as it answers.
    fn begin(&self, begun: &mut Vec<Child>, request: &Request) -> Result<Answer, WatchdogError> {
        let end = Instant::now() + BEGINS;
        let mut child = self.launch()?;
        loop {
            let why = match self.talk(request) {
                Ok(answer) => {
                    begun.push(child);
                    return Ok(answer);
                }
                Err(Silence::Broken(e)) => {
                    begun.push(child);
                    return Err(away(&e));
                }
                Err(Silence::Nobody(e)) => e,
            };
            if Instant::now() >= end {
                begun.push(child);
                let cause = format!(
                    "it was begun, and: {why}; {} says more",
                    self.log().display()
                );
                return Err(WatchdogError::Away(cause));
            }
            thread::sleep(Duration::from_millis(20));
            // It found another at work, which has ended since.
            if !matches!(child.try_wait(), Ok(None)) {
                child = self.launch()?;
            }
        }
    }

    fn launch(&self) -> Result<Child, WatchdogError> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.log())
            .map_err(|e| away(&e))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            // It holds no file system that somebody may want to unmount.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        child.map_err(|e| away(&e))
    }

    fn log(&self) -> PathBuf {
        self.socket.with_extension("log")
    }
}

fn away(error: &io::Error) -> WatchdogError {
    WatchdogError::Away(error.to_string())
}

/// Time since the machine was switched on, with that in which it slept.
pub(super) fn passed() -> Span {
    let now = clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.saturating_mul(1000) + now.tv_nsec / 1_000_000;
    Span(u64::try_from(millis).unwrap_or(0))
}

/// The socket by a path that is short enough for one, valid as long as the file with it is open.
fn reach(socket: &Path) -> io::Result<(PathBuf, File)> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    let place = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Ok((Path::new(&place).join(name), folder))
}
