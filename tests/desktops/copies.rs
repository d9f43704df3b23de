//! A personal desktop with a copy on another server, whose own server hangs: its watchdog ends it there, and it goes on
//! from the copy. Two daemons with a hypervisor each, and a witness, as everything is in real.

use rustix::process::Signal;

use crate::machine::until;
use crate::moving::{End, Pair};

const WANTED: &str = r#"
grid "lab" {
  timezone    = "UTC"
  fence_after = "20s"
}
image "tiny" {
  version = "1"
  os      = "linux"
  copies  = "all"
}
template "small" {
  image   = image.tiny
  memory  = "96MiB"
  display = ["vnc"]
}
pool "lab" {
  template     = template.small
  desktops     = 1
  assignment   = "personal"
  copies       = COPIES
}
"#;

const WRITE: &str = "mount /dev/vda2 /mnt 2>/dev/null; dd if=/dev/urandom of=/mnt/letter bs=64k count=64 2>/dev/null && \
    sync && sha256sum /mnt/letter";
const READ: &str = "mount /dev/vda2 /mnt 2>/dev/null; sha256sum /mnt/letter";

fn wanted(copies: u32) -> String {
    WANTED.replace("COPIES", &copies.to_string())
}

impl Pair {
    fn until_copied(&self, to: End) {
        until("a copy", || {
            let list = self.ask(&["desktop", "list", "--json"]).json();
            let copied = list[0]["copies"][0]["server"] == to.name();
            copied
                .then_some(())
                .ok_or_else(|| format!("{list}\n{}", self.logs()))
        });
    }

    /// Waits until what a plan says of the desktop has those words in it.
    fn until_told(&self, end: End, words: &str) {
        until(words, || {
            let plan = self.ask_of(end, &["plan", "c"]);
            let told = plan.words.contains(words);
            told.then_some(())
                .ok_or_else(|| format!("{}\n{}", plan.words, self.logs()))
        });
    }
}

#[test]
fn a_personal_desktop_goes_on_from_its_copy_when_its_server_hangs() {
    let Some(mut pair) = Pair::found_with(&wanted(0), true) else {
        return;
    };
    let here = pair.until_state("available");
    let there = here.other();
    let letter = pair.asks_guest(here, WRITE);
    pair.until_state("available");
    pair.lab.write("c/lab.hcl", wanted(1));
    pair.ask(&["apply", "c", "--yes"]).code(0);
    pair.until_copied(there);

    pair.signal(here, Signal::STOP);
    until("a desktop that goes on elsewhere", || {
        let list = pair.ask_of(there, &["desktop", "list", "--json"]).json();
        let on = list[0]["server"] == there.name() && list[0]["state"] == "available";
        on.then_some(())
            .ok_or_else(|| format!("{list}\n{}", pair.logs()))
    });
    assert_eq!(pair.lab.guests().len(), 1, "it runs once");
    // Its former server goes on, and leaves what it has of it as it is.
    pair.signal(here, Signal::CONT);
    pair.until_told(there, "its former life lab-001@1");
    assert_eq!(pair.lab.guests().len(), 1, "it runs once");
    let found = pair.asks_guest(there, READ);
    assert_eq!(found, letter, "it has not what was written before the copy");

    let overlays = format!("{}/disks/overlays", here.data());
    assert!(!pair.lab.names(&overlays).is_empty(), "it was removed");
    let discard = ["desktop", "discard", "lab-001@1", "--on", here.name()];
    pair.ask_of(there, &discard).code(5);
    let approved = ["--approve", "personal-data"];
    pair.ask_of(there, &[&discard[..], &approved].concat())
        .code(0);
    until("nothing of its former life", || {
        let left = pair.lab.names(&overlays);
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
}
