//! Moments and lengths of time as people say them.

use coppice_schema::units::{Span, Timestamp};

/// Now, by this machine's clock. Only for saying how long ago something was, never for a decision of the grid.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `3 min ago`, `in 2 h`, `just now`.
pub(crate) fn relative(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        let ahead = at.since(now);
        return if ahead.0 < 1_000 {
            "just now".to_owned()
        } else {
            format!("in {}", length(ahead))
        };
    }
    let past = now.since(at);
    if past.0 < 2_000 {
        "just now".to_owned()
    } else {
        format!("{} ago", length(past))
    }
}

/// Rounded down to one unit: `40 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn length(span: Span) -> String {
    let seconds = span.0 / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A moment in full, to the second: `2026-11-22 20:02:46 UTC`.
pub(crate) fn absolute(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{} ms", at.0),
            |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        )
}

/// Reads `90s`, `20m`, `8h`, `30d`, `2w`: a whole number and one unit.
pub(crate) fn parse_length(text: &str) -> Result<Span, String> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let each: u64 = match unit {
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err("expected a number and a unit: 90s, 20m, 8h, 30d or 2w".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(each))
        .filter(|ms| *ms > 0)
        .map(Span)
        .ok_or_else(|| format!("{text:?} is no length of time such as 90s, 20m, 8h, 30d or 2w"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        let now = Timestamp(10_000_000_000);
        let ago = |s: u64| relative(Timestamp(now.0 - s * 1_000), now);
        assert_eq!(ago(0), "just now");
        assert_eq!(ago(40), "40 s ago");
        assert_eq!(ago(200), "3 min ago");
        assert_eq!(ago(7_200), "2 h ago");
        assert_eq!(ago(400_000), "4 d ago");
        assert_eq!(relative(now.after(Span::minutes(5)), now), "in 5 min");
    }

    #[test]
    fn lengths_of_time_are_read_whole_or_refused() {
        assert_eq!(parse_length("30d"), Ok(Span(30 * 86_400_000)));
        for wrong in [
            "",
            "d",
            "30",
            "0s",
            "1.5h",
            "99999999999999999999d",
            "18446744073709551615w",
        ] {
            assert!(parse_length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_in_full() {
        assert_eq!(absolute(Timestamp(0)), "1970-01-01 00:00:00 UTC");
    }
}
