//! Somebody who keeps changing the grid, and remembers what was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::site::{PATIENCE, Site};

/// An answer is waited for that long.
const TIMEOUT: &str = "3s";

/// What came of one change.
#[derive(Clone, Debug)]
struct Write {
    name: String,
    asked: Instant,
    answered: Instant,
    /// Why not, where it was not acknowledged.
    refused: Option<String>,
}

/// The changes of one person, who asks at one address: tokens, one after the other.
pub(crate) struct Writes<'a> {
    site: &'a Site,
    host: String,
    all: Mutex<Vec<Write>>,
    over: AtomicBool,
}

/// Ends the writing, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl<'a> Writes<'a> {
    /// Changes the grid by way of `host`, again and again, while `story` is told.
    pub(crate) fn during(site: &'a Site, host: &str, story: impl FnOnce(&Self)) -> Self {
        let writes = Self {
            site,
            host: host.to_owned(),
            all: Mutex::default(),
            over: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| writes.write());
            let _over = Over(&writes.over);
            writes.acknowledged_from(Instant::now());
            story(&writes);
        });
        writes
    }

    fn write(&self) {
        for number in 1.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let name = format!("by-{}-{number}", self.host.replace('.', "-"));
            let asked = Instant::now();
            let words = ["--timeout", TIMEOUT, "token", "create", &name];
            let words = [&words[..], &["--scope", "viewer"]].concat();
            let ran = self.site.ask_at(&self.host, &words);
            let write = Write {
                name,
                asked,
                answered: Instant::now(),
                refused: (ran.code != 0).then_some(ran.err),
            };
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(write);
        }
    }

    fn all(&self) -> Vec<Write> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// Waits until a change is acknowledged that was asked for from `since` on; when that was.
    #[track_caller]
    pub(crate) fn acknowledged_from(&self, since: Instant) -> Instant {
        let until = Instant::now() + PATIENCE;
        loop {
            let all = self.all();
            let found = all.iter().find(|w| w.asked >= since && w.refused.is_none());
            if let Some(found) = found {
                return found.answered;
            }
            let last = all.last();
            assert!(Instant::now() < until, "nothing is acknowledged: {last:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many more changes are acknowledged.
    #[track_caller]
    pub(crate) fn go_on(&self, more: u32) {
        for _ in 0..more {
            self.acknowledged_from(Instant::now());
        }
    }

    /// Demands that everything acknowledged is known on each of so many servers, and says how long nothing was.
    #[track_caller]
    pub(crate) fn are_known(&self, servers: u32) {
        let all = self.all();
        let acknowledged = all.iter().filter(|write| write.refused.is_none());
        let answers: Vec<Instant> = acknowledged.clone().map(|w| w.answered).collect();
        let waits = answers.windows(2).map(|two| two[1] - two[0]);
        let longest = waits.max().unwrap_or_default();
        let (number, host) = (answers.len(), &self.host);
        println!("{number} changes acknowledged at {host}, none for {longest:?} at the longest");
        let acknowledged: BTreeSet<&str> = acknowledged.map(|write| write.name.as_str()).collect();
        for n in 1..=servers {
            self.site.until(&format!("host-{n} knows all of it"), || {
                let listed = self.site.ask(n, &["token", "list"]);
                let known: BTreeSet<&str> = listed.out.split_whitespace().collect();
                let lost: Vec<&&str> = acknowledged.difference(&known).collect();
                let all = lost.is_empty().then_some(());
                all.ok_or_else(|| format!("{lost:?} are not in {}{}", listed.out, listed.err))
            });
        }
    }
}
