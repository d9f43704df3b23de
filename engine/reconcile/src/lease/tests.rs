//! One server with a personal desktop, in a grid whose other servers are only votes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use coppice_schema::Digest;
use coppice_schema::desired::{
    Assignment, Cache, Firmware, HostnamePattern, Os, Policy, Pool, Video,
};
use coppice_schema::ids::{Epoch, GridId, Incarnation, Slot};
use coppice_schema::known::{
    DesktopSpec, DiskLevel, Hardware, Health, KnownDesktop, Look, PowerState, Seen, SeenDomain,
    ServerState,
};
use coppice_schema::units::{Size, Timestamp};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{AgreementError, Envelope, Leadership, Part, apply};
use coppice_world::sim::SimClock;
use coppice_world::watchdog::WatchdogError;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};

use super::*;

const ME: ServerId = ServerId(1);
const GRID: GridId = GridId([7; 16]);
const EPOCH: Epoch = Epoch {
    number: 1,
    recovery: 0,
};
const SHORT: Span = Span::seconds(30);

/// A grid, and the server's watchdog, in one: what is done is told in the order in which it comes about.
struct World {
    clock: SimClock,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// A majority answers.
    whole: bool,
    /// What is proposed is on its way for so long that nobody waits for it any more.
    late: bool,
    voters: u64,
    guard: Guard,
    broken: Option<WatchdogError>,
    deeds: Vec<String>,
    /// Time passes between the question for the newest state and its answer.
    slow: Span,
}

