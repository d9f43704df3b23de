//! A grid's lives: what it goes on from, and whom it takes for its own.

#![cfg(test)] // all of it, which clippy only believes when told

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, Kin, ServerId};
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use coppice_state::entry::{NewServer, Origin, Recovery};
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, Outcome, Refusal, State, apply};

const FIRST: Epoch = Epoch {
    number: 1,
    recovery: 0,
};

fn new_server(name: &str, raft_id: u64) -> NewServer {
    NewServer {
        name: name.parse().unwrap(),
        raft_id,
        api: format!("{name}:7443"),
    }
}

fn propose(state: &mut State, entry: Entry) -> Outcome {
    let at = Timestamp(1_000);
    let index = state.index + 1;
    apply(state, 1, index, &Envelope { at, entry })
}

fn founded() -> State {
    let mut state = State::default();
    let token = Token {
        hash: Digest([1; 32]),
        scope: Scope::Admin,
        created: Timestamp(0),
        expires: None,
    };
    let founding = Entry::Founded {
        grid: GridId([7; 16]),
        epoch: FIRST,
        server: new_server("s1", 1),
        token: (TokenId("admin".to_owned()), token),
    };
    assert_eq!(propose(&mut state, founding), Outcome::Done);
    state
}

fn recovery(state: &State, from: Origin, name: &str, chance: u64) -> Recovery {
    Recovery {
        epoch: state.epoch.next(chance),
        from,
        server: new_server(name, 9),
        off: BTreeSet::new(),
        author: "ada".to_owned(),
    }
}

fn recover(state: &mut State, recovery: Recovery) -> Outcome {
    propose(state, Entry::Recovered(Box::new(recovery)))
}

#[test]
fn a_life_comes_after_all_before_it() {
    let mut state = founded();
    let once = recovery(&state, Origin::Log, "s1", 5);
    assert_eq!(recover(&mut state, once.clone()), Outcome::Done);
    // Told twice, it is refused: the second time it is not later than the present life.
    let refused = recover(&mut state, once);
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Exists(_))),
        "{refused:?}"
    );
    assert_eq!(state.former, [FIRST]);
    let mut nothing = State::default();
    let refused = recovery(&nothing, Origin::Log, "s1", 5);
    let refused = recover(&mut nothing, refused);
    assert!(matches!(refused, Outcome::Refused(Refusal::Absent(_))));
}

#[test]
fn what_both_sides_began_is_neither_sides_past() {
    let (mut here, mut there) = (founded(), founded());
    let mine = recovery(&here, Origin::Log, "s1", 5);
    recover(&mut here, mine);
    let theirs = recovery(&there, Origin::Log, "s1", 6);
    recover(&mut there, theirs);
    assert_eq!(here.kin(here.epoch), Kin::Same);
    assert_eq!(here.kin(FIRST), Kin::Older);
    assert_eq!(here.kin(there.epoch), Kin::Split);
    assert_eq!(there.kin(here.epoch), Kin::Split);
    // Also when one of them has gone on once more: the number alone would call the other old.
    let again = recovery(&here, Origin::Log, "s1", 7);
    recover(&mut here, again);
    assert_eq!(here.epoch.kin(there.epoch), Kin::Older);
    assert_eq!(here.kin(there.epoch), Kin::Split);
    assert_eq!(here.kin(FIRST), Kin::Older);
    assert_eq!(there.kin(here.epoch), Kin::Newer);
}

#[test]
fn the_server_that_is_left_is_the_one_of_its_name_or_a_new_one() {
    let mut state = founded();
    let first = ServerId(state.index);
    let same = recovery(&state, Origin::Backup { keys: true }, "s1", 5);
    recover(&mut state, same);
    assert_eq!(state.servers.keys().copied().collect::<Vec<_>>(), [first]);
    assert_eq!(state.servers[&first].raft_id, 9);

    let elsewhere = recovery(&state, Origin::Backup { keys: true }, "s2", 6);
    recover(&mut state, elsewhere);
    assert_eq!(state.servers[&first].state, ServerState::Lost);
    let (_, new) = state.server_named(&"s2".parse().unwrap()).unwrap();
    assert_eq!((new.state, new.raft_id), (ServerState::Joining, 9));
}

#[test]
fn without_the_keys_a_secret_is_a_name() {
    let mut state = founded();
    let secret = || Entry::SecretSet {
        name: "ad".parse().unwrap(),
        sealed: vec![1, 2, 3],
        author: "ada".to_owned(),
    };
    propose(&mut state, secret());
    let mut kept = state.clone();
    let with = recovery(&state, Origin::Backup { keys: true }, "s1", 5);
    recover(&mut kept, with);
    assert!(kept.known(1).secrets.contains_key(&"ad".parse().unwrap()));
    let without = recovery(&state, Origin::Backup { keys: false }, "s1", 5);
    recover(&mut state, without);
    assert!(state.known(1).secrets.is_empty());
    assert!(state.secrets.values().all(|secret| secret.is_lost()));
    // Entered again it is a newer version than any before.
    propose(&mut state, secret());
    assert_eq!(state.known(1).secrets[&"ad".parse().unwrap()], 2);
}

#[test]
fn what_was_on_a_server_that_is_off_for_good_is_where_it_is_seen() {
    // Covered as a whole by tests/scenarios/recovered-off.scenario: here, that a server proven to be off is no member.
    let mut state = founded();
    let first = ServerId(state.index);
    let mut elsewhere = recovery(&state, Origin::Backup { keys: true }, "s2", 5);
    elsewhere.off.insert(first);
    recover(&mut state, elsewhere);
    assert_eq!(state.servers[&first].state, ServerState::Removed);
    assert!(state.servers[&first].parted && state.servers[&first].look.is_none());
}
