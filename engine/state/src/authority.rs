//! The grid's certificate authority, as far as it is agreed on: which one signs, and how another takes over from it.
//!
//! One takes over in two steps, so that at every moment any two servers accept each other. First every server comes to
//! trust the new one beside the old one. Then every server comes to show a certificate of the new one. After that the
//! old one is dropped. Steps follow from what servers say of themselves; nobody decides them, so whoever leads may
//! change at any time.
//!
//! A server that was away and knows the old one only still accepts the others: they show the new authority's
//! certificate as the old one signed it, too.

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::ServerId;
use coppice_schema::known::ServerState;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// What is agreed on about the authority. Empty in a grid that has the one that it began with: that is on its members'
/// disks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Authorities {
    /// The one that signs, once one took over from another.
    pub current: Option<Authority>,
    /// Its certificate, signed by the one before it, in PEM: for whoever knows only that.
    pub cross: Option<String>,
    /// Those that were dropped, oldest first.
    pub former: Vec<Digest>,
    /// Another takes over.
    pub rotation: Option<Rotation>,
}

/// An authority.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Authority {
    /// Digest of its public key, by which join tokens name it.
    pub key: Digest,
    /// Its certificate, in PEM.
    pub certificate: String,
}

/// An authority that was made to take over from another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Successor {
    /// From this one.
    pub old: Authority,
    /// The one that takes over.
    pub new: Authority,
    /// The new one's certificate, signed by the old one, in PEM.
    pub cross: String,
    /// The new one's key, sealed by the grid's key. It is in the state until the old one is dropped, so that it cannot
    /// be lost with any one disk.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// An authority that takes over, and how far that is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// From which to which.
    pub successor: Successor,
    /// The step.
    pub step: Step,
    /// Servers that said that they trust the new one.
    pub trust: BTreeSet<ServerId>,
    /// Servers that said that they show a certificate of the new one.
    pub show: BTreeSet<ServerId>,
    /// When it began.
    pub begun: Timestamp,
    /// Who began it.
    pub author: String,
}

/// How far the change of authority is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Every server comes to trust the new one. The old one signs.
    Trust,
    /// Every server comes to show a certificate of the new one, which signs.
    Show,
}

/// What a server is to have on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'a> {
    /// The one that signs.
    pub signs: &'a Authority,
    /// Another that is trusted beside it.
    pub beside: Option<&'a Authority>,
    /// The signing one's certificate as the former one signed it.
    pub cross: Option<&'a str>,
    /// The signing one's key, sealed, where it is agreed on.
    pub sealed: Option<&'a [u8]>,
}

impl Authorities {
    /// What every server is to have; `None`: what it has.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted<'_>> {
        let cross = self.cross.as_deref();
        let Some(rotation) = &self.rotation else {
            return self.current.as_ref().map(|signs| Wanted {
                signs,
                beside: None,
                cross,
                sealed: None,
            });
        };
        let Successor {
            old,
            new,
            cross: new_cross,
            sealed,
        } = &rotation.successor;
        Some(match rotation.step {
            Step::Trust => Wanted {
                signs: old,
                beside: Some(new),
                cross,
                sealed: None,
            },
            Step::Show => Wanted {
                signs: new,
                beside: Some(old),
                cross: Some(new_cross),
                sealed: Some(sealed),
            },
        })
    }

    /// A machine takes a member's place: what the former one said of itself is not said of it.
    pub(crate) fn forget(&mut self, server: ServerId) {
        if let Some(rotation) = &mut self.rotation {
            rotation.trust.remove(&server);
            rotation.show.remove(&server);
        }
    }
}

impl State {
    /// The members for which the change of authority waits, and those of them that are not there to do anything about it:
    /// the old one is dropped without these only if a person says so.
    #[must_use]
    pub fn authority_waits(&self) -> (BTreeSet<ServerId>, BTreeSet<ServerId>) {
        let Some(rotation) = &self.authorities.rotation else {
            return Default::default();
        };
        let said = match rotation.step {
            Step::Trust => &rotation.trust,
            Step::Show => &rotation.show,
        };
        let members = self.servers.iter();
        let open = members.filter(|(id, server)| {
            let member = server.state != ServerState::Removed;
            // Who is away now will accept the others when it is back, and be accepted as long as the old one is trusted.
            let counts = rotation.step == Step::Show || server.state.takes_part();
            member && counts && !said.contains(id)
        });
        let open: Vec<_> = open.map(|(id, server)| (*id, server.state)).collect();
        let away = open.iter().filter(|(_, part)| !part.takes_part());
        (
            open.iter().map(|(id, _)| *id).collect(),
            away.map(|(id, _)| *id).collect(),
        )
    }
}
