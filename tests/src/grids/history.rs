//! What clients asked and heard, and whether one log explains it.

use std::collections::BTreeMap;

use coppice_schema::Digest;
use coppice_schema::ids::Address;
use coppice_schema::units::Timestamp;
use coppice_state::token::{Scope, Token, TokenId};
use coppice_state::{Entry, Outcome, State};

use super::record::{Line, Record, places};

/// Times that stand for values begin here: far beyond anything that a run reaches.
const VALUES: u64 = 1 << 50;

/// A register that real entries make.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A token: made where none is, revoked where one is.
    Token(u8),
    /// A secret: set whatever is there, removed where one is.
    Secret(u8),
    /// A pause: begun whatever is there, ended where one is.
    Pause(u8),
}

impl Key {
    /// Every one that clients use.
    pub const ALL: [Self; 6] = [
        Self::Token(0),
        Self::Token(1),
        Self::Secret(0),
        Self::Secret(1),
        Self::Pause(0),
        Self::Pause(1),
    ];

    /// What is in it.
    #[must_use]
    pub fn value(self, state: &State) -> Option<u64> {
        match self {
            Self::Token(n) => {
                let token = state.tokens.get(&TokenId(format!("t{n}")))?;
                Some(token.created.0)
            }
            Self::Secret(n) => {
                let secret = state.secrets.get(&format!("s{n}").parse().ok()?)?;
                Some(u64::from_le_bytes(
                    secret.sealed.as_slice().try_into().ok()?,
                ))
            }
            Self::Pause(n) => {
                let until = state.pauses.get(&self.address(n))?;
                until.map(|at| at.0 - VALUES)
            }
        }
    }

    /// The entry that does `deed` to it, signed by `author`.
    #[must_use]
    pub fn entry(self, deed: Deed, author: String) -> Entry {
        match (self, deed) {
            (Self::Token(n), Deed::Put(value)) => Entry::TokenCreated {
                id: TokenId(format!("t{n}")),
                token: Token {
                    hash: Digest::of(b"token"),
                    scope: Scope::Viewer,
                    created: Timestamp(value),
                    expires: None,
                },
                author,
            },
            (Self::Token(n), _) => Entry::TokenRevoked {
                id: TokenId(format!("t{n}")),
                author,
            },
            (Self::Secret(n), Deed::Put(value)) => Entry::SecretSet {
                name: secret_name(n),
                sealed: value.to_le_bytes().to_vec(),
                author,
            },
            (Self::Secret(n), _) => Entry::SecretRemoved {
                name: secret_name(n),
                author,
            },
            (Self::Pause(n), Deed::Put(value)) => Entry::Paused {
                address: self.address(n),
                until: Some(Timestamp(VALUES + value)),
                author,
            },
            (Self::Pause(n), _) => Entry::Resumed {
                address: self.address(n),
                author,
            },
        }
    }

    fn address(self, n: u8) -> Address {
        let name = format!("p{n}").parse();
        Address::Pool(name.expect("the name of a pool"))
    }

    /// What `deed` makes of `value`; `None`: it is refused.
    #[must_use]
    pub fn after(self, value: Option<u64>, deed: Deed) -> Option<Option<u64>> {
        match (self, deed) {
            (_, Deed::Read) => Some(value),
            (Self::Token(_), Deed::Put(_)) if value.is_some() => None,
            (_, Deed::Put(new)) => Some(Some(new)),
            (_, Deed::Drop) => value.map(|_| None),
        }
    }
}

fn secret_name(n: u8) -> coppice_schema::ids::SecretName {
    let name = format!("s{n}").parse();
    name.expect("the name of a secret")
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Put a value there; no two are alike.
    Put(u64),
    /// Take away what is there.
    Drop,
    /// Say what is there.
    Read,
}

/// What it heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing, or an error: it may have happened, or may happen yet.
    Unknown,
    /// It was done, or refused.
    Written {
        /// It was done.
        done: bool,
    },
    /// What is there.
    Read {
        /// At which entry.
        index: u64,
        /// The value.
        value: Option<u64>,
    },
}

impl Heard {
    /// Of an outcome.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        Self::Written {
            done: !matches!(outcome, Outcome::Refused(_)),
        }
    }
}

/// One request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Which client's which request.
    pub author: String,
    /// Of what.
    pub key: Key,
    /// What.
    pub deed: Deed,
    /// When it was sent, in true time.
    pub began: u64,
    /// When the answer was there, or was no longer waited for.
    pub ended: u64,
    /// The answer.
    pub heard: Heard,
}

/// Judges `history` by the places that the log gave to each request: stricter than linearizability, which would let
/// somebody else's order explain it too.
///
/// # Errors
/// What the log does not explain.
pub fn witness(history: &[Asked], record: &Record) -> Result<(), String> {
    let mut values: BTreeMap<Key, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
    let right = |before: &State, index: u64, line: &Line| line.is_right(before, index);
    record.replay(right, |state| {
        for key in Key::ALL {
            let known = values.entry(key).or_default();
            let value = key.value(state);
            if known.last_key_value().map(|(_, v)| *v) != Some(value) {
                known.insert(state.index, value);
            }
        }
    })?;
    let lines = record.lines();
    let places = places(&lines)?;
    // Began, ended, where in the log: a read of entry 7 is behind its write and before that of entry 8.
    let mut stood: Vec<(u64, u64, u64, &Asked)> = Vec::new();
    for asked in history {
        match &asked.heard {
            Heard::Unknown => {}
            Heard::Written { done } => {
                let index = places.get(&asked.author).ok_or_else(|| {
                    format!("{} was acknowledged, and is lost: {asked:?}", asked.author)
                })?;
                let outcome = lines.get(index).map(|line| Heard::of(&line.outcome));
                if outcome != Some(Heard::Written { done: *done }) {
                    return Err(format!(
                        "{} heard {done}, and entry {index} gave {outcome:?}",
                        asked.author
                    ));
                }
                stood.push((asked.began, asked.ended, 2 * index, asked));
            }
            Heard::Read { index, value } => {
                let known = values.get(&asked.key);
                let known = known.and_then(|known| known.range(..=index).next_back());
                let known = known.and_then(|(_, value)| *value);
                if known != *value {
                    return Err(format!(
                        "{} read {value:?} of {:?} at {index}, where {known:?} was",
                        asked.author, asked.key
                    ));
                }
                stood.push((asked.began, asked.ended, 2 * index + 1, asked));
            }
        }
    }
    in_real_time(stood)
}

/// What ended before another began stands before it.
fn in_real_time(mut by_began: Vec<(u64, u64, u64, &Asked)>) -> Result<(), String> {
    let mut by_ended = by_began.clone();
    by_ended.sort_by_key(|(_, ended, ..)| *ended);
    by_began.sort_by_key(|(began, ..)| *began);
    let mut ended = by_ended.into_iter().peekable();
    let mut highest = None::<(u64, &Asked)>;
    for (began, _, place, asked) in by_began {
        while let Some((_, _, place, other)) = ended.next_if(|(_, at, ..)| *at < began) {
            if highest.is_none_or(|(most, _)| most < place) {
                highest = Some((place, other));
            }
        }
        if let Some((most, other)) = highest.filter(|(most, _)| *most > place) {
            return Err(format!(
                "what ended first stands behind: {asked:?} is at {}, and {other:?}, which had ended, at {}",
                place / 2,
                most / 2
            ));
        }
    }
    Ok(())
}
