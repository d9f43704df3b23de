//! Three servers, of which the first leads.

use std::collections::BTreeMap;

use coppice_schema::ids::{Epoch, GridId};
use coppice_schema::known::{DiskLevel, Health, Look, ServerState};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Envelope, Part, apply};

use super::*;

const LOST_AFTER: Span = Span::seconds(5);
const SECOND: ServerId = ServerId(2);

struct World {
    vigil: Vigil,
    state: State,
    term: u64,
    passed: Span,
    /// When each was last heard.
    heard: BTreeMap<u64, Option<Span>>,
    majority: Option<Span>,
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let server = |raft_id: u64| NewServer {
            name: format!("s{raft_id}").parse().expect("a name"),
            raft_id,
            api: String::new(),
        };
        let token = Token {
            hash: coppice_schema::Digest([1; 32]),
            scope: Scope::Admin,
            created: Default::default(),
            expires: None,
        };
        let entry = Entry::Founded {
            grid: GridId([7; 16]),
            epoch: Epoch {
                number: 1,
                recovery: 0,
            },
            server: server(1),
            token: (TokenId("admin".to_owned()), token),
        };
        let at = Default::default();
        apply(&mut state, 1, 1, &Envelope { at, entry });
        let first = state.servers[&ServerId(1)].clone();
        for raft_id in 1..=3 {
            let mut known = first.clone();
            (known.raft_id, known.state) = (raft_id, ServerState::Ready);
            known.name = server(raft_id).name;
            state.servers.insert(ServerId(raft_id), known);
        }
        let passed = Span::hours(1);
        Self {
            vigil: Vigil::default(),
            state,
            term: 1,
            passed,
            heard: (1..=3).map(|raft_id| (raft_id, Some(passed))).collect(),
            majority: Some(Span(0)),
        }
    }

    fn look(&mut self) -> Beat {
        let now = self.passed;
        let parts = self.heard.iter().map(|(raft_id, at)| {
            let part = Part {
                voter: true,
                heard: at.map(|at| since(now, at)),
                holds: None,
            };
            (*raft_id, part)
        });
        let standing = Standing {
            majority: self.majority,
            parts: parts.collect(),
            ..Standing::default()
        };
        let leadership = Leadership::Here { term: self.term };
        self.vigil
            .look(leadership, &standing, &self.state, self.passed)
    }

    /// Time passes as it should, and all but `silent` answer at every beat. The first who is lost ends it.
    fn pass(&mut self, span: Span, silent: &[u64]) -> Option<(ServerId, Span)> {
        let end = self.passed.0 + span.0;
        loop {
            for (raft_id, at) in &mut self.heard {
                if !silent.contains(raft_id) {
                    *at = Some(self.passed);
                }
            }
            let beat = self.look();
            if let Some(lost) = beat.lost.first() {
                return Some(*lost);
            }
            if self.passed.0 >= end {
                return None;
            }
            self.passed.0 = end.min(self.passed.0 + beat.next.0);
        }
    }
}

#[test]
fn who_is_silent_is_lost_in_that_moment() {
    let mut world = World::new();
    assert_eq!(world.pass(Span::minutes(1), &[]), None);
    let before = world.passed;
    let lost = world.pass(Span::minutes(1), &[2]);
    assert_eq!(lost, Some((SECOND, LOST_AFTER)));
    assert_eq!(since(world.passed, before), LOST_AFTER, "and no beat later");
}

#[test]
fn a_new_leader_counts_anew() {
    let mut world = World::new();
    assert_eq!(world.pass(Span::seconds(4), &[2]), None);
    world.term = 2;
    world.heard.insert(2, None);
    assert_eq!(world.pass(Span::seconds(4), &[2]), None);
    assert_eq!(
        world.pass(Span::seconds(4), &[2]),
        Some((SECOND, LOST_AFTER))
    );
    // One that does not lead loses nobody.
    let standing = Standing::default();
    let there = Leadership::There {
        raft_id: 2,
        term: 3,
    };
    let beat = world
        .vigil
        .look(there, &standing, &world.state, Span::hours(9));
    assert_eq!(beat.lost, []);
}

#[test]
fn a_leader_that_did_not_run_takes_nobody_for_lost() {
    for pause in [Span::seconds(6), Span::minutes(1), Span::hours(10)] {
        let mut world = World::new();
        assert_eq!(world.pass(Span::minutes(1), &[]), None);
        world.passed.0 += pause.0;
        // It looks before anybody had time to answer.
        assert_eq!(world.look().lost, []);
        assert_eq!(world.pass(Span::seconds(4), &[2]), None, "{pause}");
        // Now it is really silent; the pause was the leader's, and excuses nobody else.
        let lost = world.pass(Span::seconds(4), &[2]);
        assert!(
            lost.is_some_and(|(id, _)| id == SECOND),
            "{pause}: {lost:?}"
        );
    }
}

