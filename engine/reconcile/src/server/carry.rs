//! Desktops between this server and others: the way out, and what takes those that come.

use std::sync::Arc;

use coppice_plans::replicas;
use coppice_schema::ids::{Member, ServerId, ServerName, Stamp};
use coppice_schema::known::{MoveStep, Phase};
use coppice_state::State;
use coppice_world::hypervisor::{ByteStream, Definition, Mark};
use coppice_world::moves::{Opening, Road, wire};
use coppice_world::peers::{PeerError, Peers, Purpose, Serves};
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};

use super::Ports;

/// The way of one desktop, or of a copy of it, to another server.
pub(crate) struct Way {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) to: ServerId,
    /// What its streams begin with.
    pub(crate) opening: Opening,
}

impl Road for Way {
    fn open(&self) -> BoxFuture<'_, Result<ByteStream, PeerError>> {
        Box::pin(async move {
            let mut stream = self.peers.connect(self.to, Purpose::Desktops).await?;
            let said = wire::say(&mut stream, &self.opening).await;
            said.map_err(|error| PeerError::Unreachable {
                server: self.to,
                why: error.to_string(),
            })?;
            Ok(stream)
        })
    }
}

/// Takes the streams of desktops, and of copies of them, that other servers open to this one.
///
/// A stream is believed no further than what was agreed: a desktop comes only from the server that it is moving from,
/// in the form that it is to have here, onto the overlay that was made for it; a copy only from the desktop's home, of its
/// present life, where this server is to hold one.
pub struct Carrier {
    ports: Ports,
    name: ServerName,
    arrivals: UnboundedSender<()>,
}

impl Carrier {
    /// Of the server called `name`; and a stream that wakes whenever a copy has come, which its next round is to report.
    #[must_use]
    pub fn new(name: ServerName, ports: Ports) -> (Self, BoxStream<'static, ()>) {
        let (arrivals, come) = mpsc::unbounded();
        let this = Self {
            ports,
            name,
            arrivals,
        };
        (this, come.boxed())
    }
}

impl Serves for Carrier {
    fn serve(&self, from: ServerId, stream: ByteStream) -> BoxFuture<'static, ()> {
        let (ports, name) = (self.ports.clone(), self.name.clone());
        let arrivals = self.arrivals.clone();
        Box::pin(async move {
            if let Err(why) = take(&ports, &name, from, stream, &arrivals).await {
                tracing::info!(server = %from, why, "a desktop, or a copy of one, did not come");
            }
        })
    }
}

async fn take(
    ports: &Ports,
    name: &ServerName,
    from: ServerId,
    mut stream: ByteStream,
    arrivals: &UnboundedSender<()>,
) -> Result<(), String> {
    let opening = wire::hear(&mut stream).await.map_err(|e| e.to_string())?;
    // The sender may know already what has not come here yet.
    let state = ports.agreement.read().await.map_err(|e| e.to_string())?;
    let member = match opening {
        Opening::Move { member } => member,
        Opening::Copy { member } => {
            let mark = copied(&state, name, from, &member)
                .ok_or_else(|| format!("no copy of {member} is to come from there"))?;
            let taken = ports.replicas.take(&mark, stream).await;
            taken.map_err(|e| e.to_string())?;
            // Nobody listens where rounds are made by hand.
            let _ = arrivals.unbounded_send(());
            return Ok(());
        }
    };
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

/// Whose a copy is that comes, if this server is to hold one and `from` is the desktop's home.
fn copied(state: &State, name: &ServerName, from: ServerId, member: &Member) -> Option<Mark> {
    let (me, _) = state.server_named(name)?;
    let id = &member.desktop;
    let desktop = state.desktops.get(id)?;
    let home = desktop.server == from && desktop.spec.member == *member;
    let known = state.known(state.term);
    let held = replicas::Holders::new(&state.committed, &known).of(id, desktop);
    Some(Mark {
        grid: state.grid.filter(|_| home && held.contains(&me))?,
        epoch: state.epoch_of(&desktop.spec)?,
        member: member.clone(),
        image: desktop.spec.image,
        // No order makes it.
        stamp: Stamp::default(),
    })
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
