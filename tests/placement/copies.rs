//! Copies of personal desktops: where they are, how old they become, and when one takes over.

use std::collections::{BTreeMap, BTreeSet};

use coppice_plans::plan::{FindingKind, Memory, Plan, Reason};
use coppice_plans::{check, replicas, what_if};
use coppice_schema::desired::{Assignment, Desired};
use coppice_schema::ids::{DesktopId, Member, ServerId};
use coppice_schema::known::{
    CopyState, DiskLevel, GuestState, Phase, PowerState, Seen, SeenDomain, SeenReplica,
    ServerState, Task,
};
use coppice_schema::units::{Size, Span, Timestamp};
use coppice_tests::fleet::{self, Fleet};
use coppice_world::sim::Chance;
use proptest::prelude::*;

use crate::config;

const LEASE: Span = Span::seconds(30);

/// Servers with `desktops` personal desktops, of each of which there are to be `copies`.
fn personal(servers: u64, desktops: u32, copies: u32) -> (Fleet, Desired) {
    let sizes = (0..servers).map(|_| fleet::capacity(64, 512, 4_000));
    let mut fleet = Fleet::new(sizes);
    let mut desired = Desired::default();
    fleet.import("debian");
    fleet::template(&mut desired, "debian", 1, Size::gib(1));
    let pool = fleet::pool(&mut desired, "own", "debian", desktops);
    pool.assignment = Assignment::Personal;
    pool.copies = copies;
    fleet.carry_out(&desired);
    (fleet, desired)
}

/// What one server has of copies.
fn copies(fleet: &mut Fleet, server: ServerId) -> &mut BTreeMap<Member, SeenReplica> {
    let server = fleet.known.servers.get_mut(&server).unwrap();
    &mut server.look.as_mut().unwrap().replicas
}

/// Every server that takes part makes what is due, and clears away.
fn go_round(fleet: &mut Fleet, desired: &Desired) {
    let servers: Vec<ServerId> = fleet.known.servers.keys().copied().collect();
    for server in servers {
        if !fleet.known.servers[&server].state.takes_part() {
            continue;
        }
        for due in replicas::due(desired, &fleet.known, server) {
            if due.at > fleet.now {
                continue;
            }
            let image = fleet.known.desktops[&due.member.desktop].spec.image;
            let copy = SeenReplica {
                image,
                taken: fleet.now,
                bulk: 3,
            };
            copies(fleet, due.to).insert(due.member, copy);
        }
        for member in replicas::unneeded(desired, &fleet.known, server) {
            copies(fleet, server).remove(&member);
        }
    }
}

/// Who has a copy of the present life of each desktop.
fn held(fleet: &Fleet) -> BTreeMap<DesktopId, BTreeSet<ServerId>> {
    let desktops = fleet.known.desktops.iter();
    let held = desktops.map(|(id, desktop)| {
        let with = fleet.known.servers.iter().filter(|(_, server)| {
            let look = server.look.as_ref();
            look.is_some_and(|look| look.replicas.contains_key(&desktop.spec.member))
        });
        (id.clone(), with.map(|(id, _)| *id).collect())
    });
    held.collect()
}

