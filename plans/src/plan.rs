//! What a plan is. Everything a person sees of a plan is rendered from [`crate::document`], which is made of this.

mod finding;
mod impact;

use std::collections::{BTreeMap, BTreeSet};

use coppice_schema::Digest;
use coppice_schema::desired::Assignment;

use coppice_schema::ids::{
    Address, Generation, ImageName, PoolName, Revision, ServerId, VersionName,
};

use coppice_schema::known::{DesktopSpec, Task};

use coppice_schema::units::{Size, Span, Timestamp};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use coppice_schema::review::{Kind, Reviewed, Risk};

pub use finding::{Finding, FindingKind, Gate, GateKind, Severity, Verdict};
pub use impact::{Basis, Estimate, Impact};

/// What would happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// When it was made.
    pub at: Timestamp,
    /// What it read: if any of it changes, the plan is stale.
    pub base: Base,
    /// The servers it looked at.
    pub looked: BTreeMap<ServerId, Looked>,
    /// Every server was seen whole, and nothing was left out by a target.
    pub complete: bool,
    /// Servers that were not seen whole, by name: they may hold more than this plan knows of.
    pub unseen: BTreeSet<String>,
    /// Only these were looked at; empty: everything.
    pub targets: BTreeSet<Address>,
    /// What would be done, in the order in which it would be.
    pub actions: Vec<Action>,
    /// What other hands changed, whatever is done about it.
    pub drift: Vec<Drift>,
    /// Conditions of applying it.
    pub gates: Vec<Gate>,
    /// What is wrong, or waits.
    pub findings: Vec<Finding>,
    /// How the pools would stand, before and after.
    pub pools: BTreeMap<PoolName, PoolForecast>,
    /// What committing it changes in the configuration. Other objects stay as they are committed, whatever the
    /// plan was made from: two people who edit different pools do not undo each other.
    pub changes: BTreeMap<Address, Intent>,
    /// What servers were told before and have not finished.
    pub under_way: Vec<UnderWay>,
    /// When something may change by time alone: the next moment at which to plan again.
    pub next: Option<Timestamp>,
}

/// What a commit does to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// It is new or other.
    Set,
    /// It is gone.
    Removed,
}

/// Something that a server was told and has not finished, or a guest that is not ready yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct UnderWay {
    /// About what.
    #[schema(value_type = String)]
    pub object: Address,
    /// Where.
    #[schema(value_type = u64)]
    pub server: ServerId,
    /// What, in words.
    pub what: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong last, in words.
    pub last_error: Option<String>,
}

/// What a plan read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Base {
    /// The committed revision.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Each object, and its generation; 0: it must not exist.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub objects: BTreeMap<Address, Generation>,
}

/// What may happen in a run without asking again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Bounds {
    /// Sessions that may be interrupted.
    pub sessions_interrupted: u32,
    /// Bytes that may be copied.
    #[schema(value_type = u64)]
    pub bytes_copied: Size,
    /// Gates that were approved.
    pub approved: BTreeSet<GateKind>,
}

/// A server as a plan saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Looked {
    /// Its name.
    pub name: String,
    /// Which start of its daemon.
    pub boot: u64,
    /// Which report.
    pub sequence: u64,
    /// When.
    pub at: Option<Timestamp>,
    /// Seen whole in this term, with its hypervisor answering.
    pub current: bool,
}

/// One thing that would be done to one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Action {
    /// To what.
    pub object: Address,
    /// What.
    pub kind: Kind,
    /// Where.
    pub server: Option<ServerId>,
    /// Indices of the actions before it that must be done first.
    pub needs: Vec<usize>,
    /// Actions of one wave are done together.
    pub wave: u32,
    /// Why.
    pub reason: Reason,
    /// How badly it can hurt.
    pub risk: Risk,
    /// Whether it can be undone by going back.
    pub reversible: bool,
    /// Whom it touches.
    pub impact: Impact,
    /// What it waits for. Empty: it may be done now.
    pub waits: Vec<Wait>,
    /// What changes.
    pub edits: Vec<Edit>,
    /// What a server is told; `None` where committing is all there is to do.
    pub step: Option<Step>,
}

/// What a server is told, and what the grid remembers of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The task.
    pub task: Task,
    /// What becomes of the grid's memory of the desktop.
    pub memory: Memory,
}

/// What becomes of the grid's memory of a desktop when its order is agreed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// Nothing.
    Unchanged,
    /// A slot gets a desktop, in its next life.
    Grown {
        /// It.
        spec: Box<DesktopSpec>,
        /// Whether its disk is to be kept.
        personal: bool,
    },
    /// It gets another life, of a copy: the former one is on a server that is lost for longer than its lease.
    Restored {
        /// It.
        spec: Box<DesktopSpec>,
    },
    /// What is written of it changes.
    Rewritten {
        /// It.
        spec: Box<DesktopSpec>,
    },
    /// It goes away.
    Leaving,
    /// It is to move to another server.
    Moving {
        /// Which.
        to: ServerId,
        /// What it is to be there.
        spec: Box<DesktopSpec>,
    },
    /// It is copied there.
    Copying,
    /// It goes on there.
    Switched,
    /// It does not move after all.
    Returning,
}

