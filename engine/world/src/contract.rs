//! Contracts of the ports: what every adapter of a port must do, as checks that run against any of them.
//!
//! Tests hand an adapter over together with the means to disturb it; what an adapter cannot do is skipped, and
//! named, never passed over in silence.

use std::fmt;

pub mod hypervisor;
pub mod images;
pub mod moves;
pub mod replicas;
pub mod watchdog;

/// What became of a contract.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Checks that held.
    pub passed: Vec<&'static str>,
    /// Checks that could not be made, and why.
    pub skipped: Vec<(&'static str, String)>,
    /// Checks that did not hold, and why.
    pub failed: Vec<(&'static str, String)>,
}

/// Why a check did not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It did not hold.
    Failed(String),
    /// It could not be made.
    Skipped(String),
}

impl Report {
    /// Notes the outcome of one check.
    pub fn note(&mut self, name: &'static str, outcome: Result<(), Outcome>) {
        match outcome {
            Ok(()) => self.passed.push(name),
            Err(Outcome::Skipped(why)) => self.skipped.push((name, why)),
            Err(Outcome::Failed(why)) => self.failed.push((name, why)),
        }
    }

    /// Whether all checks that could be made held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Report {
    /// One line a check, the failures last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.passed {
            writeln!(f, "held     {name}")?;
        }
        for (name, why) in &self.skipped {
            writeln!(f, "skipped  {name}: {why}")?;
        }
        for (name, why) in &self.failed {
            writeln!(f, "BROKEN   {name}: {why}")?;
        }
        let counts = [self.passed.len(), self.skipped.len(), self.failed.len()];
        write!(
            f,
            "{} held, {} skipped, {} broken",
            counts[0], counts[1], counts[2]
        )
    }
}

/// Ends a check unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::contract::Outcome::Failed(format!($($why)+)));
        }
    };
}
use ensure;
