//! The hypervisor inside this process: `qemu:///embed?root=DIR`.
//!
//! libvirt's QEMU driver runs as part of us, without a daemon, and keeps everything below `DIR`. Its QEMU processes
//! are not children of ours: they run on when we end, and are found again by the next process that opens `DIR`. One
//! process at a time can do that, and it can open one `DIR` only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::leftovers;
use super::threads::locked;

/// The first line of the driver's settings: by it a directory is known to be an embedded hypervisor's.
const OURS: &str = "# Written by Coppice at each start: changes here are lost.\n";
/// Settings of the driver. Nothing here needs systemd, D-Bus, SELinux or AppArmor; sockets and disks belong to us.
const COMMON: &str = "\
stdio_handler = \"file\"
security_driver = \"none\"
";
const AS_ROOT: &str = "\
user = \"root\"
group = \"root\"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
";

fn settings(root: &Path) -> PathBuf {
    root.join("etc/qemu.conf")
}

/// Makes the directory ready to be opened. Only its owner may enter it: whoever can write there is the hypervisor.
pub(super) fn prepare(root: &Path) -> io::Result<()> {
    let settings = settings(root);
    let mut text = format!("{OURS}{COMMON}");
    if rustix::process::geteuid().is_root() {
        text.push_str(AS_ROOT);
    }
    fs::create_dir_all(root.join("etc"))?;
    fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    if fs::read_to_string(&settings).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let fresh = root.join("etc/qemu.conf.new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, &settings)
}

/// The directory that this process has open, or is about to.
static CLAIMED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Makes sure that this process may open the directory, and nobody else has. libvirt would find out by itself; but
/// once its driver has failed to start, it never starts again in this process.
///
/// # Errors
/// Who has it, and what to do, in words.
pub(super) fn claim(root: &Path) -> Result<(), String> {
    let mut claimed = locked(&CLAIMED);
    match claimed.as_deref() {
        // Not even looked at again: closing any descriptor of the file would give up our own lock on it.
        Some(known) if known == root => return Ok(()),
        Some(known) => {
            return Err(format!(
                "this process has {} open, and libvirt can open only one directory in each process",
                known.display()
            ));
        }
        None => {}
    }
    if !is_free(root) {
        return Err(format!(
            "{} holds something else, and the hypervisor would make it its own: name an empty directory, or one that \
             does not exist yet",
            root.display()
        ));
    }
    if let Some(who) = holder(root) {
        return Err(format!(
            "{who} has {} open, and only one can: stop it, or give this one a directory of its own",
            root.display()
        ));
    }
    leftovers::clear(root);
    *claimed = Some(root.to_owned());
    Ok(())
}

/// Whether it is an embedded hypervisor's already, or is nothing yet. One that cannot be read is found out by whoever
/// uses it.
fn is_free(root: &Path) -> bool {
    let ours = || fs::read_to_string(settings(root)).is_ok_and(|text| text.starts_with(OURS));
    // An `etc` alone was left by a first start that was cut off before it wrote there.
    let begun = |name: std::ffi::OsString| {
        name == "etc" && fs::read_dir(root.join("etc")).is_ok_and(|mut etc| etc.next().is_none())
    };
    match fs::read_dir(root) {
        Ok(entries) => ours() || entries.flatten().all(|entry| begun(entry.file_name())),
        Err(_) => true,
    }
}

/// The process that holds libvirt's lock on the directory.
fn holder(root: &Path) -> Option<String> {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(root.join("run/qemu/driver.pid"))
        .ok()?;
    let lock = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    let Some(pid) = lock.pid else {
        return Some("a process of another namespace".to_owned());
    };
    let number = pid.as_raw_nonzero();
    let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
    Some(format!("process {number} ({})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_something_else_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("hv");
        assert!(is_free(&root));
        fs::create_dir_all(root.join("etc")).unwrap();
        assert!(is_free(&root));
        prepare(&root).unwrap();
        fs::create_dir(root.join("lib")).unwrap();
        assert!(is_free(&root));

        let other = folder.path().join("srv");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letters"), "of love").unwrap();
        let refused = claim(&other).unwrap_err();
        assert!(refused.contains("holds something else"), "{refused}");
        // Also where somebody else's QEMU is configured.
        fs::create_dir(other.join("etc")).unwrap();
        fs::write(other.join("etc/qemu.conf"), "user = \"qemu\"\n").unwrap();
        assert!(claim(&other).is_err());
    }
}