impl World {
    fn new(voters: u64) -> Self {
        let mut state = State::default();
        let token = Token {
            hash: Digest([1; 32]),
            scope: Scope::Admin,
            created: Timestamp(0),
            expires: None,
        };
        let entry = Entry::Founded {
            grid: GRID,
            epoch: EPOCH,
            server: NewServer {
                name: name(),
                raft_id: 1,
                api: String::new(),
            },
            token: (TokenId("admin".to_owned()), token),
        };
        let at = Timestamp(1);
        apply(&mut state, 1, 1, &Envelope { at, entry });
        if let Some(me) = state.servers.get_mut(&ME) {
            me.state = ServerState::Ready;
        }
        let mut desired = state.committed.as_ref().clone();
        desired
            .pools
            .insert("desk".parse().expect("a name"), pool());
        state.committed = Arc::new(desired);
        let inner = Inner {
            state,
            whole: true,
            late: false,
            voters,
            guard: Guard::default(),
            broken: None,
            deeds: Vec::new(),
            slow: Span(0),
        };
        Self {
            clock: SimClock::new(Timestamp(1_000_000)),
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    /// Steps until all is as it should be, or nothing more comes of stepping.
    fn settle(&self, keeper: &mut Keeper) -> Beat {
        let mut beat = self.step(keeper);
        for _ in 0..6 {
            if beat.settled {
                break;
            }
            beat = self.step(keeper);
        }
        beat
    }

    fn step(&self, keeper: &mut Keeper) -> Beat {
        let step = keeper.step(self, self);
        step.now_or_never().expect("nothing to wait for")
    }

    fn deeds(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().deeds)
    }

    fn grow(&self, slot: u32) -> Uuid {
        let spec = spec(slot);
        let uuid = spec.uuid;
        let desktop = KnownDesktop {
            incarnation: Incarnation(1),
            server: ME,
            phase: Phase::Available {
                since: Timestamp(1),
            },
            personal: true,
            failures: Default::default(),
            grown: Timestamp(1),
            wear: Default::default(),
            stayed: Default::default(),
            restored_from: None,
            spec,
        };
        let mut inner = self.inner();
        let desktops = Arc::make_mut(&mut inner.state.desktops);
        desktops.insert(desktop.spec.member.desktop.clone(), desktop);
        uuid
    }

    /// No copies are wanted any more.
    fn want(&self, copies: u32) {
        let mut inner = self.inner();
        let desired = Arc::make_mut(&mut inner.state.committed);
        for pool in desired.pools.values_mut() {
            pool.copies = copies;
        }
    }

    fn show(&self, slot: u32, guarded: bool) {
        let spec = spec(slot);
        let domain = SeenDomain {
            uuid: spec.uuid,
            stamp: Default::default(),
            power: PowerState::Off,
            guest: coppice_schema::known::GuestState::Silent,
            stale_until_reboot: false,
            viewers: None,
            guarded,
            spec: spec.clone(),
        };
        let seen = Seen {
            domain: Some(domain),
            ..Seen::default()
        };
        let look = Look {
            boot: 1,
            sequence: 1,
            at: Timestamp(1),
            members: BTreeMap::from([(spec.member, seen)]),
            images: BTreeMap::new(),
            foreign: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            replicas: BTreeMap::new(),
            disk: DiskLevel::Fine,
            hypervisor: Health::Well,
        };
        let mut inner = self.inner();
        if let Some(me) = inner.state.servers.get_mut(&ME) {
            me.look = Some(Arc::new(look));
        }
    }

    fn state(&self) -> State {
        self.inner().state.clone()
    }

    fn guard(&self) -> Guard {
        self.inner().guard.clone()
    }

    fn lease(&self) -> Option<Span> {
        self.inner().state.servers.get(&ME).and_then(|me| me.lease)
    }
}

fn name() -> ServerName {
    "s1".parse().expect("a name")
}

fn pool() -> Pool {
    Pool {
        template: "desk".parse().expect("a name"),
        desktops: 2,
        slots: None,
        hostname: HostnamePattern("desk-{slot}".to_owned()),
        assignment: Assignment::Personal,
        policies: Vec::new(),
        policy: Policy::default(),
        entitled: Vec::new(),
        hours: None,
        servers: BTreeSet::new(),
        copies: 1,
        max_copy_age: None,
        bookings: BTreeMap::new(),
        protect: false,
    }
}

fn spec(slot: u32) -> DesktopSpec {
    let desktop = DesktopId {
        pool: "desk".parse().expect("a name"),
        slot: Slot(slot),
    };
    DesktopSpec {
        uuid: desktop.uuid(GRID, EPOCH, Incarnation(1)),
        member: desktop.member(Incarnation(1)),
        hostname: format!("desk-{slot}"),
        image: Digest([2; 32]),
        hardware: Hardware {
            cpus: 1,
            memory: Size::mib(96),
            disk: Size::mib(64),
            disk_limit: None,
            firmware: Firmware::Bios,
            networks: Vec::new(),
            displays: BTreeSet::new(),
            video: Video::Vga,
            cache: Cache::Writeback,
            os: Os::Linux,
            agent: true,
            libvirt_xml: None,
        },
    }
}

/// A state in which a server has a lease and a desktop of which there are copies, and that desktop.
pub(crate) fn with_lease() -> (State, ServerId, DesktopSpec) {
    let world = World::new(3);
    world.grow(1);
    world.settle(&mut Keeper::new(name()));
    (world.state(), ME, spec(1))
}

fn no_quorum() -> AgreementError {
    AgreementError::NoQuorum("nobody answers".to_owned())
}

impl Agreement for World {
    fn propose(&self, entry: Entry) -> BoxFuture<'_, Result<Outcome, AgreementError>> {
        Box::pin(async move {
            let mut inner = self.inner();
            if !inner.whole || inner.late {
                return Err(no_quorum());
            }
            if let Entry::ServerLease { lease, .. } = &entry {
                inner.deeds.push(match lease {
                    Some(lease) => format!("agree {lease}"),
                    None => "agree none".to_owned(),
                });
            }
            let index = inner.state.index + 1;
            let at = Timestamp(1);
            let outcome = apply(&mut inner.state, 1, index, &Envelope { at, entry });
            Ok(outcome)
        })
    }

    fn read(&self) -> BoxFuture<'_, Result<Arc<State>, AgreementError>> {
        Box::pin(async move {
            let slow = self.inner().slow;
            self.clock.advance(slow);
            if !self.inner().whole {
                return Err(no_quorum());
            }
            Ok(self.local())
        })
    }

    fn local(&self) -> Arc<State> {
        Arc::new(self.state())
    }

    fn watch(&self) -> BoxStream<'static, u64> {
        stream::pending().boxed()
    }

    fn leadership(&self) -> Leadership {
        Leadership::Nobody
    }

    fn standing(&self) -> Standing {
        let part = |voter| Part {
            voter,
            heard: None,
            holds: None,
        };
        let voters = self.inner().voters;
        Standing {
            parts: (1..=5).map(|id| (id, part(id <= voters))).collect(),
            ..Standing::default()
        }
    }
}

