//! What is wrong or waits, and what stands before an apply.

use std::collections::BTreeSet;

use coppice_schema::Digest;
use coppice_schema::ids::{Address, ImageName, SecretName, TemplateName, VersionName};
use coppice_schema::known::Skew;
use coppice_schema::units::{Size, Span, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::loss::Shortfall;

/// A condition of applying a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Gate {
    /// Which.
    pub kind: GateKind,
    /// Its answer.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// What it is about.
    #[schema(value_type = BTreeSet<String>)]
    pub objects: BTreeSet<Address>,
}

/// Kinds of gate. The text is what `--approve` takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GateKind {
    /// The loss of servers would no longer be carried.
    ServerLoss,
    /// More than a fifth of a pool, and more than two desktops, are deleted.
    MassDelete,
    /// Personal disks are destroyed.
    PersonalData,
    /// A protected object is destroyed.
    Protected,
    /// The configuration is empty.
    EmptyConfiguration,
    /// A window that denies is open.
    Freeze,
}

/// A gate's answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing stands in the way.
    Pass,
    /// A person must say yes to this by name.
    NeedsApproval,
    /// Not now.
    Denied,
}

/// What is wrong, or waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// About what.
    #[schema(value_type = String)]
    pub object: Address,
    /// What.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// What a person can do.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Something is not as wanted.
    Warning,
    /// Something does not work.
    Error,
}

