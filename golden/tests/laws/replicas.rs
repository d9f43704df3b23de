//! Copies of other servers' overlays: what comes is believed no further than it must be, there is always the former copy
//! or the new one, and what becomes an overlay is in one place.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_golden::overlay::Fault;
use coppice_golden::replica::{Arrival, Fingerprint};
use coppice_golden::{OverlayError, OverlaySpec, ReplicaError, Store, StoreError};
use coppice_schema::Digest;
use coppice_schema::ids::GridId;
use coppice_schema::units::{Size, Timestamp};

use crate::scratch::{GRID, KIB, MIB, Scratch, member, noise, qemu_img, run, text};

const FROM: &str = "pc-001@1";
const TO: &str = "pc-001@2";

/// The store of a holder, with an image.
struct Holder {
    scratch: tempfile::TempDir,
    store: Arc<Store>,
    image: Digest,
    of: OverlaySpec,
    to: OverlaySpec,
}

impl Holder {
    fn new() -> Self {
        let scratch = Scratch::new();
        let image = scratch.image().root;
        let (of, to) = (scratch.spec(FROM, image, MIB), scratch.spec(TO, image, MIB));
        let Scratch { dir, store } = scratch;
        Self {
            scratch: dir,
            store: Arc::new(store),
            image,
            of,
            to,
        }
    }

    fn restart(self) -> Self {
        let path = self.store.path().to_owned();
        drop(self.store);
        Self {
            store: Arc::new(Store::open(&path).unwrap()),
            ..self
        }
    }

    /// A file as another server's QEMU writes one: 64 KiB of noise over the image, at 128 KiB.
    fn sent(&self, seed: u64) -> Vec<u8> {
        let path = self.file("sent.qcow2");
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            text(&self.store.image_path(self.image)),
            text(&path),
        ]);
        let noise_file = self.file("noise");
        std::fs::write(&noise_file, noise(seed, 64 << 10)).unwrap();
        let write = format!("write -s {} 128k 64k", text(&noise_file));
        let wrote = run("qemu-io", &["-f", "qcow2", "-c", &write, text(&path)]);
        assert!(wrote.status.success());
        std::fs::read(path).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn comes(&self, bytes: &[u8]) -> Arrival {
        let arrival = self.store.begin_replica(self.of.clone(), Size(0)).unwrap();
        arrival.write(0, bytes).unwrap();
        arrival
    }

    fn take(&self, bytes: &[u8], taken: u64) -> Result<(), ReplicaError> {
        let arrival = self.comes(bytes);
        arrival.finish(bytes.len() as u64, Timestamp(taken))
    }

    fn kept(&self) -> Vec<u64> {
        let all = self.store.replicas(GRID).unwrap();
        all.iter().map(|it| it.taken.0).collect()
    }

    fn names(&self, part: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.store.path().join(part)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The disk of an overlay, byte by byte.
    fn disk(&self, overlay: &Path) -> Vec<u8> {
        let raw = self.file("disk.raw");
        let (from, to) = (text(overlay), text(&raw));
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", from, to]);
        std::fs::read(raw).unwrap()
    }

    fn expected(&self, seed: u64) -> Vec<u8> {
        let mut disk = std::fs::read(self.store.image_path(self.image)).unwrap();
        disk[128 << 10..192 << 10].copy_from_slice(&noise(seed, 64 << 10));
        disk
    }

    fn restore(&self) -> Result<PathBuf, ReplicaError> {
        let restored = self.store.restore_replica(&member(FROM), &self.to);
        restored.map(|written| written.path)
    }
}

