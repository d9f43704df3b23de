//! Desktops.

use std::fmt;

use coppice_schema::Digest;
use coppice_schema::ids::{DesktopId, Incarnation, PoolName, ServerName, Slot};
use coppice_schema::known::Phase;
use coppice_schema::units::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `GET desktops`: a desktop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Desktop {
    /// Its lasting name: `lab-007`.
    #[schema(value_type = String)]
    pub id: DesktopId,
    /// The guest's host name.
    pub name: String,
    /// Its pool.
    #[schema(value_type = String)]
    pub pool: PoolName,
    /// Its place in the pool, counted from 1.
    #[schema(value_type = u32)]
    pub slot: Slot,
    /// The server it is on.
    #[schema(value_type = String)]
    pub server: ServerName,
    /// How it stands.
    pub state: DesktopState,
    /// UUID of its domain.
    #[schema(value_type = String)]
    pub uuid: Uuid,
    /// The image version it is a clone of, `NAME@VERSION`; the root's digits where no version of the catalogue has it.
    pub image: String,
    /// Root of that image.
    #[schema(value_type = String)]
    pub root: Digest,
    /// Path of its overlay on its server; absent when it has none there, or when another server would have to say.
    pub overlay: Option<String>,
    /// Since when it has stood so.
    #[schema(value_type = u64)]
    pub since: Timestamp,
    /// Which life of it, counted from 1.
    #[schema(value_type = u64)]
    pub incarnation: Incarnation,
    /// What is wrong with it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many people are signed in, where it can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<u32>,
    /// Copies of it on other servers, for when its own is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<DesktopCopy>,
}

/// A copy of a personal desktop's disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DesktopCopy {
    /// The server that has it.
    #[schema(value_type = String)]
    pub server: ServerName,
    /// What it holds is what the disk held then.
    #[schema(value_type = u64)]
    pub taken: Timestamp,
}

/// How a desktop stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DesktopState {
    /// Ordered, and not yet ready.
    Provisioning,
    /// Ready for a person.
    Available,
    /// Whole, and switched off by policy.
    Off,
    /// Somebody is signed in.
    InUse,
    /// Something is wrong with it.
    Broken,
    /// Its server is lost.
    Unknown,
    /// On its way to another server, running.
    Migrating,
    /// Ordered away.
    Deleting,
}

impl From<&Phase> for DesktopState {
    fn from(phase: &Phase) -> Self {
        match phase {
            Phase::Provisioning { .. } => Self::Provisioning,
            Phase::Available { .. } => Self::Available,
            Phase::Off { .. } => Self::Off,
            Phase::InUse { .. } => Self::InUse,
            Phase::Broken { .. } => Self::Broken,
            Phase::Unknown { .. } => Self::Unknown,
            Phase::Migrating { .. } => Self::Migrating,
            Phase::Deleting { .. } => Self::Deleting,
        }
    }
}

impl fmt::Display for DesktopState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Provisioning => "provisioning",
            Self::Available => "available",
            Self::Off => "off",
            Self::InUse => "in_use",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
            Self::Migrating => "migrating",
            Self::Deleting => "deleting",
        })
    }
}

/// Query of `GET desktops/{id}/console`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DisplayChoice {
    /// VNC.
    #[default]
    Vnc,
    /// SPICE.
    Spice,
}
