//! A server's round, order by order: what it carries out, what it refuses, and what it takes for its own.

#![cfg(test)] // all of it, which clippy only believes when told

use std::collections::BTreeSet;

use coppice_plans::plan::{Base, FindingKind, Memory};
use coppice_reconcile::leader;
use coppice_reconcile::server::ServerReport;
use coppice_schema::ids::{Epoch, GridId, Member, Stamp};
use coppice_schema::known::{DesktopSpec, Ending, Health, Look, PowerState, Task};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_state::entry::{Attempt, NewOrder};
use coppice_state::{Entry, Outcome};
use coppice_tests::configs;
use coppice_tests::world::World;
use coppice_world::clock::Clock;
use coppice_world::hypervisor::Mark;
use coppice_world::sim::{Chance, CrashPoint, Deed, Hand, Moment, SimDomain};
use coppice_world::stamps::Stamps;
use futures::executor::block_on;
use uuid::Uuid;

/// A grid of one server with a pool of `desktops`, all of them available.
struct Place(World);

impl Place {
    fn with(desktops: u32) -> Self {
        let mut place = Self(World::new(&mut Chance::new(3), 1, None));
        place.0.settle_as(&format!(
            "image \"debian\" {{\n version = \"1\"\n os = \"linux\"\n}}\n\
             template \"desk\" {{\n image = image.debian\n memory = \"96MiB\"\n}}\n\
             pool \"lab\" {{\n template = template.desk\n desktops = {desktops}\n}}\n"
        ));
        place
    }

    /// A round of the server, which knows everything that was agreed.
    fn round(&mut self) -> ServerReport {
        self.0.machines[0].agreement.catch_up();
        self.0.server_round(0).expect("it lives")
    }

    /// Gives an order past every check of a plan.
    fn give(&self, task: Task, memory: Memory) -> Stamp {
        let world = &self.0;
        let now = world.clock.now();
        let server = world.machines[0].id(&world.log).expect("a member");
        let given = world.log.append(Entry::Planned {
            term: 0,
            base: Base::default(),
            orders: vec![NewOrder {
                server,
                task,
                not_before: now,
                deadline: now.after(Span::minutes(10)),
                memory,
            }],
            findings: BTreeSet::new(),
            settled: false,
        });
        assert_eq!(given, Outcome::Done);
        let state = world.log.state();
        *state.orders.keys().next_back().expect("it was given")
    }

    /// How the one order went that this round tried.
    fn tried(&mut self) -> Attempt {
        let mut tried = self.round().tried;
        assert_eq!(tried.len(), 1, "{tried:?}");
        tried.remove(0).2
    }

    fn spec(&self) -> DesktopSpec {
        let state = self.0.log.state();
        state.desktops.values().next().expect("one").spec.clone()
    }

    fn domain(&self) -> SimDomain {
        self.0.machines[0].sim.domains().remove(0)
    }

    fn look(&self) -> Look {
        let state = self.0.log.state();
        let server = state.servers.values().next().expect("one");
        server.look.as_deref().expect("it looked").clone()
    }

    /// What we did to the server from the change `seen` on.
    fn deeds(&self, seen: usize) -> Vec<Deed> {
        let changes = self.0.machines[0].sim.journal_since(seen).into_iter();
        let ours = changes.filter(|change| change.by == Hand::Ours);
        ours.map(|change| change.deed).collect()
    }

    fn changes(&self) -> usize {
        self.0.machines[0].sim.journal().len()
    }
}

fn member(name: &str) -> Member {
    name.parse().expect("a member")
}

fn create(spec: &DesktopSpec) -> (Task, Memory) {
    let task = Task::Create {
        spec: spec.clone(),
        start: true,
    };
    let memory = Memory::Grown {
        spec: Box::new(spec.clone()),
        personal: false,
    };
    (task, memory)
}

/// `spec` as another desktop, or another life of it.
fn as_member(spec: &DesktopSpec, name: &str, place: &Place) -> DesktopSpec {
    let member = member(name);
    let epoch = place.0.log.state().epoch;
    DesktopSpec {
        uuid: member.desktop.uuid(place.0.grid, epoch, member.incarnation),
        hostname: name.replace('@', "-"),
        member,
        ..spec.clone()
    }
}

