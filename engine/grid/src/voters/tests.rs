use proptest::prelude::*;

use super::*;

const WELL: Pulse = Pulse {
    silent: Span(250),
    well: PROVEN,
    behind: Some(3),
};
const SINCE_LONG: Pulse = Pulse {
    silent: SILENT,
    well: Span(0),
    behind: Some(9_000),
};

fn seat(witness: bool) -> Seat {
    Seat {
        witness,
        resting: false,
        lost: false,
        address: "somewhere:1".to_owned(),
    }
}

/// A grid that server 1 leads.
#[derive(Clone, Debug)]
struct Case {
    seats: BTreeMap<u64, Seat>,
    now: Members,
    pulses: BTreeMap<u64, Pulse>,
}

impl Case {
    /// Servers 1 to `servers`, all well, of which the first `voters` vote; and a witness 99, which learns.
    fn of(servers: u64, voters: u64, witness: bool) -> Self {
        let mut seats: BTreeMap<u64, Seat> = (1..=servers).map(|id| (id, seat(false))).collect();
        if witness {
            seats.insert(99, seat(true));
        }
        let learners = seats.keys().copied().filter(|id| *id > voters).collect();
        let pulses = seats.keys().map(|id| (*id, WELL)).collect();
        let now = Members {
            at: None,
            voters: (1..=voters).collect(),
            learners,
            addresses: BTreeMap::new(),
            changing: false,
        };
        Self { seats, now, pulses }
    }

    fn next(&self) -> Option<Change> {
        next(1, &self.seats, &self.now, &self.pulses)
    }

    /// Does what is to be done until nothing is.
    fn settle(&mut self) -> BTreeSet<u64> {
        for _ in 0..self.seats.len() + self.now.learners.len() + 5 {
            match self.next() {
                None => return self.now.voters.clone(),
                Some(Change::Vote(voters)) => {
                    let all = self.now.voters.union(&self.now.learners);
                    self.now.learners = all.filter(|id| !voters.contains(id)).copied().collect();
                    self.now.voters = voters;
                    self.now.changing = false;
                }
                Some(Change::Learn(id)) => assert!(self.now.learners.insert(id)),
                Some(Change::Forget(id)) => assert!(self.now.learners.remove(&id)),
                Some(Change::Lead(_)) => return self.now.voters.clone(),
            }
        }
        panic!("it does not settle: {self:?}");
    }
}

fn set<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
    ids.into()
}

#[test]
fn as_many_vote_as_the_table_says() {
    for (servers, witness, expected) in [
        (1, false, set([1])),
        (2, false, set([1, 2])),
        (3, false, set([1, 2, 3])),
        (4, false, set([1, 2, 3])),
        (5, false, set([1, 2, 3, 4, 5])),
        (30, false, set([1, 2, 3, 4, 5])),
        // A witness votes beside two servers, and never otherwise.
        (1, true, set([1])),
        (2, true, set([1, 2, 99])),
        (3, true, set([1, 2, 3])),
    ] {
        let mut case = Case::of(servers, 1, witness);
        assert_eq!(case.settle(), expected, "{servers} servers");
        // From a witness that votes already, too.
        if witness && servers > 1 {
            case.now.voters = set([1, 2, 99]);
            case.now.learners = case
                .seats
                .keys()
                .copied()
                .filter(|id| ![1, 2, 99].contains(id))
                .collect();
            assert_eq!(case.settle(), expected, "{servers} servers");
        }
    }
}

#[test]
fn whoever_joins_learns_first_and_votes_when_it_has_proven_itself() {
    let mut case = Case::of(2, 1, false);
    case.now.learners.clear();
    assert_eq!(case.next(), Some(Change::Learn(2)));
    case.now.learners.insert(2);
    for not_yet in [
        Pulse {
            well: Span(PROVEN.0 - 1),
            ..WELL
        },
        Pulse {
            behind: Some(BEHIND + 1),
            ..WELL
        },
        Pulse {
            behind: None,
            ..WELL
        },
        Pulse {
            silent: Span(THERE.0 + 1),
            ..WELL
        },
    ] {
        case.pulses.insert(2, not_yet);
        assert_eq!(case.next(), None, "{not_yet:?}");
    }
    case.pulses.insert(2, WELL);
    assert_eq!(case.next(), Some(Change::Vote(set([1, 2]))));
}

