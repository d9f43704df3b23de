//! The small disk from which a guest learns its name: NoCloud, as cloud-init, cloudbase-init and others read it.
//!
//! <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>: a file system labelled `cidata` with
//! the files `meta-data` and `user-data`. It is an ISO 9660 image (ECMA-119) with Rock Ridge names, written whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

const SECTOR: usize = 2048;
/// The system area of 16 sectors, then the volume descriptor, the terminator, two path tables, the directory.
const DESCRIPTOR: usize = 16;
const TERMINATOR: usize = 17;
const PATHS_LITTLE: usize = 18;
const PATHS_BIG: usize = 19;
const ROOT: usize = 20;
const FILES: usize = 21;
/// The least size in sectors. Programs that look for a label read where other file systems keep theirs, beyond
/// 64 KiB, and some (busybox) give up when a disk ends before that. Other writers of such disks pad them, too.
const LEAST: usize = 192;

/// Modes as `stat` tells them: readable by all.
const DIRECTORY: usize = 0o040_555;
const FILE: usize = 0o100_444;

/// Where a desktop's seed is kept.
pub(super) fn path(directory: &Path, uuid: Uuid) -> PathBuf {
    directory.join(format!("{uuid}.iso"))
}

/// Writes the seed of a desktop, unless it is there already with the same content. A running guest goes on with
/// the file it has open.
pub(super) fn write(directory: &Path, uuid: Uuid, hostname: &str) -> io::Result<PathBuf> {
    let path = path(directory, uuid);
    let image = image(uuid, hostname);
    if std::fs::read(&path).is_ok_and(|present| present == image) {
        return Ok(path);
    }
    std::fs::create_dir_all(directory)?;
    let fresh = fresh(directory, uuid);
    let used = image
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let written = (|| {
        let mut file = File::create(&fresh)?;
        file.write_all(&image[..used])?;
        // The rest is a hole.
        file.set_len(u64::try_from(image.len()).unwrap_or(u64::MAX))?;
        // Before it has its name: after a power cut nobody would write it again, and the guest would have no name.
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // On a full disk, half a seed must not keep its space.
        let _absent = std::fs::remove_file(&fresh);
    }
    written.map(|()| path)
}

/// Under this name it is written.
fn fresh(directory: &Path, uuid: Uuid) -> PathBuf {
    directory.join(format!("{uuid}.new"))
}

/// Removes the seed of a desktop, if there is one.
pub(super) fn remove(directory: &Path, uuid: Uuid) -> io::Result<()> {
    for file in [fresh(directory, uuid), path(directory, uuid)] {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The image: the same bytes for the same desktop.
fn image(uuid: Uuid, hostname: &str) -> Vec<u8> {
    // JSON strings are YAML strings, so nothing in a host name can become structure.
    let quoted = serde_json::Value::from(hostname).to_string();
    let meta = format!("instance-id: {uuid}\nlocal-hostname: {quoted}\n");
    let user = "#cloud-config\n{}\n";
    let mut files = [
        ("META-DATA;1", "meta-data", meta.as_bytes(), 0),
        ("USER-DATA;1", "user-data", user.as_bytes(), 0),
    ];
    let mut end = FILES;
    for (_, _, content, sector) in &mut files {
        *sector = end;
        end += content.len().div_ceil(SECTOR).max(1);
    }
    let end = end.max(LEAST);
    let mut disk = vec![0; end * SECTOR];

    let mut root = Vec::new();
    // SP: "system use entries follow, after 0 bytes". It stands in the first record and says Rock Ridge.
    let mut first = b"SP\x07\x01\xbe\xef\0".to_vec();
    first.extend(rock_ridge_mode(DIRECTORY, 2));
    root.extend(record(b"\0", ROOT, SECTOR, true, &first));
    let parent = rock_ridge_mode(DIRECTORY, 2);
    root.extend(record(b"\x01", ROOT, SECTOR, true, &parent));
    for (name, long, content, sector) in &files {
        let mut entries = rock_ridge_mode(FILE, 1);
        entries.extend(rock_ridge_name(long));
        root.extend(record(
            name.as_bytes(),
            *sector,
            content.len(),
            false,
            &entries,
        ));
        disk[sector * SECTOR..][..content.len()].copy_from_slice(content);
    }
    disk[ROOT * SECTOR..][..root.len()].copy_from_slice(&root);

    disk[DESCRIPTOR * SECTOR..][..SECTOR].copy_from_slice(&descriptor(end));
    disk[TERMINATOR * SECTOR..][..7].copy_from_slice(b"\xffCD001\x01");
    // One entry each, the root: length of its name, extended attributes, where it is, its parent, its name.
    let at = number(ROOT);
    disk[PATHS_LITTLE * SECTOR..][..9]
        .copy_from_slice(&[1, 0, at.0[0], at.0[1], at.0[2], at.0[3], 1, 0, 0]);
    disk[PATHS_BIG * SECTOR..][..9]
        .copy_from_slice(&[1, 0, at.1[0], at.1[1], at.1[2], at.1[3], 0, 1, 0]);
    disk
}

/// A number as both byte orders. Everything here is below a few hundred sectors.
fn number(value: usize) -> ([u8; 4], [u8; 4]) {
    let value = u32::try_from(value).unwrap_or(u32::MAX);
    (value.to_le_bytes(), value.to_be_bytes())
}

fn both(value: usize) -> [u8; 8] {
    let (little, big) = number(value);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&little);
    bytes[4..].copy_from_slice(&big);
    bytes
}

/// ECMA-119, 8.4: the primary volume descriptor.
fn descriptor(sectors: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..7].copy_from_slice(b"\x01CD001\x01");
    sector[8..72].fill(b' ');
    sector[40..46].copy_from_slice(b"cidata");
    sector[80..88].copy_from_slice(&both(sectors));
    sector[120..124].copy_from_slice(&[1, 0, 0, 1]);
    sector[124..128].copy_from_slice(&[1, 0, 0, 1]);
    sector[128..132].copy_from_slice(&[0, 8, 8, 0]);
    sector[132..140].copy_from_slice(&both(10));
    sector[140..144].copy_from_slice(&number(PATHS_LITTLE).0);
    sector[148..152].copy_from_slice(&number(PATHS_BIG).1);
    sector[156..190].copy_from_slice(&record(b"\0", ROOT, SECTOR, true, b""));
    sector[190..813].fill(b' ');
    // Four dates of 17 bytes: sixteen zero digits and no offset stand for "not given".
    for date in sector[813..881].chunks_exact_mut(17) {
        date[..16].fill(b'0');
    }
    sector[881] = 1;
    sector
}

/// ECMA-119, 9.1: a directory record, with system use entries (SUSP, IEEE P1281) at its end.
fn record(
    name: &[u8],
    sector: usize,
    length: usize,
    directory: bool,
    system_use: &[u8],
) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(sector));
    record.extend(both(length));
    record.extend([126, 1, 1, 0, 0, 0, 0]); // 2026-01-01: the same bytes every time
    record.extend([if directory { 2 } else { 0 }, 0, 0]);
    record.extend([1, 0, 0, 1]);
    record.push(short(name.len()));
    record.extend(name);
    if name.len().is_multiple_of(2) {
        record.push(0);
    }
    record.extend(system_use);
    if !record.len().is_multiple_of(2) {
        record.push(0);
    }
    record[0] = short(record.len());
    record
}

