//! Bugs put in on purpose, around the ports: a storm that does not find them finds nothing.

use std::path::PathBuf;
use std::sync::Arc;

use coppice_reconcile::server::Ports;
use coppice_schema::Digest;
use coppice_schema::desired::Display;
use coppice_schema::ids::{Member, ServerId};
use coppice_schema::known::{Capacity, CopyState, GuestState, Phase, ServerState};
use coppice_schema::units::{Size, Span};
use coppice_state::{Agreement, AgreementError, Entry, Leadership, Outcome, Standing, State};
use coppice_world::disks::{
    DiskError, Disks, Imported, NewOverlay, Overlay, Progress, Space, StoredImage, Transfer,
};
use coppice_world::hypervisor::{ByteStream, Definition, Domain, Hypervisor, HypervisorError};
use coppice_world::peers::Peers;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use uuid::Uuid;

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// Domains that are not ours are not looked at.
    BlindToForeign,
    /// A hypervisor that does not answer counts as an empty one.
    AwayIsEmpty,
    /// A folder of overlays that cannot be read counts as an empty one.
    UnreadIsEmpty,
    /// Receipts are dropped.
    NoReceipts,
    /// A look of any term counts as one of the present.
    AnyTermServes,
    /// The leader hears nobody.
    HearsNobody,
    /// A server that is lost is taken for one that takes part.
    LostTakesPart,
    /// A server takes what it last heard for what stands now.
    OldOrdersStand,
    /// Nobody is seen to be at a desktop.
    BlindToPeople,
    /// A server that was lost does not say that it is back.
    ComesBackSilently,
    /// Whoever leads does not wait for the lease of a server that is lost.
    FencesEarly,
}

impl Plant {
    /// Every bug.
    pub const ALL: [Self; 11] = [
        Self::BlindToForeign,
        Self::AwayIsEmpty,
        Self::UnreadIsEmpty,
        Self::NoReceipts,
        Self::AnyTermServes,
        Self::HearsNobody,
        Self::LostTakesPart,
        Self::OldOrdersStand,
        Self::BlindToPeople,
        Self::ComesBackSilently,
        Self::FencesEarly,
    ];
    /// Those that show where servers agree by real raft, and hypervisors and disks do as they should.
    pub const IN_GRIDS: [Self; 3] = [
        Self::NoReceipts,
        Self::ComesBackSilently,
        Self::AnyTermServes,
    ];
}

/// `ports` with the bug in them.
#[must_use]
pub fn planted(plant: Option<Plant>, ports: Ports) -> Ports {
    let Some(plant) = plant else {
        return ports;
    };
    Ports {
        agreement: Arc::new(Faulty(plant, ports.agreement, false)),
        hypervisor: Arc::new(Faulty(plant, ports.hypervisor, false)),
        disks: Arc::new(Faulty(plant, ports.disks, false)),
        stamps: ports.stamps,
        moves: ports.moves,
        peers: ports.peers,
        replicas: ports.replicas,
        watchdog: ports.watchdog,
    }
}

/// A leader's agreement with the bug in it.
#[must_use]
pub fn leading(plant: Option<Plant>, agreement: Arc<dyn Agreement>) -> Arc<dyn Agreement> {
    match plant {
        Some(plant) => Arc::new(Faulty(plant, agreement, true)),
        None => agreement,
    }
}

/// What a leader that watches is mistaken about.
#[must_use]
pub fn watching(plant: Option<Plant>, state: Arc<State>) -> Arc<State> {
    match plant {
        Some(plant @ Plant::FencesEarly) => Arc::new(mistaken(plant, &state, state.term)),
        Some(_) | None => state,
    }
}

/// The bug, what it is in, and whether that is the leader's.
struct Faulty<T: ?Sized>(Plant, Arc<T>, bool);

/// What a leader reads that is mistaken in that way.
fn mistaken(plant: Plant, state: &State, term: u64) -> State {
    let mut state = state.clone();
    match plant {
        Plant::AnyTermServes => {
            for server in state.servers.values_mut() {
                server.confirmed_term = term;
            }
        }
        Plant::LostTakesPart => {
            for server in state.servers.values_mut() {
                if server.state == ServerState::Lost {
                    server.state = ServerState::Ready;
                }
            }
            for desktop in Arc::make_mut(&mut state.desktops).values_mut() {
                if let Phase::Unknown { since } = desktop.phase {
                    desktop.phase = Phase::Available { since };
                }
            }
        }
        Plant::BlindToPeople => {
            for desktop in Arc::make_mut(&mut state.desktops).values_mut() {
                desktop.wear.occupied = false;
                if let Phase::InUse { since, .. } = desktop.phase {
                    desktop.phase = Phase::Available { since };
                }
            }
            let looks = state.servers.values_mut().filter_map(|s| s.look.as_mut());
            let seen = looks.flat_map(|look| Arc::make_mut(look).members.values_mut());
            for domain in seen.filter_map(|seen| seen.domain.as_mut()) {
                domain.viewers = Some(0);
                if let GuestState::Answers { users, .. } = &mut domain.guest {
                    *users = Some(0);
                }
            }
        }
        Plant::FencesEarly => {
            for server in state.servers.values_mut() {
                server.lease = server.lease.map(|_| Span(0));
            }
        }
        Plant::BlindToForeign
        | Plant::AwayIsEmpty
        | Plant::UnreadIsEmpty
        | Plant::NoReceipts
        | Plant::HearsNobody
        | Plant::OldOrdersStand
        | Plant::ComesBackSilently => {}
    }
    state
}

