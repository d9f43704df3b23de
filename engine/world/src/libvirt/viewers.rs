//! Who has a display open: clients that are connected to the sockets at which a domain's displays are served.
//!
//! The kernel's table of unix sockets tells, and asks neither libvirt nor QEMU: a guest that stands still holds
//! nothing up. It counts every client, ours and others', such as a viewer that somebody started on the server. A
//! display that is served over TCP, or a QEMU in another network namespace than ours, is not in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The table as it was at one moment: of each path, how many are connected there; 0 where it is only listened at.
pub(super) struct Clients(BTreeMap<PathBuf, u32>);

/// What the kernel calls a socket that is connected.
const CONNECTED: &str = "03";

impl Clients {
    /// The table as it is now; empty where it cannot be read.
    pub(super) fn now() -> Self {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_else(|error| {
            tracing::debug!(%error, "who has displays open is not known");
            String::new()
        });
        Self::read(&table)
    }

    fn read(table: &str) -> Self {
        let mut clients = BTreeMap::new();
        for line in table.lines().skip(1) {
            // Number, references, protocol, flags, type, state, inode, path.
            let mut fields = line.split_ascii_whitespace().skip(5);
            let (Some(state), Some(path)) = (fields.next(), fields.nth(1)) else {
                continue;
            };
            let count: &mut u32 = clients.entry(PathBuf::from(path)).or_default();
            *count += u32::from(state == CONNECTED);
        }
        Self(clients)
    }

    /// How many clients all of these sockets have; `None` where nobody is known to serve one of them.
    pub(super) fn of<'a>(&self, sockets: impl Iterator<Item = &'a Path>) -> Option<u32> {
        let each = sockets.map(|path| self.0.get(path).copied());
        each.sum()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn clients_are_counted_while_they_are_connected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vnc.sock");
        let count = || Clients::now().of([path.as_path()].into_iter());
        assert_eq!(count(), None, "nobody serves it");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(count(), Some(0));
        let (first, second) = (
            UnixStream::connect(&path).unwrap(),
            UnixStream::connect(&path).unwrap(),
        );
        let accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
        assert_eq!(count(), Some(2));
        drop(first);
        let [(mut end, _), _] = accepted;
        // The kernel lists the server's end until it is closed as well, which a display does when it reads the end.
        assert_eq!(std::io::Read::read(&mut end, &mut [0]).unwrap(), 0);
        drop(end);
        assert_eq!(count(), Some(1));
        drop(second);
    }

    #[test]
    fn displays_are_taken_together_and_one_unknown_makes_it_unknown() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0000: 00000002 00000000 00010000 0001 01 1 /a\n\
                     0000: 00000003 00000000 00000000 0001 03 2 /a\n\
                     0000: 00000002 00000000 00010000 0001 01 3 /b\n\
                     0000: 00000003 00000000 00000000 0001 03 4\n";
        let clients = Clients::read(table);
        let of = |paths: &[&str]| clients.of(paths.iter().map(Path::new));
        assert_eq!(of(&["/a"]), Some(1));
        assert_eq!(of(&["/a", "/b"]), Some(1));
        assert_eq!(of(&["/a", "/c"]), None);
        assert_eq!(of(&[]), Some(0));
    }
}