/// Kinds of finding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// An image version is not in the catalogue.
    ImageAbsent {
        /// The version, where one is named.
        #[schema(value_type = Option<String>)]
        version: Option<VersionName>,
    },
    /// The catalogue's version is of other bytes than the configuration names.
    ImageDigest {
        /// What the configuration says.
        #[schema(value_type = String)]
        wanted: Digest,
        /// What the grid holds.
        #[schema(value_type = String)]
        held: Digest,
    },
    /// The image's source file was not where the plan was made.
    SourceNotHere {
        /// Its path.
        path: String,
    },
    /// The template's disk is smaller than the image.
    DiskTooSmall {
        /// The template's.
        #[schema(value_type = u64)]
        disk: Size,
        /// The image's.
        #[schema(value_type = u64)]
        image: Size,
    },
    /// No server can carry it, or no slot is free for it.
    NoRoom {
        /// How many desktops have none.
        desktops: u32,
        /// What is lacking, in words.
        lacking: String,
    },
    /// A server's hypervisor does not answer.
    HypervisorAway {
        /// In words.
        error: String,
    },
    /// A server was not seen whole.
    NotSeen,
    /// A server's disk is filling.
    DiskFilling {
        /// Per cent at which that begins.
        percent: u8,
    },
    /// A domain that is not ours has the name that a desktop needs.
    NameTaken {
        /// The server.
        server: String,
        /// The domain.
        domain: String,
    },
    /// Something with our mark that the grid does not know.
    Stray {
        /// The life its mark names.
        member: String,
    },
    /// A life from another life of the grid, which a recovery or a restore left behind.
    Quarantined {
        /// The life its mark names.
        member: String,
        /// The server that holds it.
        server: String,
        /// Which life of the grid it is from.
        epoch: u64,
        /// Whether it runs; `None`: there is a disk alone.
        runs: Option<bool>,
    },
    /// No majority of the voters answers the server that was asked.
    NoMajority,
    /// The grid's certificate authority is not valid for much longer.
    AuthorityEnds {
        /// Until when it is.
        #[schema(value_type = u64)]
        at: Timestamp,
    },
    /// Another certificate authority takes over.
    AuthorityChanges {
        /// Servers that it waits for.
        waits_for: Vec<String>,
    },
    /// A server is of a former life of the grid, which goes on without it.
    FormerLife {
        /// Which life.
        epoch: u64,
    },
    /// The grid goes on in a later life, without the server that was asked.
    LeftBehind {
        /// Which life.
        epoch: u64,
    },
    /// A server and the one that was asked are of two lives of the grid that began apart.
    Split {
        /// The other's life.
        epoch: u64,
    },
    /// Domains that are not ours; never touched.
    Foreign {
        /// How many.
        count: u32,
    },
    /// An image's block goes, and its versions stay in the catalogue.
    ImageWithoutBlock {
        /// How many.
        versions: u32,
    },
    /// An image's copy is bad, and no other is left.
    ImageLost {
        /// The version, where it is known.
        #[schema(value_type = Option<String>)]
        version: Option<VersionName>,
    },
    /// A server has no room for an image that it is to hold.
    NoRoomForImage {
        /// Which.
        #[schema(value_type = String)]
        image: ImageName,
        /// Bytes of it.
        #[schema(value_type = u64)]
        needed: Size,
        /// Bytes left for images.
        #[schema(value_type = u64)]
        left: Size,
    },
    /// More copies of an image are wanted than there are servers for it.
    TooFewServers {
        /// Copies wanted.
        copies: u32,
        /// Servers that may hold one.
        servers: u32,
    },
    /// An order keeps failing.
    OrderFailing {
        /// What, in words.
        what: String,
        /// Why, in words.
        error: String,
        /// How often.
        attempts: u32,
    },
    /// The same field flips to and fro.
    Contended {
        /// Which.
        path: String,
    },
    /// A roll-out stopped.
    RolloutStopped {
        /// How many failed.
        failures: u32,
    },
    /// A roll-out stopped, and what failed went back.
    RolledBack {
        /// The published version.
        #[schema(value_type = String)]
        from: VersionName,
        /// The one before.
        #[schema(value_type = String)]
        to: VersionName,
        /// How many failed.
        failures: u32,
    },
    /// A secret is not in the grid.
    SecretAbsent {
        /// Which.
        #[schema(value_type = String)]
        name: SecretName,
    },
    /// The language has it, this version does not carry it out.
    NotCarriedOut {
        /// What was said.
        path: String,
    },
    /// Its block is gone or wants nothing, and it is kept because it is protected.
    KeptProtected,
    /// The same, and nothing remembered says how it is to be looked after.
    KeptUntended,
    /// A pool's template is not in the configuration.
    TemplateAbsent {
        /// Which.
        #[schema(value_type = String)]
        template: TemplateName,
    },
    /// Some of what the configuration asks for was not in the plan that was applied.
    Unreviewed {
        /// How many actions.
        actions: u32,
    },
    /// A personal desktop is not what its template says: only a person regrows it.
    Outdated {
        /// In what.
        paths: Vec<String>,
    },
    /// A desktop of a pool that is no longer personal is kept as one.
    KeptPersonal,
    /// A personal desktop's disk is beyond its limit.
    OverLimit {
        /// Which.
        #[schema(value_type = Option<u64>)]
        limit: Option<Size>,
    },
    /// A personal desktop runs with older hardware than it is defined with.
    PendingBoot,
    /// The load of servers differs by so much that moving desktops is worth it.
    Uneven {
        /// The server that carries the most of it.
        from: String,
        /// One that could take some.
        to: String,
    },
    /// The loss of so many servers as the grid is to tolerate is not carried by the others.
    LossNotCarried {
        /// How many are to be tolerated.
        tolerate: u8,
        /// How many are; `None`: not even all of the servers carry everything.
        carries: Option<u8>,
        /// What has no place.
        short: Shortfall,
    },
    /// A desktop is broken.
    Broken {
        /// How, in words.
        why: String,
    },
    /// A server is lost.
    ServerLost {
        /// Since when.
        #[schema(value_type = u64)]
        since: Timestamp,
        /// Pooled desktops there: others are grown in their place.
        pooled: u32,
        /// Personal ones: they wait for it.
        personal: u32,
        /// Personal ones that go on from copies.
        #[serde(default)]
        copied: u32,
        /// Of both, those in which people were when it was last heard.
        used: u32,
    },
    /// A server that was lost is back, and what is too much there is being put away.
    ServerBack {
        /// Since when.
        #[schema(value_type = u64)]
        since: Timestamp,
        /// Desktops there.
        desktops: u32,
        /// Those in which people are.
        used: u32,
    },
    /// A server is being emptied.
    Draining {
        /// Pooled desktops left.
        pooled: u32,
        /// Those of them in which people are, or may be.
        used: u32,
        /// Personal ones left.
        personal: u32,
        /// Why it does not go on by itself, in words; `None`: it does.
        stuck: Option<String>,
    },
    /// A server was emptied.
    Drained,
    /// A server's clock is wrong, beside the others'.
    ClockWrong {
        /// Where it is.
        #[schema(value_type = String)]
        skew: Skew,
    },
    /// A personal desktop's server is lost.
    AwaitsServer {
        /// Which.
        server: String,
        /// Since when.
        #[schema(value_type = u64)]
        since: Timestamp,
        /// When the newest copy of it was taken, if there is one.
        #[schema(value_type = Option<u64>)]
        copy: Option<Timestamp>,
    },
    /// A personal desktop went on from a copy, and a server that came back has what it was before.
    Superseded {
        /// That life of it.
        member: String,
        /// The server.
        server: String,
    },
    /// Fewer servers can hold a copy of a personal desktop than there are to be copies.
    TooFewHolders {
        /// How many there are to be.
        copies: u32,
        /// How many servers can hold one.
        servers: u32,
    },
    /// Personal desktops with copies run on a server whose watchdog does not hold them, while others' do: when the server is
    /// lost, nobody can know whether they still run.
    Unguarded {
        /// How many.
        desktops: u32,
    },
    /// A copy of a personal desktop is older than its pool allows, or was never made.
    CopyOld {
        /// When it was taken.
        #[schema(value_type = Option<u64>)]
        taken: Option<Timestamp>,
        /// How old it may become.
        #[schema(value_type = u64)]
        max_age: Span,
    },
    /// A desktop was on its way to a server without which the grid went on.
    Halfway {
        /// Where it came from.
        from: String,
        /// Where it was going.
        to: String,
    },
    /// A desktop was to leave a server that is being emptied, and runs on there.
    Stays {
        /// Where it is.
        server: String,
        /// Where it was to go; `None`: no server takes it.
        to: Option<String>,
        /// Why it did not get there, or what the others lack; in words.
        why: String,
        /// How often in a row it did not get there.
        attempts: u32,
    },
}

impl Finding {
    /// What the grid remembers a finding by: its object and its kind, without figures that change by themselves.
    #[must_use]
    pub fn key(&self) -> String {
        let kind = match serde_json::to_value(&self.kind) {
            Ok(serde_json::Value::String(word)) => word,
            Ok(serde_json::Value::Object(fields)) => {
                fields.keys().next().cloned().unwrap_or_default()
            }
            Ok(_) | Err(_) => String::new(),
        };
        format!("finding {} {kind}", self.object)
    }
}