#[test]
fn a_silent_voter_gives_its_seat_to_a_learner_in_one_change() {
    let mut case = Case::of(4, 3, false);
    case.pulses.insert(
        2,
        Pulse {
            silent: Span(SILENT.0 - 1),
            ..SINCE_LONG
        },
    );
    assert_eq!(case.next(), None);
    case.pulses.insert(2, SINCE_LONG);
    assert_eq!(case.next(), Some(Change::Vote(set([1, 3, 4]))));
    // Where nobody could take it, it keeps it.
    case.pulses.insert(4, SINCE_LONG);
    assert_eq!(case.next(), None);
    // And it learns, when it is back, and does not take its seat away from anybody.
    case.pulses.insert(4, WELL);
    assert_eq!(case.settle(), set([1, 3, 4]));
    case.pulses.insert(2, WELL);
    assert_eq!(case.next(), None);
}

#[test]
fn a_witness_does_not_give_way_to_a_server_that_never_came() {
    let mut case = Case::of(3, 2, true);
    case.now.voters = set([1, 2, 99]);
    case.now.learners = set([3]);
    case.pulses.remove(&3);
    assert_eq!(case.next(), None);
    case.pulses.insert(3, WELL);
    assert_eq!(case.next(), Some(Change::Vote(set([1, 2, 3]))));
}

#[test]
fn whoever_was_removed_leaves_first_the_vote_and_then_the_log() {
    let mut case = Case::of(3, 3, true);
    case.seats.remove(&2);
    assert_eq!(case.next(), Some(Change::Vote(set([1, 3, 99]))));
    case.now.voters = set([1, 3, 99]);
    case.now.learners = set([2]);
    assert_eq!(case.next(), Some(Change::Forget(2)));

    let mut led = Case::of(3, 3, false);
    led.seats.remove(&1);
    led.pulses.insert(
        3,
        Pulse {
            behind: Some(0),
            ..WELL
        },
    );
    assert_eq!(led.next(), Some(Change::Lead(3)));
}

#[test]
fn an_empty_seat_is_taken_by_whoever_is_caught_up_where_a_majority_needs_no_more() {
    // The leader is new, and has proof of nobody.
    let new = Pulse {
        well: Span(0),
        ..WELL
    };
    for (servers, voters, after) in [
        (4, 3, set([1, 3, 4])),
        (3, 2, set([1, 2, 3])),
        (6, 5, set([1, 3, 4, 5, 6])),
    ] {
        let mut case = Case::of(servers, voters, false);
        case.pulses.values_mut().for_each(|pulse| *pulse = new);
        if voters != 2 {
            case.seats.remove(&2);
        }
        assert_eq!(case.next(), Some(Change::Vote(after)), "{servers} servers");
    }
    // A second vote would make both needed, and a witness that is there is worth more than a promise.
    for mut case in [Case::of(2, 1, false), Case::of(3, 2, true)] {
        if case.seats.contains_key(&99) {
            case.now.voters = set([1, 2, 99]);
            case.now.learners = set([3]);
        }
        case.pulses.values_mut().for_each(|pulse| *pulse = new);
        assert_eq!(case.next(), None);
    }
}

#[test]
fn of_two_one_that_rests_leaves_the_other_its_majority_and_votes_again_after() {
    let mut case = Case::of(2, 2, false);
    let rest = |case: &mut Case, id, resting| {
        case.seats.get_mut(&id).unwrap().resting = resting;
    };
    rest(&mut case, 2, true);
    assert_eq!(case.next(), Some(Change::Vote(set([1]))));
    case.settle();
    case.pulses.insert(2, SINCE_LONG);
    assert_eq!(case.next(), None);
    rest(&mut case, 2, false);
    case.pulses.insert(2, WELL);
    assert_eq!(case.settle(), set([1, 2]));
    // Whoever leads hands that over first.
    rest(&mut case, 1, true);
    assert_eq!(case.next(), Some(Change::Lead(2)));
    // Of three, the other two are enough.
    let mut three = Case::of(3, 3, false);
    rest(&mut three, 2, true);
    assert_eq!(three.next(), None);
    // Of four, the one that only learns takes the seat, and keeps it.
    let mut four = Case::of(4, 3, false);
    rest(&mut four, 2, true);
    assert_eq!(four.next(), Some(Change::Vote(set([1, 3, 4]))));
    assert_eq!(four.settle(), set([1, 3, 4]));
    rest(&mut four, 2, false);
    assert_eq!(four.next(), None);
}

