//! Pools of desktops.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::people::Entitlement;
use super::policy::Policy;
use crate::ids::{PolicyName, PoolName, Slot, TemplateName, WindowName};
use crate::units::Span;

/// A pool of desktops.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// What its desktops are.
    pub template: TemplateName,
    /// How many.
    pub desktops: u32,
    /// How many places; by default the desktops and the most that one server carries.
    pub slots: Option<u32>,
    /// Host name with `{pool}` and `{slot}`.
    pub hostname: HostnamePattern,
    /// Who gets which.
    pub assignment: Assignment,
    /// The policies it lists, in order.
    pub policies: Vec<PolicyName>,
    /// Those policies merged; defaults where none says anything.
    pub policy: Policy,
    /// Who may.
    pub entitled: Vec<Entitlement>,
    /// When they may.
    pub hours: Option<WindowName>,
    /// Labels that a server must have.
    pub servers: BTreeSet<String>,
    /// Copies of personal desktops on other servers.
    pub copies: u32,
    /// How old such a copy may become.
    pub max_copy_age: Option<Span>,
    /// Reservations.
    pub bookings: BTreeMap<String, Booking>,
    /// No plan may destroy it, or most of it, without approval.
    pub protect: bool,
}

/// A pattern of host names: text with `{pool}`, `{slot}` or `{slot:0N}` (N digits, zeros in front).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostnamePattern(pub String);

/// Who gets which desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assignment {
    /// Any, and it is regrown after.
    Pooled,
    /// Always the same, and it is kept.
    Personal,
    /// By the client's place.
    Client,
}

/// A reservation of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Booking {
    /// Begin, "2026-11-23 08:00" in the grid's time zone.
    pub from: String,
    /// End, likewise.
    pub to: String,
    /// What the desktops are then.
    pub template: Option<TemplateName>,
    /// Who may then.
    pub entitled: Vec<Entitlement>,
}

impl HostnamePattern {
    /// The host name of one desktop. Text that is no known place-holder stays as it is; `resolve` has refused it
    /// before.
    #[must_use]
    pub fn fill(&self, pool: &PoolName, slot: Slot) -> String {
        let mut filled = String::with_capacity(self.0.len() + 8);
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find('{') {
            filled.push_str(&rest[..open]);
            let Some(length) = rest[open..].find('}') else {
                break;
            };
            match &rest[open + 1..open + length] {
                "pool" => filled.push_str(pool.as_str()),
                "slot" => filled.push_str(&slot.0.to_string()),
                other => match other
                    .strip_prefix("slot:0")
                    .and_then(|n| n.parse::<usize>().ok())
                {
                    Some(width) => {
                        filled.push_str(&format!("{:0width$}", slot.0, width = width.min(10)))
                    }
                    None => filled.push_str(&rest[open..=open + length]),
                },
            }
            rest = &rest[open + length + 1..];
        }
        filled.push_str(rest);
        filled
    }
}