#[track_caller]
fn refused_with(attempt: &Attempt, words: &str) {
    let refused = matches!(attempt, Attempt::Refused { error } if error.contains(words));
    assert!(refused, "{attempt:?} does not say {words:?}");
}

#[track_caller]
fn failed_with(attempt: &Attempt, words: &str) {
    let failed = matches!(attempt, Attempt::Failed { error, .. } if error.contains(words));
    assert!(failed, "{attempt:?} does not say {words:?}");
}

#[test]
fn an_order_older_than_the_fence_is_refused() {
    let mut place = Place::with(1);
    let member = place.spec().member;
    let slot = member.desktop.clone();
    let later = Stamp {
        epoch: 1,
        term: 99,
        index: 99,
        ordinal: 0,
    };
    let fence = place.0.machines[0].stamps.clone();
    block_on(fence.remember(vec![(slot.clone(), later)])).expect("kept");
    let seen = place.changes();
    place.give(
        Task::Restart {
            member,
            ending: Ending::Asked,
        },
        Memory::Unchanged,
    );
    refused_with(&place.tried(), "is older than order");
    assert_eq!(place.deeds(seen), []);
    assert_eq!(block_on(fence.all()).expect("kept")[&slot], later);
}

#[test]
fn the_fence_stands_before_anything_is_done() {
    let member = |place: &Place| place.spec().member;
    let mut done = false;
    // The daemon dies in each of its calls; whatever was done, its stamp was remembered before.
    for call in 0.. {
        let mut place = Place::with(1);
        let (member, seen) = (member(&place), place.changes());
        let slot = member.desktop.clone();
        let stamp = place.give(
            Task::Restart {
                member,
                ending: Ending::Asked,
            },
            Memory::Unchanged,
        );
        let machine = &place.0.machines[0];
        machine.agreement.catch_up();
        let moment = Moment::After;
        machine.sim.crash_at(CrashPoint { call, moment });
        let survived = place.0.server_round(0).is_some();
        let fence = block_on(place.0.machines[0].stamps.all()).expect("kept");
        if !place.deeds(seen).is_empty() {
            done = true;
            assert_eq!(fence.get(&slot), Some(&stamp), "at call {call}");
        }
        if survived {
            break;
        }
    }
    assert!(done, "nothing was ever done");
}

#[test]
fn an_order_for_a_uuid_that_is_not_derived_is_refused() {
    let mut place = Place::with(1);
    let mut spec = as_member(&place.spec(), "lab-002@1", &place);
    spec.uuid = Uuid::from_u128(7);
    let (task, memory) = create(&spec);
    place.give(task, memory);
    refused_with(&place.tried(), "another domain than lab-002@1");
}

#[test]
fn a_former_life_must_be_gone_first() {
    let mut place = Place::with(1);
    let spec = place.spec();
    let remove = Task::Remove {
        member: spec.member.clone(),
    };
    // The grid is told that it is gone, and it is not.
    let stamp = place.give(remove, Memory::Leaving);
    let world = &place.0;
    let server = world.machines[0].id(&world.log).expect("a member");
    let mut look = place.look();
    look.members.clear();
    let gone = coppice_state::entry::Report {
        server,
        boot: look.boot,
        sequence: look.sequence + 1,
        members: [(spec.member.clone(), None)].into(),
        images: Default::default(),
        foreign: Default::default(),
        quarantine: Default::default(),
        replicas: Default::default(),
        disk: look.disk,
        hypervisor: Health::Well,
    };
    world.log.append(Entry::Reported(Box::new(gone)));
    let result = Attempt::Done;
    world.log.append(Entry::Receipt {
        server,
        stamp,
        result,
    });
    assert!(world.log.state().desktops.is_empty());
    let next = as_member(&spec, "lab-001@2", &place);
    let (task, memory) = create(&next);
    place.give(task, memory);
    failed_with(&place.tried(), "lab-001@1 is still here");
}

