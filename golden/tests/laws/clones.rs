//! Overlays: accepted by QEMU, marked, listed, removed.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use coppice_golden::overlay::{Fault, Reason, SIZE_MAX};
use coppice_golden::{Mark, OverlayError, StoreError};
use coppice_schema::Digest;
use coppice_schema::ids::GridId;

use crate::scratch::{GRID, MIB, Scratch, member, noise, qemu_img, run, text};

fn qemu_io(path: &Path, commands: &[&str]) -> String {
    let mut arguments = vec!["-f", "qcow2"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(path));
    let output = run("qemu-io", &arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !said.contains("failed"),
        "qemu-io: {said}"
    );
    said
}

fn clean(path: &Path) {
    let said = qemu_img(&["check", "-f", "qcow2", text(path)]);
    assert!(said.contains("No errors were found"), "{said}");
}

#[test]
fn qemu_agrees_with_overlays_of_every_size() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let base = scratch.store.image_path(image.root);
    let gib = 1u64 << 30;
    // The last four need more than one cluster of L1 table: beyond 4 TiB.
    let sizes = [
        MIB,
        MIB + 512,
        60 * gib,
        2048 * gib,
        4096 * gib,
        4096 * gib + 512,
        5000 * gib,
        SIZE_MAX.0,
    ];
    for (n, size) in (1..).zip(sizes) {
        let spec = scratch.spec(&format!("lab-{n:03}@1"), image.root, size);
        let written = scratch
            .store
            .write_overlays(std::slice::from_ref(&spec))
            .unwrap()
            .remove(0)
            .unwrap();
        let path = written.path;
        assert!(
            path.metadata().unwrap().blocks() * 512 <= 16 << 10,
            "an overlay of {size} is not small"
        );
        clean(&path);
        let info: String = qemu_img(&["info", "--output=json", text(&path)]);
        assert!(
            info.contains(&format!("\"virtual-size\": {size},")),
            "{info}"
        );
        if size == MIB {
            qemu_img(&[
                "compare",
                "-s",
                "-f",
                "qcow2",
                "-F",
                "raw",
                text(&path),
                text(&base),
            ]);
        }
        // What the image holds, zeros behind it, and what is written to both ends stays.
        let last = size - 512;
        qemu_io(
            &path,
            &[
                &format!("write -P 0xa5 {last} 512"),
                "write -P 0x5a 131072 65536",
            ],
        );
        qemu_io(
            &path,
            &[
                &format!("read -P 0xa5 {last} 512"),
                "read -P 0x5a 131072 65536",
            ],
        );
        if size > 2 * MIB {
            qemu_io(&path, &["read -P 0 1048576 65536"]);
        }
        clean(&path);
        let listed = scratch.store.list_overlays().unwrap();
        let clone = listed
            .clones
            .iter()
            .find(|clone| clone.mark == spec)
            .unwrap();
        assert_eq!(clone.fault, None, "after QEMU wrote to it");
        assert_eq!(clone.allocated.0, path.metadata().unwrap().blocks() * 512);
    }
    scratch.verify(image.root).unwrap();
}

#[test]
fn a_thousand_in_one_batch() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let specs: Vec<Mark> = (1..=1000)
        .map(|n| scratch.spec(&format!("lab-{n:03}@1"), image.root, 60 << 30))
        .collect();
    let written = scratch.store.write_overlays(&specs).unwrap();
    assert_eq!(written.len(), 1000);
    for (spec, written) in specs.iter().zip(&written) {
        let written = written.as_ref().unwrap();
        assert_eq!(written.path, scratch.store.overlay_path(&spec.member));
        assert!(!written.already);
    }
    let listed = scratch.store.list_overlays().unwrap();
    assert_eq!(listed.clones.len(), 1000);
    assert!(listed.clones.iter().all(|clone| clone.sound()));
    assert!(listed.foreign.is_empty());
    assert_eq!(
        scratch.names("overlays").len(),
        2000,
        "an overlay and a mark each, and nothing else"
    );
    for n in [1, 500, 1000] {
        clean(
            &scratch
                .store
                .overlay_path(&member(&format!("lab-{n:03}@1"))),
        );
    }
}

