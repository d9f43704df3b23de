//! What openraft is told about us.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coppice_state::{Entry, Envelope, Outcome};
use openraft::impls::leader_id_std::LeaderId;
use openraft::impls::{BasicNode, Vote};
use openraft::vote::RaftLeaderId;
use openraft::{Config, ConfigError, EntryPayload, RaftTypeConfig, SnapshotPolicy};
use serde::{Deserialize, Serialize};

/// An [`Envelope`] as openraft carries it. The same bytes; only its one-line form for logs is added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Envelope);

impl fmt::Display for Proposal {
    /// The entry's kind: never its content, which may be a secret's ciphertext or a whole configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0.entry {
            Entry::Founded { .. } => "founded",
            Entry::Recovered(_) => "recovered",
            Entry::Tick => "tick",
            Entry::Committed(_) => "committed",
            Entry::Reported(_) => "reported",
            Entry::Confirmed { .. } => "confirmed",
            Entry::Planned { .. } => "planned",
            Entry::Receipt { .. } => "receipt",
            Entry::Withdrawn { .. } => "withdrawn",
            Entry::ImageImported { .. } => "image imported",
            Entry::ImageRemoved { .. } => "image removed",
            Entry::ServerDescribed { .. } => "server described",
            Entry::ServerSet { .. } => "server set",
            Entry::ServerDrained { .. } => "server drained",
            Entry::ServerLost { .. } => "server lost",
            Entry::ServerClock { .. } => "server's clock",
            Entry::ServerLease { .. } => "server's lease",
            Entry::ServerFenced { .. } => "server fenced",
            Entry::ServerRestored { .. } => "server restored",
            Entry::JoinTokenCreated { .. } => "join token created",
            Entry::ServerJoined(_) => "server joined",
            Entry::ServerRests { .. } => "server rests",
            Entry::FeatureRaised { .. } => "feature level raised",
            Entry::ServerRemoved { .. } => "server removed",
            Entry::TokenCreated { .. } => "token created",
            Entry::TokenRevoked { .. } => "token revoked",
            Entry::AuthorityBegun { .. } => "authority begun",
            Entry::AuthorityFollowed { .. } => "authority followed",
            Entry::AuthorityDropped { .. } => "authority dropped",
            Entry::SecretSet { .. } => "secret set",
            Entry::SecretRemoved { .. } => "secret removed",
            Entry::Paused { .. } => "paused",
            Entry::Resumed { .. } => "resumed",
            Entry::Requested { .. } => "requested",
            Entry::Rebalanced { .. } => "rebalanced",
        })
    }
}

/// Who leads, as votes say it. Terms have one leader each, as in Raft's paper: the state and its readers know a
/// leadership by its term alone ([`Confirmed`](Entry::Confirmed), stamps), so two leaders of one term, which
/// openraft's other mode allows, would be taken for one.
pub type Leader = LeaderId<u64, u64>;
/// Who led, as entries say it.
pub type Led = <Leader as RaftLeaderId>::Committed;
/// Where an entry is.
pub type LogId = openraft::LogId<Led>;
/// What an entry holds.
pub type Payload = EntryPayload<Proposal, u64, BasicNode>;
/// An entry of the log.
pub type LogEntry = openraft::Entry<Led, Payload>;
/// Who votes and who learns, and since which entry.
pub type Membership = openraft::StoredMembership<Led, u64, BasicNode>;
/// Which entries a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<Led, u64, BasicNode>;

/// Everything of openraft's types but the runtime: the rest of this crate is generic over it, so that the same
/// code runs on tokio and in a simulation.
pub trait GridTypes:
    RaftTypeConfig<
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = Leader,
        Vote = Vote<Leader>,
        Payload = Payload,
        Entry = LogEntry,
    >
{
}

impl<C> GridTypes for C where
    C: RaftTypeConfig<
            D = Proposal,
            R = Outcome,
            NodeId = u64,
            Node = BasicNode,
            Term = u64,
            LeaderId = Leader,
            Vote = Vote<Leader>,
            Payload = Payload,
            Entry = LogEntry,
        >
{
}

openraft::declare_raft_types!(
    /// The real world: tokio.
    pub Real:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        LeaderId = Leader,
);

/// Entries between two snapshots.
pub const SNAPSHOT_EVERY: u64 = 10_000;

/// Entries kept although a snapshot covers them. More than [`SNAPSHOT_EVERY`], so that the log still reaches back
/// to the snapshot before the newest: should the newest be damaged, that one and the log give the same state.
pub const KEEP_BEHIND_SNAPSHOT: u64 = 15_000;

/// Between two signs of life of a leader.
pub const HEARTBEAT: Duration = Duration::from_millis(coppice_state::agreement::HEARTBEAT.0);

/// The longest that a voter waits for a leader's sign of life before it stands for election itself.
pub const LONGEST_ELECTION: Duration = Duration::from_millis(1_250);

/// How agreement is reached: the settings that were measured to fail over in about two seconds on an overloaded
/// machine, and those whose defaults lost data in simulation.
///
/// # Errors
/// Never with the values below; a test says so.
pub fn settings() -> Result<Arc<Config>, ConfigError> {
    let config = Config {
        cluster_name: "coppice".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: 750,
        election_timeout_max: millis(LONGEST_ELECTION),
        enable_pre_vote: Some(true),
        // A leader that a one-way partition cut off must fall silent, or its heartbeats hold back the majority
        // for good. At least twice the longest election timeout.
        quorum_loss_probe_interval: Some(2_500),
        // A leader that restarts must stand for election again. Coming back as leader of its old term, it may
        // write another entry at an index that a follower already has.
        enable_leader_restore: Some(false),
        install_snapshot_timeout: 30_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_BEHIND_SNAPSHOT,
        replication_lag_threshold: KEEP_BEHIND_SNAPSHOT + SNAPSHOT_EVERY,
        max_payload_entries: 1_000,
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