#[test]
fn no_clone_of_an_image_that_is_not_whole_and_not_at_once_again() {
    let mut place = Place::with(1);
    let spec = as_member(&place.spec(), "lab-002@1", &place);
    place.0.machines[0].sim.spoil_image(spec.image, true);
    let (task, memory) = create(&spec);
    place.give(task, memory);
    let now = place.0.clock.now();
    let attempt = place.tried();
    failed_with(&attempt, "the copy of image");
    let Attempt::Failed { retry_at, .. } = attempt else {
        panic!("{attempt:?}")
    };
    assert!(retry_at > now, "it would be tried again at once");
    assert_eq!(place.round().tried, [], "it is not tried before its time");
    // What keeps failing is told.
    for _ in 0..2 {
        place.0.clock.advance(Span::seconds(20));
        place.tried();
    }
    let world = &place.0;
    let state = world.log.state();
    let known = state.known(world.log.term());
    let plan = coppice_plans::plan(&state.committed, &known, world.clock.now());
    let mut told = plan.findings.iter();
    assert!(told.any(|f| matches!(f.kind, FindingKind::OrderFailing { attempts: 3, .. })));
}

#[test]
fn one_order_that_cannot_be_done_stops_no_other() {
    let mut place = Place::with(1);
    let spec = place.spec();
    let fine = as_member(&spec, "lab-002@1", &place);
    let mut small = as_member(&spec, "lab-003@1", &place);
    // The image is there when the orders are judged; the disk has room for one overlay.
    small.hardware.disk = fine.hardware.disk;
    let sim = std::sync::Arc::clone(&place.0.machines[0].sim);
    let total = sim.setup().capacity.disk;
    let used: u64 = sim.overlay_files().iter().map(|(_, o)| o.allocated.0).sum();
    let images: u64 = configs::catalogue()
        .map(|(_, _, record)| record.data.0)
        .sum();
    let one = sim.setup().overlay.0;
    sim.others_use(Size(total.0 - used - images - one - one / 2));
    for spec in [&fine, &small] {
        let (task, memory) = create(spec);
        place.give(task, memory);
    }
    let tried = place.round().tried;
    let [(_, _, first), (_, _, second)] = tried.as_slice() else {
        panic!("{tried:?}")
    };
    assert_eq!(*first, Attempt::Done);
    failed_with(second, "lab-003@1");
}

#[test]
fn of_a_desktop_that_goes_the_disk_goes_last() {
    let mut place = Place::with(1);
    let member = place.spec().member;
    let seen = place.changes();
    place.give(Task::Remove { member }, Memory::Leaving);
    assert_eq!(place.tried(), Attempt::Done);
    let deeds = place.deeds(seen);
    assert!(
        matches!(
            deeds.as_slice(),
            [
                Deed::Ended { .. },
                Deed::Undefined { .. },
                Deed::OverlayRemoved { .. }
            ]
        ),
        "{deeds:?}"
    );
}

#[test]
fn what_is_not_seen_is_not_reported_as_gone() {
    let mut place = Place::with(2);
    let before = place.look();
    place.0.machines[0]
        .sim
        .away_until(Some(Timestamp(u64::MAX)));
    let report = place.round();
    assert!(!report.whole && report.reported);
    let look = place.look();
    assert!(matches!(look.hypervisor, Health::Away(_)));
    assert_eq!((look.members, look.images), (before.members, before.images));
}

#[test]
fn ours_is_what_carries_our_mark_and_is_who_it_says() {
    let mut place = Place::with(1);
    let domain = place.domain();
    let mark = domain.mark.clone().expect("it is ours");
    let other = |name: &str, mark: Mark| SimDomain {
        name: name.to_owned(),
        uuid: Uuid::from_u128(u128::try_from(name.len()).expect("short")),
        mark: Some(mark),
        power: PowerState::Off,
        running_with: None,
        ..domain.clone()
    };
    let of = |grid: GridId, epoch: Epoch, name: &str| {
        let member = member(name);
        let uuid = member.desktop.uuid(grid, epoch, member.incarnation);
        let mark = Mark {
            grid,
            epoch,
            member: member.clone(),
            ..mark.clone()
        };
        SimDomain {
            uuid,
            ..other(&member.desktop.to_string(), mark)
        }
    };
    let former = Epoch {
        recovery: mark.epoch.recovery + 1,
        ..mark.epoch
    };
    let sim = std::sync::Arc::clone(&place.0.machines[0].sim);
    sim.define_by_hand(other("a-copy", mark.clone()));
    sim.define_by_hand(of(mark.grid, former, "lab-004@1"));
    sim.define_by_hand(of(GridId([9; 16]), mark.epoch, "lab-005@1"));
    place.round();
    let look = place.look();
    let foreign: Vec<&str> = look.foreign.keys().map(String::as_str).collect();
    assert_eq!(foreign, ["a-copy", "lab-005"]);
    assert_eq!(look.members.len(), 1);
    // One that began in another life of this grid is known for what it is.
    let apart: Vec<String> = look.quarantine.keys().map(ToString::to_string).collect();
    assert_eq!(apart, ["lab-004@1"]);
    assert_eq!(look.quarantine[&member("lab-004@1")].epoch, former);
    // A domain of ours that boots from elsewhere is no clone of its image.
    let elsewhere = SimDomain {
        disk: "/tmp/other.qcow2".into(),
        ..domain.clone()
    };
    sim.define_by_hand(elsewhere);
    place.round();
    let look = place.look();
    let seen = look.members.values().next().expect("one");
    let image = seen.domain.as_ref().expect("it is there").spec.image;
    assert_ne!(image, place.spec().image);
}

