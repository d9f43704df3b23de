//! The server that receives: another process, told what to do through a socket.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use coppice_schema::known::{GuestState, PowerState};
use coppice_world::contract::Outcome;
use coppice_world::contract::moves::Receiver;
use coppice_world::hypervisor::{ByteStream, Definition, Hypervisor};
use coppice_world::libvirt::Libvirt;
use coppice_world::moves::{Moves, Road, wire};
use coppice_world::peers::PeerError;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::TokioAsyncReadCompatExt;
use uuid::Uuid;

use super::End;
use crate::machine::again;
use crate::means::{overlay, run_in};

/// Where the other process finds its directory, and the image.
const PLACE: &str = "COPPICE_TEST_PLACE";
const IMAGE: &str = "COPPICE_TEST_BASE";
/// What it says when it can be told something.
const READY: &str = "the receiver is ready";

/// What it is told. Desktops are known by their numbers.
#[derive(Serialize, Deserialize)]
enum Tell {
    /// The rest of the stream is a sender's.
    Take(u32),
    Prepare(u32),
    Enter(u32),
    Start(Uuid),
    Power(Uuid),
    Answers(Uuid),
    Clear(u32),
    Restart(u32),
    /// A command for the guest's shell.
    Run(Uuid, String),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
enum Told {
    Done(Result<(), String>),
    Power(Result<Option<PowerState>, String>),
    Answers(Result<bool, String>),
    Said(Result<String, String>),
}

/// The process. It ends with this.
pub(super) struct Far {
    process: Child,
    socket: PathBuf,
}

impl Far {
    pub(super) async fn start(place: &Path, image: &Path) -> Self {
        let mut process = again("moving::far::receiver")
            .env(PLACE, place)
            .env(IMAGE, image)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok);
        let said: Vec<String> = ready.take_while(|line| !line.contains(READY)).collect();
        // What it says later belongs to this test, too.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|l| eprintln!("far: {l}"))
        });
        let socket = place.join("far");
        assert!(socket.exists(), "{said:?}");
        Self { process, socket }
    }

    async fn connect(&self, tell: &Tell) -> Result<ByteStream, String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(text)?;
        let mut stream: ByteStream = Box::pin(stream.compat());
        wire::say(&mut stream, tell).await.map_err(text)?;
        Ok(stream)
    }

    async fn tell(&self, tell: Tell) -> Result<Told, String> {
        let mut stream = self.connect(&tell).await?;
        wire::hear(&mut stream).await.map_err(text)
    }

    /// Cuts its power, and starts it anew.
    pub(super) async fn restart(&self, guest: &Definition) -> Result<(), String> {
        self.done(Tell::Restart(number(guest))).await
    }

    /// What the guest's shell says to a command.
    pub(super) async fn run(&self, uuid: Uuid, command: &str) -> Result<String, String> {
        let told = self.tell(Tell::Run(uuid, command.to_owned())).await?;
        let Told::Said(said) = told else {
            return Err("an answer to something else".to_owned());
        };
        said
    }

    async fn done(&self, tell: Tell) -> Result<(), String> {
        let Told::Done(done) = self.tell(tell).await? else {
            return Err("an answer to something else".to_owned());
        };
        done
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn number(guest: &Definition) -> u32 {
    guest.spec.member.desktop.slot.0
}

struct Way<'a> {
    far: &'a Far,
    number: u32,
}

impl Road for Way<'_> {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        Box::pin(async move {
            let stream = self.far.connect(&Tell::Take(self.number)).await;
            stream.map_err(|why| PeerError::Unreachable {
                server: coppice_schema::ids::ServerId(2),
                why,
            })
        })
    }
}

impl Receiver for Far {
    fn prepare<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>> {
        let done = self.done(Tell::Prepare(number(guest)));
        Box::pin(async move { done.await.map_err(Outcome::Failed) })
    }