/// Why an action is in the plan.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is wanted and not there.
    NotPresent,
    /// Attributes differ, and can be changed in place.
    AttributesChanged,
    /// Attributes differ that a living desktop cannot take on.
    CannotUpdateInPlace {
        /// Which.
        paths: BTreeSet<String>,
    },
    /// Another version of the image is published.
    ImageVersion {
        /// The image.
        #[schema(value_type = String)]
        image: ImageName,
        /// The version it is of, where that is known.
        #[schema(value_type = Option<String>)]
        from: Option<VersionName>,
        /// The published one.
        #[schema(value_type = String)]
        to: VersionName,
    },
    /// Its block is gone.
    RemovedFromConfig,
    /// The pool's size changed.
    Scale {
        /// From so many.
        from: u32,
        /// To so many.
        to: u32,
    },
    /// Other hands changed it.
    Drift {
        /// What.
        what: DriftKind,
    },
    /// The server of one that it takes the place of is lost.
    HostGone {
        /// Its name.
        server: String,
    },
    /// Its server is lost and it runs there no more: it goes on from a copy.
    FromCopy {
        /// The server's name.
        server: String,
        /// What the copy holds is what its disk held then.
        #[schema(value_type = u64)]
        taken: Timestamp,
    },
    /// Its server, or that of the one that it takes the place of, is being emptied.
    Draining {
        /// Its name.
        server: String,
    },
    /// Servers that were lost came back, and others had been grown in place of what they hold.
    Returned {
        /// From so many.
        from: u32,
        /// To so many.
        to: u32,
    },
    /// It is on its way to another server.
    Moving {
        /// From which.
        from: String,
        /// To which.
        to: String,
    },
    /// A person asked for it.
    Requested,
    /// It is broken.
    Broken {
        /// How, in words.
        why: String,
    },
    /// Clones of the published version do not become ready in its pool, so it goes back.
    RolledBack {
        /// The image.
        #[schema(value_type = String)]
        image: ImageName,
        /// The published version.
        #[schema(value_type = String)]
        from: VersionName,
        /// The one before.
        #[schema(value_type = String)]
        to: VersionName,
    },
    /// It is time to regrow it.
    Refresh {
        /// By which trigger: `logoff`, `every`, `at`, `max_age`, `disk_limit` or `disk` (its server's disk runs full).
        trigger: String,
    },
    /// The pool's power figures ask for it.
    Power {
        /// How many are to run.
        target: u32,
    },
    /// The load of servers is levelled.
    Rebalance {
        /// The server that it leaves.
        from: String,
        /// The server that it, or the one in its place, goes to.
        to: String,
    },
    /// Hardware it is defined with is not what it runs with.
    PendingHardware,
    /// Nothing needs it any more.
    Unused,
    /// More servers have the image than its block says.
    Surplus {
        /// On how many it is to be.
        copies: u32,
    },
    /// No version in the catalogue is made of that image file.
    Unnamed {
        /// The file.
        #[schema(value_type = String)]
        image: Digest,
    },
}

/// Why an action is not done yet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// For a window to open.
    Window {
        /// Its name.
        name: String,
        /// When it opens next, if ever.
        #[schema(value_type = Option<u64>)]
        opens: Option<Timestamp>,
    },
    /// For a window that denies to close.
    Freeze {
        /// Its name.
        name: String,
        /// When it closes.
        #[schema(value_type = Option<u64>)]
        closes: Option<Timestamp>,
    },
    /// For a person to review it: it follows from the configuration, and was not in the plan that was applied.
    Approval {
        /// The revision, the newest one under way.
        #[schema(value_type = u64)]
        revision: Revision,
    },
    /// For people to log off.
    Logoff {
        /// How many.
        users: u32,
        /// When that is no longer waited for; `None`: it always is.
        #[schema(value_type = Option<u64>)]
        until: Option<Timestamp>,
    },
    /// For the pool's or the server's budget.
    Budget {
        /// Which: `max_unavailable`, `power-on` or `canary`.
        name: String,
    },
    /// For a back-off after a failure.
    Backoff {
        /// Until when.
        #[schema(value_type = u64)]
        until: Timestamp,
    },
    /// For an order that is under way.
    Order {
        /// What, in words.
        what: String,
    },
    /// For an image version.
    Image {
        /// The image.
        #[schema(value_type = String)]
        image: ImageName,
        /// The version, where one is named.
        #[schema(value_type = Option<String>)]
        version: Option<VersionName>,
    },
    /// For a template whose disk holds the image.
    Disk {
        /// The template's.
        #[schema(value_type = u64)]
        disk: Size,
        /// The image's.
        #[schema(value_type = u64)]
        image: Size,
    },
    /// For a server to be seen whole.
    Observation {
        /// Which.
        server: String,
    },
    /// For a copy of the image to be whole on a server that lacks nothing else.
    Copy {
        /// The image.
        #[schema(value_type = String)]
        image: ImageName,
        /// The version.
        #[schema(value_type = String)]
        version: VersionName,
        /// Such servers.
        servers: BTreeSet<String>,
    },
    /// For a server with room.
    Room {
        /// What the nearest candidates lacked, in words.
        lacking: String,
    },
    /// For a pause to end.
    Paused {
        /// Until when; `None`: until resumed.
        #[schema(value_type = Option<u64>)]
        until: Option<Timestamp>,
    },
    /// For a roll-out that stopped after failures to be changed or resumed.
    RolloutStopped {
        /// How many failed.
        failures: u32,
    },
    /// For a server that is lost to come back.
    Return {
        /// Which.
        server: String,
    },
    /// For the one that takes its place to be ready elsewhere.
    Successor,
    /// For its guest, or its screen, to show that nobody uses it.
    Vacancy {
        /// When that is no longer waited for; `None`: it always is.
        #[schema(value_type = Option<u64>)]
        until: Option<Timestamp>,
    },
}

