//! One certificate authority takes over from another: whoever leads, restarts, is lost or joins meanwhile, all that are
//! there accept each other at every moment.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Digest;
use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_schema::known::{Capacity, ServerState};
use coppice_schema::units::{Span, Timestamp};
use coppice_state::authority::{Authority, Step, Successor};
use coppice_state::entry::NewServer;
use coppice_state::join::{JoinToken, Joiner, Role};
use coppice_state::state::FEATURE_LEVEL;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Envelope, Outcome, Refusal, State, apply};
use proptest::prelude::*;

/// What a server has on its disk: the authority that signs and another, the one that signed its certificate, and who
/// vouches for that one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Disk {
    trusts: BTreeSet<Digest>,
    shows: Digest,
    cross: Option<Digest>,
    /// It knows the log up to there.
    index: usize,
}

impl Disk {
    /// Whether it accepts what `other` shows.
    fn accepts(&self, other: &Self) -> bool {
        let vouched = [Some(other.shows), other.cross];
        vouched.iter().flatten().any(|by| self.trusts.contains(by))
    }
}

struct Site {
    states: Vec<State>,
    disks: BTreeMap<ServerId, Disk>,
    made: u8,
}

fn authority(n: u8) -> Authority {
    Authority {
        key: Digest([n; 32]),
        certificate: format!("authority {n}"),
    }
}

fn successor(old: u8, new: u8) -> Successor {
    Successor {
        old: authority(old),
        new: authority(new),
        // By whom, so that the test can tell.
        cross: old.to_string(),
        sealed: vec![new],
    }
}

impl Site {
    /// A grid of four, which are there.
    fn new() -> Self {
        let mut site = Self {
            states: vec![State::default()],
            disks: BTreeMap::new(),
            made: 1,
        };
        let token = Token {
            hash: Digest([1; 32]),
            scope: Scope::Admin,
            created: Timestamp(0),
            expires: None,
        };
        site.propose(Entry::Founded {
            grid: GridId([7; 16]),
            epoch: Epoch {
                number: 1,
                recovery: 0,
            },
            server: NewServer {
                name: "s1".parse().unwrap(),
                raft_id: 1,
                api: "s1:1".to_owned(),
            },
            token: (TokenId("admin".to_owned()), token),
        });
        site.enter(ServerId(1));
        for n in 2..=4 {
            site.join(n);
        }
        site
    }

    fn state(&self) -> &State {
        self.states.last().unwrap()
    }

    fn propose(&mut self, entry: Entry) -> Outcome {
        let mut state = self.state().clone();
        let before = state.clone();
        let at = Timestamp(1_000);
        let outcome = apply(&mut state, 1, before.index + 1, &Envelope { at, entry });
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(
                before.authorities, state.authorities,
                "a refusal changes nothing"
            );
        }
        self.states.push(state);
        outcome
    }

    /// A machine joins, with what the grid has at that moment, and is there.
    fn join(&mut self, n: u8) {
        let name = format!("s{n}");
        let (id, proof) = (TokenId(format!("join-{n}")), Digest([n; 32]));
        self.propose(Entry::JoinTokenCreated {
            id: id.clone(),
            token: JoinToken {
                hash: proof,
                role: Role::Server,
                created: Timestamp(0),
                expires: Timestamp(0).after(Span::hours(1)),
                spent: None,
            },
            author: "ada".to_owned(),
        });
        let joined = self.propose(Entry::ServerJoined(Box::new(Joiner {
            token: id,
            proof,
            key: Digest([n; 32]),
            name: name.parse().unwrap(),
            role: Role::Server,
            api: format!("{name}:1"),
            feature_level: FEATURE_LEVEL,
            again: false,
        })));
        assert_eq!(joined, Outcome::Done);
        self.enter(ServerId(self.state().index));
    }

    /// It has what the grid gives to a machine that joins, and describes itself.
    fn enter(&mut self, server: ServerId) {
        let mut disk = Disk {
            trusts: BTreeSet::from([authority(1).key]),
            shows: authority(1).key,
            cross: None,
            index: self.states.len() - 1,
        };
        settle(&mut disk, self.state());
        self.disks.insert(server, disk);
        let described = Entry::ServerDescribed {
            server,
            labels: BTreeSet::new(),
            capacity: Capacity::default(),
            api: "x:1".to_owned(),
            feature_level: FEATURE_LEVEL,
        };
        self.propose(described);
        let there = Entry::ServerSet {
            server,
            state: ServerState::Cordoned,
            author: "ada".to_owned(),
        };
        self.propose(there);
    }

    /// Somebody leads, and is not lost.
    fn others_are_there(&self, server: ServerId) -> bool {
        let mut others = self.belong().into_iter().filter(|id| *id != server);
        others.any(|id| self.part(id) != ServerState::Lost)
    }

    fn part(&self, server: ServerId) -> ServerState {
        self.state().servers.get(&server).unwrap().state
    }

    /// Those that nobody has given up: they must be able to speak with each other, or be the grid's again without
    /// anybody's help.
    fn belong(&self) -> Vec<ServerId> {
        let servers = self.state().servers.iter();
        servers
            .filter(|(_, server)| server.state != ServerState::Removed)
            .map(|(id, _)| *id)
            .collect()
    }

    fn judge(&self, given_up: &BTreeSet<ServerId>) {
        let belong = self.belong();
        for one in belong.iter().filter(|id| !given_up.contains(id)) {
            for other in belong.iter().filter(|id| !given_up.contains(id)) {
                let (a, b) = (&self.disks[one], &self.disks[other]);
                assert!(
                    a.accepts(b),
                    "{one} {a:?} does not accept {other} {b:?}: {:?}",
                    self.state().authorities
                );
            }
        }
    }
}

