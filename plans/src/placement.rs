//! Where a desktop goes, and why there: the choice as data, for whoever asks.

use std::collections::BTreeSet;

use coppice_schema::ids::ServerName;
use coppice_schema::known::{Feature, ServerState};
use coppice_schema::units::Size;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How much of a server is taken, each in parts of a million. Processors and sessions are shared, so more than all of
/// them is only a high share; memory and disk are limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Shares {
    /// Of its processors, counted as those that its desktops have.
    pub cpus: u64,
    /// Of its memory.
    pub memory: u64,
    /// Of its disk: images, and what desktops may grow to. 0 where the size of the disk is not known.
    pub disk: u64,
    /// Of the people that it serves well: two for each processor.
    pub sessions: u64,
}

impl Shares {
    /// The largest of them: what runs short first.
    #[must_use]
    pub fn dominant(&self) -> u64 {
        let limits = self.memory.max(self.disk);
        limits.max(self.cpus).max(self.sessions)
    }
}

/// Why a server cannot take a desktop.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// It takes no new desktops in that part of its life.
    Part {
        /// Which.
        #[schema(value_type = String)]
        state: ServerState,
    },
    /// A `server` block keeps new desktops from it.
    Cordoned,
    /// It was not seen whole: what it does not show may still exist.
    NotSeen,
    /// Labels that the pool asks for.
    Labels {
        /// Those that it does not have.
        missing: BTreeSet<String>,
    },
    /// Something that its hypervisor cannot do.
    Feature {
        /// What.
        #[schema(value_type = String)]
        feature: Feature,
    },
    /// Its disk is filling, whatever was promised of it.
    DiskFilling,
    /// So much of its disk is not promised yet, where a desktop may come to take so much.
    Disk {
        /// Left beside what is kept free.
        #[schema(value_type = u64)]
        left: Size,
        /// What a desktop may grow to.
        #[schema(value_type = u64)]
        needed: Size,
        /// Kept free.
        #[schema(value_type = u64)]
        kept: Size,
    },
    /// Memory.
    Memory {
        /// Left beside what is kept free.
        #[schema(value_type = u64)]
        left: Size,
        /// What a desktop needs.
        #[schema(value_type = u64)]
        needed: Size,
        /// Kept free.
        #[schema(value_type = u64)]
        kept: Size,
    },
    /// A verified copy of the image. Named last: it lacks nothing else.
    Image,
}

impl Lack {
    /// What a server lacks, to go after its name.
    #[must_use]
    pub fn words(&self) -> String {
        let beside = |kept: &Size| match kept.0 {
            0 => String::new(),
            _ => format!(" beside the {} that it keeps free", kept.rounded()),
        };
        match self {
            Self::Part { .. } | Self::Cordoned | Self::NotSeen => {
                "takes no new desktops".to_owned()
            }
            Self::Labels { .. } => "has other labels".to_owned(),
            Self::Feature { feature } => format!("has no {feature:?}").to_lowercase(),
            Self::DiskFilling => "has a disk that is more than 80 % full".to_owned(),
            Self::Disk { left, needed, kept } => format!(
                "has {} of disk left{}, and a desktop may grow to {}",
                left.rounded(),
                beside(kept),
                needed.rounded()
            ),
            Self::Memory { .. } => "has too little free memory".to_owned(),
            Self::Image => "has no verified copy of the image".to_owned(),
        }
    }

    /// The same with everything that is known of it, to be read beside its name.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Part { state } => format!("is {}", crate::specs::word(state)),
            Self::Cordoned => "a server block cordons it".to_owned(),
            Self::NotSeen => "was not seen whole".to_owned(),
            Self::Labels { missing } => {
                let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
                format!("has no label {}", missing.join(", "))
            }
            Self::Memory { left, needed, kept } => {
                let kept = match kept.0 {
                    0 => String::new(),
                    _ => format!(" beside the {} that it keeps free", kept.rounded()),
                };
                format!(
                    "has {} of memory left{kept}, and a desktop needs {}",
                    left.rounded(),
                    needed.rounded()
                )
            }
            Self::Feature { .. } | Self::DiskFilling | Self::Disk { .. } | Self::Image => {
                self.words()
            }
        }
    }
}

/// A server as a place for a desktop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Its name.
    #[schema(value_type = String)]
    pub server: ServerName,
    /// How much of it would be taken with the desktop there.
    pub shares: Shares,
    /// The largest share, by which it is compared.
    pub dominant: u64,
    /// Why it is no candidate after all; the first of the filters that it does not pass.
    #[serde(default)]
    pub lacks: Option<Lack>,
    /// It would be chosen.
    pub chosen: bool,
    /// The desktop that was asked about is there.
    pub here: bool,
}

/// A choice: every server that was weighed, the best first, and then those that lack something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// Virtual processors of the desktop.
    pub cpus: u32,
    /// Its memory.
    #[schema(value_type = u64)]
    pub memory: Size,
    /// What its disk may grow to.
    #[schema(value_type = u64)]
    pub disk: Size,
    /// The servers.
    pub candidates: Vec<Candidate>,
}