impl Wait {
    /// Nothing that the grid does, and no time that passes, ends it: a person must.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Approval { .. }
            | Self::Image { .. }
            | Self::Disk { .. }
            | Self::Room { .. }
            | Self::RolloutStopped { .. } => true,
            Self::Window { opens, .. } => opens.is_none(),
            Self::Freeze { closes, .. } => closes.is_none(),
            Self::Paused { until } => until.is_none(),
            Self::Logoff { .. }
            | Self::Budget { .. }
            | Self::Backoff { .. }
            | Self::Order { .. }
            | Self::Copy { .. }
            | Self::Observation { .. }
            | Self::Return { .. }
            | Self::Successor
            | Self::Vacancy { .. } => false,
        }
    }
}

/// A changed value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Edit {
    /// Path in the schema: `memory`, `rollout.max_unavailable`.
    pub path: String,
    /// What it was; `None`: nothing.
    pub before: Option<String>,
    /// What it becomes; `None`: nothing.
    pub after: Option<String>,
    /// When it takes effect.
    pub applies: Applies,
}

/// When a change takes effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Applies {
    /// At once.
    Live,
    /// At the desktop's next boot.
    NextBoot,
    /// When the desktop is regrown.
    Regrow,
}

/// Something that other hands changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// What was changed.
    #[schema(value_type = String)]
    pub object: Address,
    /// Where.
    #[schema(value_type = Option<u64>)]
    pub server: Option<ServerId>,
    /// How.
    pub kind: DriftKind,
    /// The fields: as written and as found.
    pub edits: Vec<Edit>,
    /// Since when it has been seen.
    #[schema(value_type = Option<u64>)]
    pub since: Option<Timestamp>,
    /// What is done about it.
    pub response: Response,
    /// What its repair waits for. Empty: nothing, or there is none.
    #[serde(default)]
    pub waits: Vec<Wait>,
}

/// Kinds of drift.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DriftKind {
    /// A domain's fields are not as written.
    DomainChanged,
    /// A domain is gone.
    DomainUndefined,
    /// A desktop was killed, or switched off.
    PoweredOff,
    /// An overlay is gone.
    OverlayMissing,
    /// An overlay cannot be used, or is a clone of another image.
    OverlayChanged,
    /// An image's copy is not what it should be.
    ImageBad,
    /// An image's copy is gone.
    ImageMissing,
    /// Something with our mark that the grid does not know.
    Stray,
}

/// What is done about drift.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// It is repaired, once its repair waits for nothing.
    Repaired,
    /// It is told, and left.
    Told,
    /// It flips to and fro: left, until a person looks.
    Contended,
    /// It needs a person.
    NeedsAdmin,
}

/// How a pool would stand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolForecast {
    /// Who gets which.
    #[schema(value_type = String)]
    pub assignment: Assignment,
    /// Desktops ready now.
    pub available_now: u32,
    /// The fewest that are ready while it is carried out: as many may be away as the roll-out's budget allows at once.
    pub lowest: u32,
    /// For how long a change keeps it there; `None` where no change takes desktops away in turn.
    #[serde(default)]
    #[schema(value_type = Option<Estimate<u64>>)]
    pub lowest_for: Option<Estimate<Span>>,
    /// Desktops ready at its end. What waits for a person, such as for room or for an image, is not counted.
    pub available_after: u32,
    /// Desktops that are to run: all that are desired, or as many as the pool's power figures say.
    #[serde(default)]
    pub wanted: u32,
    /// Desktops wanted.
    pub desired: u32,
}