proptest! {
    #![proptest_config(config(60))]

    /// As many copies as are wanted and can be held, none at home, none that is older than allowed, and none too many;
    /// whatever servers come to be.
    #[test]
    fn there_are_as_many_copies_as_are_wanted(seed in any::<u64>()) {
        let chance = &mut Chance::new(seed);
        let servers = chance.between(2, 7);
        let desktops = u32::try_from(chance.between(1, 30)).unwrap();
        let wanted = u32::try_from(chance.between(1, 2)).unwrap();
        let (mut fleet, desired) = personal(servers, desktops, wanted);
        for _ in 0..4 {
            let ids: Vec<ServerId> = fleet.known.servers.keys().copied().collect();
            let server = *chance.pick(&ids).unwrap();
            let known = fleet.known.servers.get_mut(&server).unwrap();
            match chance.below(5) {
                0 => known.state = ServerState::Ready,
                1 => known.state = ServerState::Cordoned,
                2 => known.state = ServerState::Draining,
                3 => known.look.as_mut().unwrap().disk = DiskLevel::Critical,
                _ => { known.look.as_mut().unwrap().disk = DiskLevel::Fine; }
            }
            let end = fleet.now.after(Span::hours(1));
            while fleet.now < end {
                go_round(&mut fleet, &desired);
                fleet.now = fleet.now.after(Span::minutes(1));
            }
            go_round(&mut fleet, &desired);
            for (id, with) in held(&fleet) {
                let desktop = &fleet.known.desktops[&id];
                let holders = replicas::Holders::new(&desired, &fleet.known).of(&id, desktop);
                let able: BTreeSet<ServerId> = holders.into_iter().collect();
                prop_assert!(!with.contains(&desktop.server), "{id} is copied at home");
                if able.is_empty() {
                    // What there is stays, where nothing takes its place.
                    continue;
                }
                prop_assert_eq!(&with, &able, "{}", id);
                for holder in with {
                    let copy = fleet.known.servers[&holder].look.as_ref().unwrap().replicas[&desktop.spec.member];
                    let age = fleet.now.since(copy.taken);
                    prop_assert!(age <= Span::minutes(15), "{id} on {holder} is {age} old");
                }
            }
            let plan = fleet.plan(&desired);
            let old = plan.findings.iter().any(|it| matches!(it.kind, FindingKind::CopyOld { .. }));
            prop_assert!(!old, "a finding about copies that are young: {:?}", plan.findings);
        }
    }
}

#[test]
fn the_copies_of_one_server_are_spread_over_all_others() {
    let (mut fleet, desired) = personal(10, 200, 1);
    let home = ServerId(1);
    for desktop in fleet.known.desktops.values_mut() {
        desktop.server = home;
    }
    go_round(&mut fleet, &desired);
    let mut each: BTreeMap<ServerId, usize> = BTreeMap::new();
    for server in held(&fleet).into_values().flatten() {
        *each.entry(server).or_default() += 1;
    }
    assert_eq!(each.len(), 9, "{each:?}");
    // 22 on average; chance gives no more than twice that.
    assert!(
        each.values().all(|some| (8..=44).contains(some)),
        "{each:?}"
    );
}

#[test]
fn what_is_off_is_copied_once() {
    let (mut fleet, desired) = personal(2, 1, 1);
    let since = fleet.now;
    let desktop = fleet.known.desktops.values_mut().next().unwrap();
    desktop.phase = Phase::Off { since };
    let home = desktop.server;
    fleet.now = fleet.now.after(Span::minutes(1));
    go_round(&mut fleet, &desired);
    assert_eq!(replicas::due(&desired, &fleet.known, home), []);
    fleet.now = fleet.now.after(Span::hours(100));
    assert_eq!(replicas::due(&desired, &fleet.known, home), []);
    let plan = fleet.plan(&desired);
    let old = plan
        .findings
        .iter()
        .any(|it| matches!(it.kind, FindingKind::CopyOld { .. }));
    assert!(!old, "{:?}", plan.findings);
}

#[test]
fn a_copy_that_is_not_made_in_time_is_told() {
    let (mut fleet, desired) = personal(3, 1, 1);
    let told = |fleet: &Fleet| {
        let plan = fleet.plan(&desired);
        let mut found = plan.findings.into_iter().filter_map(|it| {
            let FindingKind::CopyOld { taken, .. } = it.kind else {
                return None;
            };
            Some(taken)
        });
        found.next()
    };
    assert_eq!(told(&fleet), None, "it was grown a moment ago");
    let plan = fleet.plan(&desired);
    let next = plan
        .next
        .expect("it is looked at again when it would be too old");
    fleet.now = next;
    assert_eq!(told(&fleet), Some(None));
    go_round(&mut fleet, &desired);
    let taken = fleet.now;
    assert_eq!(told(&fleet), None);
    fleet.now = fleet.now.after(Span::minutes(16));
    assert_eq!(told(&fleet), Some(Some(taken)));
}