/// Rock Ridge's NM entry: the name with its case.
fn rock_ridge_name(name: &str) -> Vec<u8> {
    let mut entry = b"NM".to_vec();
    entry.extend([short(5 + name.len()), 1, 0]);
    entry.extend(name.as_bytes());
    entry
}

/// Rock Ridge's PX entry: whoever reads the guest's disk may read these files. Owned by root.
fn rock_ridge_mode(mode: usize, links: usize) -> Vec<u8> {
    let mut entry = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        entry.extend(both(number));
    }
    entry
}

/// A length that fits its byte: our names have nine letters.
fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_written_once_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let uuid = Uuid::from_u128(7);
        let path = write(directory.path(), uuid, "lab-007").unwrap();
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        write(directory.path(), uuid, "lab-007").unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().modified().unwrap(),
            before
        );
        write(directory.path(), uuid, "lab-008").unwrap();
        // Found by experiment: with less, busybox finds no label (it reads 68 KiB to look for others first).
        assert!(std::fs::metadata(&path).unwrap().len() >= 0x11000);
        let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(content.contains(&format!(
            "instance-id: {uuid}\nlocal-hostname: \"lab-008\"\n"
        )));
        // One that was cut off goes with it.
        std::fs::write(fresh(directory.path(), uuid), "half").unwrap();
        remove(directory.path(), uuid).unwrap();
        remove(directory.path(), uuid).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    /// By `isoinfo`, which others wrote; without it there is nobody to ask.
    #[test]
    fn others_read_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(directory.path(), Uuid::from_u128(7), "lab-007").unwrap();
        let ask = |words: &[&str]| {
            let output = std::process::Command::new("isoinfo")
                .args(words)
                .arg("-i")
                .arg(&path)
                .output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let Ok(told) = ask(&["-d"]) else {
            return crate::skip::skip("isoinfo is not installed, so nobody else read the image");
        };
        assert!(told.contains("Volume id: cidata"), "{told}");
        assert!(
            told.contains("Rock Ridge signatures version 1 found"),
            "{told}"
        );
        let listed = ask(&["-l", "-R"]).unwrap();
        assert!(listed.contains("-r--r--r--"), "{listed}");
        let read = ask(&["-R", "-x", "/meta-data"]).unwrap();
        assert!(read.contains("local-hostname: \"lab-007\"\n"), "{read}");
    }

    #[test]
    fn a_host_name_cannot_add_lines() {
        let disk = image(Uuid::nil(), "a\nuser: root");
        let text = String::from_utf8_lossy(&disk).into_owned();
        assert!(!text.contains("\nuser: root"));
    }
}
