//! What a program that was traced did to its files: whether each was on the disk before it got its name, and whether
//! the name was. Test crates include this file by its path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls that write a file, that sync, and that give or take names.
const CALLS: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,fchmod,copy_file_range,fsync,\
                     fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat";

/// The program that traces, with its arguments; what it saw goes to `trace`. `None`: it is not installed.
pub(crate) fn tracing(trace: &Path) -> Option<Command> {
    Command::new("strace").arg("-V").output().ok()?;
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-qq", "-s", "4096", "-e", CALLS, "-o"])
        .arg(trace);
    Some(command)
}

/// What is not durable although it should be, of the files under `root`. Whoever was traced wrote `SETTLED` to a file
/// wherever everything had to be.
pub(crate) fn judge(trace: &str, root: &Path) -> Vec<String> {
    let mut disk = Disk {
        root: root.to_owned(),
        ..Disk::default()
    };
    let mut begun: BTreeMap<&str, String> = BTreeMap::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        // A call of one thread may be cut in two by another's.
        if let Some(head) = call.strip_suffix("<unfinished ...>") {
            begun.insert(process, head.trim_end().to_owned());
        } else if let Some((_, tail)) = call
            .strip_prefix("<... ")
            .and_then(|rest| rest.split_once(" resumed>"))
        {
            let head = begun.remove(process).unwrap_or_default();
            disk.call(&format!("{head}{tail}"));
        } else {
            disk.call(call);
        }
    }
    assert!(disk.settled > 0, "it never said that it had settled");
    disk.complaints
}

#[derive(Default)]
struct Disk {
    root: PathBuf,
    /// Files that were written and not synced since.
    written: BTreeSet<PathBuf>,
    /// Directories in which names were given or taken, and that were not synced since.
    named: BTreeSet<PathBuf>,
    settled: usize,
    complaints: Vec<String>,
}

impl Disk {
    fn call(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else {
            return;
        };
        if rest.contains(") = -1 ") {
            return;
        }
        let places = match name {
            "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" => places(rest),
            // Of what is written only the file counts.
            _ => places(&rest[..rest.find('>').map_or(0, |end| end + 1)]),
        };
        let Some(first) = places.first() else {
            return;
        };
        match name {
            "fsync" | "fdatasync" => {
                self.written.remove(first);
                self.named.remove(first);
            }
            "syncfs" => {
                self.written.clear();
                self.named.clear();
            }
            "rename" | "renameat" | "renameat2" => self.renamed(&places),
            "unlink" | "unlinkat" => {
                self.written.remove(first);
                self.note_name(first);
            }
            _ if rest.contains("\"SETTLED\"") => self.settle(),
            _ => {
                // Of what has no name any more, nothing has to last.
                if first.starts_with(&self.root) && !rest.contains("(deleted)") {
                    self.written.insert(first.clone());
                }
            }
        }
    }

    fn renamed(&mut self, places: &[PathBuf]) {
        let [from, to] = places else {
            return self.complaints.push(format!("a rename of {places:?}"));
        };
        if self.written.remove(from) {
            self.complaints.push(format!(
                "{} got its name before it was synced",
                to.display()
            ));
        }
        self.note_name(from);
        self.note_name(to);
    }

    fn note_name(&mut self, path: &Path) {
        if let Some(folder) = path.parent()
            && folder.starts_with(&self.root)
        {
            self.named.insert(folder.to_owned());
        }
    }

    fn settle(&mut self) {
        self.settled += 1;
        let at = self.settled;
        for (what, left) in [
            ("is not synced", std::mem::take(&mut self.written)),
            (
                "has names that are not synced",
                std::mem::take(&mut self.named),
            ),
        ] {
            let each = left
                .iter()
                .map(|path| format!("at {at}: {} {what}", path.display()));
            self.complaints.extend(each);
        }
    }
}

/// The files that a call is about: `7</a/b>` is a file, and the name after a directory is in it.
fn places(arguments: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folder: Option<PathBuf> = None;
    let mut rest = arguments.split(") = ").next().unwrap_or_default();
    while let Some(at) = rest.find(['<', '"']) {
        let close = if rest[at..].starts_with('<') {
            '>'
        } else {
            '"'
        };
        let inner = &rest[at + 1..];
        let end = inner.find(close).unwrap_or(inner.len());
        let text = inner[..end].trim_end_matches("(deleted)");
        if close == '>' {
            found.extend(folder.replace(PathBuf::from(text)));
        } else {
            found.push(folder.take().unwrap_or_default().join(text));
        }
        rest = inner.get(end + 1..).unwrap_or_default();
    }
    found.extend(folder);
    found
}
