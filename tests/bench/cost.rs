//! What work costs: time on the wall, and time of processors.

use std::time::Instant;

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

/// What one turn took, in seconds. Work that the kernel does on its own behalf, such as writing back what was
/// synced, is in the wall's time and in no process's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) processors: f64,
}

impl Cost {
    /// Of what was measured as a single figure.
    pub(crate) fn of(seconds: f64) -> Self {
        Self {
            wall: seconds,
            processors: seconds,
        }
    }
}

/// Whose time of processors counts.
#[derive(Clone, Copy)]
pub(crate) enum Whose {
    /// This process's.
    Mine,
    /// The programs' that it ran and waited for.
    Programs,
    /// Those, and a daemon's with its own programs.
    ProgramsAnd(Pid),
}

impl Whose {
    fn seconds(self) -> Result<f64, String> {
        match self {
            Self::Mine => {
                let now = clock_gettime(ClockId::ProcessCPUTime);
                let now = std::time::Duration::try_from(now).map_err(|e| e.to_string())?;
                Ok(now.as_secs_f64())
            }
            Self::Programs => ticks("self", 2),
            Self::ProgramsAnd(daemon) => {
                let name = daemon.as_raw_nonzero().to_string();
                Ok(ticks("self", 2)? + ticks(&name, 0)?)
            }
        }
    }
}

/// Seconds of processors that a process has taken, with its ended children's.
pub(crate) fn taken(process: u32) -> Result<f64, String> {
    ticks(&process.to_string(), 0)
}

/// Times of a process as proc(5) has them: fields 14 to 17 are its own in user and kernel mode, and its ended
/// children's likewise, in hundredths of a second. The first `skipped` are left out.
fn ticks(process: &str, skipped: usize) -> Result<f64, String> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    // The second field is a name in parentheses, with whatever in it.
    let (_, rest) = text.rsplit_once(')').unwrap_or_default();
    let times = rest.split_whitespace().skip(11).take(4).skip(skipped);
    let times: Result<Vec<f64>, _> = times.map(str::parse).collect();
    let times = times.map_err(|e| format!("cannot understand {path}: {e}"))?;
    Ok(times.iter().sum::<f64>() / 100.0)
}

/// Does `work` and tells what it took.
pub(crate) fn of<T>(
    whose: Whose,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<(Cost, T), String> {
    let before = whose.seconds()?;
    let begun = Instant::now();
    let done = work()?;
    let wall = begun.elapsed().as_secs_f64();
    let processors = whose.seconds()? - before;
    Ok((Cost { wall, processors }, done))
}

/// All turns of one side.
pub(crate) struct Turns {
    /// What took its turns, for people.
    pub(crate) name: String,
    /// How many units of work each turn did.
    pub(crate) units: f64,
    pub(crate) costs: Vec<Cost>,
}

/// Which time is compared.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Wall,
    Processors,
}

impl Turns {
    pub(crate) fn new(name: impl Into<String>, units: f64) -> Self {
        Self {
            name: name.into(),
            units,
            costs: Vec::new(),
        }
    }

    /// Turns that did one unit each, in so many seconds.
    pub(crate) fn of(name: impl Into<String>, seconds: &[f64]) -> Self {
        Self {
            costs: seconds.iter().copied().map(Cost::of).collect(),
            ..Self::new(name, 1.0)
        }
    }

    /// Units a second, in the turn of the median; `None` without any turn.
    pub(crate) fn median(&self, by: By) -> Option<f64> {
        let sorted = self.sorted(by);
        let (low, high) = (
            sorted.get(sorted.len().saturating_sub(1) / 2)?,
            sorted.get(sorted.len() / 2)?,
        );
        Some(self.units / (f64::midpoint(*low, *high)))
    }

    /// Units a second, in the best turn.
    fn best(&self, by: By) -> Option<f64> {
        Some(self.units / self.sorted(by).first()?)
    }

    fn sorted(&self, by: By) -> Vec<f64> {
        let seconds = self.costs.iter().map(|cost| match by {
            By::Wall => cost.wall,
            By::Processors => cost.processors,
        });
        // The clock of processors may stand still for a moment, and nothing is done in no time.
        let mut seconds: Vec<f64> = seconds.map(|s| s.max(1e-6)).collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    }

    /// Its medians and bests in one line.
    pub(crate) fn describe(&self, unit: &str) -> String {
        let shown = |by| match (self.median(by), self.best(by)) {
            (Some(median), Some(best)) => {
                let number = crate::line::number;
                format!("median {}, best {}", number(median), number(best))
            }
            _ => "no turn".to_owned(),
        };
        format!(
            "{}: {unit} by wall {}; by processors {} ({} turns)",
            self.name,
            shown(By::Wall),
            shown(By::Processors),
            self.costs.len()
        )
    }
}