#[test]
fn a_store_can_be_moved() {
    let scratch = Scratch::new();
    let image = scratch.image();
    scratch
        .store
        .write_overlays(&[scratch.spec("lab-001@1", image.root, MIB)])
        .unwrap()
        .remove(0)
        .unwrap();
    let (from, to) = (scratch.store.path().to_owned(), scratch.path("elsewhere"));
    let Scratch { dir, store } = scratch;
    drop(store);
    std::fs::rename(from, &to).unwrap();
    let scratch = Scratch {
        store: coppice_golden::Store::open(&to).unwrap(),
        dir,
    };
    assert!(scratch.store.list_overlays().unwrap().clones[0].sound());
    let path = scratch.store.overlay_path(&member("lab-001@1"));
    qemu_img(&[
        "compare",
        "-f",
        "qcow2",
        "-F",
        "raw",
        text(&path),
        text(&scratch.store.image_path(image.root)),
    ]);
}

#[test]
fn twice_is_once_and_what_was_written_stays() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    let first = scratch
        .store
        .write_overlays(std::slice::from_ref(&spec))
        .unwrap()
        .remove(0)
        .unwrap();
    qemu_io(&first.path, &["write -P 0x77 0 4096"]);
    let second = scratch
        .store
        .write_overlays(&[spec])
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(second.already && !first.already);
    qemu_io(&first.path, &["read -P 0x77 0 4096"]);
}

#[test]
fn one_that_cannot_be_written_does_not_stop_the_others() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let other = Digest::of(b"no such image");
    let foreign = scratch.store.overlay_path(&member("lab-005@1"));
    std::fs::write(&foreign, b"somebody's").unwrap();
    let elsewhere = scratch.path("victim");
    std::fs::write(&elsewhere, b"precious").unwrap();
    std::os::unix::fs::symlink(&elsewhere, scratch.store.overlay_path(&member("lab-006@1")))
        .unwrap();
    std::os::unix::fs::symlink(
        &elsewhere,
        scratch.store.path().join("overlays/lab-007@1.mark"),
    )
    .unwrap();
    let specs = [
        scratch.spec("lab-001@1", image.root, MIB),
        scratch.spec("lab-002@1", other, MIB),
        scratch.spec("lab-003@1", image.root, MIB - 512),
        scratch.spec("lab-004@1", image.root, MIB + 1),
        scratch.spec("lab-005@1", image.root, MIB),
        scratch.spec("lab-006@1", image.root, MIB),
        scratch.spec("lab-007@1", image.root, MIB),
        scratch.spec("lab-008@1", image.root, SIZE_MAX.0 + 512),
        scratch.spec("lab-001@1", image.root, MIB),
    ];
    let results = scratch.store.write_overlays(&specs).unwrap();
    let [one, two, three, four, five, six, seven, eight, nine] = &results[..] else {
        panic!("another number")
    };
    assert!(one.is_ok() && seven.is_ok(), "{one:?} {seven:?}");
    assert!(matches!(two, Err(OverlayError::NoImage { image, .. }) if *image == other));
    for wrong in [three, four, eight] {
        assert!(matches!(wrong, Err(OverlayError::Size { .. })), "{wrong:?}");
    }
    for taken in [five, six, nine] {
        assert!(
            matches!(taken, Err(OverlayError::Taken { .. })),
            "{taken:?}"
        );
    }
    assert_eq!(std::fs::read(&foreign).unwrap(), b"somebody's");
    assert_eq!(
        std::fs::read(&elsewhere).unwrap(),
        b"precious",
        "a link was followed"
    );
}

#[test]
fn another_purpose_is_not_the_same_overlay() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    scratch
        .store
        .write_overlays(std::slice::from_ref(&spec))
        .unwrap()
        .remove(0)
        .unwrap();
    let larger = Mark {
        size: coppice_schema::units::Size(2 * MIB),
        ..spec.clone()
    };
    let others = Mark {
        grid: GridId([8; 16]),
        ..spec.clone()
    };
    for other in [larger, others] {
        let result = scratch.store.write_overlays(&[other]).unwrap().remove(0);
        assert!(
            matches!(result, Err(OverlayError::Taken { .. })),
            "{result:?}"
        );
    }
    assert_eq!(scratch.store.list_overlays().unwrap().clones[0].mark, spec);
}