#[test]
fn a_former_life_keeps_its_copy_until_the_present_one_has_its_own() {
    let (mut fleet, desired) = personal(3, 1, 1);
    go_round(&mut fleet, &desired);
    let (id, before) = held(&fleet).pop_first().unwrap();
    let holder = before.into_iter().next().unwrap();
    let desktop = fleet.known.desktops.get_mut(&id).unwrap();
    let former = desktop.spec.member.clone();
    desktop.incarnation.0 += 1;
    desktop.spec.member = id.member(desktop.incarnation);
    desktop.phase = Phase::Provisioning { since: fleet.now };
    assert_eq!(replicas::unneeded(&desired, &fleet.known, holder), []);
    fleet.known.desktops.get_mut(&id).unwrap().phase = Phase::Available { since: fleet.now };
    assert_eq!(replicas::unneeded(&desired, &fleet.known, holder), []);
    go_round(&mut fleet, &desired);
    let look = fleet.known.servers[&holder].look.as_ref().unwrap();
    assert!(!look.replicas.contains_key(&former));
    assert_eq!(held(&fleet)[&id].len(), 1);
}

/// How a server stands that is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Loss {
    state: ServerState,
    lease: bool,
    fenced: bool,
    /// Whether the desktop ran when it was last seen, and whether the watchdog held it then.
    ran: bool,
    guarded: bool,
}

/// Every way in which the home of a desktop may be gone, or not.
fn losses() -> Vec<Loss> {
    let states = [
        ServerState::Ready,
        ServerState::Lost,
        ServerState::Reconciling,
        ServerState::Removed,
    ];
    let bits = |n: u32| [n & 1, n & 2, n & 4, n & 8].map(|bit| bit > 0);
    let all = states
        .into_iter()
        .flat_map(|state| (0..16).map(move |n| (state, bits(n))));
    all.map(|(state, [lease, fenced, ran, guarded])| Loss {
        state,
        lease,
        fenced,
        ran,
        guarded,
    })
    .collect()
}

/// A loss after which the desktop certainly runs no more.
const FENCED: Loss = Loss {
    state: ServerState::Lost,
    lease: true,
    fenced: true,
    ran: true,
    guarded: true,
};

fn lose(fleet: &mut Fleet, loss: Loss) -> (DesktopId, ServerId) {
    let (id, desktop) = fleet.known.desktops.iter_mut().next().unwrap();
    desktop.phase = Phase::Unknown { since: fleet.now };
    let power = if loss.ran {
        PowerState::Running { since: fleet.now }
    } else {
        PowerState::Off
    };
    let domain = SeenDomain {
        uuid: desktop.spec.uuid,
        stamp: Default::default(),
        power,
        spec: desktop.spec.clone(),
        guest: GuestState::Silent,
        stale_until_reboot: false,
        guarded: loss.guarded,
        viewers: None,
    };
    let seen = Seen {
        domain: Some(domain),
        overlay: None,
    };
    let home = desktop.server;
    let server = fleet.known.servers.get_mut(&home).unwrap();
    server.state = loss.state;
    server.current = false;
    server.lease = loss.lease.then_some(LEASE);
    server.fenced = loss.fenced;
    let look = server.look.as_mut().unwrap();
    look.members.insert(desktop.spec.member.clone(), seen);
    if loss.state == ServerState::Removed {
        server.look = None;
    }
    (id.clone(), home)
}

fn restored(plan: &Plan) -> Vec<(ServerId, Timestamp)> {
    let actions = plan.actions.iter();
    let found = actions.filter_map(|action| {
        let step = action.step.as_ref()?;
        let Reason::FromCopy { taken, .. } = action.reason else {
            return None;
        };
        assert!(matches!(step.task, Task::Restore { .. }));
        assert!(matches!(step.memory, Memory::Restored { .. }));
        assert_eq!(action.waits, []);
        Some((action.server?, taken))
    });
    found.collect()
}

