//! What servers are told to do.

use serde::{Deserialize, Serialize};

use super::DesktopSpec;
use crate::digest::Digest;
use crate::ids::{Member, ServerId};
use crate::units::Timestamp;

/// What a server was told to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Who.
    pub server: ServerId,
    /// What.
    pub task: Task,
    /// Not before, after failures.
    pub not_before: Timestamp,
    /// The leader withdraws it then.
    pub deadline: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong last, in words.
    pub last_error: Option<String>,
}

/// One thing for one server to do. Each can be done twice with the result of once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Make its overlay where there is none, define its domain, and start it if told so.
    Create {
        /// The desktop.
        spec: DesktopSpec,
        /// Start it.
        start: bool,
    },
    /// Make its overlay of the copy that is here of a former life of it, define its domain, and start it.
    Restore {
        /// The desktop.
        spec: DesktopSpec,
        /// Of which life the copy is.
        from: Member,
    },
    /// Write the domain again as told; the overlay is not touched.
    Redefine {
        /// The desktop.
        spec: DesktopSpec,
    },
    /// Start it.
    Start {
        /// The desktop.
        member: Member,
    },
    /// Shut it down: agent, then ACPI, then power.
    Stop {
        /// The desktop.
        member: Member,
    },
    /// Stop and start it.
    Restart {
        /// The desktop.
        member: Member,
        /// How it is stopped.
        #[serde(default)]
        ending: Ending,
    },
    /// Power it off, undefine its domain, and remove its overlay.
    Remove {
        /// The desktop.
        member: Member,
    },
    /// Make room for a desktop that comes from another server: an overlay of the same image.
    Receive {
        /// What it is to be.
        spec: DesktopSpec,
    },
    /// Send it to another server, running, and let it stand still at the end.
    Send {
        /// The desktop.
        member: Member,
        /// To which server.
        to: ServerId,
    },
    /// Let one that has come go on.
    Enter {
        /// What it is to be.
        spec: DesktopSpec,
    },
    /// Let one that was to be sent go on where it is.
    Stay {
        /// The desktop.
        member: Member,
    },
    /// Read every chunk of an image back.
    VerifyImage {
        /// Its root.
        root: Digest,
    },
    /// Remove an image that no clone uses.
    DropImage {
        /// Its root.
        root: Digest,
    },
    /// Get an image from other servers; one that is bad is repaired.
    CopyImage {
        /// Its root.
        root: Digest,
        /// Which to ask, in this order. What one lacks, the next may have.
        from: Vec<ServerId>,
    },
}

/// How a guest is stopped that is to be started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Agent, then ACPI, then power: it is given its time, whatever it does.
    #[default]
    Asked,
    /// As above, if it has answered since it was started. One that never did holds nothing, and hears nobody: its
    /// power goes at once.
    AskedIfUp,
}

impl Task {
    /// The life it is about, if it is about one.
    #[must_use]
    pub fn member(&self) -> Option<&Member> {
        match self {
            Self::Create { spec, .. }
            | Self::Restore { spec, .. }
            | Self::Redefine { spec }
            | Self::Receive { spec }
            | Self::Enter { spec } => Some(&spec.member),
            Self::Start { member }
            | Self::Send { member, .. }
            | Self::Stay { member }
            | Self::Stop { member }
            | Self::Restart { member, .. }
            | Self::Remove { member } => Some(member),
            Self::VerifyImage { .. } | Self::DropImage { .. } | Self::CopyImage { .. } => None,
        }
    }

    /// Root of the image that it is about, if it is about one and no desktop.
    #[must_use]
    pub fn image(&self) -> Option<Digest> {
        match self {
            Self::VerifyImage { root }
            | Self::DropImage { root }
            | Self::CopyImage { root, .. } => Some(*root),
            Self::Create { .. }
            | Self::Restore { .. }
            | Self::Redefine { .. }
            | Self::Receive { .. }
            | Self::Enter { .. }
            | Self::Start { .. }
            | Self::Send { .. }
            | Self::Stay { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Remove { .. } => None,
        }
    }

    /// Root of the image that the disk of its desktop is a clone of, where its server needs that image for it.
    #[must_use]
    pub fn clones(&self) -> Option<Digest> {
        match self {
            Self::Create { spec, .. }
            | Self::Restore { spec, .. }
            | Self::Redefine { spec }
            | Self::Receive { spec }
            | Self::Enter { spec } => Some(spec.image),
            Self::Start { .. }
            | Self::Send { .. }
            | Self::Stay { .. }
            | Self::Stop { .. }
            | Self::Restart { .. }
            | Self::Remove { .. }
            | Self::VerifyImage { .. }
            | Self::DropImage { .. }
            | Self::CopyImage { .. } => None,
        }
    }

    /// The verb and its object, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Create { spec, .. } => format!("create {}", spec.member.desktop),
            Self::Restore { spec, .. } => {
                format!("bring {} back from its copy", spec.member.desktop)
            }
            Self::Redefine { spec } => format!("define {} again", spec.member.desktop),
            Self::Start { member } => format!("start {}", member.desktop),
            Self::Stop { member } => format!("stop {}", member.desktop),
            Self::Restart { member, .. } => format!("restart {}", member.desktop),
            Self::Remove { member } => format!("remove {member}"),
            Self::Receive { spec } => format!("make room for {}", spec.member.desktop),
            Self::Send { member, .. } => format!("send {} away", member.desktop),
            Self::Enter { spec } => format!("let {} go on here", spec.member.desktop),
            Self::Stay { member } => format!("let {} stay", member.desktop),
            Self::VerifyImage { root } => format!("verify image {}", root.short()),
            Self::DropImage { root } => format!("drop image {}", root.short()),
            Self::CopyImage { root, .. } => format!("copy image {}", root.short()),
        }
    }
}
