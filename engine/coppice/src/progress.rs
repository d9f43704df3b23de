//! How far long work is: a bar on a terminal, a line now and then elsewhere, nothing when told to be quiet.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coppice_schema::units::Size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

use crate::screen::Screen;
use crate::terminal;

/// Lines come no closer than this where no terminal redraws them.
const APART: Duration = Duration::from_secs(1);

/// Work under way. Clones show the same work.
#[derive(Clone)]
pub(crate) struct Progress {
    shown: Shown,
    bytes: bool,
}

#[derive(Clone)]
enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines(Arc<Mutex<State>>),
}

struct State {
    what: String,
    done: u64,
    total: u64,
    last: Option<Instant>,
    said: String,
}

impl Progress {
    /// So many bytes are to be done.
    pub(crate) fn bytes(screen: &Screen, what: &str, total: u64) -> Self {
        Self::new(screen, what, total, true)
    }

    /// So many things are to be done.
    pub(crate) fn things(screen: &Screen, what: &str, total: u64) -> Self {
        Self::new(screen, what, total, false)
    }

    /// Something that is waited for, nobody knows how long.
    pub(crate) fn waiting(screen: &Screen, what: &str) -> Self {
        Self::new(screen, what, 0, false)
    }

    fn new(screen: &Screen, what: &str, total: u64, bytes: bool) -> Self {
        let shown = if screen.quiet || screen.json {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_style(match total {
                0 => ProgressStyle::default_spinner(),
                _ => style(screen, bytes),
            });
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            Shown::Bar(bar)
        } else {
            Shown::Lines(Arc::new(Mutex::new(State {
                what: what.to_owned(),
                done: 0,
                total,
                last: None,
                said: String::new(),
            })))
        };
        Self { shown, bytes }
    }

    /// More is done.
    pub(crate) fn add(&self, more: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(more),
            Shown::Lines(state) => {
                self.line(state, false, |s| s.done = s.done.saturating_add(more))
            }
        }
    }

    /// So far it is, of so much.
    pub(crate) fn set(&self, done: u64, total: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Shown::Lines(state) => self.line(state, false, |s| (s.done, s.total) = (done, total)),
        }
    }

    /// It is something else now.
    pub(crate) fn say(&self, what: &str) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_message(what.to_owned()),
            Shown::Lines(state) => self.line(state, false, |s| what.clone_into(&mut s.what)),
        }
    }

    /// It is over.
    pub(crate) fn finish(&self) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines(state) => self.line(state, true, |_| {}),
        }
    }

    /// Says a line if there is something new to say and the last one is a while ago.
    fn line(&self, state: &Mutex<State>, last: bool, change: impl FnOnce(&mut State)) {
        let Ok(mut state) = state.lock() else { return };
        change(&mut state);
        let early = state.last.is_some_and(|at| at.elapsed() < APART);
        let text = self.words(&state);
        if (early && !last) || text == state.said {
            return;
        }
        let mut out = terminal::stderr();
        let _ = std::io::Write::write_all(&mut out, format!("{text}\n").as_bytes());
        state.last = Some(Instant::now());
        state.said = text;
    }

    fn words(&self, state: &State) -> String {
        if state.total == 0 {
            return state.what.clone();
        }
        let percent = u128::from(state.done) * 100 / u128::from(state.total);
        if self.bytes {
            let (done, total) = (Size(state.done).rounded(), Size(state.total).rounded());
            format!("{}: {done} of {total}, {percent} %", state.what)
        } else {
            format!("{}: {} of {}", state.what, state.done, state.total)
        }
    }
}

fn style(screen: &Screen, bytes: bool) -> ProgressStyle {
    let (bar, counts) = match (screen.error_colours.any(), bytes) {
        (true, true) => (
            "{bar:30.green/dim}",
            "{bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        (false, true) => (
            "{bar:30}",
            "{bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        (true, false) => ("{bar:30.green/dim}", "{pos} of {len}"),
        (false, false) => ("{bar:30}", "{pos} of {len}"),
    };
    ProgressStyle::with_template(&format!("{{spinner}} {{msg}} {bar} {counts}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
