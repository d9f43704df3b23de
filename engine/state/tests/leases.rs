//! The lease of a server: what the others count with is never less than what it has in force.

#![cfg(test)] // all of it, which clippy only believes when told

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::known::ServerState;
use coppice_schema::units::{Span, Timestamp};
use coppice_state::entry::NewServer;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, Outcome, Refusal, State, apply};

const ME: ServerId = ServerId(1);
const SHORT: Option<Span> = Some(Span::seconds(30));
const LONG: Option<Span> = Some(Span::minutes(10));

fn propose(state: &mut State, entry: Entry) -> Outcome {
    let index = state.index + 1;
    let at = Timestamp(1_000);
    apply(state, 1, index, &Envelope { at, entry })
}

fn grid() -> State {
    let mut state = State::default();
    let token = Token {
        hash: Digest([1; 32]),
        scope: Scope::Admin,
        created: Timestamp(0),
        expires: None,
    };
    let founding = Entry::Founded {
        grid: GridId([7; 16]),
        epoch: Epoch {
            number: 1,
            recovery: 0,
        },
        server: NewServer {
            name: "s1".parse().unwrap(),
            raft_id: 1,
            api: String::new(),
        },
        token: (TokenId("admin".to_owned()), token),
    };
    assert_eq!(propose(&mut state, founding), Outcome::Done);
    state.servers.get_mut(&ME).unwrap().state = ServerState::Ready;
    state
}

fn lease(lease: Option<Span>, read: u64) -> Entry {
    Entry::ServerLease {
        server: ME,
        lease,
        read,
    }
}

fn is_lost(state: &mut State) {
    let lost = Entry::ServerLost {
        server: ME,
        silent: Span::seconds(5),
        read: state.index,
    };
    assert_eq!(propose(state, lost), Outcome::Done);
}

#[test]
fn a_lease_that_comes_late_changes_nothing() {
    let mut state = grid();
    let read = state.index;
    assert_eq!(propose(&mut state, lease(SHORT, read)), Outcome::Done);
    // Asked for now, and on its way for so long that it was given up and asked otherwise.
    let late = lease(SHORT, state.index);
    let read = state.index;
    assert_eq!(propose(&mut state, lease(LONG, read)), Outcome::Done);
    let refused = propose(&mut state, late);
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Heard(_))),
        "{refused:?}"
    );
    assert_eq!(state.servers[&ME].lease, LONG);
}

#[test]
fn a_lost_server_keeps_the_lease_that_it_had_and_is_fenced_only_with_one() {
    let mut state = grid();
    let fenced = |state: &State| Entry::ServerFenced {
        server: ME,
        spoke: state.servers[&ME].spoke,
    };
    is_lost(&mut state);
    let refused = {
        let entry = fenced(&state);
        propose(&mut state, entry)
    };
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Absent(_))),
        "{refused:?}"
    );
    let mut state = grid();
    let read = state.index;
    assert_eq!(propose(&mut state, lease(LONG, read)), Outcome::Done);
    let refused = {
        let entry = fenced(&state);
        propose(&mut state, entry)
    };
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Absent(_))),
        "{refused:?}"
    );
    is_lost(&mut state);
    let shorter = lease(SHORT, state.index);
    let refused = propose(&mut state, shorter);
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Absent(_))),
        "{refused:?}"
    );
    assert_eq!(
        {
            let entry = fenced(&state);
            propose(&mut state, entry)
        },
        Outcome::Done
    );
    assert!(state.servers[&ME].fenced);
    assert_eq!(state.servers[&ME].lease, LONG);
}