impl Watchdog for World {
    fn passed(&self) -> Span {
        self.clock.passed()
    }

    fn guard(&self, guard: Guard) -> BoxFuture<'_, Result<(), WatchdogError>> {
        Box::pin(async move {
            let passed = self.clock.passed();
            let mut inner = self.inner();
            if let Some(error) = &inner.broken {
                return Err(error.clone());
            }
            inner.deeds.push(if guard.domains.is_empty() {
                "guard nothing".to_owned()
            } else {
                let length = Span(guard.until.0.saturating_sub(passed.0));
                format!("guard {} for {length}", guard.domains.len())
            });
            inner.guard = guard;
            Ok(())
        })
    }

    fn guarding(&self) -> BoxFuture<'_, Result<Guard, WatchdogError>> {
        Box::pin(async move { Ok(self.guard()) })
    }
}

#[test]
fn what_is_agreed_on_is_in_force_before() {
    let world = World::new(3);
    let uuid = world.grow(1);
    let mut keeper = Keeper::new(name());
    let beat = world.settle(&mut keeper);
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree 30s", "guard 1 for 30s"]
    );
    assert_eq!(beat, Beat::settled(Span::seconds(5)));
    assert_eq!(world.lease(), Some(SHORT));
    assert!(world.guard().lets_run(uuid, world.clock.passed()));
}

#[test]
fn two_voters_and_one_that_nobody_can_do_without_have_no_lease() {
    for voters in [1, 2] {
        let world = World::new(voters);
        world.grow(1);
        let beat = world.settle(&mut Keeper::new(name()));
        assert!(beat.settled, "{beat:?}");
        assert_eq!(world.lease(), None);
        assert_eq!(world.guard(), Guard::default());
    }
    // A third one votes, and later no more.
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    world.deeds();
    world.inner().voters = 2;
    assert!(keeper.sees_other(&world));
    world.settle(&mut keeper);
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree none", "guard nothing"]
    );
}

#[test]
fn a_renewal_counts_from_before_the_question() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    world.inner().slow = Span::seconds(4);
    let asked = world.clock.passed();
    world.step(&mut keeper);
    assert_eq!(world.guard().until, Span(asked.0 + SHORT.0));
}

#[test]
fn who_is_lost_or_cut_off_renews_nothing() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    let before = world.guard();
    world.clock.advance(Span::seconds(5));
    world.inner().whole = false;
    assert!(world.step(&mut keeper).trouble.is_some());
    assert_eq!(world.guard(), before);
    world.inner().whole = true;
    let read = world.inner().state.index;
    let lost = Entry::ServerLost {
        server: ME,
        silent: Span::seconds(5),
        read,
    };
    world
        .propose(lost)
        .now_or_never()
        .expect("at once")
        .expect("agreed");
    assert!(world.step(&mut keeper).trouble.is_some());
    assert_eq!(world.guard(), before);
    // It is back.
    if let Some(me) = world.inner().state.servers.get_mut(&ME) {
        me.state = ServerState::Reconciling;
    }
    world.settle(&mut keeper);
    assert!(world.guard().until > before.until);
}

#[test]
fn a_longer_lease_is_agreed_on_first_and_a_shorter_one_is_in_force_first() {
    let world = World::new(3);
    world.grow(1);
    world.settle(&mut Keeper::new(name()));
    world.deeds();
    let clock = world.clock.clone();
    rest(name(), &world, &world, &clock)
        .now_or_never()
        .expect("nothing to wait for");
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree 10m", "guard 1 for 10m"]
    );
    // The next start.
    world.settle(&mut Keeper::new(name()));
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree 30s", "guard 1 for 30s"]
    );
}