#[test]
fn a_desktop_goes_on_from_its_newest_copy_where_it_certainly_runs_no_more() {
    for loss in losses() {
        let (mut fleet, desired) = personal(4, 1, 2);
        go_round(&mut fleet, &desired);
        let (id, home) = lose(&mut fleet, loss);
        let member = fleet.known.desktops[&id].spec.member.clone();
        let holders: Vec<ServerId> = held(&fleet)[&id].iter().copied().collect();
        let newer = fleet.now.after(Span::minutes(3));
        copies(&mut fleet, holders[1])
            .get_mut(&member)
            .unwrap()
            .taken = newer;
        fleet.now = newer.after(Span::minutes(1));
        let plan = fleet.plan(&desired);
        assert_eq!(check(&plan, &desired, &fleet.known), [], "{loss:?}");
        let ended = loss.lease && loss.fenced && (loss.guarded || !loss.ran);
        let lost = loss.state == ServerState::Lost;
        // That it is gone for good is a person's word, and what may run under a lease is waited for all the same.
        let gone = loss.state == ServerState::Removed && (loss.fenced || !loss.lease);
        let may = (lost && ended) || gone;
        let expected = if may {
            vec![(holders[1], newer)]
        } else {
            Vec::new()
        };
        assert_eq!(restored(&plan), expected, "{loss:?}");
        if lost && !may {
            let waits = plan
                .findings
                .iter()
                .any(|it| matches!(it.kind, FindingKind::AwaitsServer { copy: Some(_), .. }));
            assert!(waits, "{loss:?} says nothing: {:?}", plan.findings);
        }
        // A plan that does it all the same is wrong.
        if may {
            let mut known = fleet.known.clone();
            known.servers.get_mut(&home).unwrap().fenced = false;
            known.servers.get_mut(&home).unwrap().state = ServerState::Lost;
            let broken = check(&plan, &desired, &known);
            let rule = "a desktop goes on from a copy only where it certainly ended";
            assert!(broken.iter().any(|it| it.rule == rule), "{broken:?}");
        }
    }
}

#[test]
fn where_no_server_can_carry_it_that_is_told() {
    let (mut fleet, desired) = personal(3, 1, 1);
    go_round(&mut fleet, &desired);
    let (id, _) = lose(&mut fleet, FENCED);
    let holder = *held(&fleet)[&id].iter().next().unwrap();
    let look = fleet.known.servers.get_mut(&holder).unwrap();
    let images = &mut look.look.as_mut().unwrap().images;
    images
        .values_mut()
        .for_each(|state| *state = CopyState::Bad);
    let plan = fleet.plan(&desired);
    assert_eq!(restored(&plan), []);
    let no_room = |kind: &FindingKind| matches!(kind, FindingKind::NoRoom { .. });
    let told = plan.findings.iter().any(|it| no_room(&it.kind));
    assert!(told, "{:?}", plan.findings);
}

/// Who would be affected is said before: with their copies, and how old those are.
#[test]
fn a_loss_that_is_only_asked_about_counts_with_the_copies() {
    let (mut fleet, desired) = personal(3, 4, 1);
    go_round(&mut fleet, &desired);
    let taken = fleet.now;
    let home = fleet.known.desktops.values().next().unwrap().server;
    let there = fleet.known.desktops.values().filter(|it| it.server == home);
    let there = u32::try_from(there.count()).unwrap();
    for lease in [None, Some(LEASE)] {
        fleet.known.servers.get_mut(&home).unwrap().lease = lease;
        let gone = BTreeSet::from([fleet.known.servers[&home].name.clone()]);
        let what_if = what_if(&desired, &fleet.known, &gone, fleet.now);
        let pool = &what_if.lost.pools[&fleet::name("own")];
        let copies = lease.map_or(0, |_| there);
        assert_eq!((pool.personal, pool.from_copies), (there, copies));
        assert_eq!(pool.oldest_copy, lease.map(|_| taken));
    }
}
