//! The port to what ends desktops where this server may have been given up.
//!
//! A desktop of which there are copies is started elsewhere when its server is lost; then it must not run here any more,
//! whatever state this server's daemon is in. So a process of its own, which shares no fate with the daemon, ends such
//! desktops at a moment that the daemon moves on for as long as the grid says that this server is one of it.

mod linux;

use std::collections::BTreeSet;

use coppice_schema::units::Span;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::linux::{LinuxWatchdog, serve};

/// What ends desktops.
///
/// Guarantees of every adapter, kept by the contract suite:
/// - What [`guard`](Self::guard) was told is in force when it returns, and stays so when this process ends, is stopped
///   or hangs.
/// - When [`passed`](Self::passed) reaches `until`, every process of a guarded domain is killed, and whatever appears of
///   them after that is killed too, until `guard` names a later moment.
/// - What is not guarded is never touched.
pub trait Watchdog: Send + Sync {
    /// Time that passes, also while the machine sleeps, by which the moments below are counted.
    fn passed(&self) -> Span;

    /// Those domains, and no others, are ended at that moment. Nothing is where there is none to guard.
    fn guard(&self, guard: Guard) -> BoxFuture<'_, Result<(), WatchdogError>>;

    /// What is in force.
    fn guarding(&self) -> BoxFuture<'_, Result<Guard, WatchdogError>>;
}

/// Where nothing can be guarded.
#[derive(Debug)]
pub struct NoWatchdog {
    why: String,
}

impl NoWatchdog {
    /// None, because of that.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }
}

impl Watchdog for NoWatchdog {
    fn passed(&self) -> Span {
        linux::passed()
    }

    fn guard(&self, guard: Guard) -> BoxFuture<'_, Result<(), WatchdogError>> {
        let unable = WatchdogError::Unable(self.why.clone());
        let done = if guard.domains.is_empty() {
            Ok(())
        } else {
            Err(unable)
        };
        Box::pin(async move { done })
    }

    fn guarding(&self) -> BoxFuture<'_, Result<Guard, WatchdogError>> {
        Box::pin(async { Ok(Guard::default()) })
    }
}

/// What is guarded, and until when it may run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Guard {
    /// The domains.
    pub domains: BTreeSet<Uuid>,
    /// The moment, as [`Watchdog::passed`] counts.
    pub until: Span,
}

impl Guard {
    /// Whether a domain may run at the moment `passed`, and ends by itself afterwards.
    #[must_use]
    pub fn lets_run(&self, domain: Uuid, passed: Span) -> bool {
        self.domains.contains(&domain) && passed < self.until
    }
}

/// Why nothing is guarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchdogError {
    /// It does not answer.
    #[error("the watchdog does not answer: {0}")]
    Away(String),
    /// It cannot end what it is to guard.
    #[error("the watchdog cannot end desktops here: {0}")]
    Unable(String),
}