#[test]
fn what_came_last_becomes_an_overlay() {
    let holder = Holder::new();
    holder.take(&holder.sent(1), 1).unwrap();
    assert_eq!(holder.kept(), [1]);
    holder.take(&holder.sent(2), 2).unwrap();
    assert_eq!(holder.kept(), [2]);
    assert_eq!(holder.names("replicas").len(), 2, "the former one stays");
    let holder = holder.restart();
    assert!(holder.store.cleaned().is_empty());
    assert_eq!(holder.kept(), [2]);
    let path = holder.restore().unwrap();
    assert_eq!(holder.disk(&path), holder.expected(2));
    let checked = qemu_img(&["check", "-f", "qcow2", text(&path)]);
    assert!(checked.contains("No errors were found"), "{checked}");
    let listing = holder.store.list_overlays().unwrap();
    assert!(listing.clones[0].sound() && listing.foreign.is_empty());
    assert_eq!(listing.clones[0].mark, holder.to);
    assert_eq!(holder.restore().unwrap(), path, "said again");
    assert_eq!(holder.kept(), [0; 0]);
    assert!(holder.names("replicas").is_empty());
    holder.store.remove_overlay(GRID, &member(TO)).unwrap();
    let gone = holder.restore();
    assert!(matches!(gone, Err(ReplicaError::Absent(_))), "{gone:?}");
}

#[test]
fn what_does_not_come_whole_leaves_the_former_copy() {
    let holder = Holder::new();
    let (first, second) = (holder.sent(1), holder.sent(2));
    holder.take(&first, 1).unwrap();
    for cut in [0, 100, 104, 70_000, second.len() / 2] {
        drop(holder.comes(&second[..cut]));
        let short = holder.take(&second[..cut], 2);
        // A file that has its tables, and ends before its data, reads as zeros there: who sends says where it ends.
        if cut < 4 << 16 {
            assert!(matches!(short, Err(ReplicaError::Unfit { .. })), "{cut}");
            assert_eq!(holder.kept(), [1]);
        }
    }
    // The daemon dies while one comes.
    std::mem::forget(holder.comes(&second));
    let before = holder.names("replicas");
    assert!(before.iter().any(|name| name.starts_with(".new-")));
    let path = holder.store.path().to_owned();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
}

