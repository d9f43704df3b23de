//! Who votes.
//!
//! | servers | votes | beside them |
//! |---|---|---|
//! | 1 | 1 | |
//! | 2 | 2 | the witness, where there is one |
//! | 3, 4 | 3 | |
//! | 5 and more | 5 | |
//!
//! All others learn. More votes do not make a grid safer, and make every entry wait for more disks. The function here
//! only says what is to change next; [`keeper`](crate::keeper) does it.

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::units::Span;
use coppice_state::agreement::{BEHIND, THERE};

use crate::replica::Members;

/// A voter that was silent for so long gives its seat to a learner that is well.
pub const SILENT: Span = Span::seconds(30);
/// A learner gets a seat after it was well for so long.
pub const PROVEN: Span = Span::seconds(10);

/// A member, as the state has it. One that was removed is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seat {
    /// It votes only beside two servers.
    pub witness: bool,
    /// It is stopped for a while, as planned.
    pub resting: bool,
    /// It was given up by agreement: what is not in the log is not added while it is away.
    pub lost: bool,
    /// Where it answers: `HOST:PORT`.
    pub address: String,
}

/// How a member is, as whoever leads sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pulse {
    /// How long it has been silent, counted at most from when this leadership began.
    pub silent: Span,
    /// For how long it has answered without a gap, and been caught up.
    pub well: Span,
    /// How many entries it lacks; `None`: not known yet.
    pub behind: Option<u64>,
}

impl Pulse {
    fn there(&self) -> bool {
        self.silent <= THERE
    }

    fn proven(&self) -> bool {
        self.there() && self.well >= PROVEN && self.caught_up()
    }

    fn caught_up(&self) -> bool {
        self.behind.is_some_and(|behind| behind <= BEHIND)
    }
}

/// What is to change next about who takes part in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// These vote from now on, by one joint change; those that do no longer learn.
    Vote(BTreeSet<u64>),
    /// That one learns from now on.
    Learn(u64),
    /// That one, which does not vote, gets no log any more.
    Forget(u64),
    /// That one leads from now on.
    Lead(u64),
}

/// What the leader `me` is to change next, if anything.
///
/// Guarantees: of those that vote afterwards a majority is there, and of those that voted before too, so that no change
/// is begun that could not end; nobody gets a vote who is not there and caught up, and who was not well for [`PROVEN`],
/// unless it takes an empty seat and no more votes make a majority than before; nobody loses it who is there, unless the
/// table above says so, it was removed, or it is stopped as planned and another takes its seat.
#[must_use]
pub fn next(
    me: u64,
    seats: &BTreeMap<u64, Seat>,
    now: &Members,
    pulses: &BTreeMap<u64, Pulse>,
) -> Option<Change> {
    let view = View {
        me,
        seats,
        now,
        pulses,
    };
    if !view.majority_is_there(&now.voters) {
        return None;
    }
    if let Some(heir) = view.heir() {
        return Some(Change::Lead(heir));
    }
    let voters = view.voters();
    let moves = voters != now.voters || now.changing;
    if moves && view.majority_is_there(&voters) && voters.contains(&me) {
        return Some(Change::Vote(voters));
    }
    let part = |id: &&u64| now.voters.contains(id) || now.learners.contains(id);
    let mut there = seats.iter().filter(|(_, seat)| !seat.lost);
    if let Some((new, _)) = there.find(|(id, _)| !part(id)) {
        return Some(Change::Learn(*new));
    }
    let stranger = now.learners.iter().find(|id| !seats.contains_key(id));
    stranger.map(|id| Change::Forget(*id))
}

/// How many servers vote of so many.
#[must_use]
pub fn votes(servers: usize) -> usize {
    match servers {
        0..=2 => servers,
        3 | 4 => 3,
        _ => 5,
    }
}

struct View<'a> {
    me: u64,
    seats: &'a BTreeMap<u64, Seat>,
    now: &'a Members,
    pulses: &'a BTreeMap<u64, Pulse>,
}

