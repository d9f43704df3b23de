//! One call of a port: waiting, faults and death around what the machine does.

use std::future::pending;

use coppice_schema::units::{Span, Timestamp};
use uuid::Uuid;

use super::SimServer;
use super::fault::{Fate, Fault, Operation};
use super::machine::Machine;
use crate::disks::DiskError;
use crate::hypervisor::HypervisorError;
use crate::replicas::ReplicaError;

/// Errors that any call may end with.
pub(super) trait Trouble: Send + 'static {
    fn away(operation: Operation) -> Self;
    fn stuck(operation: Operation, object: &str) -> Self;
    fn refused(operation: Operation, object: &str) -> Self;
}

impl Trouble for HypervisorError {
    fn away(_: Operation) -> Self {
        Self::Away {
            uri: "sim://".to_owned(),
            cause: "connection refused".to_owned(),
        }
    }

    fn stuck(operation: Operation, object: &str) -> Self {
        Self::Stuck {
            what: operation.verb(),
            domain: object.to_owned(),
            limit: operation.limit(),
        }
    }

    fn refused(operation: Operation, object: &str) -> Self {
        Self::Refused {
            what: operation.verb(),
            domain: object.to_owned(),
            cause: "the simulation says so".to_owned(),
        }
    }
}

impl Trouble for DiskError {
    fn away(operation: Operation) -> Self {
        Self::Io {
            what: operation.verb().to_owned(),
            cause: "input/output error".to_owned(),
        }
    }

    fn stuck(operation: Operation, object: &str) -> Self {
        Self::Io {
            what: format!("{} of {object}", operation.verb()),
            cause: "timed out".to_owned(),
        }
    }

    fn refused(operation: Operation, object: &str) -> Self {
        Self::Io {
            what: format!("{} of {object}", operation.verb()),
            cause: "the simulation says so".to_owned(),
        }
    }
}

impl Trouble for ReplicaError {
    fn away(operation: Operation) -> Self {
        if operation.is_of_hypervisor() {
            HypervisorError::away(operation).into()
        } else {
            DiskError::away(operation).into()
        }
    }

    fn stuck(operation: Operation, object: &str) -> Self {
        if operation.is_of_hypervisor() {
            HypervisorError::stuck(operation, object).into()
        } else {
            DiskError::stuck(operation, object).into()
        }
    }

    fn refused(operation: Operation, object: &str) -> Self {
        if operation.is_of_hypervisor() {
            HypervisorError::refused(operation, object).into()
        } else {
            DiskError::refused(operation, object).into()
        }
    }
}

impl SimServer {
    /// Carries one call out. `domain` is the one it changes.
    pub(super) async fn call<T, E, F>(
        &self,
        operation: Operation,
        object: String,
        domain: Option<Uuid>,
        act: F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Trouble,
        F: FnOnce(&mut Machine, Timestamp) -> Result<T, E> + Send + 'static,
    {
        let fate = self.faults().begin();
        if fate == Fate::DiesBefore {
            return pending().await;
        }
        if let Some(uuid) = domain {
            self.wait_turn::<E>(uuid, operation, &object).await?;
        }
        let (away, fault) = {
            let now = self.clock.now();
            let mut faults = self.faults();
            let fault = faults.draw(operation, now);
            let away = faults.away_until.is_some_and(|until| until > now);
            (away && operation.is_of_hypervisor(), fault)
        };
        if away {
            return Err(E::away(operation));
        }
        let limit = operation.limit();
        match fault {
            None => self.perform(fate, act).await,
            Some(Fault::Away) => Err(E::away(operation)),
            Some(Fault::Refused) => Err(E::refused(operation, &object)),
            Some(Fault::Lost) => {
                let _ = self.perform(fate, act).await;
                Err(E::away(operation))
            }
            Some(Fault::Slow(span)) => {
                self.occupy(domain, span);
                self.clock.sleep(span.min(limit)).await;
                if span >= limit {
                    return Err(E::stuck(operation, &object));
                }
                self.perform(fate, act).await
            }
            Some(Fault::Stuck { done }) => {
                self.occupy(domain, limit);
                if done {
                    let _ = self.perform(fate, act).await;
                }
                self.clock.sleep(limit).await;
                Err(E::stuck(operation, &object))
            }
            Some(Fault::Late(more)) => {
                let span = Span(limit.0.saturating_add(more.0));
                self.occupy(domain, span);
                let at = self.clock.now().after(span);
                let effect = move |machine: &mut Machine, at| {
                    // What others did since it was asked, nobody could have known: that is no misuse.
                    let misuse = machine.misuse.len();
                    let _ = act(machine, at);
                    machine.misuse.truncate(misuse);
                };
                self.machine().late.push((at, Box::new(effect)));
                self.clock.sleep(limit).await;
                Err(E::stuck(operation, &object))
            }
        }
    }

    /// Lets the machine do it, if the daemon still lives to ask for it.
    async fn perform<T, E>(
        &self,
        fate: Fate,
        act: impl FnOnce(&mut Machine, Timestamp) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.faults().is_dead() {
            return pending().await;
        }
        let result = {
            let now = self.clock.now();
            let mut machine = self.settled();
            let before = machine.journal.len();
            let result = act(&mut machine, now);
            // What was started too late has ended before anybody sees it run.
            machine.settle(now, self.clock.passed());
            if machine.journal.len() > before {
                machine.wake();
            }
            result
        };
        if fate == Fate::DiesAfter {
            self.faults().die(fate);
            return pending().await;
        }
        result
    }

    /// Waits until no other changing call of the domain is under way, at most until its own deadline.
    async fn wait_turn<E: Trouble>(
        &self,
        uuid: Uuid,
        operation: Operation,
        object: &str,
    ) -> Result<(), E> {
        let deadline = self.clock.now().after(operation.limit());
        loop {
            let now = self.clock.now();
            let Some(until) = self.settled().busy.get(&uuid).copied() else {
                return Ok(());
            };
            if now >= deadline {
                return Err(E::stuck(operation, object));
            }
            self.clock.sleep(until.min(deadline).since(now)).await;
        }
    }

    fn occupy(&self, domain: Option<Uuid>, span: Span) {
        if let Some(uuid) = domain {
            let until = self.clock.now().after(span);
            self.machine().busy.insert(uuid, until);
        }
    }
}