#[test]
fn a_witness_leads_only_as_long_as_nobody_else_has_what_it_has() {
    let case = Case::of(2, 2, true);
    let voters = Members {
        voters: set([1, 2, 99]),
        learners: set([]),
        ..case.now.clone()
    };
    let asked = |pulses: &BTreeMap<u64, Pulse>| next(99, &case.seats, &voters, pulses);
    let mut pulses = case.pulses.clone();
    for id in [1, 2] {
        pulses.insert(
            id,
            Pulse {
                behind: Some(BEHIND + 1),
                ..WELL
            },
        );
    }
    assert_eq!(asked(&pulses), None);
    pulses.insert(2, WELL);
    assert_eq!(asked(&pulses), Some(Change::Lead(2)));
}

fn pulse() -> impl Strategy<Value = Pulse> {
    let silent = prop_oneof![
        0u64..2_000,
        Just(SILENT.0 - 1),
        Just(SILENT.0),
        Just(u64::MAX)
    ];
    let well = prop_oneof![Just(0), Just(PROVEN.0 - 1), Just(PROVEN.0)];
    let behind = prop_oneof![Just(None), (0..2 * BEHIND).prop_map(Some)];
    (silent, well, behind).prop_map(|(silent, well, behind)| Pulse {
        silent: Span(silent),
        well: Span(well),
        behind,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let member = (any::<bool>(), any::<bool>(), 0u8..4, 0u8..8, pulse());
    let members = prop::collection::vec(member, 1..9);
    (members, any::<bool>()).prop_map(|(members, changing)| {
        let mut case = Case::of(0, 0, false);
        case.now.changing = changing;
        for (id, (witness, resting, part, removed, pulse)) in (1..).zip(members) {
            let votes = part == 0 || id == 1;
            if votes {
                case.now.voters.insert(id);
            } else if part != 3 {
                case.now.learners.insert(id);
            }
            if removed != 0 {
                let witness = witness && id > 2;
                case.seats.insert(
                    id,
                    Seat {
                        resting,
                        ..seat(witness)
                    },
                );
            }
            case.pulses.insert(id, pulse);
        }
        case
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_change_costs_a_majority(case in case()) {
        let Some(Change::Vote(voters)) = case.next() else {
            return Ok(());
        };
        let there = |id: &&u64| **id == 1 || case.pulses[*id].silent <= THERE;
        let majority = |of: &BTreeSet<u64>| of.iter().filter(there).count() * 2 > of.len();
        prop_assert!(majority(&voters) && majority(&case.now.voters));
        prop_assert!(voters.contains(&1), "whoever leads loses its vote by nobody's hand but another leader's");
        for id in &voters {
            prop_assert!(case.seats.contains_key(id), "{id} is no member");
            let pulse = case.pulses[id];
            if case.now.voters.contains(id) {
                continue;
            }
            prop_assert!(pulse.behind.is_some_and(|b| b <= BEHIND), "{id} is not caught up");
            let harmless = voters.len() / 2 <= case.now.voters.len() / 2;
            prop_assert!(pulse.well >= PROVEN || harmless, "{id} has not proven itself");
        }
        let witnesses = voters.iter().filter(|id| case.seats[*id].witness).count();
        let servers = voters.len() - witnesses;
        prop_assert!(witnesses == 0 || (witnesses, servers) == (1, 2));
        prop_assert!(matches!(servers, 1 | 2 | 3 | 5), "{servers} servers vote");
        for id in case.now.voters.difference(&voters) {
            // Whoever is there and loses its vote does so by the table, or was removed.
            let fine = case.seats.get(id).is_some_and(|seat| !seat.witness && !seat.resting);
            let table = servers == votes(servers + 1);
            prop_assert!(!fine || case.pulses[id].silent >= SILENT || table, "{id} was there");
        }
    }

    #[test]
    fn a_grid_in_which_all_are_well_comes_to_the_table_and_stays(case in case()) {
        let mut case = case;
        for (id, seat) in &mut case.seats {
            seat.resting = false;
            if *id == 1 {
                seat.witness = false;
            }
        }
        if !case.seats.contains_key(&1) {
            return Ok(());
        }
        for pulse in case.pulses.values_mut() {
            *pulse = WELL;
        }
        let voters = case.settle();
        let servers = case.seats.values().filter(|seat| !seat.witness).count();
        let witness = servers == 2 && case.seats.len() > servers;
        prop_assert_eq!(voters.len(), votes(servers) + usize::from(witness));
        let rest: BTreeSet<u64> = case.seats.keys().copied().filter(|id| !voters.contains(id)).collect();
        prop_assert_eq!(&case.now.learners, &rest);
        prop_assert_eq!(case.next(), None);
    }
}
