//! Texts with units: sizes, lengths of time, shares.

use crate::units::{Share, Size, Span};

/// Why a text is no such quantity: what would be.
pub(crate) type Expected = &'static str;

pub(crate) const SIZE: Expected = "a size such as \"8GiB\", \"512MiB\" or \"30GB\"";
pub(crate) const SPAN: Expected = "a length of time such as \"90s\", \"20m\", \"8h\" or \"7d\"";
pub(crate) const SHARE: Expected = "a share such as \"20%\", or a number of desktops";

/// Digits before the unit and after the point, and the unit.
fn split(text: &str) -> Option<(u64, &str, &str)> {
    let length = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole = text[..length].parse().ok()?;
    let rest = &text[length..];
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(after) => {
            let length = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if length == 0 || length > 9 {
                return None;
            }
            after.split_at(length)
        }
        None => ("", rest),
    };
    Some((whole, fraction, unit.trim_start_matches(' ')))
}

/// `whole.fraction` units, when that is a whole number.
fn scale(whole: u64, fraction: &str, unit: u64) -> Option<u64> {
    let base = whole.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(base);
    }
    let parts = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let extra = fraction.parse::<u128>().ok()? * u128::from(unit);
    if extra % parts != 0 {
        return None;
    }
    base.checked_add(u64::try_from(extra / parts).ok()?)
}

/// "8GiB", "1.5TiB", "30GB", "0B".
pub(crate) fn size(text: &str) -> Result<Size, Expected> {
    let (whole, fraction, unit) = split(text).ok_or(SIZE)?;
    let unit = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        _ => return Err(SIZE),
    };
    scale(whole, fraction, unit).map(Size).ok_or(SIZE)
}

/// "1500ms", "90s", "20m", "8h", "7d", "1h30m".
pub(crate) fn span(text: &str) -> Result<Span, Expected> {
    let mut total = 0u64;
    let mut last = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() || last == u64::MAX {
        let (whole, fraction, after) = split(rest).ok_or(SPAN)?;
        let length = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, following) = after.split_at(length);
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(SPAN),
        };
        if unit >= last {
            return Err(SPAN);
        }
        last = unit;
        let part = scale(whole, fraction, unit).ok_or(SPAN)?;
        total = total.checked_add(part).ok_or(SPAN)?;
        rest = following;
    }
    Ok(Span(total))
}

/// "20%".
pub(crate) fn share(text: &str) -> Result<Share, Expected> {
    let digits = text.strip_suffix('%').ok_or(SHARE)?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let percent = digits
        .parse()
        .ok()
        .filter(|percent: &u8| plain && *percent <= 100);
    percent
        .map(Share::Percent)
        .ok_or("a share from \"0%\" to \"100%\"")
}
