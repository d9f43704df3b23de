//! What happened in a run, told as it happens: the newest of it in words, and all of it as one hash.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::lives::true_nanos;

/// Events that are kept in words.
const KEPT: usize = 400;

/// Something that happened.
#[derive(Clone, Hash, Debug)]
pub enum Event {
    /// A message got there, or found nobody.
    Message {
        /// What it is.
        kind: &'static str,
        /// Who sent it.
        from: u64,
        /// For whom.
        to: u64,
        /// It was taken.
        taken: bool,
    },
    /// An entry was applied.
    Applied {
        /// By whom.
        server: u64,
        /// Which.
        index: u64,
    },
    /// A snapshot was installed.
    Installed {
        /// By whom.
        server: u64,
        /// Up to which entry.
        index: u64,
    },
    /// A client heard, or gave up waiting.
    Heard {
        /// Which client's which request.
        author: String,
        /// What it heard.
        what: String,
    },
    /// What was done to the grid.
    Deed(String),
}

/// The events of a run.
#[derive(Default)]
pub struct Trace {
    hash: Fnv,
    count: u64,
    kept: VecDeque<(u64, Event)>,
    /// What was done to the grid before.
    deeds: Vec<(u64, Event)>,
}

impl Trace {
    /// Adds `event`, which happens now.
    pub fn add(&mut self, event: Event) {
        let at = true_nanos();
        (at, &event).hash(&mut self.hash);
        self.count += 1;
        if self.kept.len() == KEPT
            && let Some(old) = self.kept.pop_front()
            && matches!(old.1, Event::Deed(_))
        {
            self.deeds.push(old);
        }
        self.kept.push_back((at, event));
    }

    /// Of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// How many events there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What was done to the grid, and the newest events of all kinds, the newest last.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let told = |(at, event): &(u64, Event)| format!("{:>12} µs {event}", at / 1_000);
        self.deeds.iter().chain(&self.kept).map(told).collect()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message {
                kind,
                from,
                to,
                taken,
            } => {
                let lost = if *taken { "" } else { ", and finds nobody" };
                write!(f, "{kind} from {from} to {to}{lost}")
            }
            Self::Applied { server, index } => write!(f, "{server} applies {index}"),
            Self::Installed { server, index } => write!(f, "{server} installs {index}"),
            Self::Heard { author, what } => write!(f, "{author}: {what}"),
            Self::Deed(what) => f.write_str(what),
        }
    }
}

/// FNV-1a, of 64 bits: the same on every machine and in every version of Rust, unlike the standard library's.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
