//! Imports that do not come to their end.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use coppice_golden::{Cancel, ImportError, Options, Phase, VerifyError};

use crate::scratch::{MIB, Scratch, noise, options, qemu_img, text};

fn source(scratch: &Scratch, format: &str) -> std::path::PathBuf {
    let raw = scratch.file(
        "disk.raw",
        32 * MIB,
        &[(0, noise(1, 9_000_000)), (20 * MIB, noise(2, 1_000_000))],
    );
    let path = scratch.path("source.image");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        format,
        text(&raw),
        text(&path),
    ]);
    path
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

fn nothing_left(scratch: &Scratch) {
    assert!(scratch.names("images").is_empty(), "something was stored");
    assert!(scratch.names("incoming").is_empty(), "something was left");
}

#[test]
fn a_source_that_changes_is_refused_whenever_it_does() {
    for format in ["raw", "qcow2"] {
        for phase in [Phase::Hashing, Phase::Converting, Phase::Rehashing] {
            for grown in [false, true] {
                let scratch = Scratch::new();
                let path = source(&scratch, format);
                let mut changed = false;
                let mut hook = |p: coppice_golden::Progress| {
                    if p.phase == phase && !changed {
                        changed = true;
                        let len = path.metadata().unwrap().len();
                        write_at(&path, if grown { len } else { 600_000 }, &noise(9, 512));
                    }
                };
                let error = scratch
                    .store
                    .import(&path, &options(), &mut hook, &Cancel::new())
                    .unwrap_err();
                assert!(
                    matches!(error, ImportError::Changed(_)),
                    "{format}, {phase:?}: {error}"
                );
                assert!(changed);
                nothing_left(&scratch);
            }
        }
    }
}

/// Times can be set back: the digest is what proves it.
#[test]
fn a_source_that_shrinks_is_refused() {
    let scratch = Scratch::new();
    let path = source(&scratch, "raw");
    let mut hook = |p: coppice_golden::Progress| {
        if p.phase == Phase::Converting {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(MIB)
                .unwrap();
        }
    };
    let error = scratch
        .store
        .import(&path, &options(), &mut hook, &Cancel::new())
        .unwrap_err();
    assert!(matches!(error, ImportError::Changed(_)), "{error}");
    nothing_left(&scratch);
}

#[test]
fn cancelled_in_any_phase_nothing_is_left() {
    for format in ["raw", "qcow2"] {
        for phase in [
            Phase::Hashing,
            Phase::Converting,
            Phase::Rehashing,
            Phase::Indexing,
        ] {
            let scratch = Scratch::new();
            let path = source(&scratch, format);
            let cancel = Cancel::new();
            let mut hook = |p: coppice_golden::Progress| {
                if p.phase == phase {
                    cancel.cancel();
                }
            };
            let error = scratch
                .store
                .import(&path, &options(), &mut hook, &cancel)
                .unwrap_err();
            assert!(
                matches!(error, ImportError::Cancelled),
                "{format}, {phase:?}: {error}"
            );
            nothing_left(&scratch);
        }
    }
}

#[test]
fn verifying_can_be_cancelled() {
    let scratch = Scratch::new();
    let image = scratch.import(&source(&scratch, "raw")).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(
        scratch.store.verify(image.root, &mut |_| {}, &cancel),
        Err(VerifyError::Cancelled)
    ));
    scratch.verify(image.root).unwrap();
}

#[test]
fn a_conversion_ends_at_its_deadline() {
    let scratch = Scratch::new();
    let path = source(&scratch, "qcow2");
    let options = Options {
        deadline: Duration::ZERO,
        ..options()
    };
    let error = scratch
        .store
        .import(&path, &options, &mut |_| {}, &Cancel::new())
        .unwrap_err();
    assert!(matches!(error, ImportError::Deadline { .. }), "{error}");
    nothing_left(&scratch);
}
