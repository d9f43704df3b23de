//! Clock times, days, cron expressions and moments.

use std::collections::BTreeSet;

use crate::desired::{ClockTime, Cron, Days, Weekly};
use crate::quantity::Expected;

pub(crate) const CLOCK: Expected = "a time of day such as \"07:30\", from \"00:00\" to \"23:59\"";
pub(crate) const DAYS: Expected = "days such as \"mon-fri\", \"sat,sun\" or \"daily\"";
pub(crate) const CRON: Expected = "five fields: minute (0-59), hour (0-23), day (1-31), month (1-12 or jan-dec), weekday (0-7 or sun-sat), such as \"0 3 * * sun\"";
pub(crate) const MOMENT: Expected = "a moment such as \"2026-11-23 08:00\"";

/// Minutes of a day.
const DAY: u32 = 1_440;
/// Minutes of a week.
const WEEK: u32 = 7 * DAY;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

/// "07:30".
pub(crate) fn clock(text: &str) -> Result<ClockTime, Expected> {
    let (hours, minutes) = text.split_once(':').ok_or(CLOCK)?;
    let two = |part: &str| {
        let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| plain).ok_or(CLOCK)
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    if hours < 24 && minutes < 60 {
        Ok(ClockTime(hours * 60 + minutes))
    } else {
        Err(CLOCK)
    }
}

/// "mon-fri", "sat,sun", "fri-mon", "daily".
pub(crate) fn days(text: &str) -> Result<Days, Expected> {
    if text == "daily" {
        return Ok(Days(0x7f));
    }
    let number = |word: &str| WEEKDAYS.iter().position(|day| *day == word).ok_or(DAYS);
    let mut set = 0u8;
    for part in text.split(',') {
        let part = part.trim();
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (mut day, to) = (number(from.trim())?, number(to.trim())?);
        loop {
            set |= 1 << day;
            if day == to {
                break;
            }
            day = (day + 1) % 7;
        }
    }
    Ok(Days(set))
}

/// One field of a cron expression.
fn field(text: &str, low: u8, high: u8, names: &[&str], first: u8) -> Option<BTreeSet<u8>> {
    let number = |word: &str| {
        let word = word.to_ascii_lowercase();
        let named = names
            .iter()
            .position(|name| *name == word)
            .and_then(|i| u8::try_from(i).ok());
        named
            .map(|i| i + first)
            .or_else(|| word.parse().ok())
            .filter(|n| (low..=high).contains(n))
    };
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u8>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = if range == "*" {
            (low, high)
        } else if let Some((from, to)) = range.split_once('-') {
            (number(from)?, number(to)?)
        } else {
            let from = number(range)?;
            (from, if part.contains('/') { high } else { from })
        };
        if from > to {
            return None;
        }
        set.extend((from..=to).step_by(usize::from(step)));
    }
    Some(set)
}

/// Five fields; a day matches when either day field does, if both are restricted, as in Vixie cron (crontab(5)).
pub(crate) fn cron(text: &str) -> Result<Cron, Expected> {
    if text.len() > 200 {
        return Err(CRON);
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
        return Err(CRON);
    };
    // Cron counts from Sunday, 0 and 7 alike; we count from Monday.
    let sunday_first = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let weekday_set = field(weekdays, 0, 7, &sunday_first, 0).ok_or(CRON)?;
    Ok(Cron {
        text: text.to_owned(),
        minutes: field(minutes, 0, 59, &[], 0).ok_or(CRON)?,
        hours: field(hours, 0, 23, &[], 0).ok_or(CRON)?,
        days: field(days, 1, 31, &[], 0).ok_or(CRON)?,
        months: field(months, 1, 12, &MONTHS, 1).ok_or(CRON)?,
        weekdays: weekday_set.into_iter().map(|day| (day + 6) % 7).collect(),
        either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
    })
}

/// Whether any day ever matches: "0 0 30 2 *" has none.
pub(crate) fn ever(cron: &Cron) -> bool {
    let longest = |month: u8| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let some_day = |month: &u8| cron.days.first().is_some_and(|day| *day <= longest(*month));
    cron.either_day || cron.months.iter().any(some_day)
}

/// "2026-11-23 08:00".
pub(crate) fn moment(text: &str) -> Result<jiff::civil::DateTime, Expected> {
    let shaped = text.len() == 16 && text.as_bytes().get(10) == Some(&b' ');
    let read = || jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M", text).ok();
    if shaped {
        read().ok_or(MOMENT)
    } else {
        Err(MOMENT)
    }
}

/// Whether `name` is a time zone of the bundled database.
pub(crate) fn is_timezone(name: &str) -> bool {
    jiff::tz::TimeZoneDatabase::bundled().get(name).is_ok()
}

/// Whether two of these hours share a minute of some week.
pub(crate) fn overlap(one: &Weekly, other: &Weekly) -> bool {
    let stretches = |weekly: &Weekly| {
        let (from, to) = (u32::from(weekly.from.0), u32::from(weekly.to.0));
        let length = if to > from {
            to - from
        } else {
            DAY - from + to
        };
        let days = (0..7u32).filter(|day| weekly.days.0 & (1 << day) != 0);
        days.map(|day| (day * DAY + from, length))
            .collect::<Vec<_>>()
    };
    let others = stretches(other);
    stretches(one).into_iter().any(|(start, length)| {
        others.iter().any(|(begin, long)| {
            (begin + WEEK - start) % WEEK < length || (start + WEEK - begin) % WEEK < *long
        })
    })
}