#[test]
fn a_leader_that_is_kept_from_looking_all_the_time_still_finds_who_is_silent() {
    let mut world = World::new();
    let mut looks = 0;
    while world.look().lost.is_empty() {
        world.passed.0 += 2_000;
        world.heard.insert(1, Some(world.passed));
        world.heard.insert(3, Some(world.passed));
        looks += 1;
        assert!(looks < 100, "nobody is ever lost");
    }
    assert!(
        looks >= 10,
        "what it was kept from counts for nothing: {looks}"
    );
}

#[test]
fn the_worst_pause_is_borne_three_times() {
    let mut world = World::new();
    assert_eq!(world.pass(Span::seconds(4), &[2]), None);
    assert_eq!(world.pass(Span::seconds(1), &[]), None);
    let limit = world.vigil.limit(LOST_AFTER);
    assert_eq!(limit, Span(3 * 4_000), "three times the pause");
    let lost = world.pass(Span::minutes(1), &[2]);
    assert_eq!(lost, Some((SECOND, limit)));
    world.state.servers.get_mut(&SECOND).expect("it").state = ServerState::Lost;
    // In time it is forgotten; and it never grows without end.
    assert_eq!(world.pass(Span::minutes(21), &[2]), None);
    assert_eq!(world.vigil.limit(LOST_AFTER), LOST_AFTER);
    assert!(world.vigil.limit(Span::minutes(5)) == Span::minutes(5));
}

#[test]
fn who_reaches_no_majority_loses_nobody() {
    let mut world = World::new();
    world.majority = Some(Span::seconds(2));
    assert_eq!(world.pass(Span::minutes(1), &[2, 3]), None);
    world.majority = Some(Span(100));
    assert!(world.pass(Span(0), &[2, 3]).is_some());
}

#[test]
fn who_takes_no_part_in_the_log_is_not_listened_for() {
    let mut world = World::new();
    world.heard.remove(&2);
    assert_eq!(world.pass(Span::minutes(1), &[2]), None);
}

/// An hour under load: answers are late by up to a second, looks by up to two, and nobody is lost.
#[test]
fn an_hour_of_load_raises_no_false_alarm() {
    for seed in 0..20 {
        let mut world = World::new();
        let end = world.passed.0 + Span::hours(1).0;
        let mut rolls = 0;
        let mut chance = |below: u64| {
            rolls += 1;
            crate::backoff::spread(&format!("{seed} {rolls}")) % below
        };
        while world.passed.0 < end {
            world.heard.insert(1, Some(world.passed));
            for raft_id in 2..=3 {
                if chance(4) > 0 {
                    let late = chance(1_000);
                    let at = Span(world.passed.0 - late);
                    let heard = world.heard.get_mut(&raft_id).expect("it").as_mut();
                    let heard = heard.expect("it was heard");
                    *heard = at.max(*heard);
                }
            }
            let beat = world.look();
            assert_eq!(beat.lost, [], "seed {seed}");
            let late = if chance(20) == 0 {
                chance(2_000)
            } else {
                chance(50)
            };
            world.passed.0 += beat.next.0 + late;
        }
    }
}

/// The second server is lost, and had that lease.
fn lost_with(world: &mut World, lease: Option<Span>) {
    let server = world.state.servers.get_mut(&SECOND).expect("it");
    (server.state, server.lease) = (ServerState::Lost, lease);
}

/// How long until somebody is fenced, at most an hour.
fn fenced_in(world: &mut World) -> Option<Span> {
    let begun = world.passed;
    while since(world.passed, begun) < Span::hours(1) {
        let beat = world.look();
        if !beat.fenced.is_empty() {
            let spoke = world.state.servers[&SECOND].spoke;
            assert_eq!(beat.fenced, [(SECOND, spoke)]);
            return Some(since(world.passed, begun));
        }
        world.passed.0 += beat.next.0;
    }
    None
}

#[test]
fn a_lost_server_is_fenced_when_its_lease_is_over() {
    let mut world = World::new();
    assert_eq!(fenced_in(&mut world), None);
    lost_with(&mut world, None);
    assert_eq!(fenced_in(&mut world), None, "nothing there ends by itself");
    lost_with(&mut world, Some(Span::seconds(30)));
    assert_eq!(fenced_in(&mut world), Some(Span::seconds(35)));
    let server = world.state.servers.get_mut(&SECOND).expect("it");
    server.fenced = true;
    assert_eq!(fenced_in(&mut world), None, "once");
}

