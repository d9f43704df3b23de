//! How fast Coppice is beside what people use now: `sh tests/bench.sh` runs this.
//!
//! Figures differ from machine to machine, so each is a ratio: Coppice and its peer in turn, in one run, on one
//! disk, and what they made is checked before it counts. A row is one file of this folder and one entry of `ROWS`.

mod clones;
mod commits;
mod cost;
mod daemon;
mod etcd;
mod http;
mod images;
mod learners;
mod line;
mod parse;
mod placement;
mod servers;
mod takeover;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use line::Line;
use mimalloc::MiMalloc;

/// The product's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A comparison, which gives one or more lines of the table.
struct Row {
    number: u32,
    /// Debian's packages of what it compares with, beside those that Coppice itself needs.
    packages: &'static [&'static str],
    measure: fn(&Bench) -> Result<Vec<Line>, String>,
}

const ROWS: &[Row] = &[
    clones::ROW,
    parse::ROW,
    commits::ONE,
    commits::MANY,
    images::MANY,
    images::CHANGED,
    placement::ROW,
    takeover::ROW,
    learners::ROW,
];

/// How much is done, and where.
struct Bench {
    /// How often Coppice and its peer take turns.
    rounds: u32,
    /// What is asked is divided by this: one where it is measured, much where it is only seen to work.
    divisor: u32,
    /// An empty directory on the disk that is measured.
    place: PathBuf,
}

impl Bench {
    /// `full` things to do, or some of them.
    fn size(&self, full: u32) -> u32 {
        full.div_ceil(self.divisor)
    }
}

struct Asked {
    rows: Vec<&'static Row>,
    json: bool,
    quick: bool,
    packages: bool,
}

fn asked(arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked {
        rows: ROWS.iter().collect(),
        json: false,
        quick: false,
        packages: false,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => asked.json = true,
            "--quick" => asked.quick = true,
            "--packages" => asked.packages = true,
            "--row" => {
                let wanted = arguments.next().unwrap_or_default();
                asked.rows = ROWS
                    .iter()
                    .filter(|row| row.number.to_string() == wanted)
                    .collect();
                if asked.rows.is_empty() {
                    let known: Vec<String> = ROWS.iter().map(|r| r.number.to_string()).collect();
                    let known = known.join(", ");
                    return Err(format!("there is no row {wanted:?}; there are {known}"));
                }
            }
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    Ok(asked)
}

/// A word on what goes on, beside the result.
fn say(words: &str) {
    // Who closed it wants to hear nothing.
    let _closed = writeln!(io::stderr(), "bench: {words}");
}

/// Other work on the machine makes every figure worse, and not for both sides alike.
fn warn_of_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load
        .split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0);
    if load > 0.5 {
        say(&format!(
            "WARNING: this machine is busy (load average {load:.1}): other work makes the figures worse, and not \
             alike for both sides. Measure again when it is idle (below 0.5)."
        ));
    }
}

fn run(asked: &Asked) -> Result<String, String> {
    let parent = std::env::var_os("COPPICE_BENCH_DIR").unwrap_or_else(|| "/var/tmp".into());
    let place = tempfile::Builder::new()
        .prefix("coppice-bench-")
        .tempdir_in(Path::new(&parent))
        .map_err(|e| format!("cannot make a directory in {}: {e}", parent.display()))?;
    let bench = Bench {
        rounds: if asked.quick { 1 } else { 5 },
        divisor: if asked.quick { 50 } else { 1 },
        place: place.path().to_owned(),
    };
    warn_of_load();
    let mut lines = Vec::new();
    for row in &asked.rows {
        let found = (row.measure)(&bench);
        lines.extend(found.map_err(|e| format!("row {}: {e}", row.number))?);
    }
    warn_of_load();
    Ok(if asked.json {
        line::json(&lines)
    } else {
        line::table(&lines)
    })
}

fn main() -> ExitCode {
    let asked = match asked(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(what) => {
            say(&what);
            return ExitCode::from(64);
        }
    };
    let text = if asked.packages {
        Ok(asked
            .rows
            .iter()
            .flat_map(|r| r.packages)
            .fold(String::new(), |all, package| all + package + "\n"))
    } else {
        run(&asked)
    };
    let shown = text.and_then(|text| {
        let written = io::stdout().write_all(text.as_bytes());
        written.map_err(|e| format!("cannot write the result: {e}"))
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&what);
            ExitCode::FAILURE
        }
    }
}
