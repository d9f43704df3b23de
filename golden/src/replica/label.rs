//! Whose a copy is, and in which slot.

use coppice_schema::ids::Member;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

use crate::manifest::encode;
use crate::overlay::{Mark, OVERLAY};

/// The newest label that this version reads, and the one it writes.
const FORMAT: u32 = 1;

/// Ends the name of a label.
const LABEL: &str = ".label";

/// Where a copy can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Slot {
    A,
    B,
}

impl Slot {
    pub(super) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The file's name: `lab-007@2.a.qcow2`.
    pub(super) fn file(self, member: &Member) -> String {
        format!("{member}.{}{OVERLAY}", self.letter())
    }
}

/// What stands beside a copy, a CBOR map with these names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Label {
    format: u32,
    pub(super) slot: Slot,
    pub(super) taken: Timestamp,
    pub(super) mark: Mark,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Label {
    pub(super) fn new(slot: Slot, taken: Timestamp, mark: Mark) -> Self {
        Self {
            format: FORMAT,
            slot,
            taken,
            mark,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let damaged = |e: ciborium::de::Error<std::io::Error>| format!("its label is damaged: {e}");
        let head: Head = ciborium::from_reader(bytes).map_err(damaged)?;
        if head.format > FORMAT {
            return Err(format!(
                "its label has format {}, this version reads up to {FORMAT}",
                head.format
            ));
        }
        ciborium::from_reader(bytes).map_err(damaged)
    }
}

pub(super) fn label_name(member: &Member) -> String {
    format!("{member}{LABEL}")
}

/// Whose label has that name.
pub(super) fn member_of(name: &str) -> Option<Member> {
    name.strip_suffix(LABEL)?.parse().ok()
}

/// Whose copy has that name, without its end, and the slot.
pub(super) fn slot_of(stem: &str) -> Option<(Member, Slot)> {
    let (member, letter) = stem.rsplit_once('.')?;
    let slot = Slot::BOTH
        .into_iter()
        .find(|slot| slot.letter() == letter)?;
    Some((member.parse().ok()?, slot))
}
