//! A disk without room. A small file system of its own needs root to be mounted; without, these tests say that
//! they were skipped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coppice_golden::transfer::ReceiveError;
use coppice_golden::upload::Expected;
use coppice_golden::{Cancel, ImportError, Options, OverlayError, Store, Upload, UploadError};
use coppice_schema::units::Size;

use crate::pipes::{Source, get_with, means};
use crate::scratch::{MIB, Scratch, noise, options, qemu_img, run, text};
use crate::skip::skip;

/// A mounted tmpfs, gone when dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::Builder::new()
            .prefix("golden-full-")
            .tempdir()
            .unwrap();
        let output = run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m"),
                "tmpfs",
                text(dir.path()),
            ],
        );
        if output.status.success() {
            return Some(Self { dir });
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        skip(&format!(
            "a small file system cannot be mounted, it takes root: {why}"
        ));
        None
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("store")).unwrap()
    }

    fn fill(&self, leave: u64) -> PathBuf {
        let path = self.dir.path().join("ballast");
        let free = rustix::fs::statvfs(self.dir.path()).unwrap();
        let free = free.f_bavail * free.f_frsize;
        std::fs::write(&path, vec![1; usize::try_from(free - leave).unwrap()]).unwrap();
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", text(self.dir.path())]);
    }
}

fn nothing_left(store: &Store) {
    for part in ["images", "incoming"] {
        assert_eq!(
            std::fs::read_dir(store.path().join(part)).unwrap().count(),
            0,
            "something is left in {part}"
        );
    }
}

fn sources(scratch: &Scratch) -> [PathBuf; 2] {
    let raw = scratch.file("disk.raw", 64 * MIB, &[(0, noise(1, 12 << 20))]);
    let qcow2 = scratch.path("disk.qcow2");
    qemu_img(&["convert", "-O", "qcow2", text(&raw), text(&qcow2)]);
    [raw, qcow2]
}

#[test]
fn too_little_room_is_told_before_anything_is_written() {
    let scratch = Scratch::new();
    for path in sources(&scratch) {
        let options = Options {
            keep_free: Size(1 << 60),
            ..options()
        };
        let error = scratch
            .store
            .import(&path, &options, &mut |_| {}, &Cancel::new())
            .unwrap_err();
        assert!(
            matches!(error, ImportError::NoSpace { needed, free, .. } if needed > free),
            "{error}"
        );
        nothing_left(&scratch.store);
    }
}

/// The room goes while the conversion runs.
#[test]
fn a_disk_that_fills_during_an_import_leaves_nothing_behind() {
    let Some(small) = Small::mount(24) else {
        return;
    };
    let scratch = Scratch::new();
    let store = small.store();
    for path in sources(&scratch) {
        let mut ballast = None;
        let mut hook = |p: coppice_golden::Progress| {
            if p.phase == coppice_golden::Phase::Converting && ballast.is_none() {
                ballast = Some(small.fill(4 * MIB));
            }
        };
        let error = store
            .import(&path, &options(), &mut hook, &Cancel::new())
            .unwrap_err();
        assert!(matches!(error, ImportError::NoSpace { .. }), "{error}");
        nothing_left(&store);
        std::fs::remove_file(ballast.unwrap()).unwrap();
    }
    let path: &Path = &scratch.path("disk.qcow2");
    let image = store
        .import(path, &options(), &mut |_| {}, &Cancel::new())
        .unwrap();
    store
        .verify(image.root, &mut |_| {}, &Cancel::new())
        .unwrap();
}

#[test]
fn overlays_that_do_not_fit_leave_nothing_behind() {
    let Some(small) = Small::mount(8) else { return };
    let scratch = Scratch::new();
    let store = small.store();
    let path = scratch.file("disk.raw", MIB, &[(0, noise(1, 512))]);
    let image = store
        .import(&path, &options(), &mut |_| {}, &Cancel::new())
        .unwrap();
    let ballast = small.fill(256 << 10);
    let specs: Vec<_> = (1..=100)
        .map(|n| scratch.spec(&format!("lab-{n:03}@1"), image.root, MIB))
        .collect();
    let results = store.write_overlays(&specs).unwrap();
    let failed: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    assert!(
        !failed.is_empty() && failed.len() < 100,
        "{} failed",
        failed.len()
    );
    for error in &failed {
        assert!(matches!(error, OverlayError::NoSpace { .. }), "{error}");
    }
    let listing = store.list_overlays().unwrap();
    assert_eq!(listing.clones.len(), 100 - failed.len());
    assert!(listing.clones.iter().all(|clone| clone.sound()) && listing.foreign.is_empty());
    assert_eq!(
        std::fs::read_dir(store.path().join("overlays"))
            .unwrap()
            .count(),
        2 * listing.clones.len()
    );
    std::fs::remove_file(ballast).unwrap();
    assert!(
        store
            .write_overlays(&specs)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
}

#[test]
fn an_upload_goes_on_when_there_is_room_again() {
    let Some(small) = Small::mount(8) else { return };
    let store = small.store();
    let bytes = noise(1, 4 << 20);
    let expected = Expected {
        size: Size(bytes.len() as u64),
        digest: None,
    };
    let mut upload = Upload::begin(
        &store,
        &"one".parse().unwrap(),
        expected,
        &mut |_| {},
        &Cancel::new(),
    )
    .unwrap();
    upload.append(Size(0), &bytes[..1 << 20]).unwrap();
    let ballast = small.fill(512 << 10);
    let error = upload.append(Size(MIB), &bytes[1 << 20..]).unwrap_err();
    assert!(matches!(error, UploadError::NoSpace { .. }), "{error}");
    assert_eq!(upload.offset(), Size(MIB));
    std::fs::remove_file(ballast).unwrap();
    upload.append(Size(MIB), &bytes[1 << 20..]).unwrap();
    let received = upload.finish().unwrap();
    assert_eq!(received.digest, coppice_schema::Digest::of(&bytes));
    assert_eq!(std::fs::read(received.path).unwrap(), bytes);
}

/// The room goes while an image comes from another server.
#[test]
fn a_disk_that_fills_while_an_image_comes_keeps_what_is_right_of_it() {
    let Some(small) = Small::mount(24) else {
        return;
    };
    let scratch = Scratch::new();
    let [raw, _] = sources(&scratch);
    let root = scratch.import(&raw).unwrap().root;
    let Scratch { dir: _dir, store } = scratch;
    let source = Source::new(&Arc::new(store));
    let here = Arc::new(small.store());
    let slow = means();
    slow.incoming.set(Some(Size(8 * MIB)));
    let ballast = std::thread::scope(|scope| {
        let sent = Arc::clone(&source.sent);
        let small = &small;
        let filling = scope.spawn(move || {
            while sent.load(Ordering::Relaxed) < 4 * MIB {
                std::thread::yield_now();
            }
            small.fill(MIB)
        });
        let sources = [source.clone()];
        let error = get_with(&here, root, &sources, &slow, &Cancel::new()).unwrap_err();
        assert!(
            matches!(error, ReceiveError::NoSpace { needed, free, .. } if needed > free),
            "{error}"
        );
        filling.join().unwrap()
    });
    assert!(here.images().unwrap().is_empty());
    let half = here.half_images().unwrap()[0];
    assert!(half.here.0 > 2 * MIB, "{half:?}");
    std::fs::remove_file(ballast).unwrap();
    let copied = get_with(&here, root, &[source], &means(), &Cancel::new()).unwrap();
    assert_eq!(copied.resumed, half.here);
    here.verify(root, &mut |_| {}, &Cancel::new()).unwrap();
}