    fn road<'a>(&'a self, guest: &'a Definition) -> Box<dyn Road + 'a> {
        Box::new(Way {
            far: self,
            number: number(guest),
        })
    }

    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.done(Tell::Enter(number(guest))))
    }

    fn start(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.done(Tell::Start(uuid)))
    }

    fn power(&self, uuid: Uuid) -> BoxFuture<'_, Result<Option<PowerState>, Outcome>> {
        Box::pin(async move {
            match self.tell(Tell::Power(uuid)).await {
                Ok(Told::Power(power)) => power.map_err(Outcome::Failed),
                Ok(_) => Err(Outcome::Failed("an answer to something else".to_owned())),
                Err(error) => Err(Outcome::Failed(error)),
            }
        })
    }

    fn answers(&self, uuid: Uuid) -> BoxFuture<'_, Result<bool, Outcome>> {
        Box::pin(async move {
            match self.tell(Tell::Answers(uuid)).await {
                Ok(Told::Answers(answers)) => answers.map_err(Outcome::Failed),
                Ok(_) => Err(Outcome::Failed("an answer to something else".to_owned())),
                Err(error) => Err(Outcome::Failed(error)),
            }
        })
    }

    fn clear<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), Outcome>> {
        let done = self.done(Tell::Clear(number(guest)));
        Box::pin(async move { done.await.map_err(Outcome::Failed) })
    }
}

/// Not a test of its own: the other process. Without a place it does nothing.
#[test]
fn receiver() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    let image = PathBuf::from(std::env::var_os(IMAGE).unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let libvirt = End::Receiver.open(&place).await;
        let listener = UnixListener::bind(place.join("far")).unwrap();
        eprintln!("{READY}");
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (libvirt, place, image) = (libvirt.clone(), place.clone(), image.clone());
            tokio::spawn(async move {
                let stream: ByteStream = Box::pin(stream.compat());
                serve(libvirt, &place, &image, stream).await;
            });
        }
    });
}

async fn serve(libvirt: Arc<Libvirt>, place: &Path, image: &Path, mut stream: ByteStream) {
    let Ok(tell) = wire::hear(&mut stream).await else {
        return;
    };
    let guest = |number| End::Receiver.guest(place, number);
    let told = match tell {
        Tell::Take(number) => {
            if let Err(error) = libvirt.take(&guest(number), stream).await {
                eprintln!("take of {number}: {error}");
            }
            return;
        }
        Tell::Prepare(number) => {
            let _absent = std::fs::remove_file(guest(number).overlay);
            let made = overlay(image, &guest(number).overlay);
            Told::Done(made.map_err(|error| format!("{error:?}")))
        }
        Tell::Enter(number) => Told::Done(libvirt.enter(&guest(number)).await.map_err(text)),
        Tell::Start(uuid) => Told::Done(libvirt.start(uuid).await.map_err(text)),
        Tell::Power(uuid) => Told::Power(libvirt.list().await.map_err(text).map(|all| {
            let found = all.into_iter().find(|domain| domain.uuid == uuid);
            found.map(|domain| domain.power)
        })),
        Tell::Answers(uuid) => {
            let said = libvirt.ask_guest(uuid).await.map_err(text);
            Told::Answers(said.map(|said| matches!(said, GuestState::Answers { .. })))
        }
        Tell::Restart(number) => {
            let uuid = guest(number).spec.uuid;
            let off = libvirt.power_off(uuid).await;
            let on = match off {
                Ok(()) => libvirt.start(uuid).await,
                Err(error) => Err(error),
            };
            Told::Done(on.map_err(text))
        }
        Tell::Run(uuid, command) => {
            let address = End::Receiver.address(place).to_string();
            Told::Said(run_in(address, uuid, command).await)
        }
        Tell::Clear(number) => {
            let uuid = guest(number).spec.uuid;
            let off = match libvirt.power_off(uuid).await {
                Err(coppice_world::hypervisor::HypervisorError::Absent(_)) => Ok(()),
                other => other,
            };
            let gone = match off {
                Ok(()) => libvirt.undefine(uuid).await,
                Err(error) => Err(error),
            };
            let _absent = std::fs::remove_file(guest(number).overlay);
            Told::Done(gone.map_err(text))
        }
    };
    let _gone = wire::say(&mut stream, &told).await;
}
