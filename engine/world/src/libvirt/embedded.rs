//! The hypervisor inside this process: `qemu:///embed?root=DIR`.
//!
//! libvirt's QEMU driver runs as part of us, without a daemon, and keeps everything below `DIR`. Its QEMU processes
//! are not children of ours: they run on when we end, and are found again by the next process that opens `DIR`. One
//! process at a time can do that, and it can open one `DIR` only.

use std::io;
use std::path::Path;

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

/// Who has the directory open, in words, for the error of a second one.
pub(super) fn holder(root: &Path) -> Option<String> {
    let number = std::fs::read_to_string(root.join("run/qemu/driver.pid")).ok()?;
    let number = number.trim();
    number.parse::<u32>().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
    Some(format!("process {number} ({})", name.trim()))
}