/// A server does what the state asks that it knows.
fn settle(disk: &mut Disk, state: &State) {
    if let Some(wanted) = state.authorities.wanted() {
        let all = [Some(wanted.signs), wanted.beside];
        disk.trusts = all.into_iter().flatten().map(|it| it.key).collect();
        disk.shows = wanted.signs.key;
        disk.cross = wanted.cross.map(|by| Digest([by.parse().unwrap(); 32]));
    }
}

#[derive(Clone, Debug)]
enum Deed {
    /// Somebody wants another authority.
    Begin,
    /// A server comes further in the log by so many entries, and does what it reads there.
    Read(usize, usize),
    /// A server says what it trusts and shows, by what it knows; it may be late, or say it again.
    Tell(usize),
    Lose(usize),
    Return(usize),
    Remove(usize),
    Join,
    Drop,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::Begin),
        12 => (0..6usize, 1..8usize).prop_map(|(n, far)| Deed::Read(n, far)),
        12 => (0..6usize).prop_map(Deed::Tell),
        2 => (0..6usize).prop_map(Deed::Lose),
        2 => (0..6usize).prop_map(Deed::Return),
        1 => (0..6usize).prop_map(Deed::Remove),
        1 => Just(Deed::Join),
        2 => Just(Deed::Drop),
    ]
}

impl Site {
    fn server(&self, n: usize) -> Option<ServerId> {
        let belong = self.belong();
        belong.get(n % belong.len().max(1)).copied()
    }

    fn tell(&mut self, server: ServerId) {
        let disk = self.disks[&server].clone();
        let known = &self.states[disk.index].authorities;
        let Some(rotation) = &known.rotation else {
            return;
        };
        let key = rotation.successor.new.key;
        let shows = disk.shows == key;
        assert!(disk.trusts.contains(&key));
        self.propose(Entry::AuthorityFollowed { server, key, shows });
    }

    fn read(&mut self, server: ServerId, far: usize) {
        let last = self.states.len() - 1;
        let mut disk = self.disks[&server].clone();
        disk.index = last.min(disk.index + far);
        let state = &self.states[disk.index];
        settle(&mut disk, state);
        self.disks.insert(server, disk);
    }

