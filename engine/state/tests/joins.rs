//! Who becomes a member, by which token, and with which numbers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "rounds/grid.rs"]
#[expect(dead_code, reason = "the rounds use the rest")]
mod grid;

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::Epoch;
use coppice_schema::known::{Capacity, ServerState};
use coppice_schema::units::Span;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::join::{JoinRefusal, JoinToken, Joiner, Role, raft_id};
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::token::TokenId;
use coppice_state::{Entry, Outcome, Refusal};
use grid::Grid;
use proptest::prelude::*;

fn make(grid: &mut Grid, token: &str, role: Role) -> Outcome {
    let now = grid.now;
    grid.propose(Entry::JoinTokenCreated {
        id: TokenId(token.to_owned()),
        token: JoinToken {
            hash: Digest::of(token.as_bytes()),
            role,
            created: now,
            expires: now.after(Span::hours(1)),
            spent: None,
        },
        author: "ada".to_owned(),
    })
}

fn joiner(token: &str, key: u8, name: &str) -> Joiner {
    Joiner {
        token: TokenId(token.to_owned()),
        proof: Digest::of(token.as_bytes()),
        key: Digest([key; 32]),
        name: name.parse().unwrap(),
        role: Role::Server,
        api: format!("{name}:7443"),
        feature_level: FEATURE_LEVEL,
        again: false,
    }
}

fn join(grid: &mut Grid, joiner: Joiner) -> Outcome {
    grid.propose(Entry::ServerJoined(Box::new(joiner)))
}

#[track_caller]
fn refused(outcome: Outcome) -> JoinRefusal {
    let Outcome::Refused(Refusal::Join(refusal)) = outcome else {
        panic!("{outcome:?}")
    };
    refusal
}

#[test]
fn a_token_is_spent_by_the_first_key_and_finishes_only_its_join() {
    let mut grid = Grid::founded();
    make(&mut grid, "t", Role::Server);
    assert_eq!(join(&mut grid, joiner("t", 1, "s2")), Outcome::Done);
    let first = grid.state.servers.clone();
    grid.now = grid.now.after(Span::hours(2));
    assert_eq!(join(&mut grid, joiner("t", 1, "s2")), Outcome::Done);
    assert_eq!(grid.state.servers, first);
    let other = join(&mut grid, joiner("t", 2, "s3"));
    assert!(matches!(refused(other), JoinRefusal::Spent { by, .. } if by.contains("s2")));
    // Until it runs, it may still be called otherwise; not as another.
    assert_eq!(join(&mut grid, joiner("t", 1, "s4")), Outcome::Done);
    assert_eq!(grid.state.servers.len(), 2);
    assert!(grid.state.server_named(&"s4".parse().unwrap()).is_some());
    let namesake = join(&mut grid, joiner("t", 1, "s1"));
    assert!(matches!(refused(namesake), JoinRefusal::NameTaken(_)));
}

#[test]
fn what_does_not_fit_is_refused_and_spends_nothing() {
    let mut grid = Grid::founded();
    make(&mut grid, "t", Role::Server);
    let fine = joiner("t", 1, "s2");
    let unlike = |change: fn(&mut Joiner)| {
        let mut joiner = fine.clone();
        change(&mut joiner);
        joiner
    };
    let wrong = join(&mut grid, unlike(|j| j.proof = Digest([9; 32])));
    assert!(matches!(refused(wrong), JoinRefusal::Unknown(_)));
    let unknown = join(&mut grid, unlike(|j| j.token.0 = "u".to_owned()));
    assert!(matches!(refused(unknown), JoinRefusal::Unknown(_)));
    let witness = join(&mut grid, unlike(|j| j.role = Role::Witness));
    assert!(matches!(refused(witness), JoinRefusal::OtherRole { .. }));
    let old = join(&mut grid, unlike(|j| j.feature_level = 0));
    assert!(matches!(refused(old), JoinRefusal::TooOld { .. }));
    let namesake = join(&mut grid, unlike(|j| j.name = "s1".parse().unwrap()));
    assert!(matches!(refused(namesake), JoinRefusal::NameTaken(_)));
    assert_eq!(grid.state.servers.len(), 1);
    assert!(grid.state.join_tokens.values().all(|t| t.spent.is_none()));
    grid.now = grid.now.after(Span::hours(1));
    let late = join(&mut grid, fine);
    assert!(matches!(refused(late), JoinRefusal::Expired(_)));
}

