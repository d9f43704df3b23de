//! File systems of guests at rest: as long as something lies in a directory of ours, so that they never stay so.
//!
//! Whoever lets them rest may die before it lets them go on. So it leaves a note first; and whoever asks the guest next
//! finds it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};

use super::Libvirt;
use super::uri::HypervisorUri;

/// Seconds in which file systems must come to rest, or go on.
const PATIENCE: i32 = 5;
/// How often they are told to go on before it is left to whoever asks next.
const TRIES: usize = 3;

const REST: &str = r#"{"execute":"guest-fsfreeze-freeze"}"#;
const GO_ON: &str = r#"{"execute":"guest-fsfreeze-thaw"}"#;
const STATUS: &str = r#"{"execute":"guest-fsfreeze-status"}"#;

/// The note of one guest.
#[derive(Clone, Debug)]
pub(super) struct Frozen {
    note: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(rename = "return")]
    value: T,
}

impl Libvirt {
    /// The note of a guest, whether there is one or not.
    pub(super) fn frozen(&self, uuid: Uuid) -> Frozen {
        let note = match self.shared.link.uri() {
            HypervisorUri::Embedded { root } => Some(root.join("frozen").join(uuid.to_string())),
            HypervisorUri::Libvirt(_) | HypervisorUri::Sim(_) => None,
        };
        Frozen { note }
    }
}

impl Frozen {
    /// Does `work` while the guest's file systems are at rest, if they can be, and says whether they were.
    pub(super) fn during<T>(&self, domain: &Domain, work: impl FnOnce() -> T) -> (T, bool) {
        let Some(_noted) = self.note.as_deref().filter(|note| leave(note)) else {
            return (work(), false);
        };
        let guard = Guard { of: self, domain };
        let at_rest = domain.qemu_agent_command(REST, PATIENCE, 0);
        let at_rest = at_rest.ok().and_then(|said| understand::<i64>(&said));
        let done = work();
        drop(guard);
        (done, at_rest.is_some_and(|count| count > 0))
    }

    /// Lets the guest go on, if there is a note.
    pub(super) fn release(&self, domain: &Domain) {
        let Some(note) = self.note.as_deref().filter(|note| note.exists()) else {
            return;
        };
        for _ in 0..TRIES {
            if goes_on(domain) {
                let _gone = std::fs::remove_file(note);
                return;
            }
        }
        tracing::warn!(guest = %note.display(), "file systems may still be at rest, and will be told again to go on");
    }
}

/// Lets it go on, also when what was done meanwhile panics.
struct Guard<'a> {
    of: &'a Frozen,
    domain: &'a Domain,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.of.release(self.domain);
    }
}

fn leave(note: &Path) -> bool {
    let made = note.parent().map_or(Ok(()), std::fs::create_dir_all);
    let left = made.and_then(|()| std::fs::write(note, b""));
    if let Err(error) = &left {
        tracing::warn!(note = %note.display(), %error, "a guest's file systems are not brought to rest");
    }
    left.is_ok()
}

/// Tells a guest that its file systems may go on; whether none of them is at rest now, as far as it says.
fn goes_on(domain: &Domain) -> bool {
    if domain.qemu_agent_command(GO_ON, PATIENCE, 0).is_ok() {
        return true;
    }
    match domain.qemu_agent_command(STATUS, PATIENCE, 0) {
        Ok(said) => understand::<String>(&said).as_deref() == Some("thawed"),
        // An agent that answers, and knows of no such thing, has frozen nothing.
        Err(error) => !is_silent(&error),
    }
}

/// It was not the guest's agent that answered.
fn is_silent(error: &Error) -> bool {
    error.code().known() != Some(ErrorNumber::InternalError)
}

fn understand<T: for<'de> Deserialize<'de>>(said: &str) -> Option<T> {
    let answer = serde_json::from_str::<Answer<T>>(said).ok();
    answer.map(|answer| answer.value)
}
