//! Which desktop a person gets.

use std::collections::BTreeMap;

use coppice_plans::{NoDesktop, ServerLoad, place_session};
use coppice_schema::desired::Desired;
use coppice_schema::ids::{DesktopId, PoolName, ServerId, Stamp};
use coppice_schema::known::{Order, Phase, Request, ServerState, Task};
use coppice_schema::units::Timestamp;
use coppice_tests::fleet::{self, Fleet};
use coppice_world::sim::Chance;
use proptest::prelude::*;

use crate::config;

fn lab() -> PoolName {
    fleet::name("lab")
}

/// Two servers with two desktops each.
fn school() -> Fleet {
    let mut fleet = Fleet::new(vec![fleet::capacity(8, 64, 1_000); 2]);
    let mut desired = Desired::default();
    fleet.import("debian");
    fleet::template(&mut desired, "debian", 1, fleet::gib(1));
    fleet::pool(&mut desired, "lab", "debian", 4);
    fleet.carry_out(&desired);
    fleet
}

fn desktop(slot: u32) -> DesktopId {
    DesktopId {
        pool: lab(),
        slot: coppice_schema::ids::Slot(slot),
    }
}

fn given(
    fleet: &Fleet,
    loads: &BTreeMap<ServerId, ServerLoad>,
) -> Result<(DesktopId, ServerId), NoDesktop> {
    let id = place_session(&fleet.known, &lab(), loads)?;
    let server = fleet.known.desktops[&id].server;
    Ok((id, server))
}

fn busy(cpus: u64, memory: u64) -> ServerLoad {
    ServerLoad { cpus, memory }
}

const FIRST: ServerId = ServerId(1);
const SECOND: ServerId = ServerId(2);

#[test]
fn it_is_on_the_least_loaded_server() {
    let fleet = school();
    let mut loads = BTreeMap::from([
        (FIRST, busy(500_000, 100_000)),
        (SECOND, busy(300_000, 200_000)),
    ]);
    assert_eq!(given(&fleet, &loads).unwrap().1, SECOND);
    // What runs short first counts.
    loads.insert(SECOND, busy(300_000, 900_000));
    assert_eq!(given(&fleet, &loads).unwrap().1, FIRST);
}

#[test]
fn without_figures_people_are_counted_and_ties_go_by_id() {
    let mut fleet = school();
    let none = BTreeMap::new();
    let (first, server) = given(&fleet, &none).unwrap();
    assert_eq!((first.clone(), server), (desktop(1), FIRST));
    fleet.sit(&first);
    assert_eq!(given(&fleet, &none).unwrap().1, SECOND);
    // A server that says that it is busy is left alone, whoever sits there.
    let loads = BTreeMap::from([(SECOND, busy(990_000, 0))]);
    assert_eq!(given(&fleet, &loads).unwrap().1, FIRST);
}

#[test]
fn what_is_to_move_is_given_to_people_when_nothing_else_is_there() {
    let mut fleet = school();
    let none = BTreeMap::new();
    let moves = |fleet: &Fleet, slots: &[u32]| -> BTreeMap<_, _> {
        let members = slots
            .iter()
            .map(|slot| &fleet.known.desktops[&desktop(*slot)]);
        let moves = members.map(|one| (one.spec.member.clone(), ServerId(3)));
        moves.collect()
    };
    let some = moves(&fleet, &[1]);
    fleet.known.ask_to_move(&some);
    assert_eq!(given(&fleet, &none).unwrap(), (desktop(3), FIRST));
    let all = moves(&fleet, &[1, 2, 3, 4]);
    fleet.known.ask_to_move(&all);
    assert_eq!(given(&fleet, &none).unwrap(), (desktop(1), FIRST));
}

