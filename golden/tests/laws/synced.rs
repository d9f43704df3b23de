//! That nothing of a store gets its name before it is on the disk, and that all of it lasts when a call returns: as the
//! system saw it.

use std::path::Path;
use std::sync::Arc;

use coppice_golden::upload::Expected;
use coppice_golden::{Cancel, Store, Upload};
use coppice_schema::units::{Size, Timestamp};

use crate::durable::{judge, tracing};
use crate::scratch::{GRID, KIB, MIB, Scratch, member, noise, options, qemu_img, text};
use crate::skip::skip;

/// Where the traced process acts.
const ACTING: &str = "COPPICE_TEST_ACTING";

#[test]
fn names_are_given_to_what_is_on_the_disk() {
    if let Some(dir) = std::env::var_os(ACTING) {
        return act(Path::new(&dir));
    }
    let scratch = Scratch::new();
    scratch.file("disk.raw", MIB, &[(300 * KIB, noise(1, 90_000))]);
    let qcow2 = scratch.path("disk.qcow2");
    let other = scratch.file("other.raw", MIB, &[(100 * KIB, noise(2, 90_000))]);
    qemu_img(&["convert", "-O", "qcow2", text(&other), text(&qcow2)]);
    let trace = scratch.path("trace");
    let Some(mut strace) = tracing(&trace) else {
        return skip("strace is not installed, so nobody saw what was synced");
    };
    let acted = strace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "synced::names_are_given_to_what_is_on_the_disk"])
        .arg("--nocapture")
        .env(ACTING, scratch.dir.path())
        .output()
        .unwrap();
    assert!(
        acted.status.success(),
        "{}",
        String::from_utf8_lossy(&acted.stderr)
    );
    let seen = std::fs::read(&trace).unwrap();
    let root = scratch.dir.path().canonicalize().unwrap().join("acting");
    assert_eq!(
        judge(&String::from_utf8_lossy(&seen), &root),
        Vec::<String>::new()
    );
}

/// Everything that a store does, said to be settled after each step.
fn act(dir: &Path) {
    let settled = || std::fs::write(dir.join("settled"), "SETTLED").unwrap();
    let store = Arc::new(Store::open(&dir.join("acting")).unwrap());
    settled();
    let import = |name: &str| {
        let path = dir.join(name);
        let made = store.import(&path, &options(), &mut |_| {}, &Cancel::new());
        settled();
        made.unwrap().root
    };
    let image = import("disk.raw");
    let other = import("disk.qcow2");
    let scratch = Scratch::new();
    let specs: Vec<_> = ["lab-001@1", "lab-002@1"]
        .map(|name| scratch.spec(name, image, MIB))
        .into();
    let written = store.write_overlays(&specs).unwrap();
    settled();
    assert!(written.iter().all(Result::is_ok));
    // A copy of one comes twice, one that breaks off goes, and what came becomes another's overlay.
    let bytes = std::fs::read(store.overlay_path(&member("lab-002@1"))).unwrap();
    let come = || {
        let mark = scratch.spec("pc-001@1", image, MIB);
        let arrival = store.begin_replica(mark, Size(0)).unwrap();
        arrival.write(0, &bytes).unwrap();
        arrival
    };
    for taken in 1..=2 {
        come().finish(bytes.len() as u64, Timestamp(taken)).unwrap();
        settled();
    }
    drop(come());
    store
        .restore_replica(&member("pc-001@1"), &scratch.spec("pc-001@2", image, MIB))
        .unwrap();
    settled();
    come().finish(bytes.len() as u64, Timestamp(3)).unwrap();
    store.remove_replica(GRID, &member("pc-001@1")).unwrap();
    settled();
    store.remove_overlay(GRID, &member("pc-001@2")).unwrap();
    store.remove_overlay(GRID, &member("lab-001@1")).unwrap();
    settled();
    store.drop_image(other).unwrap();
    settled();
    let bytes = noise(3, 100_000);
    let expected = Expected {
        size: Size(100_000),
        digest: None,
    };
    let id = "one".parse().unwrap();
    let mut upload = Upload::begin(&store, &id, expected, &mut |_| {}, &Cancel::new()).unwrap();
    upload.append(Size(0), &bytes).unwrap();
    upload.finish().unwrap();
    settled();
    store.discard_upload(&id).unwrap();
    settled();
}
