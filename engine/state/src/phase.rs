//! From what a server reported to the phase of a desktop.
//!
//! The state diagram. An open order to create, start or restart keeps a desktop in `Provisioning` until the guest
//! is ready; everything else follows from what was seen.
//!
//! ```text
//!              order            guest ready                    people signed in
//!   (no entry) ─────▶ Provisioning ─────▶ Available ⇄ InUse
//!                        ▲   │ too late      │  │ switched off ─▶ Off
//!             restarted, │   ▼               │  ▼
//!             or silent  └─ Broken ◀─────────┘  Deleting ─▶ (no entry)
//! ```
//!
//! One that runs may also be `Migrating`, which orders and receipts alone move on: `apply/moves.rs` draws that.

use coppice_schema::known::{
    BrokenReason, GuestState, KnownDesktop, Order, Phase, PowerState, Seen, SeenDomain,
    SeenOverlay, Task,
};
use coppice_schema::units::{Span, Timestamp};

/// How long a guest may take from power-on to its first answer before it counts as broken. Measured: 3 to 65 s for
/// an emulated guest on a loaded two-core machine; Windows takes 2 to 3 minutes on hardware.
pub(crate) const BOOT_PATIENCE: Span = Span::minutes(10);

/// What was seen of a desktop, and what is under way for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) seen: Option<&'a Seen>,
    pub(crate) order: Option<&'a Order>,
    /// For guests without the agent: ready that long after power-on.
    pub(crate) ready_after: Span,
    pub(crate) now: Timestamp,
}

/// The phase of `desktop`, which is neither leaving nor on a lost server.
pub(crate) fn derive(desktop: &KnownDesktop, evidence: Evidence<'_>) -> Phase {
    let now = evidence.now;
    let task = evidence.order.map(|order| &order.task);
    if matches!(
        task,
        Some(Task::Create { .. } | Task::Restore { .. } | Task::Remove { .. })
    ) {
        return provisioning(desktop, now);
    }
    let nothing = Seen::default();
    let Seen { domain, overlay } = evidence.seen.unwrap_or(&nothing);
    match (overlay, domain) {
        (None, _) => broken(desktop, BrokenReason::OverlayMissing, now),
        (Some(SeenOverlay { sound: false, .. }), _) => {
            broken(desktop, BrokenReason::OverlayBad, now)
        }
        (Some(_), None) => broken(desktop, BrokenReason::DomainMissing, now),
        (Some(_), Some(domain)) => {
            let starting = matches!(task, Some(Task::Start { .. } | Task::Restart { .. }));
            of_domain(desktop, domain, starting, &evidence)
        }
    }
}

fn of_domain(
    desktop: &KnownDesktop,
    domain: &SeenDomain,
    starting: bool,
    evidence: &Evidence<'_>,
) -> Phase {
    let now = evidence.now;
    let viewers = domain.viewers.unwrap_or(0);
    match &domain.power {
        PowerState::Off | PowerState::Crashed if starting => provisioning(desktop, now),
        PowerState::Off => off(desktop, now),
        PowerState::Crashed => broken(desktop, BrokenReason::Crashed, now),
        PowerState::Paused(why) => broken(desktop, BrokenReason::Paused(why.clone()), now),
        PowerState::Running { since } => match &domain.guest {
            GuestState::Answers { users, .. } => match users {
                Some(users) => up(desktop, *users, viewers, now),
                // A guest that does not tell this time still has the people that it had.
                None if desktop.wear.occupied => up(desktop, desktop.people().max(1), viewers, now),
                None => up(desktop, 0, viewers, now),
            },
            GuestState::Silent if !desktop.spec.hardware.agent => {
                if now >= since.after(evidence.ready_after) {
                    up(desktop, 0, viewers, now)
                } else {
                    Phase::Provisioning { since: *since }
                }
            }
            GuestState::Silent => {
                let waiting = provisioning(desktop, now);
                // The clock starts with the guest's power, not with the order: a queue of boots is not its fault.
                let from = waiting.since().max(*since);
                if now >= from.after(BOOT_PATIENCE) {
                    broken(desktop, BrokenReason::NotReady, now)
                } else if matches!(
                    desktop.phase,
                    Phase::Broken {
                        reason: BrokenReason::NotReady,
                        ..
                    }
                ) && !starting
                {
                    desktop.phase.clone()
                } else {
                    waiting
                }
            }
        },
    }
}

/// When time alone may change the phase of `desktop`.
pub(crate) fn deadline(desktop: &KnownDesktop, evidence: Evidence<'_>) -> Option<Timestamp> {
    let domain = evidence.seen?.domain.as_ref()?;
    let PowerState::Running { since } = &domain.power else {
        return None;
    };
    let Phase::Provisioning { since: waiting } = &desktop.phase else {
        return None;
    };
    Some(if desktop.spec.hardware.agent {
        (*waiting).max(*since).after(BOOT_PATIENCE)
    } else {
        since.after(evidence.ready_after)
    })
}

fn provisioning(desktop: &KnownDesktop, now: Timestamp) -> Phase {
    let since = if let Phase::Provisioning { since } = desktop.phase {
        since
    } else {
        now
    };
    Phase::Provisioning { since }
}

fn available(desktop: &KnownDesktop, now: Timestamp) -> Phase {
    let since = if let Phase::Available { since } = desktop.phase {
        since
    } else {
        now
    };
    Phase::Available { since }
}

fn off(desktop: &KnownDesktop, now: Timestamp) -> Phase {
    let since = if let Phase::Off { since } = desktop.phase {
        since
    } else {
        now
    };
    Phase::Off { since }
}

/// Ready, and used by so many.
fn up(desktop: &KnownDesktop, users: u32, viewers: u32, now: Timestamp) -> Phase {
    if users == 0 && viewers == 0 {
        return available(desktop, now);
    }
    let since = if let Phase::InUse { since, .. } = desktop.phase {
        since
    } else {
        now
    };
    Phase::InUse {
        since,
        users,
        viewers,
    }
}

fn broken(desktop: &KnownDesktop, reason: BrokenReason, now: Timestamp) -> Phase {
    let since = match &desktop.phase {
        Phase::Broken {
            since,
            reason: before,
        } if *before == reason => *since,
        Phase::Provisioning { .. }
        | Phase::Available { .. }
        | Phase::Off { .. }
        | Phase::InUse { .. }
        | Phase::Broken { .. }
        | Phase::Unknown { .. }
        | Phase::Migrating { .. }
        | Phase::Deleting { .. } => now,
    };
    Phase::Broken { since, reason }
}
