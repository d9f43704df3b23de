//! The wires between servers: what gets through them, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use coppice_world::sim::Chance;

/// All wires of a grid.
#[derive(Default)]
pub struct Wires {
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    /// Of a hundred messages, how many are lost.
    loss: u64,
    /// Of a hundred messages, how many arrive twice.
    twice: u64,
    /// Now and then a message takes long.
    rough: bool,
    /// Messages that were sent.
    pub sent: u64,
    /// Of these, lost.
    pub lost: u64,
}

/// How wires are cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// One server from all others.
    Alone,
    /// Some servers from the others.
    Split,
    /// Nothing gets to one server.
    Deaf,
    /// Nothing gets away from one server.
    Mute,
    /// Two servers from each other.
    Pair,
    /// Some servers from the others, but for one that reaches all.
    Bridge,
}

impl Cut {
    /// Every way.
    pub const ALL: [Self; 6] = [
        Self::Alone,
        Self::Split,
        Self::Deaf,
        Self::Mute,
        Self::Pair,
        Self::Bridge,
    ];
}

impl Wires {
    /// Everything gets through, soon.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.loss = 0;
        self.twice = 0;
    }

    /// From now on, or no longer, a message now and then takes long.
    pub fn set_rough(&mut self, rough: bool) {
        self.rough = rough;
    }

    /// So many of a hundred messages are lost, and so many arrive twice.
    pub fn set_loss(&mut self, loss: u64, twice: u64) {
        self.loss = loss;
        self.twice = twice;
    }

    /// Cuts wires between `servers` as `cut` says; `one` is the one it is about. All others are whole then.
    pub fn cut(&mut self, cut: Cut, one: u64, servers: &[u64], chance: &mut Chance) {
        self.heal();
        let here: BTreeSet<u64> = servers
            .iter()
            .copied()
            .filter(|_| chance.per_mille(500))
            .collect();
        let other = chance.pick(servers).copied().unwrap_or(one);
        for from in servers {
            for to in servers.iter().filter(|to| *to != from) {
                let parted = here.contains(from) != here.contains(to);
                let is_cut = match cut {
                    Cut::Alone => *from == one || *to == one,
                    Cut::Split => parted,
                    Cut::Deaf => *to == one,
                    Cut::Mute => *from == one,
                    Cut::Pair => (*from, *to) == (one, other) || (*from, *to) == (other, one),
                    Cut::Bridge => parted && *from != one && *to != one,
                };
                if is_cut {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    /// Whether nothing gets from one to the other now.
    #[must_use]
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    /// How long each copy of a message takes that arrives. Copies overtake each other, and other messages.
    pub fn send(&mut self, from: u64, to: u64, chance: &mut Chance) -> Vec<Duration> {
        self.sent += 1;
        if self.is_cut(from, to) || chance.below(100) < self.loss {
            self.lost += 1;
            return Vec::new();
        }
        let copies = if chance.below(100) < self.twice { 2 } else { 1 };
        (0..copies).map(|_| self.takes(chance)).collect()
    }

    /// How long a message takes.
    pub fn takes(&self, chance: &mut Chance) -> Duration {
        let mut micros = chance.between(50, 2_000);
        if self.rough && chance.below(100) < 4 {
            micros += chance.between(5_000, 900_000);
        }
        Duration::from_micros(micros)
    }
}
