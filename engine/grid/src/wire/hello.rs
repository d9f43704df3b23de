//! How two servers find out whether they belong together.

use coppice_schema::ids::{Epoch, GridId, ServerId};
use coppice_state::state::FEATURE_LEVEL;
use coppice_world::peers::Purpose;
use serde::{Deserialize, Serialize};

use crate::link::Lane;
use crate::roster::{Roster, Verdict};
use crate::types::GridTypes;

/// The newest form of what servers say to each other that this version speaks.
pub const WIRE: u32 = 1;
/// The oldest.
pub const WIRE_OLDEST: u32 = 1;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opens {
    /// Questions and answers.
    Lane(Lane),
    /// One stream of bytes.
    Stream(Purpose),
}

impl Opens {
    const ALL: [(Self, &str); 9] = [
        (Self::Lane(Lane::Log), "log"),
        (Self::Lane(Lane::Heartbeat), "heartbeat"),
        (Self::Lane(Lane::Snapshot), "snapshot"),
        (Self::Lane(Lane::Votes), "votes"),
        (Self::Lane(Lane::Calls), "calls"),
        (Self::Stream(Purpose::Images), "images"),
        (Self::Stream(Purpose::Desktops), "desktops"),
        (Self::Stream(Purpose::Consoles), "consoles"),
        (Self::Stream(Purpose::Keys), "keys"),
    ];

    /// Its word in a [`Hello`].
    pub(crate) fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(opens, _)| *opens == self);
        found.map_or("", |(_, word)| word)
    }

    /// What a word stands for.
    pub(crate) fn of(word: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == word);
        found.map(|(opens, _)| *opens)
    }

    /// Whether it may be opened by a server that may have joined since what is known here: it may bring what is
    /// missing.
    pub(crate) fn lately(self) -> bool {
        match self {
            Self::Lane(lane) => lane != Lane::Calls,
            Self::Stream(_) => false,
        }
    }
}

/// The first frame of a connection, from the one who opened it. Fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The newest form of what follows that it speaks.
    pub wire: u32,
    /// The oldest.
    pub wire_oldest: u32,
    /// Its grid.
    pub grid: GridId,
    /// The grid's life; its number is 0 where none is known yet.
    pub epoch: Epoch,
    /// Which member it is; its certificate says so too.
    pub server: ServerId,
    /// Its number in raft.
    pub raft_id: u64,
    /// The newest feature level that it can apply.
    pub feature_level: u32,
    /// The feature level of its state.
    pub needs_level: u32,
    /// The raft id of whom it takes the other for, where it goes by that.
    pub to: Option<u64>,
    /// The word for what this connection is for.
    pub opens: String,
}

/// The answer to a [`Hello`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// They belong together.
    Welcome {
        /// The form of what follows.
        wire: u32,
        /// The number in raft of the one that answers.
        raft_id: u64,
    },
    /// They do not.
    Rejected {
        /// Why, in words: for whoever does not know that reason.
        text: String,
        /// Why. Any value, so that one that a newer version gives can be read over.
        why: ciborium::Value,
    },
}

/// Why one server will have nothing to do with another. As told by the one that rejects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The certificate is not what it should be.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// Another grid.
    #[error("it belongs to grid {theirs}, not to grid {ours}")]
    OtherGrid {
        /// The one that rejects.
        ours: GridId,
        /// The one that is rejected.
        theirs: GridId,
    },
    /// The same grid, in another life: one of them was restored, or recovered alone, without the other.
    #[error("it knows another life of this grid (epoch {}, recovery {:x}; here it is epoch {}, recovery {:x}): the \
             one that gives way joins again: coppice server rejoin ADDRESS TOKEN", .theirs.number, .theirs.recovery, .ours.number, .ours.recovery)]
    OtherEpoch {
        /// The one that rejects.
        ours: Epoch,
        /// The one that is rejected.
        theirs: Epoch,
    },
    /// No member.
    #[error("server {0} is no member of this grid: it was removed, or never joined")]
    Stranger(ServerId),
    /// A member that is not known here yet, for something that only members may do.
    #[error("server {0} is not known here yet; in a moment it may be")]
    NotYet(ServerId),
    /// Its certificate and what it says do not agree.
    #[error(
        "it says that it is server {says} with raft id {raft_id}, and its certificate or the grid says otherwise"
    )]
    Impostor {
        /// What it says.
        says: ServerId,
        /// With which raft id.
        raft_id: u64,
    },
    /// Somebody else was meant: an address has another server now.
    #[error(
        "raft id {wanted} is looked for, and raft id {here} is here: an address has changed hands"
    )]
    SomebodyElse {
        /// Who was looked for.
        wanted: u64,
        /// Who is there.
        here: u64,
    },
    /// Versions too far apart.
    #[error(
        "it speaks the wire's forms {oldest} to {newest}, and this server {WIRE_OLDEST} to {WIRE}: versions next to \
             each other work together, these do not"
    )]
    Wire {
        /// The oldest form it speaks.
        oldest: u32,
        /// The newest.
        newest: u32,
    },
    /// It cannot apply what the grid agrees on.
    #[error(
        "the grid has feature level {needed}, and it can apply up to {level}: start a newer version there"
    )]
    FeatureLevel {
        /// What the grid needs.
        needed: u32,
        /// What the one that is rejected can.
        level: u32,
    },
    /// Nothing here takes such a connection.
    #[error("nothing here serves {0:?}")]
    NothingServes(String),
    /// A reason that only a newer version knows.
    #[error("{0}")]
    Other(String),
}