#[test]
fn another_length_is_in_force_only_as_far_as_it_is_agreed_on() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    let mut want = |length| {
        world.deeds();
        let mut inner = world.inner();
        Arc::make_mut(&mut inner.state.committed).grid.fence_after = length;
        drop(inner);
        assert!(keeper.sees_other(&world));
        world.settle(&mut keeper);
        world.deeds()
    };
    assert_eq!(
        want(Span::minutes(1)),
        ["guard 1 for 30s", "agree 1m", "guard 1 for 1m"]
    );
    assert_eq!(
        want(Span::seconds(20)),
        ["guard 1 for 20s", "agree 20s", "guard 1 for 20s"]
    );
}

#[test]
fn a_stop_waits_only_so_long_for_its_lease() {
    let world = World::new(3);
    world.grow(1);
    world.settle(&mut Keeper::new(name()));
    world.inner().whole = false;
    let clock = world.clock.clone();
    let mut resting = Box::pin(rest(name(), &world, &world, &clock));
    assert_eq!(resting.as_mut().now_or_never(), None);
    clock.advance(STOPS);
    assert_eq!(resting.now_or_never(), Some(()));
}

#[test]
fn a_lease_ends_by_agreement_before_nothing_is_guarded() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    world.deeds();
    world.want(0);
    assert!(keeper.sees_other(&world));
    world.settle(&mut keeper);
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree none", "guard nothing"]
    );
}

#[test]
fn what_others_count_with_stays_guarded() {
    let world = World::new(3);
    let [first, second] = [world.grow(1), world.grow(2)];
    world.show(2, true);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    assert_eq!(world.guard().domains, BTreeSet::from([first, second]));
    // It is nobody's personal desktop any more, and the others do not know yet that it runs as it likes.
    let id = spec(2).member.desktop;
    if let Some(desktop) = Arc::make_mut(&mut world.inner().state.desktops).get_mut(&id) {
        desktop.personal = false;
    }
    world.settle(&mut keeper);
    assert_eq!(world.guard().domains, BTreeSet::from([first, second]));
    world.show(2, false);
    assert!(keeper.sees_other(&world));
    world.settle(&mut keeper);
    assert_eq!(world.guard().domains, BTreeSet::from([first, second]));
    world.clock.advance(LINGERS);
    world.settle(&mut keeper);
    assert_eq!(world.guard().domains, BTreeSet::from([first]));
}

#[test]
fn where_nobody_guards_nobody_counts_with_it() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    let broken = WatchdogError::Unable("another user".to_owned());
    world.inner().broken = Some(broken);
    let beat = world.settle(&mut keeper);
    assert!(
        beat.trouble
            .is_some_and(|what| what.contains("another user"))
    );
    assert_eq!(world.lease(), None);
    world.inner().broken = None;
    world.settle(&mut keeper);
    assert_eq!(world.lease(), Some(SHORT));
}

#[test]
fn what_may_come_about_late_is_reckoned_with() {
    let world = World::new(3);
    world.grow(1);
    let mut keeper = Keeper::new(name());
    world.settle(&mut keeper);
    // A stop whose longer lease was agreed on. At the next start a shorter one is asked for, and nobody knows what becomes of it.
    rest(name(), &world, &world, &world.clock.clone())
        .now_or_never()
        .expect("nothing to wait for");
    world.inner().late = true;
    let mut next = Keeper::new(name());
    world.step(&mut next);
    world.deeds();
    // Whatever became of it: before anything longer is in force, something newer is agreed on.
    world.inner().late = false;
    rest(name(), &world, &world, &world.clock.clone())
        .now_or_never()
        .expect("nothing to wait for");
    assert_eq!(
        world.deeds(),
        ["guard 1 for 30s", "agree 10m", "guard 1 for 10m"]
    );
}

#[test]
fn a_server_without_such_desktops_asks_nobody_and_says_nothing() {
    let world = World::new(3);
    world.grow(1);
    world.want(0);
    let mut keeper = Keeper::new(name());
    assert!(world.settle(&mut keeper).settled);
    world.inner().whole = false;
    assert_eq!(world.step(&mut keeper), Beat::settled(LOOK));
    assert!(world.deeds().is_empty());
    assert_eq!(world.inner().state.index, 1);
}
