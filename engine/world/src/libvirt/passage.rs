//! The way to disks for a QEMU that is not us.
//!
//! A libvirt daemon runs QEMU as a user of its own (on Debian `libvirt-qemu`), and gives it the files that a domain
//! names; what it cannot give is a way through the directories above them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lets every user pass through `directories`, as libvirt's own `/var/lib/libvirt/images` does: who knows the name of
/// a file gets as far as that file's own permissions, and nobody else sees what is there. Makes those that are not
/// there yet.
///
/// # Errors
/// When one cannot be made or changed.
pub fn let_pass(directories: &[PathBuf]) -> io::Result<()> {
    for directory in directories {
        fs::create_dir_all(directory)?;
        let mode = fs::metadata(directory)?.permissions().mode() & 0o7777;
        let wanted = mode & !0o066 | 0o011;
        if mode != wanted {
            fs::set_permissions(directory, fs::Permissions::from_mode(wanted))?;
        }
    }
    Ok(())
}

/// The first directory on the way to `path` that other users cannot pass, if there is one.
#[must_use]
pub fn barred(path: &Path) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let shut = |directory: &&&Path| {
        let mode = fs::metadata(directory).map(|found| found.permissions().mode());
        mode.is_ok_and(|mode| mode & 0o001 == 0)
    };
    way.iter().find(shut).map(|found| found.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn another_user_passes_to_a_file_and_sees_no_names() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("not run: only root can be another user");
        }
        let place = tempfile::tempdir_in("/tmp").unwrap();
        let data = place.path().join("data");
        let disks = data.join("disks");
        fs::create_dir_all(&disks).unwrap();
        for shut in [place.path(), &data] {
            fs::set_permissions(shut, PermissionsExt::from_mode(0o700)).unwrap();
        }
        let disk = disks.join("disk");
        fs::write(&disk, "content").unwrap();
        fs::set_permissions(&disk, PermissionsExt::from_mode(0o444)).unwrap();
        let other = |program: &str, path: &Path| {
            let mut command = Command::new(program);
            let ran = command.arg(path).uid(65_534).gid(65_534).output();
            ran.unwrap().status.success()
        };
        assert!(!other("cat", &disk), "it was closed before");
        let way = [place.path().to_owned(), data.clone(), disks.clone()];
        assert_eq!(barred(&disks).as_ref(), way.first());
        let_pass(&way).unwrap();
        assert_eq!(barred(&disks), None);
        assert!(other("cat", &disk));
        for directory in &way {
            assert!(!other("ls", directory), "{}", directory.display());
        }
    }
}