impl Agreement for Faulty<dyn Agreement> {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        if self.0 == Plant::NoReceipts && matches!(entry, Entry::Receipt { .. }) {
            return Box::pin(async { Ok(Outcome::Done) });
        }
        if self.0 == Plant::ComesBackSilently
            && let Entry::Confirmed { server, .. } = &entry
            && self.1.local().servers.get(server).map(|s| s.state) == Some(ServerState::Lost)
        {
            return Box::pin(async { Ok(Outcome::Done) });
        }
        self.1.propose(entry)
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        if self.0 == Plant::OldOrdersStand && !self.2 {
            let state = self.1.local();
            return Box::pin(async { Ok(state) });
        }
        let read = self.1.read();
        let (Leadership::Here { term }, true) = (self.leadership(), self.2) else {
            return read;
        };
        let plant = self.0;
        let untrue = move |state: Arc<State>| Arc::new(mistaken(plant, state.as_ref(), term));
        Box::pin(read.map(move |state| state.map(untrue)))
    }

    fn local(&self) -> Arc<State> {
        self.1.local()
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        self.1.watch()
    }

    fn leadership(&self) -> Leadership {
        self.1.leadership()
    }

    fn standing(&self) -> Standing {
        let mut standing = self.1.standing();
        if self.0 == Plant::HearsNobody {
            standing
                .parts
                .values_mut()
                .for_each(|part| part.heard = None);
        }
        standing
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, HypervisorError>>;

impl Hypervisor for Faulty<dyn Hypervisor> {
    fn list(&self) -> Answer<'_, Vec<Domain>> {
        let plant = self.0;
        Box::pin(self.1.list().map(move |listed| match (plant, listed) {
            (Plant::BlindToForeign, Ok(mut domains)) => {
                domains.retain(|d| d.mark.is_some());
                Ok(domains)
            }
            (Plant::AwayIsEmpty, Err(HypervisorError::Away { .. })) => Ok(Vec::new()),
            (_, listed) => listed,
        }))
    }

    fn capacity(&self) -> Answer<'_, Capacity> {
        self.1.capacity()
    }

    fn define<'a>(&'a self, domain: &'a Definition) -> Answer<'a, ()> {
        self.1.define(domain)
    }

    fn start(&self, uuid: Uuid) -> Answer<'_, ()> {
        self.1.start(uuid)
    }

    fn stop(&self, uuid: Uuid, patience: Span) -> Answer<'_, ()> {
        self.1.stop(uuid, patience)
    }

    fn power_off(&self, uuid: Uuid) -> Answer<'_, ()> {
        self.1.power_off(uuid)
    }

    fn undefine(&self, uuid: Uuid) -> Answer<'_, ()> {
        self.1.undefine(uuid)
    }

    fn ask_guest(&self, uuid: Uuid) -> Answer<'_, GuestState> {
        self.1.ask_guest(uuid)
    }

    fn console(&self, uuid: Uuid, display: Display) -> Answer<'_, ByteStream> {
        self.1.console(uuid, display)
    }

    fn screenshot(&self, uuid: Uuid) -> Answer<'_, Vec<u8>> {
        self.1.screenshot(uuid)
    }

    fn watch(&self) -> BoxStream<'static, ()> {
        self.1.watch()
    }
}

type Done<'a, T> = BoxFuture<'a, Result<T, DiskError>>;

impl Disks for Faulty<dyn Disks> {
    fn overlays(&self) -> Done<'_, Vec<Overlay>> {
        let plant = self.0;
        Box::pin(self.1.overlays().map(move |listed| match (plant, listed) {
            (Plant::UnreadIsEmpty, Err(DiskError::Io { .. })) => Ok(Vec::new()),
            (_, listed) => listed,
        }))
    }

    fn space(&self) -> Done<'_, Space> {
        self.1.space()
    }

    fn make_overlays(&self, overlays: Vec<NewOverlay>) -> Done<'_, Vec<PathBuf>> {
        self.1.make_overlays(overlays)
    }

    fn remove_overlay<'a>(&'a self, member: &'a Member) -> Done<'a, ()> {
        self.1.remove_overlay(member)
    }

    fn images(&self) -> Done<'_, Vec<StoredImage>> {
        self.1.images()
    }

    fn verify_image(&self, root: Digest) -> Done<'_, CopyState> {
        self.1.verify_image(root)
    }

    fn scrub_image(&self, root: Digest, rate: Size) -> Done<'_, CopyState> {
        self.1.scrub_image(root, rate)
    }

    fn receive_image(&self, root: Digest, from: Vec<ServerId>) -> Done<'_, ()> {
        self.1.receive_image(root, from)
    }

    fn limit_images(&self, rate: Option<Size>) {
        self.1.limit_images(rate);
    }

    fn meet(&self, peers: Arc<dyn Peers>) {
        self.1.meet(peers);
    }

    fn transfers(&self, server: Option<ServerId>) -> Done<'_, Vec<Transfer>> {
        self.1.transfers(server)
    }

    fn drop_image(&self, root: Digest) -> Done<'_, ()> {
        self.1.drop_image(root)
    }

    fn import_image(
        &self,
        source: PathBuf,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Done<'_, Imported> {
        self.1.import_image(source, progress)
    }
}