#[test]
fn what_is_not_ours_is_listed_and_never_touched() {
    let scratch = Scratch::new();
    let image = scratch.image();
    scratch
        .store
        .write_overlays(&[scratch.spec("lab-001@1", image.root, MIB)])
        .unwrap()
        .remove(0)
        .unwrap();
    let dir = scratch.store.path().join("overlays");
    std::fs::write(dir.join("lab-002@1.qcow2"), b"unmarked").unwrap();
    std::fs::write(dir.join("lab-003@1.qcow2"), b"with half a mark").unwrap();
    std::fs::write(dir.join("lab-003@1.mark"), b"\xa1").unwrap();
    std::fs::copy(dir.join("lab-001@1.mark"), dir.join("lab-004@1.mark")).unwrap();
    std::fs::write(dir.join("lab-004@1.qcow2"), b"with another's mark").unwrap();
    std::fs::write(dir.join("notes.txt"), b"mine").unwrap();
    std::os::unix::fs::symlink(dir.join("lab-001@1.qcow2"), dir.join("lab-005@1.qcow2")).unwrap();
    assert!(
        run("mkfifo", &[text(&dir.join("lab-006@1.qcow2"))])
            .status
            .success()
    );
    let scratch = scratch.restart();
    let listing = scratch.store.list_overlays().unwrap();
    assert_eq!(listing.clones.len(), 1);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found: Vec<_> = listing
        .foreign
        .iter()
        .map(|f| (name(&f.path), f.reason.clone()))
        .collect();
    assert_eq!(found.len(), 6, "{found:?}");
    assert_eq!(found[0], ("lab-002@1.qcow2".to_owned(), Reason::Unmarked));
    assert!(matches!(&found[1], (name, Reason::BadMark(_)) if name == "lab-003@1.qcow2"));
    assert!(
        matches!(&found[2], (name, Reason::BadMark(what)) if name == "lab-004@1.qcow2" && what.contains("lab-001@1"))
    );
    assert_eq!(found[3], ("lab-005@1.qcow2".to_owned(), Reason::NotAFile));
    assert_eq!(found[4], ("lab-006@1.qcow2".to_owned(), Reason::NotAFile));
    assert_eq!(found[5], ("notes.txt".to_owned(), Reason::Name));
    for n in 2..=6 {
        let result = scratch
            .store
            .remove_overlay(GRID, &member(&format!("lab-00{n}@1")));
        assert!(
            matches!(result, Err(OverlayError::NotOurs { .. })),
            "{n}: {result:?}"
        );
    }
    let after: Vec<_> = scratch.store.list_overlays().unwrap().foreign;
    assert_eq!(after, listing.foreign);
}

#[test]
fn removing_takes_the_overlay_and_its_mark() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    scratch
        .store
        .write_overlays(std::slice::from_ref(&spec))
        .unwrap()
        .remove(0)
        .unwrap();
    let other = scratch.store.remove_overlay(GridId([9; 16]), &spec.member);
    assert!(matches!(other, Err(OverlayError::NotOurs { .. })));
    assert_eq!(scratch.names("overlays").len(), 2);
    assert!(scratch.store.remove_overlay(GRID, &spec.member).unwrap());
    assert!(scratch.names("overlays").is_empty());
    assert!(!scratch.store.remove_overlay(GRID, &spec.member).unwrap());
}

#[test]
fn an_image_in_use_is_not_dropped() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    let path = scratch
        .store
        .write_overlays(std::slice::from_ref(&spec))
        .unwrap()
        .remove(0)
        .unwrap()
        .path;
    // Somebody's own clone of our image counts as well.
    let theirs = path.with_file_name("theirs.qcow2");
    std::fs::copy(&path, &theirs).unwrap();
    let users = |result: Result<bool, StoreError>| match result {
        Err(StoreError::ImageInUse { users, .. }) => users,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        users(scratch.store.drop_image(image.root)),
        ["lab-001@1.qcow2", "theirs.qcow2"]
    );
    scratch.store.remove_overlay(GRID, &spec.member).unwrap();
    assert_eq!(
        users(scratch.store.drop_image(image.root)),
        ["theirs.qcow2"]
    );
    scratch.verify(image.root).unwrap();
    std::fs::remove_file(theirs).unwrap();
    assert!(scratch.store.drop_image(image.root).unwrap());
    assert!(scratch.store.images().unwrap().is_empty());
}