#[test]
fn one_that_was_removed_is_waited_for_too() {
    let mut world = World::new();
    lost_with(&mut world, Some(Span::seconds(30)));
    let server = world.state.servers.get_mut(&SECOND).expect("it");
    server.state = ServerState::Removed;
    assert_eq!(fenced_in(&mut world), Some(Span::seconds(35)));
}

/// What a server reported after that start of its daemon.
fn look(boot: u64) -> Look {
    Look {
        boot,
        sequence: 1,
        at: Default::default(),
        members: Default::default(),
        images: Default::default(),
        disk: DiskLevel::Fine,
        foreign: Default::default(),
        quarantine: Default::default(),
        replicas: Default::default(),
        hypervisor: Health::Well,
    }
}

/// The second server is lost for `away`, and back with its daemon in that start. How long the third is waited for then.
fn waited_for_the_next(away: Span, boot: u64) -> Option<(ServerId, Span)> {
    let mut world = World::new();
    let started = |world: &mut World, boot| {
        let server = world.state.servers.get_mut(&SECOND).expect("it");
        server.look = Some(std::sync::Arc::new(look(boot)));
    };
    started(&mut world, 1);
    assert_eq!(world.pass(Span::minutes(1), &[]), None);
    assert_eq!(
        world.pass(away, &[2]),
        Some((SECOND, LOST_AFTER)),
        "it is lost"
    );
    let silent = since(away, LOST_AFTER);
    lost_with(&mut world, None);
    assert_eq!(world.pass(silent, &[2]), None);
    assert_eq!(world.pass(Span::seconds(1), &[]), None);
    started(&mut world, boot);
    let server = world.state.servers.get_mut(&SECOND).expect("it");
    server.state = ServerState::Ready;
    assert_eq!(world.pass(Span::seconds(1), &[]), None);
    world.pass(Span::minutes(5), &[3])
}

#[test]
fn an_outage_is_no_pause() {
    let third = ServerId(3);
    for away in [Span::seconds(8), Span::minutes(2)] {
        let waited = waited_for_the_next(away, 2);
        assert_eq!(waited, Some((third, LOST_AFTER)), "started anew, {away}");
    }
    let waited = waited_for_the_next(Span::minutes(2), 1);
    assert_eq!(waited, Some((third, LOST_AFTER)), "its wire was cut");
    // One that was wrongly taken for lost shows how long pauses are.
    let (_, waited) = waited_for_the_next(Span::seconds(8), 1).expect("it is lost");
    assert!(waited >= Span::seconds(24), "{waited}");
}

#[test]
fn one_that_is_stopped_as_planned_is_given_time_and_makes_nobody_wait() {
    let mut world = World::new();
    let rests = |world: &mut World, rests| {
        world.state.servers.get_mut(&SECOND).expect("it").resting = rests;
    };
    assert_eq!(world.pass(Span::minutes(1), &[]), None);
    rests(&mut world, true);
    assert_eq!(world.pass(Span::seconds(25), &[2]), None);
    assert_eq!(world.pass(Span::seconds(1), &[]), None);
    rests(&mut world, false);
    assert_eq!(
        world.pass(Span::minutes(1), &[3]),
        Some((ServerId(3), LOST_AFTER))
    );
    rests(&mut world, true);
    assert_eq!(world.pass(Span::minutes(2), &[2]), Some((SECOND, RESTS)));
}

#[test]
fn who_leads_anew_waits_for_all_of_a_lease() {
    let mut world = World::new();
    lost_with(&mut world, Some(Span::seconds(30)));
    world.look();
    world.passed.0 += Span::seconds(34).0;
    assert_eq!(world.look().fenced, []);
    world.term = 2;
    assert_eq!(fenced_in(&mut world), Some(Span::seconds(35)));
}

#[test]
fn one_that_came_back_and_is_lost_again_has_all_of_its_lease_again() {
    let mut world = World::new();
    lost_with(&mut world, Some(Span::seconds(30)));
    world.look();
    world.passed.0 += Span::seconds(34).0;
    // Nobody looked while it was there.
    let server = world.state.servers.get_mut(&SECOND).expect("it");
    server.spoke += 1;
    assert_eq!(fenced_in(&mut world), Some(Span::seconds(35)));
}