    fn does(&mut self, deed: &Deed, given_up: &mut BTreeSet<ServerId>) {
        match deed {
            Deed::Begin => {
                let signs = self.state().authorities.current.as_ref();
                let old = signs.map_or(1, |it| it.key.0[0]);
                self.made += 1;
                let successor = Box::new(successor(old, self.made));
                let author = "ada".to_owned();
                self.propose(Entry::AuthorityBegun { successor, author });
            }
            Deed::Read(n, far) => {
                if let Some(server) = self.server(*n).filter(|id| !given_up.contains(id)) {
                    // What is away reads nothing.
                    if self.part(server) != ServerState::Lost {
                        self.read(server, *far);
                    }
                }
            }
            Deed::Tell(n) => {
                if let Some(server) = self.server(*n).filter(|id| !given_up.contains(id)) {
                    self.tell(server);
                }
            }
            Deed::Lose(n) => {
                let server = self.server(*n).filter(|id| self.others_are_there(*id));
                if let Some(server) = server {
                    let read = self.state().index;
                    self.propose(Entry::ServerLost {
                        server,
                        silent: Span::seconds(9),
                        read,
                    });
                }
            }
            Deed::Return(n) => {
                let server = self.server(*n).filter(|id| !given_up.contains(id));
                if let Some(server) = server.filter(|id| self.part(*id) == ServerState::Lost) {
                    // It was heard of, and has nothing to put away.
                    let mut state = self.states.pop().unwrap();
                    let known = state.servers.get_mut(&server).unwrap();
                    known.state = ServerState::Cordoned;
                    self.states.push(state);
                }
            }
            Deed::Remove(n) => {
                let server = self.server(*n).filter(|id| self.others_are_there(*id));
                if let Some(server) = server {
                    let author = "ada".to_owned();
                    self.propose(Entry::ServerRemoved {
                        server,
                        gone: true,
                        author,
                    });
                }
            }
            Deed::Join => self.join(self.made.wrapping_add(100)),
            Deed::Drop => {
                let Some(rotation) = self.state().authorities.rotation.clone() else {
                    return;
                };
                let key = rotation.successor.new.key;
                let (_, away) = self.state().authority_waits();
                let author = "ada".to_owned();
                let outcome = self.propose(Entry::AuthorityDropped { key, author });
                if outcome == Outcome::Done {
                    given_up.extend(away);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_all_that_were_not_given_up_accept_each_other(deeds in prop::collection::vec(deed(), 1..120)) {
        let mut site = Site::new();
        let mut given_up = BTreeSet::new();
        let mut joined = 0;
        for deed in &deeds {
            if matches!(deed, Deed::Join) {
                joined += 1;
                if joined > 3 { continue; }
                site.made += 1;
            }
            site.does(deed, &mut given_up);
            site.judge(&given_up);
        }
        // Left alone, it comes to an end by itself as soon as all are there.
        let there: Vec<ServerId> = site.belong().into_iter().filter(|id| !given_up.contains(id)).collect();
        for id in site.belong().into_iter().filter(|id| given_up.contains(id)) {
            site.propose(Entry::ServerRemoved { server: id, gone: true, author: "ada".to_owned() });
        }
        for _ in 0..3 {
            for server in &there {
                site.read(*server, usize::MAX / 2);
                site.tell(*server);
                site.judge(&given_up);
            }
        }
        prop_assert!(site.state().authorities.rotation.is_none(), "{:?}", site.state().authorities);
    }
}

#[test]
fn who_is_there_is_waited_for_and_who_is_away_only_until_somebody_says_not_to() {
    let mut site = Site::new();
    let begin = |old, new| Entry::AuthorityBegun {
        successor: Box::new(successor(old, new)),
        author: "ada".to_owned(),
    };
    let drop = |new: u8| Entry::AuthorityDropped {
        key: authority(new).key,
        author: "ada".to_owned(),
    };
    assert_eq!(site.propose(begin(1, 2)), Outcome::Done);
    // The same again, as after an answer that was lost, is no other.
    assert_eq!(site.propose(begin(1, 2)), Outcome::Done);
    let refused = site.propose(begin(1, 3));
    assert!(
        matches!(refused, Outcome::Refused(Refusal::Exists(_))),
        "{refused:?}"
    );
    let all = site.belong();
    let away = *all.last().unwrap();
    let read = site.state().index;
    let lost = Entry::ServerLost {
        server: away,
        silent: Span::seconds(9),
        read,
    };
    assert_eq!(site.propose(lost), Outcome::Done);
    let there = &all[..all.len() - 1];
    for server in there {
        let step = site.state().authorities.rotation.as_ref().unwrap().step;
        assert_eq!(step, Step::Trust);
        let refused = site.propose(drop(2));
        assert!(
            matches!(refused, Outcome::Refused(Refusal::InUse { .. })),
            "{refused:?}"
        );
        site.read(*server, 100);
        site.tell(*server);
    }
    let step = site.state().authorities.rotation.as_ref().unwrap().step;
    assert_eq!(step, Step::Show, "who is away holds up no trust");
    for server in there {
        let Outcome::Refused(Refusal::InUse { by, .. }) = site.propose(drop(2)) else {
            panic!("somebody who is there would be cut off");
        };
        assert!(by.contains(&site.state().servers[server].name.to_string()));
        site.read(*server, 100);
        site.tell(*server);
    }
    let (open, gone) = site.state().authority_waits();
    assert_eq!(
        (open, gone),
        (BTreeSet::from([away]), BTreeSet::from([away]))
    );
    assert_eq!(site.propose(drop(2)), Outcome::Done);
    let authorities = &site.state().authorities;
    assert_eq!(authorities.current, Some(authority(2)));
    assert_eq!(authorities.former, [authority(1).key]);
    // Its key was in the state only as long as it could get lost.
    let text = format!("{authorities:?}");
    assert!(!text.contains("sealed"), "{text}");
    // An authority does not come back, and one that does not sign makes no other.
    for (old, new) in [(1, 3), (2, 1), (2, 2)] {
        let refused = site.propose(begin(old, new));
        assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    }
}