impl View<'_> {
    fn pulse(&self, id: u64) -> Pulse {
        if id == self.me {
            return Pulse {
                silent: Span(0),
                well: Span(u64::MAX),
                behind: Some(0),
            };
        }
        self.pulses.get(&id).copied().unwrap_or(Pulse {
            silent: Span(u64::MAX),
            ..Pulse::default()
        })
    }

    fn majority_is_there(&self, voters: &BTreeSet<u64>) -> bool {
        let there = voters.iter().filter(|id| self.pulse(**id).there());
        there.count() * 2 > voters.len()
    }

    /// Who is to lead instead of this server: it was removed, it rests, or it is a witness, which leads only as long as
    /// nobody else has what it has.
    fn heir(&self) -> Option<u64> {
        let mine = self.seats.get(&self.me);
        let stays = mine.is_some_and(|seat| !seat.witness && !seat.resting);
        if stays {
            return None;
        }
        let fit = |id: &&u64| {
            let seat = self.seats.get(id);
            let pulse = self.pulse(**id);
            **id != self.me
                && seat.is_some_and(|seat| !seat.witness && !seat.resting)
                && pulse.there()
                && pulse.caught_up()
        };
        let mut fit: Vec<u64> = self.now.voters.iter().filter(fit).copied().collect();
        fit.sort_by_key(|id| (self.pulse(*id).behind, *id));
        fit.first().copied()
    }

    /// Who is to vote.
    fn voters(&self) -> BTreeSet<u64> {
        let proven = self.seated(|pulse| pulse.proven());
        // An empty seat helps nobody: as long as a majority takes no more votes than before, who only just caught up is
        // better there than none. A leader that is new has proof of nobody, and a voter that was removed leaves two.
        let caught_up = self.seated(|pulse| pulse.there() && pulse.caught_up());
        let majority = |voters: &BTreeSet<u64>| voters.len() / 2 + 1;
        let voters = if caught_up.is_superset(&proven)
            && majority(&caught_up) <= majority(&self.now.voters)
        {
            caught_up
        } else {
            proven
        };
        self.without_resting(voters)
    }

    /// Who has a seat by the table, of voters and of learners that are `fit`.
    fn seated(&self, fit: impl Fn(Pulse) -> bool) -> BTreeSet<u64> {
        let mut servers: Vec<(u8, u64)> = Vec::new();
        let mut witness = None;
        for (id, seat) in self.seats {
            let votes = self.now.voters.contains(id);
            let pulse = self.pulse(*id);
            let rank =
                match (votes, pulse) {
                    _ if *id == self.me => 0,
                    // Who is stopped as planned is away in a moment.
                    (true, pulse) if pulse.silent < SILENT && !seat.resting => 1,
                    (false, pulse)
                        if fit(pulse) && self.now.learners.contains(id) && !seat.resting =>
                    {
                        if pulse.proven() { 2 } else { 4 }
                    }
                    // Better than an empty seat: it may come back, and a majority counts it.
                    (true, _) => 3,
                    (false, _) => continue,
                };
            if seat.witness {
                witness = witness.or(Some(*id));
            } else {
                servers.push((rank, *id));
            }
        }
        servers.sort_unstable();
        let seats = votes(servers.len());
        let mut voters: BTreeSet<u64> = servers.into_iter().take(seats).map(|(_, id)| id).collect();
        if let (2, Some(witness)) = (seats, witness) {
            voters.insert(witness);
        }
        voters
    }

    /// Of two voters, one that stops as planned must not take the other's majority with it.
    fn without_resting(&self, voters: BTreeSet<u64>) -> BTreeSet<u64> {
        let rests = |id: &u64| self.seats.get(id).is_some_and(|seat| seat.resting);
        if voters.len() == 2 && voters.iter().filter(|id| rests(id)).count() == 1 {
            return voters.into_iter().filter(|id| !rests(id)).collect();
        }
        voters
    }
}

#[cfg(test)]
mod tests;
