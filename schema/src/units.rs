//! Quantities with their units. Parsing them from HCL is `parse`'s business; these are the values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z. Time is always an argument; nothing in this crate asks for it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A length of time in milliseconds.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Span(pub u64);

/// A number of bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Size(pub u64);

/// A part of a pool: "20%" or a plain number of desktops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Per cent of the pool's desktops, 0 to 100.
    Percent(u8),
    /// That many desktops.
    Count(u32),
}

impl Timestamp {
    /// This moment and `span` more; stays at the end of time instead of overflowing.
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long `earlier` lies back; zero when it does not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// How far the two moments lie from each other.
    #[must_use]
    pub fn apart(self, other: Self) -> Span {
        Span(self.0.abs_diff(other.0))
    }
}

impl Span {
    /// `n` seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(n * 1_000)
    }

    /// `n` minutes.
    #[must_use]
    pub const fn minutes(n: u64) -> Self {
        Self(n * 60_000)
    }

    /// `n` hours.
    #[must_use]
    pub const fn hours(n: u64) -> Self {
        Self(n * 3_600_000)
    }
}

impl fmt::Display for Span {
    /// The largest unit that divides it exactly: `90s`, `20m`, `8h`, `7d`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
        ] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        if self.0 == 0 {
            f.write_str("0s")
        } else {
            write!(f, "{}ms", self.0)
        }
    }
}

impl Size {
    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` gibibytes.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// Rounded for people, one decimal, binary units: `41.2 GiB`, `512 KiB`, `0 B`.
    #[must_use]
    pub fn rounded(self) -> String {
        let mut unit = 0;
        let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut whole = self.0;
        let mut rest = 0;
        while whole >= 1024 && unit + 1 < names.len() {
            rest = whole % 1024;
            whole /= 1024;
            unit += 1;
        }
        let tenth = rest * 10 / 1024;
        if tenth == 0 {
            format!("{whole} {}", names[unit])
        } else {
            format!("{whole}.{tenth} {}", names[unit])
        }
    }
}

impl fmt::Display for Size {
    /// Exact, the largest binary unit that divides it: `8GiB`, `1536MiB`, `1000B`. The language reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, name) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            let unit = 1u64 << shift;
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl Share {
    /// How many of `total` this is. A per cent above zero never rounds to nothing: a budget that could never be
    /// used would stop every roll-out of a small pool for good.
    #[must_use]
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Percent(0) => 0,
            Self::Percent(p) => {
                let part = u64::from(total) * u64::from(p) / 100;
                u32::try_from(part).unwrap_or(total).clamp(1, total.max(1))
            }
            Self::Count(n) => n,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(p) => write!(f, "{p}%"),
            Self::Count(n) => write!(f, "{n}"),
        }
    }
}
