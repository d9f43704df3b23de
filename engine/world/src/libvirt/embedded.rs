//! The hypervisor inside this process: `qemu:///embed?root=DIR`.
//!
//! libvirt's QEMU driver runs as part of us, without a daemon, and keeps everything below `DIR`. Its QEMU processes
//! are not children of ours: they run on when we end, and are found again by the next process that opens `DIR`. One
//! process at a time can do that, and it can open one `DIR` only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::leftovers;
use super::threads::locked;

/// Settings of the driver. Nothing here needs systemd, D-Bus, SELinux or AppArmor; sockets and disks belong to us.
const COMMON: &str = "\
# Written by Coppice at each start: changes here are lost.
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

/// Makes the directory ready to be opened. Only its owner may enter it: whoever can write there is the hypervisor.
pub(super) fn prepare(root: &Path) -> io::Result<()> {
    let settings = root.join("etc/qemu.conf");
    let mut text = COMMON.to_owned();
    if rustix::process::geteuid().is_root() {
        text.push_str(AS_ROOT);
    }
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    if std::fs::read_to_string(&settings).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let fresh = root.join("etc/qemu.conf.new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, &settings)
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

/// The process that holds libvirt's lock on the directory.
fn holder(root: &Path) -> Option<String> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(root.join("run/qemu/driver.pid"))
        .ok()?;
    let lock = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok()??;
    let Some(pid) = lock.pid else {
        return Some("a process of another namespace".to_owned());
    };
    let number = pid.as_raw_nonzero();
    let name = std::fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
    Some(format!("process {number} ({})", name.trim()))
}
