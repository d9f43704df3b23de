//! How a server begins, as the first of a grid or as another one: an empty directory, and what is to be in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coppice_schema::ids::ServerName;

use crate::failure::Failure;
use crate::layout::Layout;
use crate::serve::hypervisor;

/// Reads an address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an address and a port, such as 10.0.0.5:7443 or [::1]:7443; 0.0.0.0:7443 is every address of this machine";
    text.parse().map_err(|_| expected.to_owned())
}

/// Reads a name for a certificate.
pub(crate) fn reachable(text: &str) -> Result<String, String> {
    let expected = "expected a host name or an address, such as desk.example.org or 10.0.0.5";
    coppice_grid::authority::can_be_named(text)
        .then(|| text.to_owned())
        .ok_or_else(|| expected.to_owned())
}

/// Takes an empty directory, or one that a beginning which was cut off left behind. Nobody was told of what is in
/// that, so it is removed, but for what is in `kept`.
///
/// # Errors
/// When it holds anything else, or cannot be used. Then it is as it was.
pub(crate) fn claim(data: &Path, layout: &Layout, kept: &[PathBuf]) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        Failure::new(format!(
            "cannot use {} as the data directory",
            data.display()
        ))
        .because(&e)
        .hint("name a directory that you may write: --data DIR")
    };
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(failed)?;
    let mut entries = std::fs::read_dir(data).map_err(failed)?.peekable();
    if entries.peek().is_some() && !layout.begun().exists() {
        return Err(occupied(data, layout));
    }
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path == layout.begun() || path == layout.joining() || kept.contains(&path) {
            continue;
        }
        let ours = [layout.identity(), layout.grid()];
        if ours.contains(&path) {
            std::fs::remove_dir_all(&path).map_err(failed)?;
        } else if [layout.ca(), layout.token(), layout.config()].contains(&path) {
            std::fs::remove_file(&path).map_err(failed)?;
        } else {
            return Err(occupied(data, layout));
        }
    }
    File::create(layout.begun())
        .and_then(|f| f.sync_all())
        .map_err(failed)
}

pub(crate) fn occupied(data: &Path, layout: &Layout) -> Failure {
    if layout.config().exists() && layout.grid().exists() {
        return Failure::new(format!(
            "{} holds a grid already; nothing was changed",
            data.display()
        ))
        .hint(format!(
            "coppice serve --config {}",
            layout.config().display()
        ))
        .hint("another grid needs another directory: --data DIR");
    }
    Failure::new(format!(
        "{} is not empty and holds something else; nothing was changed",
        data.display()
    ))
    .hint("name an empty directory, or one that is yet to be made: --data DIR")
}

/// Which hypervisor a new server has.
pub(crate) fn hypervisor_uri(wanted: Option<String>, layout: &Layout) -> Result<String, Failure> {
    let given = wanted.is_some();
    let uri =
        wanted.unwrap_or_else(|| format!("qemu:///embed?root={}", layout.hypervisor().display()));
    match hypervisor::check(&uri) {
        Ok(()) => Ok(uri),
        Err(why) if given => Err(Failure::usage(format!("--hypervisor {uri} cannot be used")).cause(why)),
        Err(why) => Err(Failure::new(format!("the embedded hypervisor cannot live in {}", layout.hypervisor().display()))
            .cause(why)
            .hint("choose a shorter directory: --data /var/lib/coppice")
            .hint("or put the hypervisor's part elsewhere: --hypervisor 'qemu:///embed?root=/var/lib/coppice-h'")),
    }
}

/// The machine's name, as a server's.
pub(crate) fn host_name() -> Result<ServerName, Failure> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let short = host.split('.').next().unwrap_or_default();
    short.parse().map_err(|e| {
        Failure::new(format!(
            "this machine's host name {host:?} cannot be a server's name"
        ))
        .because(&e)
        .hint("choose one: --name host-1")
    })
}

/// The directory that was named.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map(|p| p.components().collect())
        .map_err(|e| {
            Failure::usage(format!("--data {} is no directory", path.display())).because(&e)
        })
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Failure::new("the system gives no random numbers"))?;
    Ok(bytes)
}

/// Writes a new file, and makes it durable.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.map_err(|e| Failure::new(format!("cannot write {}", path.display())).because(&e))
}

/// Writes a file anew: whoever reads it sees the one or the other, whole.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    // A leftover of an attempt that was cut off.
    let _ = std::fs::remove_file(&temporary);
    write(&temporary, text, mode)?;
    std::fs::rename(&temporary, path)
        .and_then(|()| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            Some(_) | None => Ok(()),
        })
        .map_err(|e| Failure::new(format!("cannot write {}", path.display())).because(&e))
}

/// Says that everything is in the directory.
pub(crate) fn finish(layout: &Layout) -> Result<(), Failure> {
    std::fs::remove_file(layout.begun())
        .and_then(|()| File::open(layout.data())?.sync_all())
        .map_err(|e| Failure::new("cannot finish the data directory").because(&e))
}
