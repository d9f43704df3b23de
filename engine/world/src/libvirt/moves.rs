//! Running desktops between two hypervisors of libvirt.
//!
//! Embedded hypervisors cannot be reached by libvirt's own migration: they have no address. So QEMU is told itself what
//! libvirt would tell it, command by command through libvirt's passage to QEMU's monitor: the receiver starts a guest
//! that waits, with its overlay open to the sender as a network block device; the sender mirrors its overlay there,
//! then sends the memory, is stopped by QEMU just before the end, finishes the mirror, and sends the rest.
//! QEMU listens and connects on unix sockets below the embedded hypervisor's directory, which only its owner can
//! enter; between the servers their bytes go along the [`Road`].

mod arrive;
mod form;
mod leave;
mod monitor;
mod tunnel;
mod visit;

pub(super) use monitor::{Status, put};
pub(super) use visit::Visits;

use std::path::PathBuf;

use coppice_schema::known::PowerState;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::gate::{Passage, Way};
use super::uri::HypervisorUri;
use super::{Libvirt, duration};
use crate::hypervisor::{ByteStream, Definition, HypervisorError};
use crate::moves::{MoveError, Moves, Road};

/// What an operation on the way is called in errors.
const WHAT: &str = "move";

/// The first thing that a sender says on a stream.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Hello {
    /// A guest is to come. The stream stays open until it has.
    Offer {
        /// The domain as it runs, in the form that libvirt would migrate.
        form: String,
    },
    /// The bytes of its disk follow.
    Disk,
    /// The bytes of its memory follow.
    Memory,
    /// Has it come?
    Ask,
}

/// What is said on a stream that began with an offer or a question.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The receiver waits for the guest.
    Ready,
    /// The sender has sent all of it.
    Sent,
    /// The receiver has all of it.
    Here,
    /// It does not.
    NotHere {
        /// Why, in words.
        cause: String,
    },
}

/// Sockets at which a QEMU and we meet.
#[derive(Clone, Copy)]
enum Socket {
    Disk,
    Memory,
}

impl Moves for Libvirt {
    fn send<'a>(&'a self, uuid: Uuid, road: &'a dyn Road) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(self.leave(uuid, road))
    }

    fn stay(&self, uuid: Uuid) -> BoxFuture<'_, Result<(), MoveError>> {
        Box::pin(async move {
            self.own(WHAT, uuid).await?;
            let _turn = self.turn(uuid).await?;
            match self.standing(uuid).await?.0 {
                PowerState::Off | PowerState::Crashed => Ok(()),
                PowerState::Running { .. } | PowerState::Paused(_) => Ok(self.undo(uuid).await?),
            }
        })
    }

    fn take<'a>(
        &'a self,
        guest: &'a Definition,
        stream: ByteStream,
    ) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(self.arrive(guest, stream))
    }

    fn enter<'a>(&'a self, guest: &'a Definition) -> BoxFuture<'a, Result<(), MoveError>> {
        Box::pin(self.let_go_on(guest))
    }
}

impl Libvirt {
    /// The domain's turn for a change that takes many calls.
    pub(super) async fn turn(&self, uuid: Uuid) -> Result<Passage, HypervisorError> {
        let limit = self.shared.limits.change;
        let gate = self.shared.gates.of(uuid);
        let turn = gate.pass(Way::Change, duration(limit)).await;
        turn.ok_or_else(|| HypervisorError::Stuck {
            what: WHAT,
            domain: uuid.to_string(),
            limit,
        })
    }

    /// What it is doing, and whether it is defined or only as long as it does.
    pub(super) async fn standing(&self, uuid: Uuid) -> Result<(PowerState, bool), HypervisorError> {
        let shared = self.shared.clone();
        self.look(move || {
            let (_, domain) = shared.link.domain(WHAT, uuid)?;
            let name = domain.name();
            let power = name.and_then(|name| shared.looker().power(&domain, &name, uuid));
            let both = power.and_then(|power| Ok((power, domain.is_persistent()?)));
            both.map_err(|error| shared.link.failed(WHAT, uuid, &error))
        })
        .await
    }

    /// Where a socket is.
    fn socket(&self, uuid: Uuid, socket: Socket) -> Result<PathBuf, MoveError> {
        let HypervisorUri::Embedded { root } = self.shared.link.uri() else {
            return Err(MoveError::Bound {
                domain: uuid,
                cause: format!(
                    "the hypervisor at {} does not move desktops",
                    self.shared.link.uri()
                ),
            });
        };
        let end = match socket {
            Socket::Disk => "d",
            Socket::Memory => "m",
        };
        // At most 54 + 6 + 32 + 2 bytes, of the 107 that a socket's path may have.
        Ok(root.join("move").join(format!("{}.{end}", uuid.simple())))
    }
}

fn refused(uuid: Uuid, cause: impl ToString) -> HypervisorError {
    HypervisorError::Refused {
        what: WHAT,
        domain: uuid.to_string(),
        cause: cause.to_string(),
    }
}

fn broken(uuid: Uuid, cause: impl ToString) -> MoveError {
    MoveError::Broken {
        domain: uuid,
        cause: cause.to_string(),
    }
}