#[test]
fn nobody_is_sent_where_a_session_would_end() {
    let spoil: [fn(&mut Fleet); 6] = [
        |fleet| fleet.known.servers.get_mut(&FIRST).unwrap().state = ServerState::Draining,
        |fleet| fleet.known.servers.get_mut(&FIRST).unwrap().state = ServerState::Suspect,
        |fleet| fleet.known.servers.get_mut(&FIRST).unwrap().current = false,
        |fleet| {
            for (id, desktop) in fleet.known.desktops.clone() {
                if desktop.server == FIRST {
                    let order = Order {
                        server: FIRST,
                        task: Task::Remove {
                            member: desktop.spec.member,
                        },
                        not_before: Timestamp(0),
                        deadline: Timestamp(u64::MAX),
                        attempts: 0,
                        last_error: None,
                    };
                    let stamp = Stamp {
                        index: id.slot.0.into(),
                        ..Stamp::default()
                    };
                    fleet.known.orders.insert(stamp, order);
                }
            }
        },
        |fleet| {
            for (id, desktop) in &fleet.known.desktops {
                if desktop.server == FIRST {
                    fleet
                        .known
                        .requests
                        .insert(id.clone(), Request::Regrow(desktop.spec.member.clone()));
                }
            }
        },
        |fleet| {
            for desktop in fleet.known.desktops.values_mut() {
                desktop.personal |= desktop.server == FIRST;
            }
        },
    ];
    let loads = BTreeMap::from([(SECOND, busy(999_999, 999_999))]);
    for (n, spoil) in spoil.into_iter().enumerate() {
        let mut fleet = school();
        assert_eq!(given(&fleet, &loads).unwrap().1, FIRST);
        spoil(&mut fleet);
        assert_eq!(given(&fleet, &loads).unwrap().1, SECOND, "{n}");
    }
    // One that only takes no new desktops serves those that it has.
    let mut fleet = school();
    fleet.known.servers.get_mut(&FIRST).unwrap().state = ServerState::Cordoned;
    assert_eq!(given(&fleet, &loads).unwrap().1, FIRST);
}

#[test]
fn why_there_is_none() {
    let none = BTreeMap::new();
    let mut fleet = school();
    let all: Vec<DesktopId> = fleet.known.desktops.keys().cloned().collect();
    all.iter().for_each(|id| fleet.sit(id));
    assert_eq!(given(&fleet, &none), Err(NoDesktop::AllUsed));
    fleet.known.desktops.get_mut(&all[0]).unwrap().phase = Phase::Provisioning { since: fleet.now };
    assert_eq!(given(&fleet, &none), Err(NoDesktop::NotReady));
    fleet.known.desktops.clear();
    assert_eq!(given(&fleet, &none), Err(NoDesktop::None));
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn no_server_with_an_available_desktop_is_less_loaded(seed: u64) {
        let mut chance = Chance::new(seed);
        let servers = chance.between(1, 12);
        let (fleet, desired) = Fleet::by_chance(&mut chance, servers);
        let ids = fleet.known.servers.keys();
        let loads: BTreeMap<ServerId, ServerLoad> =
            ids.map(|id| (*id, busy(chance.below(1_000_000), chance.below(1_000_000)))).collect();
        for pool in desired.pools.keys() {
            let available = || {
                let mine = fleet.known.desktops.iter().filter(|(id, _)| id.pool == *pool);
                mine.filter(|(_, desktop)| matches!(desktop.phase, Phase::Available { .. }))
            };
            let weigh = |server: ServerId| {
                let said = loads[&server];
                let here = fleet.known.desktops.values().filter(|desktop| desktop.server == server);
                let people: u32 = here.map(|desktop| desktop.people()).sum();
                let cpus = fleet.known.servers[&server].capacity.cpus;
                said.cpus.max(said.memory).max(u64::from(people) * 1_000_000 / (2 * u64::from(cpus)))
            };
            match place_session(&fleet.known, pool, &loads) {
                Ok(id) => {
                    let lowest = available().map(|(_, desktop)| weigh(desktop.server)).min();
                    prop_assert!(available().any(|(other, _)| *other == id));
                    prop_assert_eq!(Some(weigh(fleet.known.desktops[&id].server)), lowest);
                }
                Err(_) => prop_assert_eq!(available().count(), 0),
            }
        }
    }
}