impl Greeting {
    /// With `why`.
    pub(crate) fn rejected(why: &Rejection) -> Self {
        Self::Rejected {
            text: why.to_string(),
            // Without it, the other side has the words.
            why: ciborium::Value::serialized(why).unwrap_or(ciborium::Value::Null),
        }
    }
}

/// The reason as it was told.
pub(crate) fn told(text: String, why: &ciborium::Value) -> Rejection {
    why.deserialized().unwrap_or(Rejection::Other(text))
}

impl Hello {
    /// From this server.
    pub(crate) fn from<C: GridTypes>(roster: &Roster<C>, to: Option<u64>, opens: &str) -> Self {
        let me = roster.me();
        Self {
            wire: WIRE,
            wire_oldest: WIRE_OLDEST,
            grid: me.grid,
            epoch: roster.epoch(),
            server: roster.server(),
            raft_id: me.raft_id,
            feature_level: FEATURE_LEVEL,
            needs_level: roster.feature_level(),
            to,
            opens: opens.to_owned(),
        }
    }

    /// Whether whoever says this, with the certificate of `server`, may have what it wants. `lately`: also one that may
    /// have joined since. Returns the form of what follows.
    pub(crate) fn welcome<C: GridTypes>(
        &self,
        roster: &Roster<C>,
        server: ServerId,
        lately: bool,
    ) -> Result<u32, Rejection> {
        let me = roster.me();
        let wire = self.wire.min(WIRE);
        if wire < self.wire_oldest.max(WIRE_OLDEST) {
            return Err(Rejection::Wire {
                oldest: self.wire_oldest,
                newest: self.wire,
            });
        }
        let (ours, theirs) = (me.grid, self.grid);
        if ours != theirs {
            return Err(Rejection::OtherGrid { ours, theirs });
        }
        let (ours, theirs) = (roster.epoch(), self.epoch);
        if ours != theirs && ours.number != 0 && theirs.number != 0 {
            roster.met(server, Some(theirs));
            return Err(Rejection::OtherEpoch { ours, theirs });
        }
        let impostor = Rejection::Impostor {
            says: self.server,
            raft_id: self.raft_id,
        };
        if self.server != server {
            return Err(impostor);
        }
        match roster.verdict(server) {
            Verdict::Member(member) if member.raft_id == self.raft_id => {}
            Verdict::Member(_) => return Err(impostor),
            Verdict::Later if lately => {}
            Verdict::Later => return Err(Rejection::NotYet(server)),
            Verdict::Gone => return Err(Rejection::Stranger(server)),
        }
        if let Some(wanted) = self.to.filter(|to| *to != me.raft_id) {
            let here = me.raft_id;
            return Err(Rejection::SomebodyElse { wanted, here });
        }
        let needed = roster.feature_level();
        if self.feature_level < needed {
            let level = self.feature_level;
            return Err(Rejection::FeatureLevel { needed, level });
        }
        if FEATURE_LEVEL < self.needs_level {
            return Err(Rejection::FeatureLevel {
                needed: self.needs_level,
                level: FEATURE_LEVEL,
            });
        }
        roster.met(server, None);
        Ok(wire)
    }
}
