//! Rules for a pool's desktops.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::calendar::{Recurrence, Weekly};
use crate::ids::WindowName;
use crate::units::{Share, Span};

/// Rules for a pool's desktops. Attributes that were not set are `None`, so that several policies can be merged;
/// [`Pool::policy`](super::Pool::policy) is the merged one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// When desktops are regrown.
    pub refresh: Option<Refresh>,
    /// How a change reaches desktops; [`Rollout::default`] without.
    pub rollout: Rollout,
    /// How many are running; all without.
    pub power: Option<Power>,
    /// Limits of sessions.
    pub session: Option<SessionRules>,
    /// What passes between client and desktop.
    pub channels: Option<Channels>,
    /// What is done about changes made by others.
    pub drift: DriftRules,
}

/// When desktops are regrown. Any trigger fires.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// The end of a session.
    pub on: Option<RefreshOn>,
    /// That long after it was grown.
    pub every: Option<Span>,
    /// At repeated moments.
    pub at: Option<Recurrence>,
    /// Never older than that.
    pub max_age: Option<Span>,
    /// A used desktop is regrown anyway, that long after the trigger.
    pub deadline: Option<Span>,
    /// Its user is warned that long before.
    pub warn: Option<Span>,
}

/// Ends of a session that regrow a desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefreshOn {
    /// At log-off.
    Logoff,
    /// At disconnect.
    Disconnect,
    /// Never.
    Never,
}

/// How a change reaches the desktops of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// At most so many are taken away at once.
    pub max_unavailable: Share,
    /// So many may be made beyond the pool's size.
    pub max_surge: Share,
    /// So many first, and only when they are well the rest.
    pub canary: u32,
    /// How long a changed desktop must be well before the next.
    pub healthy_after: Span,
    /// After so many failures it stops.
    pub pause_after_failures: u32,
    /// When it stops, it goes back.
    pub rollback: bool,
    /// Only within that window.
    pub window: Option<WindowName>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            max_unavailable: Share::Percent(10),
            max_surge: Share::Count(0),
            canary: 0,
            healthy_after: Span(0),
            pause_after_failures: 1,
            rollback: true,
            window: None,
        }
    }
}

/// How many desktops are running. A pool without this keeps all of them on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Power {
    /// Booted, unassigned, refilled.
    pub spare: u32,
    /// At most so many run.
    pub powered_on_max: Option<u32>,
    /// Other figures at other times; they never overlap.
    pub schedules: BTreeMap<String, PowerSchedule>,
}

/// Figures for some hours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PowerSchedule {
    /// When.
    pub hours: Weekly,
    /// Then [`Power::spare`] is this.
    pub spare: u32,
    /// Then [`Power::powered_on_max`] is this.
    pub powered_on_max: Option<u32>,
}

/// Limits of sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRules {
    /// Disconnect after that long without input.
    pub idle_disconnect: Option<Span>,
    /// Log off after that long disconnected.
    pub disconnected_logoff: Option<Span>,
    /// Log off after that long.
    pub max_duration: Option<Span>,
    /// Warn that long before.
    pub warn: Option<Span>,
    /// Desktops of the pool that one person may have.
    pub per_user: u32,
}

impl Default for SessionRules {
    fn default() -> Self {
        Self {
            idle_disconnect: None,
            disconnected_logoff: None,
            max_duration: None,
            warn: None,
            per_user: 1,
        }
    }
}

/// What passes between client and desktop.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Channels {
    /// The clipboard.
    pub clipboard: Clipboard,
    /// USB devices, `VENDOR:PRODUCT`.
    pub usb: Vec<String>,
    /// Printers of the client.
    pub printers: bool,
    /// Drives of the client.
    pub drives: bool,
    /// Sound from the desktop.
    pub audio: bool,
    /// Sound to the desktop.
    pub microphone: bool,
    /// Smart cards.
    pub smartcards: bool,
}

/// Directions of the clipboard, seen from the desktop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clipboard {
    /// Neither.
    #[default]
    None,
    /// Into the desktop.
    In,
    /// Out of the desktop.
    Out,
    /// Both.
    Both,
}

/// What is done about changes made by others, by class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DriftRules {
    /// The hypervisor's object: identity and network are always enforced unless said here, the rest warns.
    pub domain: Option<DriftRule>,
    /// Overlays.
    pub disk: DriftRule,
    /// Images.
    pub image: DriftRule,
    /// Servers.
    pub server: DriftRule,
}

impl Default for DriftRules {
    fn default() -> Self {
        Self {
            domain: None,
            disk: DriftRule::Enforce,
            image: DriftRule::Enforce,
            server: DriftRule::Warn,
        }
    }
}

/// What is done about one change made by another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftRule {
    /// It is undone.
    Enforce,
    /// It is told.
    Warn,
    /// It is let be.
    Ignore,
}