#[test]
fn tokens_of_both_kinds_share_their_names_and_are_revoked_alike() {
    let mut grid = Grid::founded();
    let same = make(&mut grid, "admin", Role::Server);
    assert!(matches!(same, Outcome::Refused(Refusal::Exists(_))));
    make(&mut grid, "t", Role::Server);
    let revoked = grid.propose(Entry::TokenRevoked {
        id: TokenId("t".to_owned()),
        author: "ada".to_owned(),
    });
    assert_eq!(revoked, Outcome::Done);
    let after = join(&mut grid, joiner("t", 1, "s2"));
    assert!(matches!(refused(after), JoinRefusal::Unknown(_)));
}

#[test]
fn tokens_of_no_use_do_not_pile_up() {
    let mut grid = Grid::founded();
    for n in 0..300 {
        make(&mut grid, &format!("t{n}"), Role::Server);
        grid.now = grid.now.after(Span::hours(2));
    }
    assert!(grid.state.join_tokens.len() <= 102);
    // The newest are remembered, to say what became of them.
    let late = join(&mut grid, joiner("t299", 1, "s2"));
    assert!(matches!(refused(late), JoinRefusal::Expired(_)));
}

#[test]
fn the_feature_level_is_what_every_member_that_is_not_lost_can_apply() {
    let mut grid = Grid::founded();
    make(&mut grid, "t", Role::Server);
    join(&mut grid, joiner("t", 1, "s2"));
    let raise = |grid: &mut Grid| {
        grid.propose(Entry::FeatureRaised {
            level: FEATURE_LEVEL + 1,
        })
    };
    let can = |grid: &mut Grid, name: &str, level| {
        let name = name.parse().unwrap();
        let mut servers = grid.state.servers.values_mut();
        servers.find(|s| s.name == name).unwrap().feature_level = level;
    };
    can(&mut grid, "s1", FEATURE_LEVEL + 1);
    let refused = raise(&mut grid);
    assert!(
        matches!(&refused, Outcome::Refused(Refusal::FeatureLevel { server, .. }) if server.as_str() == "s2"),
        "{refused:?}"
    );
    assert_eq!(grid.state.feature_level, FEATURE_LEVEL);
    can(&mut grid, "s2", FEATURE_LEVEL + 1);
    assert_eq!(raise(&mut grid), Outcome::Done);
    assert_eq!(grid.state.feature_level, FEATURE_LEVEL + 1);
    // It never goes back.
    grid.propose(Entry::FeatureRaised {
        level: FEATURE_LEVEL,
    });
    assert_eq!(grid.state.feature_level, FEATURE_LEVEL + 1);
}

#[test]
fn a_server_with_desktops_is_removed_only_when_it_is_gone_for_good() {
    let mut grid = Grid::settled(&grid::config(2));
    make(&mut grid, "t", Role::Server);
    let server = grid.server;
    let remove = |grid: &mut Grid, gone| {
        grid.propose(Entry::ServerRemoved {
            server,
            gone,
            author: "ada".to_owned(),
        })
    };
    let last = remove(&mut grid, true);
    assert!(
        matches!(last, Outcome::Refused(Refusal::LastServer(_))),
        "{last:?}"
    );
    join(&mut grid, joiner("t", 1, "s2"));
    let used = remove(&mut grid, false);
    assert!(
        matches!(&used, Outcome::Refused(Refusal::InUse { by, .. }) if by == "2 desktops"),
        "{used:?}"
    );
    assert_eq!(remove(&mut grid, true), Outcome::Done);
    assert!(grid.state.desktops.is_empty() && grid.state.orders.is_empty());
    assert_eq!(grid.state.servers[&server].state, ServerState::Removed);
    assert!(grid.state.server_named(&"s1".parse().unwrap()).is_none());
    // Its key opens nothing any more.
    let id = *grid.state.servers.keys().next_back().unwrap();
    make(&mut grid, "u", Role::Server);
    join(&mut grid, joiner("u", 3, "s3"));
    grid.propose(Entry::ServerRemoved {
        server: id,
        gone: false,
        author: "ada".to_owned(),
    });
    let back = join(&mut grid, joiner("t", 1, "s2"));
    assert!(matches!(refused(back), JoinRefusal::Removed(_)));
}

