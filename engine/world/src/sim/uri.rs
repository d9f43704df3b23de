//! Simulated servers by URI, for demonstrations: `sim://?seed=7&boot=2s`. With `people=30` somebody signs in to 30 of a
//! hundred desktops as soon as they are up; with `refuse=start` no domain starts, and with `away=30s` the hypervisor does not answer in the first 30 s: to see what Coppice makes of that.

use std::str::FromStr;

use coppice_schema::units::{Size, Span};

use super::{Operation, Setup};

/// A URI that does not describe a simulated server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} does not belong into a sim:// address: {expected}")]
pub struct BadSimUri {
    /// The part.
    pub part: String,
    /// What would have been right.
    pub expected: &'static str,
}

const KEYS: &str = "known are seed=NUMBER, boot=TIME, people=PERCENT, cpus=NUMBER, memory=SIZE, disk=SIZE, away=TIME and refuse=OPERATION, joined by '&'";
const NUMBER: &str = "expected a whole number";
const PERCENT: &str = "expected how many of a hundred desktops somebody signs in to, 0 to 100";
const TIME: &str = "expected a time such as 500ms, 2s or 1m";
const OPERATION: &str = "expected define, start, stop, power-off, undefine, make-overlays, remove-overlay or import-image";
const SIZE: &str = "expected a size such as 512MiB, 64GiB or 1TiB";

impl FromStr for Setup {
    type Err = BadSimUri;

    fn from_str(uri: &str) -> Result<Self, BadSimUri> {
        let bad = |part: &str, expected| BadSimUri {
            part: part.chars().take(80).collect(),
            expected,
        };
        let rest = uri.strip_prefix("sim://");
        let rest = rest.ok_or_else(|| bad(uri, "it begins with sim://"))?;
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        let query = match rest.strip_prefix('?') {
            Some(query) => query,
            None if rest.is_empty() => "",
            None => return Err(bad(rest, KEYS)),
        };
        let mut setup = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| bad(pair, KEYS))?;
            let capacity = &mut setup.capacity;
            match key {
                "seed" => setup.seed = value.parse().map_err(|_| bad(pair, NUMBER))?,
                "cpus" => capacity.cpus = value.parse().map_err(|_| bad(pair, NUMBER))?,
                "people" => {
                    let people = value.parse().ok().filter(|people| *people <= 100);
                    setup.people = people.ok_or_else(|| bad(pair, PERCENT))?;
                }
                "boot" => setup.boot = Span(scaled(value, &TIMES).ok_or_else(|| bad(pair, TIME))?),
                "away" => setup.away = Span(scaled(value, &TIMES).ok_or_else(|| bad(pair, TIME))?),
                "refuse" => {
                    let refused = Operation::changing(value).ok_or_else(|| bad(pair, OPERATION))?;
                    setup.refuse.insert(refused);
                }
                "memory" => {
                    capacity.memory = Size(scaled(value, &SIZES).ok_or_else(|| bad(pair, SIZE))?);
                }
                "disk" => {
                    capacity.disk = Size(scaled(value, &SIZES).ok_or_else(|| bad(pair, SIZE))?);
                }
                _ => return Err(bad(pair, KEYS)),
            }
        }
        Ok(setup)
    }
}

// The longer unit first: "ms" ends in "s" too.
const TIMES: [(&str, u64); 3] = [("ms", 1), ("s", 1_000), ("m", 60_000)];
const SIZES: [(&str, u64); 3] = [("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))?;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_the_server_is() {
        let setup: Setup = "sim://?seed=7&boot=2500ms&memory=64GiB".parse().unwrap();
        assert_eq!(setup.seed, 7);
        assert_eq!(setup.boot, Span(2_500));
        assert_eq!(setup.capacity.memory, Size::gib(64));
        let setup: Setup = "sim://?refuse=start&refuse=define&away=1m".parse().unwrap();
        assert_eq!(setup.away, Span::minutes(1));
        assert_eq!(
            setup.refuse,
            [Operation::Define, Operation::Start].into_iter().collect()
        );
        let setup: Setup = "sim://?people=30".parse().unwrap();
        assert_eq!(setup.people, 30);
        assert_eq!("sim://".parse(), Ok(Setup::default()));
    }

    #[test]
    fn what_it_does_not_know_is_named() {
        for (uri, part) in [
            ("sim://?sed=7", "sed=7"),
            ("sim://?boot=2", "boot=2"),
            (
                "sim://?boot=99999999999999999999s",
                "boot=99999999999999999999s",
            ),
            ("sim://?people=101", "people=101"),
            ("sim://?refuse=list", "refuse=list"),
            ("sim://host", "host"),
            ("qemu:///system", "qemu:///system"),
        ] {
            assert_eq!(uri.parse::<Setup>().unwrap_err().part, part);
        }
    }
}