#[test]
fn the_label_makes_the_copy() {
    let holder = Holder::new();
    holder.take(&holder.sent(1), 1).unwrap();
    let dir = holder.store.path().join("replicas");
    let former: Vec<(String, Vec<u8>)> = holder
        .names("replicas")
        .into_iter()
        .map(|name| (name.clone(), std::fs::read(dir.join(&name)).unwrap()))
        .collect();
    holder.take(&holder.sent(2), 2).unwrap();
    let newer = std::fs::read(dir.join("pc-001@1.b.qcow2")).unwrap();
    // The end before the label: both files are there, and the former label.
    for (name, bytes) in &former {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let holder = holder.restart();
    assert_eq!(holder.store.cleaned(), [dir.join("pc-001@1.b.qcow2")]);
    assert_eq!(holder.kept(), [1]);
    // The end after it, before the former file went.
    holder.take(&holder.sent(2), 2).unwrap();
    std::fs::write(dir.join("pc-001@1.a.qcow2"), &former[0].1).unwrap();
    std::fs::write(dir.join(".new-pc-001@1.7.qcow2"), b"half").unwrap();
    let holder = holder.restart();
    let mut cleaned = holder.store.cleaned().to_vec();
    cleaned.sort();
    assert_eq!(
        cleaned,
        [
            dir.join(".new-pc-001@1.7.qcow2"),
            dir.join("pc-001@1.a.qcow2")
        ]
    );
    assert_eq!(holder.kept(), [2]);
    assert_eq!(std::fs::read(dir.join("pc-001@1.b.qcow2")).unwrap(), newer);
    // What nobody can read, and what has other names, is left alone.
    std::fs::write(dir.join("pc-001@1.label"), b"\xa7").unwrap();
    std::fs::write(dir.join("notes"), b"mine").unwrap();
    let holder = holder.restart();
    assert!(holder.store.cleaned().is_empty());
    assert_eq!(holder.names("replicas").len(), 3);
    let taken = holder.store.begin_replica(holder.of.clone(), Size(0));
    assert!(matches!(taken, Err(ReplicaError::NotOurs { .. })));
}

#[test]
fn a_crash_in_a_restore_leaves_the_copy_or_the_overlay() {
    let holder = Holder::new();
    holder.take(&holder.sent(1), 1).unwrap();
    let replicas = holder.store.path().join("replicas");
    let overlays = holder.store.path().join("overlays");
    let label = std::fs::read(replicas.join("pc-001@1.label")).unwrap();
    // After the mark, before the name.
    std::fs::write(overlays.join("pc-001@2.mark"), holder.to.encode()).unwrap();
    let holder = holder.restart();
    assert_eq!(holder.kept(), [1]);
    assert!(holder.names("overlays").is_empty());
    holder.restore().unwrap();
    // After the name, before the label went.
    std::fs::write(replicas.join("pc-001@1.label"), &label).unwrap();
    assert_eq!(holder.kept(), [0; 0], "a copy and an overlay");
    let path = holder.restore().unwrap();
    assert!(holder.names("replicas").is_empty());
    std::fs::write(replicas.join("pc-001@1.label"), &label).unwrap();
    let holder = holder.restart();
    assert!(holder.names("replicas").is_empty());
    assert_eq!(holder.disk(&path), holder.expected(1));
}

#[test]
fn what_came_names_no_file_but_its_image() {
    let holder = Holder::new();
    let sent = holder.sent(1);
    let path = holder.file("evil.qcow2");
    for evil in [
        "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}",
        "/etc/passwd",
    ] {
        std::fs::write(&path, &sent).unwrap();
        let words = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", evil];
        qemu_img(&[&words[..], &[text(&path)]].concat());
        holder.take(&std::fs::read(&path).unwrap(), 1).unwrap();
        let overlay = holder.restore().unwrap();
        assert_eq!(holder.disk(&overlay), holder.expected(1));
        holder.store.remove_overlay(GRID, &member(TO)).unwrap();
    }
    let fault = |change: &dyn Fn(&std::fs::File)| {
        std::fs::write(&path, &sent).unwrap();
        change(&std::fs::File::options().write(true).open(&path).unwrap());
        let taken = holder.take(&std::fs::read(&path).unwrap(), 1);
        let Err(ReplicaError::Unfit { fault, .. }) = taken else {
            panic!("taken: {taken:?}");
        };
        assert_eq!(holder.kept(), [0; 0]);
        fault
    };
    // Data in another file, encryption, snapshots, unknown features, other clusters, tables outside, another size.
    let patches: [(u64, &[u8]); 9] = [
        (79, &[4]),
        (35, &[1]),
        (63, &[1]),
        (72, &[0x80]),
        (23, &[12]),
        (40, &[0x7f]),
        (48, &[0x7f]),
        (56, &[0x7f]),
        (99, &[5]),
    ];
    for (offset, bytes) in patches {
        fault(&|file| file.write_all_at(bytes, offset).unwrap());
    }
    let size = fault(&|file| file.write_all_at(&(2 * MIB).to_be_bytes(), 24).unwrap());
    assert!(matches!(size, Fault::Size { .. }), "{size}");
    let other = fault(&|file| file.write_all_at(b"RAW!", 0).unwrap());
    assert!(matches!(other, Fault::NotQcow2), "{other}");
}

#[test]
fn what_cannot_be_kept_is_refused_before_it_comes() {
    let holder = Holder::new();
    let begin = |change: &dyn Fn(&mut OverlaySpec), data: u64| {
        let mut of = holder.of.clone();
        change(&mut of);
        holder.store.begin_replica(of, Size(data)).map(drop)
    };
    let image = begin(&|of| of.image = Digest([9; 32]), 0);
    assert!(matches!(
        image,
        Err(ReplicaError::Overlay(OverlayError::NoImage { .. }))
    ));
    let size = begin(&|of| of.size = Size(KIB), 0);
    assert!(matches!(
        size,
        Err(ReplicaError::Overlay(OverlayError::Size { .. }))
    ));
    let room = begin(&|_| {}, 1 << 60);
    assert!(matches!(room, Err(ReplicaError::NoSpace { needed, .. }) if needed.0 == 1 << 60));
    holder.take(&holder.sent(1), 1).unwrap();
    let other = begin(&|of| of.grid = GridId([8; 16]), 0);
    assert!(matches!(other, Err(ReplicaError::NotOurs { .. })));
    let other = holder.store.remove_replica(GridId([8; 16]), &member(FROM));
    assert!(matches!(other, Err(ReplicaError::NotOurs { .. })));
    assert!(holder.store.replicas(GridId([8; 16])).unwrap().is_empty());
    assert_eq!(holder.kept(), [1]);
}

#[test]
fn the_newest_arrival_counts_and_a_removed_one_does_not() {
    let holder = Holder::new();
    let bytes = holder.sent(1);
    let length = bytes.len() as u64;
    let late = holder.comes(&bytes);
    holder.take(&bytes, 2).unwrap();
    let told = late.finish(length, Timestamp(1));
    assert!(matches!(told, Err(ReplicaError::Superseded(_))), "{told:?}");
    assert!(late.write(0, b"x").is_err());
    drop(late);
    assert_eq!(holder.kept(), [2]);
    let late = holder.comes(&bytes);
    assert!(holder.store.remove_replica(GRID, &member(FROM)).unwrap());
    assert!(!holder.store.remove_replica(GRID, &member(FROM)).unwrap());
    assert!(late.finish(length, Timestamp(3)).is_err());
    drop(late);
    assert!(holder.names("replicas").is_empty());
}

#[test]
fn an_image_that_a_copy_needs_stays() {
    let holder = Holder::new();
    holder.take(&holder.sent(1), 1).unwrap();
    let dropped = holder.store.drop_image(holder.image);
    let Err(StoreError::ImageInUse { users, .. }) = dropped else {
        panic!("dropped: {dropped:?}");
    };
    assert_eq!(users, ["pc-001@1.a.qcow2"]);
    holder.store.remove_replica(GRID, &member(FROM)).unwrap();
    assert!(holder.store.drop_image(holder.image).unwrap());
}

#[test]
fn what_leaves_is_an_overlay_and_is_gone_after_a_start() {
    let holder = Holder::new();
    let of = &holder.of;
    let begin = |data| {
        let data = Size(data);
        holder
            .store
            .begin_outgoing(&of.member, of.image, of.size, data)
    };
    for _ in 0..2 {
        let path = begin(0);
        let path = path.unwrap();
        let image = std::fs::read(holder.store.image_path(holder.image)).unwrap();
        assert_eq!(holder.disk(&path), image);
    }
    let free = holder.store.space().unwrap().free.0;
    let full = begin(free / 16 * 15);
    assert!(
        matches!(full, Err(ReplicaError::NoSpace { .. })),
        "{full:?}"
    );
    assert!(holder.names("outgoing").is_empty());
    begin(0).unwrap();
    let holder = holder.restart();
    assert!(holder.names("outgoing").is_empty());
}

#[test]
fn what_is_here_of_a_former_copy_is_known_by_its_fingerprints() {
    let holder = Holder::new();
    let bytes = holder.sent(1);
    assert!(holder.comes(&bytes).former().unwrap().is_none());
    holder.take(&bytes, 1).unwrap();
    let mut former = holder.comes(&bytes).former().unwrap().unwrap();
    let written = Fingerprint::of(&noise(1, 64 << 10));
    assert!(former.get(written).is_err(), "it was not read yet");
    let mut known = Vec::new();
    loop {
        let more = former.more(2).unwrap();
        if more.is_empty() {
            break;
        }
        known.extend(more);
    }
    assert!(known.contains(&written));
    assert_eq!(former.get(written).unwrap(), noise(1, 64 << 10));
    assert!(former.get(Fingerprint::of(&noise(2, 64 << 10))).is_err());
}
