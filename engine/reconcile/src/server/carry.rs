//! Desktops between this server and others: the way out, and what takes those that come.

use std::sync::Arc;

use coppice_schema::ids::{Member, ServerId, ServerName};
use coppice_schema::known::{MoveStep, Phase};
use coppice_state::State;
use coppice_world::hypervisor::{ByteStream, Definition};
use coppice_world::moves::{Opening, Road, wire};
use coppice_world::peers::{PeerError, Peers, Purpose, Serves};
use futures::future::BoxFuture;

use super::Ports;

/// The way of one desktop to another server.
pub(super) struct Way {
    pub(super) peers: Arc<dyn Peers>,
    pub(super) to: ServerId,
    pub(super) member: Member,
}

impl Road for Way {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        Box::pin(async move {
            let mut stream = self.peers.connect(self.to, Purpose::Desktops).await?;
            let member = self.member.clone();
            let said = wire::say(&mut stream, &Opening::Move { member }).await;
            said.map_err(|error| PeerError::Unreachable {
                server: self.to,
                why: error.to_string(),
            })?;
            Ok(stream)
        })
    }
}

/// Takes the streams of desktops that other servers open to this one.
///
/// A stream is believed no further than what was agreed: a desktop comes only from the server that it is moving from,
/// in the form that it is to have here, onto the overlay that was made for it.
pub struct Carrier {
    ports: Ports,
    name: ServerName,
}

impl Carrier {
    /// Of the server called `name`.
    #[must_use]
    pub fn new(name: ServerName, ports: Ports) -> Self {
        Self { ports, name }
    }
}

impl Serves for Carrier {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let (ports, name) = (self.ports.clone(), self.name.clone());
        Box::pin(async move {
            if let Err(why) = take(&ports, &name, from, stream).await {
                tracing::info!(server = %from, why, "a desktop did not come");
            }
        })
    }
}

async fn take(
    ports: &Ports,
    name: &ServerName,
    from: ServerId,
    mut stream: ByteStream,
) -> Result<(), String> {
    let opening = wire::hear(&mut stream).await.map_err(|e| e.to_string())?;
    let Opening::Move { member } = opening;
    // The sender may know already what has not come here yet.
    let state = ports.agreement.read().await.map_err(|e| e.to_string())?;
    let guest = expected(&state, name, from, &member)
        .ok_or_else(|| format!("{member} is not to come from there"))?;
    let grid = state.grid;
    let overlays = ports.disks.overlays().await.map_err(|e| e.to_string())?;
    let own = overlays.into_iter().find_map(|overlay| {
        let mark = overlay.mark?;
        let its = mark.member == member
            && Some(mark.grid) == grid
            && Some(mark.epoch) == state.epoch_of(&guest);
        its.then_some((overlay.path, mark))
    });
    let (overlay, mark) = own.ok_or_else(|| format!("there is no overlay for {member}"))?;
    let guest = Definition {
        spec: guest,
        mark,
        overlay,
    };
    let taken = ports.moves.take(&guest, stream).await;
    taken.map_err(|e| e.to_string())
}

/// What a desktop that comes is to be here, if it was agreed that it comes from `from`.
fn expected(
    state: &State,
    name: &ServerName,
    from: ServerId,
    member: &Member,
) -> Option<coppice_schema::known::DesktopSpec> {
    let (me, _) = state.server_named(name)?;
    let desktop = state.desktops.get(&member.desktop)?;
    let Phase::Migrating {
        from: sender,
        to,
        spec,
        step: MoveStep::Copying | MoveStep::Copied,
        ..
    } = &desktop.phase
    else {
        return None;
    };
    let agreed = desktop.incarnation == member.incarnation && *sender == from && *to == me;
    agreed.then(|| spec.as_ref().clone())
}