#[test]
fn a_replica_that_lags_acts_on_nothing() {
    let mut place = Place::with(1);
    place.0.machines[0].restart();
    let member = place.spec().member;
    place.give(
        Task::Restart {
            member,
            ending: Ending::Asked,
        },
        Memory::Unchanged,
    );
    let seen = place.changes();
    let report = place.0.server_round(0).expect("it lives");
    assert!(!report.whole && report.tried.is_empty(), "{report:?}");
    assert_eq!(place.deeds(seen), []);
    assert!(place.round().whole);
}

#[test]
fn no_order_is_older_than_the_log() {
    let mut place = Place::with(1);
    let uuid = place.domain().uuid;
    place.0.machines[0].sim.kill(uuid);
    place.round();
    let world = &place.0;
    let time = world.log.state().time;
    let agreement = std::sync::Arc::clone(&world.machines[0].agreement);
    // Its clock was set back.
    let report = block_on(leader::round(agreement.as_ref(), Timestamp(1)));
    assert_eq!(report.ordered, ["start lab-001"]);
    let state = world.log.state();
    let order = state.orders.values().next().expect("it was given");
    assert!(order.not_before >= time);
}

#[test]
fn without_a_majority_what_fell_is_started_again_and_nothing_else_is_done() {
    let mut place = Place::with(2);
    let member = place.spec().member;
    // Ordered while a majority answered, and not heard of here: it is not carried out now.
    let removed = Task::Remove {
        member: member.clone(),
    };
    place.give(removed, Memory::Leaving);
    let agreement = std::sync::Arc::clone(&place.0.machines[0].agreement);
    agreement.set_alone(Some(place.0.clock.now()));
    let log = place.0.log.len();
    let sim = std::sync::Arc::clone(&place.0.machines[0].sim);
    let domains = sim.domains();
    domains.iter().for_each(|domain| sim.kill(domain.uuid));
    // Also after its daemon was started anew, without anybody to catch up with.
    for _ in 0..2 {
        let seen = place.changes();
        let report = place.0.server_round(0).expect("it lives");
        assert!(report.whole && report.again.is_some(), "{report:?}");
        let started = place.deeds(seen);
        assert_eq!(started.len(), 2, "{started:?}");
        assert!(
            started
                .iter()
                .all(|deed| matches!(deed, Deed::Started { .. })),
            "{started:?}"
        );
        let running = |domain: &SimDomain| matches!(domain.power, PowerState::Running { .. });
        assert!(sim.domains().iter().all(running));
        // And what runs is let be.
        let seen = place.changes();
        place.0.server_round(0).expect("it lives");
        assert_eq!(place.deeds(seen), []);
        place.0.machines[0].restart();
        domains.iter().for_each(|domain| sim.kill(domain.uuid));
    }
    assert_eq!(place.0.log.len(), log, "nothing was proposed");
    // A majority is there again: the order that waited is carried out.
    agreement.set_alone(None);
    place.round();
    place.round();
    let gone = place.look().members.get(&member).cloned();
    assert!(
        gone.as_ref().is_none_or(|seen| seen.domain.is_none()),
        "{gone:?}"
    );
}