proptest! {
    /// Whatever machines bring whatever tokens in whatever order: no token makes two members, no name and no number
    /// is given twice, and no number is ever given again.
    #[test]
    fn no_token_name_or_number_serves_two_members(
        tries in prop::collection::vec((0u8..6, 0u8..6, 0u8..6, 0u8..10), 1..60)
    ) {
        let mut grid = Grid::founded();
        let mut given = BTreeSet::from([1]);
        for token in 0..6 {
            make(&mut grid, &format!("t{token}"), Role::Server);
        }
        for (token, key, name, remove) in tries {
            let before = grid.state.servers.clone();
            join(&mut grid, joiner(&format!("t{token}"), key + 1, &format!("n{name}")));
            for (id, server) in &grid.state.servers {
                if !before.contains_key(id) {
                    prop_assert!(given.insert(server.raft_id), "{} again", server.raft_id);
                }
            }
            if remove == 0 {
                let last = *grid.state.servers.keys().next_back().unwrap();
                if last != grid.server {
                    grid.propose(Entry::ServerRemoved {
                        server: last,
                        gone: false,
                        author: "ada".to_owned(),
                    });
                }
            }
            let there = || grid.state.servers.values().filter(|s| s.state != ServerState::Removed);
            let names: BTreeSet<_> = there().map(|s| s.name.clone()).collect();
            prop_assert_eq!(names.len(), there().count());
            let spent: BTreeSet<_> = grid.state.join_tokens.values().filter_map(|t| t.spent).collect();
            let joined: BTreeSet<_> = there().filter_map(|s| s.key).collect();
            prop_assert!(joined.is_subset(&spent));
            prop_assert!(joined.len() <= 6);
        }
    }

    #[test]
    fn numbers_in_raft_never_repeat(
        one in (1u64..1000, 0u64..1 << 40), other in (1u64..1000, 0u64..1 << 40)
    ) {
        let id = |(number, index)| raft_id(Epoch { number, recovery: 0 }, index);
        prop_assert_eq!(id(one) == id(other), one == other);
    }
}

#[test]
fn a_place_is_taken_again_by_whoever_says_so_or_when_the_grid_went_on_without_it() {
    let mut grid = Grid::founded();
    make(&mut grid, "t", Role::Server);
    join(&mut grid, joiner("t", 1, "s2"));
    let (place, before) = {
        let (id, server) = grid.state.server_named(&"s2".parse().unwrap()).unwrap();
        (id, server.raft_id)
    };
    make(&mut grid, "u", Role::Server);
    let again = Joiner {
        again: true,
        ..joiner("u", 2, "s2")
    };
    assert_eq!(join(&mut grid, again), Outcome::Done);
    let (id, server) = grid.state.server_named(&"s2".parse().unwrap()).unwrap();
    assert_eq!((id, server.state), (place, ServerState::Joining));
    assert_ne!(
        server.raft_id, before,
        "a number in raft is never used twice"
    );
    assert!(server.look.is_none());

    // Another life, without it: then its name is enough.
    let recovery = Recovery {
        epoch: grid.state.epoch.next(7),
        from: Origin::Log,
        server: NewServer {
            name: "s1".parse().unwrap(),
            raft_id: 1,
            api: "s1:7443".to_owned(),
        },
        off: BTreeSet::new(),
        author: "ada".to_owned(),
    };
    grid.propose(Entry::Recovered(Box::new(recovery)));
    make(&mut grid, "v", Role::Server);
    assert_eq!(join(&mut grid, joiner("v", 3, "s2")), Outcome::Done);
    let (id, server) = grid.state.server_named(&"s2".parse().unwrap()).unwrap();
    assert_eq!(id, place);
    assert_eq!(server.raft_id, raft_id(grid.state.epoch, grid.state.index));
    // And only once.
    make(&mut grid, "w", Role::Server);
    let namesake = join(&mut grid, joiner("w", 4, "s2"));
    assert!(matches!(refused(namesake), JoinRefusal::NameTaken(_)));
}

#[test]
fn a_witness_that_was_lost_is_back_when_it_says_so_and_a_server_is_not() {
    let mut grid = Grid::founded();
    for (token, key, name, role) in [("t", 1, "s2", Role::Server), ("u", 2, "w", Role::Witness)] {
        make(&mut grid, token, role);
        let member = Joiner {
            role,
            ..joiner(token, key, name)
        };
        assert_eq!(join(&mut grid, member), Outcome::Done);
        let (server, _) = grid.state.server_named(&name.parse().unwrap()).unwrap();
        let describe = Entry::ServerDescribed {
            server,
            labels: BTreeSet::new(),
            capacity: Capacity::default(),
            api: format!("{name}:7443"),
            feature_level: FEATURE_LEVEL,
        };
        grid.propose(describe.clone());
        let lost = Entry::ServerLost {
            server,
            silent: Span::seconds(5),
            read: grid.state.index,
        };
        assert_eq!(grid.propose(lost), Outcome::Done);
        assert_eq!(grid.state.servers[&server].state, ServerState::Lost);
        assert_eq!(grid.propose(describe), Outcome::Done);
        let known = &grid.state.servers[&server];
        // A server has to say what it holds first.
        let (now, before) = match role {
            Role::Server => (ServerState::Lost, Some(ServerState::Ready)),
            Role::Witness => (ServerState::Ready, None),
        };
        assert_eq!((known.state, known.before), (now, before), "{role}");
    }
}
