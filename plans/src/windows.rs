//! When a window is open, in the grid's time zone.

use coppice_schema::desired::{ClockTime, Cron, Desired, Opening, Recurrence, Weekly, Window};
use coppice_schema::units::{Span, Timestamp};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};

/// How far ahead the next opening is looked for. A cron line for 29 February comes round within eight years; a
/// plan that far ahead helps nobody, so a year is enough and "never" is the answer beyond.
const HORIZON_DAYS: i32 = 366;

/// Whether a window is open, and when that changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// Open until then.
    Open {
        /// When it closes.
        closes: Timestamp,
    },
    /// Closed until then; `None`: it does not open within a year.
    Closed {
        /// When it opens next.
        opens: Option<Timestamp>,
    },
}

/// The time zone of that name; UTC for one that the bundled database does not have. Validation has refused such a
/// name before.
#[must_use]
pub fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

/// Whether `window` is open at `now`.
#[must_use]
pub fn state(window: &Window, zone: &TimeZone, now: Timestamp) -> Now {
    match &window.opening {
        Opening::Weekly(weekly) => weekly_state(weekly, zone, now),
        Opening::Cron { cron, duration } => cron_state(cron, *duration, zone, now),
    }
}

/// Until when images are copied that is bound to a window; `None`: it is bound to none, or that is closed.
#[must_use]
pub fn images_until(desired: &Desired, now: Timestamp) -> Option<Timestamp> {
    let window = desired.windows.get(desired.grid.image_window.as_ref()?)?;
    match state(window, &zone(&desired.grid.timezone), now) {
        Now::Open { closes } => Some(closes),
        Now::Closed { .. } => None,
    }
}

/// Whether the hours of `weekly` run at `now`.
#[must_use]
pub fn weekly_state(weekly: &Weekly, zone: &TimeZone, now: Timestamp) -> Now {
    let Some(local) = zoned(zone, now) else {
        return Now::Closed { opens: None };
    };
    // A window over midnight that is open now began yesterday, so the search starts there.
    for ahead in -1..=8 {
        let Some((opens, closes)) = occurrence(weekly, zone, &local, ahead) else {
            continue;
        };
        if opens <= now && now < closes {
            return Now::Open { closes };
        }
        if opens > now {
            return Now::Closed { opens: Some(opens) };
        }
    }
    Now::Closed { opens: None }
}

fn occurrence(
    weekly: &Weekly,
    zone: &TimeZone,
    local: &Zoned,
    ahead: i32,
) -> Option<(Timestamp, Timestamp)> {
    let date = local.date().checked_add(ahead.days()).ok()?;
    let weekday = date.weekday().to_monday_zero_offset();
    if weekly.days.0 >> weekday & 1 == 0 {
        return None;
    }
    let end = if weekly.to > weekly.from {
        date
    } else {
        date.tomorrow().ok()?
    };
    Some((at(zone, date, weekly.from)?, at(zone, end, weekly.to)?))
}

fn cron_state(cron: &Cron, duration: Span, zone: &TimeZone, now: Timestamp) -> Now {
    let from = Timestamp(now.0.saturating_sub(duration.0));
    match next_of(cron, zone, from) {
        Some(opens) if opens <= now => Now::Open {
            closes: opens.after(duration),
        },
        opens => Now::Closed { opens },
    }
}

/// The last time at or before `now` at which `recurrence` fired, looking back a year.
#[must_use]
pub fn last_of(recurrence: &Recurrence, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let local = zoned(zone, now)?;
    (0..=HORIZON_DAYS).find_map(|back| {
        let date = local.date().checked_sub(back.days()).ok()?;
        times_on(recurrence, zone, date)
            .into_iter()
            .rev()
            .find(|at| *at <= now)
    })
}

/// The first time after `now` at which `recurrence` fires, within a year.
#[must_use]
pub fn next_after(recurrence: &Recurrence, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let local = zoned(zone, now)?;
    (0..=HORIZON_DAYS).find_map(|ahead| {
        let date = local.date().checked_add(ahead.days()).ok()?;
        times_on(recurrence, zone, date)
            .into_iter()
            .find(|at| *at > now)
    })
}

fn next_of(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    next_after(&Recurrence::Cron(cron.clone()), zone, after)
}

/// The times of one day, in order.
fn times_on(recurrence: &Recurrence, zone: &TimeZone, date: Date) -> Vec<Timestamp> {
    match recurrence {
        Recurrence::Weekly { days, at: time } => {
            let on = days.0 >> date.weekday().to_monday_zero_offset() & 1 == 1;
            if on {
                at(zone, date, *time).into_iter().collect()
            } else {
                Vec::new()
            }
        }
        Recurrence::Cron(cron) => {
            if !matches_day(cron, date) {
                return Vec::new();
            }
            let minutes = cron.hours.iter().flat_map(|hour| {
                cron.minutes
                    .iter()
                    .map(move |minute| ClockTime(u16::from(*hour) * 60 + u16::from(*minute)))
            });
            minutes.filter_map(|time| at(zone, date, time)).collect()
        }
    }
}

fn matches_day(cron: &Cron, date: Date) -> bool {
    let within = |set: &std::collections::BTreeSet<u8>, value: i8| {
        u8::try_from(value).is_ok_and(|v| set.contains(&v))
    };
    let day = within(&cron.days, date.day());
    let weekday = within(&cron.weekdays, date.weekday().to_monday_zero_offset());
    within(&cron.months, date.month())
        && if cron.either_day {
            day || weekday
        } else {
            day && weekday
        }
}

fn zoned(zone: &TimeZone, now: Timestamp) -> Option<Zoned> {
    let milliseconds = i64::try_from(now.0).ok()?;
    Some(
        jiff::Timestamp::from_millisecond(milliseconds)
            .ok()?
            .to_zoned(zone.clone()),
    )
}

/// A clock time on a day. One that daylight saving skips counts as the same distance after the gap; one that comes
/// twice as its first coming.
fn at(zone: &TimeZone, date: Date, time: ClockTime) -> Option<Timestamp> {
    let (hour, minute) = (
        i8::try_from(time.0 / 60).ok()?,
        i8::try_from(time.0 % 60).ok()?,
    );
    let moment = zone.to_zoned(date.at(hour, minute, 0, 0)).ok()?;
    Some(Timestamp(
        u64::try_from(moment.timestamp().as_millisecond()).ok()?,
    ))
}