#[test]
fn every_fault_of_an_overlay_is_seen() {
    let scratch = Scratch::new();
    let image = scratch.image();
    let other = scratch
        .import(&scratch.file("other.raw", MIB, &[(0, noise(8, 100))]))
        .unwrap();
    let spec = scratch.spec("lab-001@1", image.root, MIB);
    let path = scratch.store.overlay_path(&spec.member);
    let fault = |change: &dyn Fn(&std::fs::File)| {
        scratch.store.remove_overlay(GRID, &spec.member).unwrap();
        scratch
            .store
            .write_overlays(std::slice::from_ref(&spec))
            .unwrap()
            .remove(0)
            .unwrap();
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        change(&file);
        scratch
            .store
            .list_overlays()
            .unwrap()
            .clones
            .remove(0)
            .fault
    };
    let put = |bytes: &[u8], at: u64| {
        let bytes = bytes.to_vec();
        move |file: &std::fs::File| file.write_all_at(&bytes, at).unwrap()
    };
    assert_eq!(fault(&|_| {}), None);
    assert_eq!(fault(&put(b"XXXX", 0)), Some(Fault::NotQcow2));
    assert_eq!(
        fault(&|file| file.set_len(0).unwrap()),
        Some(Fault::NotQcow2)
    );
    assert!(matches!(
        fault(&|file| file.set_len(50).unwrap()),
        Some(Fault::Damaged(_))
    ));
    assert!(matches!(
        fault(&|file| file.set_len(3 * 65_536).unwrap()),
        Some(Fault::Damaged(_))
    ));
    assert!(matches!(
        fault(&put(&2u64.to_be_bytes(), 72)),
        Some(Fault::Damaged(_))
    ));
    assert!(matches!(
        fault(&put(&0u32.to_be_bytes(), 36)),
        Some(Fault::Damaged(_))
    ));
    assert!(matches!(
        fault(&put(&(2 * MIB).to_be_bytes(), 24)),
        Some(Fault::Size { .. })
    ));
    let elsewhere = format!("../images/{}.raw", other.root);
    assert_eq!(
        fault(&put(elsewhere.as_bytes(), 128)),
        Some(Fault::Backing { found: elsewhere })
    );
    assert_eq!(
        fault(&put(b"/etc/passwd\0", 128)).map(|f| matches!(f, Fault::Backing { .. })),
        Some(true)
    );
    std::fs::remove_file(scratch.store.image_path(image.root)).unwrap();
    assert_eq!(scratch.store.list_overlays().unwrap().clones.len(), 1);
    std::fs::write(scratch.store.image_path(image.root), b"").unwrap();
}

#[test]
fn an_overlay_whose_image_is_gone_is_not_sound() {
    let scratch = Scratch::new();
    let image = scratch.image();
    scratch
        .store
        .write_overlays(&[scratch.spec("lab-001@1", image.root, MIB)])
        .unwrap()
        .remove(0)
        .unwrap();
    std::fs::remove_file(scratch.store.image_path(image.root)).unwrap();
    assert_eq!(
        scratch.store.list_overlays().unwrap().clones[0].fault,
        Some(Fault::ImageGone(image.root))
    );
}

#[test]
fn a_mark_of_a_newer_version_is_not_read_as_ours() {
    let scratch = Scratch::new();
    let spec = scratch.spec("lab-001@1", Digest::of(b"image"), MIB);
    assert_eq!(Mark::decode(&spec.encode()).unwrap(), spec);
    let mut value: ciborium::Value = ciborium::from_reader(spec.encode().as_slice()).unwrap();
    let fields = value.as_map_mut().unwrap();
    let names: Vec<&str> = fields.iter().filter_map(|(key, _)| key.as_text()).collect();
    assert_eq!(
        names,
        [
            "format", "grid", "epoch", "member", "image", "size", "stamp"
        ]
    );
    fields[0].1 = ciborium::Value::from(2);
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes).unwrap();
    assert_eq!(
        Mark::decode(&bytes).unwrap_err(),
        "its mark has format 2, this version reads up to 1"
    );
}
