//! The watchdog of a simulated server: it is there as long as the power is, whoever uses it.

use std::future::pending;
use std::sync::Arc;

use coppice_schema::units::Span;
use futures::future::BoxFuture;

use super::SimServer;
use crate::watchdog::{Guard, Watchdog, WatchdogError};

/// The simulated twin of the process that ends desktops. It is part of the machine: it goes on while the daemon is dead.
#[derive(Clone)]
pub struct SimWatchdog(Arc<SimServer>);

impl SimServer {
    /// Its watchdog.
    #[must_use]
    pub fn watchdog(self: &Arc<Self>) -> Arc<SimWatchdog> {
        Arc::new(SimWatchdog(Arc::clone(self)))
    }

    /// What its watchdog holds.
    #[must_use]
    pub fn guarding(&self) -> Guard {
        self.settled().guard.clone()
    }

    /// Its watchdog is killed, and cannot be started again until this is told `None`.
    pub fn break_watchdog(&self, why: Option<WatchdogError>) {
        let mut machine = self.settled();
        if why.is_some() {
            machine.guard = Guard::default();
        }
        machine.no_watchdog = why;
    }
}

impl SimWatchdog {
    /// A daemon that is dead asks nothing.
    async fn alive(&self) {
        if self.0.faults().is_dead() {
            pending().await
        }
    }
}

impl Watchdog for SimWatchdog {
    fn passed(&self) -> Span {
        self.0.clock.passed()
    }

    fn guard(&self, guard: Guard) -> BoxFuture<'_, Result<(), WatchdogError>> {
        Box::pin(async move {
            self.alive().await;
            let mut machine = self.0.settled();
            if let Some(error) = &machine.no_watchdog {
                return Err(error.clone());
            }
            machine.guard = guard;
            drop(machine);
            // What is overdue already ends now.
            drop(self.0.settled());
            Ok(())
        })
    }

    fn guarding(&self) -> BoxFuture<'_, Result<Guard, WatchdogError>> {
        Box::pin(async move {
            self.alive().await;
            let machine = self.0.settled();
            match &machine.no_watchdog {
                Some(error) => Err(error.clone()),
                None => Ok(machine.guard.clone()),
            }
        })
    }
}
