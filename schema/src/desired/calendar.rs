//! Repeated times.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::units::Span;

/// A time at which something may, or may not, be done: repeated clock times or cron with a length.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Window {
    /// When it is open.
    pub opening: Opening,
    /// Within it disruptive work is refused.
    pub deny: bool,
}

/// When a window is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opening {
    /// On each of `days` from `from` until `to`, over midnight when `to` is not later.
    Weekly(Weekly),
    /// At each time of `cron`, for `duration`.
    Cron {
        /// The times.
        cron: Cron,
        /// How long it stays open.
        duration: Span,
    },
}

/// Clock times on some days of each week, in the grid's time zone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Weekly {
    /// On which days it begins.
    pub days: Days,
    /// Begin, minutes after midnight, 0 to 1439.
    pub from: ClockTime,
    /// End; not later than `from`: on the next day.
    pub to: ClockTime,
}

/// A time of day: minutes after midnight, 0 to 1439; written "07:30".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockTime(pub u16);

/// Days of a week; bit 0 is Monday. Never empty once resolved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Days(pub u8);

/// A cron expression of five fields, expanded to what matches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cron {
    /// The text as written.
    pub text: String,
    /// Minutes 0 to 59.
    pub minutes: BTreeSet<u8>,
    /// Hours 0 to 23.
    pub hours: BTreeSet<u8>,
    /// Days of the month 1 to 31.
    pub days: BTreeSet<u8>,
    /// Months 1 to 12.
    pub months: BTreeSet<u8>,
    /// Days of the week, 0 is Monday.
    pub weekdays: BTreeSet<u8>,
    /// Both day fields were restricted: a day matches when either does, as in Vixie cron.
    pub either_day: bool,
}

/// A repeated moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// On each of these days at that time.
    Weekly {
        /// The days.
        days: Days,
        /// The time.
        at: ClockTime,
    },
    /// At each time of a cron expression.
    Cron(Cron),
}
